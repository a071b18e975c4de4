//! The client: what callers see, and what all calls share.
//!
//! Owns the connections (kept alive; names resolved anew at each connect), the times, and what is learned of the cluster
//! beside the calls. Never decides about an attempt. Read `call.rs` for the course of a call, `hosts.rs` for its order.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Method;
use http_body_util::Full;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client as HyperClient;
use serde::de::DeserializeOwned;
use tanist_api::{
    Access, AuditRecord, Cluster, ClusterMember, ExecuteRequest, ExecuteResponse, HEADER_IDEMPOTENCY_KEY,
    HEADER_MIN_POSITION, HandoverRequest, HandoverResponse, MadeToken, MemberPatch, MembersResponse,
    NewMember, NewToken, Page, QueryRequest, QueryResponse, Ready, Removed, Role, TokenInfo, Upgrade,
    WatchedTable, WatchedTables,
};

use crate::{
    Builder, Error,
    builder::Right,
    call::{Call, Effect},
    connect::Connector,
    hosts::{self, Host, Hosts, Need},
    link::{Link, Links, Observer},
    send::Known,
    state::{Part, encoded},
};

/// The member list is asked for again after so long, beside a request.
const LEARN_EVERY: Duration = Duration::from_secs(10);
/// And, after a request that needed several attempts, no sooner than this after the last time.
const LEARN_AGAIN: Duration = Duration::from_secs(1);

/// How current a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// Everything acknowledged before; served by the master.
    #[default]
    Strong,
    /// What the asked replica has: the first of the given hosts that answers. That may be a write that isn't acknowledged yet and
    /// is lost if its master dies in that moment.
    Local,
    /// As `Local`, if that replica was current so recently; else another.
    Bounded {
        /// How long ago at most.
        max_staleness: Duration,
    },
}

/// What may differ for one write.
#[derive(Debug, Clone, Default)]
pub struct ExecuteOptions {
    /// The key of an earlier try of the same write; a new one otherwise.
    pub idempotency_key: Option<String>,
    /// Total time; the client's own otherwise.
    pub deadline: Option<Duration>,
}

/// A client of a cluster; cheap to clone, usable from many tasks at once. Needs a Tokio runtime.
#[derive(Debug, Clone)]
pub struct Client(Arc<Inner>);

type Http = HyperClient<HttpsConnector<Connector>, Full<Bytes>>;

#[derive(Debug)]
struct Inner {
    hosts: Arc<Mutex<Hosts>>,
    http: Http,
    links: Links,
    settings: Builder,
    /// Nothing is sent to machines without TLS.
    secure: bool,
    known: Known,
    /// When the member list was asked for last.
    learned: Mutex<Option<Instant>>,
}

impl Client {
    pub(crate) fn of(hosts: Arc<Mutex<Hosts>>, http: Http, secure: bool, settings: Builder) -> Client {
        let learned = Mutex::new(None);
        let known = Known::of(settings.cluster.clone());
        Client(Arc::new(Inner { hosts, http, links: Links::default(), settings, secure, known, learned }))
    }

    /// A client with default times.
    ///
    /// # Errors
    /// When the host list can't be used.
    pub fn new(hosts: &str) -> Result<Client, Error> {
        Client::builder().hosts(hosts).build()
    }

    /// For other times.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Runs the statements as one transaction; answered when the cluster has stored it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn execute(&self, request: ExecuteRequest) -> Result<ExecuteResponse, Error> {
        self.execute_with(request, ExecuteOptions::default()).await
    }

    /// As [`Client::execute`], with a key or deadline of the caller's.
    ///
    /// ```no_run
    /// # use tanist_client::{Client, Error, ExecuteOptions, api::{ExecuteRequest, Statement}};
    /// # async fn example(client: Client) -> Result<(), Error> {
    /// let order = ExecuteRequest {
    ///     statements: vec![Statement::with("INSERT INTO orders(item) VALUES (?)", vec!["lamp".into()])],
    ///     transaction: true,
    /// };
    /// match client.execute(order.clone()).await {
    ///     // Later, with the same key: gives the first answer if it was done, does it otherwise.
    ///     Err(Error::OutcomeUnknown { key, .. }) => {
    ///         let again = ExecuteOptions { idempotency_key: Some(key), deadline: None };
    ///         client.execute_with(order, again).await?;
    ///     }
    ///     other => drop(other?),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn execute_with(
        &self,
        request: ExecuteRequest,
        options: ExecuteOptions,
    ) -> Result<ExecuteResponse, Error> {
        let key = key(options.idempotency_key)?;
        let call = Call {
            method: Method::POST,
            path: "/v1/execute",
            body: json(&request)?,
            headers: vec![(HEADER_IDEMPOTENCY_KEY, &key)],
            need: Need::Master,
            deadline: options.deadline.unwrap_or(self.0.settings.deadline),
            effect: Effect::Write(&key),
        };
        self.call(call).await
    }

    /// Runs read-only statements on one snapshot. With `min_position` (of an earlier answer) the replica waits until it is
    /// at least there, so that the caller never goes back in time.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn query(
        &self,
        request: QueryRequest,
        consistency: Consistency,
        min_position: Option<&str>,
    ) -> Result<QueryResponse, Error> {
        let (path, need) = match consistency {
            Consistency::Strong => ("/v1/query".to_owned(), Need::Master),
            Consistency::Local => ("/v1/query?consistency=local".to_owned(), Need::Any),
            Consistency::Bounded { max_staleness } => (
                format!("/v1/query?consistency=bounded&max_staleness={}ms", max_staleness.as_millis()),
                Need::Any,
            ),
        };
        let call = Call {
            method: Method::POST,
            path: &path,
            body: json(&request)?,
            headers: min_position.map(|position| (HEADER_MIN_POSITION, position)).into_iter().collect(),
            need,
            deadline: self.0.settings.deadline,
            effect: Effect::Nothing,
        };
        self.call(call).await
    }

    /// Hands the throne to this member and waits until it serves; done already if it is the master. No request fails
    /// meanwhile.
    ///
    /// # Errors
    /// [`Error::Problem`] with the reason when the handover can't be; the old master reigns on then.
    pub async fn promote(&self, member: &str) -> Result<HandoverResponse, Error> {
        self.hand_over("/v1/cluster/promote", member).await
    }

    /// Hands the throne from this member to its heir and waits until that serves; done already if it isn't the master.
    ///
    /// # Errors
    /// As [`Client::promote`].
    pub async fn demote(&self, member: &str) -> Result<HandoverResponse, Error> {
        self.hand_over("/v1/cluster/demote", member).await
    }

    async fn hand_over(&self, path: &str, member: &str) -> Result<HandoverResponse, Error> {
        self.operate(Method::POST, path, json(&HandoverRequest::planned(member))?).await
    }

    /// Makes this member reign although nobody can by himself: what only machines that are lost hold is given up. It asks
    /// the member itself.
    ///
    /// # Errors
    /// [`Error::Problem`] with the reason, such as another machine that holds more; see [`Error`] for the rest.
    pub async fn force(&self, member: &str) -> Result<HandoverResponse, Error> {
        let cluster = self.cluster().await?;
        let found = cluster.members.iter().find(|found| found.id == member);
        let Some(url) = found.and_then(|found| found.urls.first()) else {
            return Err(Error::Hosts(format!("{member}: no member with a URL")));
        };
        let request =
            HandoverRequest { force: true, accept_data_loss: true, ..HandoverRequest::planned(member) };
        // It says no after several leases only: a second attempt would begin anew.
        let mut settings = self.0.settings.clone().attempt_timeout(self.0.settings.deadline).hosts(url);
        settings.found.clear();
        let itself = settings.build()?;
        let call = Call {
            method: Method::POST,
            body: json(&request)?,
            effect: Effect::Change,
            ..Call::get("/v1/cluster/promote", self.0.settings.deadline)
        };
        itself.call(call).await
    }

    /// The members, nearest to the throne first.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn members(&self) -> Result<MembersResponse, Error> {
        self.call(Call::get("/v1/cluster/members", self.0.settings.deadline)).await
    }

    /// Makes a machine a member. It counts as a voter as soon as it answers.
    ///
    /// # Errors
    /// [`Error::Problem`] with the reason when the members stay as they are; see [`Error`] for the rest.
    pub async fn add_member(&self, member: &NewMember) -> Result<MembersResponse, Error> {
        self.operate(Method::POST, "/v1/cluster/members", json(member)?).await
    }

    /// Changes a member's rank or addresses.
    ///
    /// # Errors
    /// As [`Client::add_member`].
    pub async fn change_member(&self, id: &str, patch: &MemberPatch) -> Result<MembersResponse, Error> {
        self.operate(Method::PATCH, &format!("/v1/cluster/members/{id}"), json(patch)?).await
    }

    /// Removes a member for good; its machine may stand still or be gone.
    ///
    /// # Errors
    /// As [`Client::add_member`].
    pub async fn remove_member(&self, id: &str) -> Result<MembersResponse, Error> {
        self.operate(Method::DELETE, &format!("/v1/cluster/members/{id}"), Bytes::new()).await
    }

    /// The tables whose rows are told to watchers, as the first machine that answers has them.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn watched_tables(&self) -> Result<WatchedTables, Error> {
        self.call(Call::get("/v1/watched-tables", self.0.settings.deadline)).await
    }

    /// From now on each change of the table's rows is an event.
    ///
    /// # Errors
    /// [`Error::Problem`] when there is no such table, or it is none that can be watched; see [`Error`] for the rest.
    pub async fn watch_table(&self, table: &str) -> Result<WatchedTable, Error> {
        self.operate(Method::PUT, &format!("/v1/watched-tables/{}", encoded(table)), Bytes::new()).await
    }

    /// Changes of the table's rows are no events any more.
    ///
    /// # Errors
    /// As [`Client::watch_table`].
    pub async fn unwatch_table(&self, table: &str) -> Result<WatchedTable, Error> {
        self.operate(Method::DELETE, &format!("/v1/watched-tables/{}", encoded(table)), Bytes::new()).await
    }

    /// Makes a token, which is shown this once. Not repeated under the hood without harm: when the answer is lost, the name is
    /// taken; revoke it and make another.
    ///
    /// # Errors
    /// See [`Error`]; a name that is taken is a problem with the code `conflict`.
    pub async fn make_token(&self, name: &str, role: Access) -> Result<MadeToken, Error> {
        self.make_token_as(&NewToken::new(name, role)).await
    }

    /// The same with a node, for an agent, and with an end.
    ///
    /// # Errors
    /// As [`Client::make_token`].
    pub async fn make_token_as(&self, new: &NewToken) -> Result<MadeToken, Error> {
        self.operate(Method::POST, "/v1/tokens", json(new)?).await
    }

    /// Keeps the cluster's level where it is, so that every program can still be taken back.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn hold_upgrade(&self) -> Result<Upgrade, Error> {
        self.operate(Method::POST, "/v1/cluster/upgrade/hold", Bytes::new()).await
    }

    /// Lets the cluster's level be raised once all members know the next one.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn release_upgrade(&self) -> Result<Upgrade, Error> {
        self.operate(Method::POST, "/v1/cluster/upgrade/go", Bytes::new()).await
    }

    /// The tokens there are, by name.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn tokens(&self) -> Result<Vec<TokenInfo>, Error> {
        let page: Page<TokenInfo> = self.operate(Method::GET, "/v1/tokens?limit=1000", Bytes::new()).await?;
        Ok(page.entries)
    }

    /// The tokens as this machine has them, with when it has taken each last; one attempt.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn tokens_of(&self, host: &str) -> Result<Vec<TokenInfo>, Error> {
        let path = "/v1/tokens?limit=1000&consistency=local";
        let page: Page<TokenInfo> = self.ask(&one(host)?, path, self.0.settings.attempt).await?;
        Ok(page.entries)
    }

    /// Who has changed what by SQL, the oldest first, a page at a time.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn audit(&self, part: &Part) -> Result<Page<AuditRecord>, Error> {
        let after = part.next.as_ref().map(|next| format!("after={}", encoded(next)));
        let limit = part.limit.map(|limit| format!("limit={limit}"));
        let query: Vec<String> = after.into_iter().chain(limit).collect();
        self.operate(Method::GET, &format!("/v1/audit?{}", query.join("&")), Bytes::new()).await
    }

    /// Makes a token worthless: at once on the master, within a second or so on the other machines.
    ///
    /// # Errors
    /// See [`Error`]; a name that isn't there is a problem with the code `not-found`.
    pub async fn revoke_token(&self, name: &str) -> Result<(), Error> {
        self.operate(Method::DELETE, &format!("/v1/tokens/{name}"), Bytes::new()).await.map(|_: Removed| ())
    }

    /// An operator's request to the master; all of them may be repeated without harm.
    pub(crate) async fn operate<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, Error> {
        let deadline = self.0.settings.deadline;
        let call =
            Call { method, body, need: Need::Master, effect: Effect::Change, ..Call::get(path, deadline) };
        self.call(call).await
    }

    /// How the first machine that answers sees the cluster.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn cluster(&self) -> Result<Cluster, Error> {
        let cluster: Cluster = self.call(Call::get("/v1/cluster", self.0.settings.deadline)).await?;
        self.learn(&cluster);
        Ok(cluster)
    }

    /// How this machine sees the cluster; one attempt.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn cluster_of(&self, host: &str) -> Result<Cluster, Error> {
        self.view_of(&one(host)?, self.0.settings.attempt).await
    }

    /// Whether this machine can serve, and as what; one attempt.
    ///
    /// # Errors
    /// [`Error::Unavailable`] with the reason when it can't.
    pub async fn ready(&self, host: &str) -> Result<Role, Error> {
        let ready: Ready = self.ask(&one(host)?, "/readyz", self.0.settings.attempt).await?;
        Ok(ready.role)
    }

    /// All hosts known now: those given and those learned.
    #[must_use]
    pub fn known_hosts(&self) -> Vec<Host> {
        self.hosts().all()
    }

    /// On which machine the calls of this kind are now, or since when none serves them. Looking at it asks nobody.
    #[must_use]
    pub fn link(&self, need: Need) -> Link {
        self.0.links.now(need)
    }

    /// The same to be waited for, as often as it changes.
    ///
    /// ```no_run
    /// # async fn example(client: tanist_client::Client) {
    /// let mut observer = client.observe(tanist_client::Need::Master);
    /// while let Some(link) = observer.changed().await {
    ///     println!("{link}");
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn observe(&self, need: Need) -> Observer {
        self.0.links.observe(need)
    }

    pub(crate) fn links(&self) -> &Links {
        &self.0.links
    }

    pub(crate) fn hosts(&self) -> MutexGuard<'_, Hosts> {
        self.0.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn right(&self) -> &Right {
        &self.0.settings.right
    }

    pub(crate) fn known(&self) -> &Known {
        &self.0.known
    }

    pub(crate) fn is_secure(&self) -> bool {
        self.0.secure
    }

    pub(crate) fn http(&self) -> &Http {
        &self.0.http
    }

    /// Total time of a call.
    pub(crate) fn deadline(&self) -> Duration {
        self.0.settings.deadline
    }

    pub(crate) fn attempt_timeout(&self) -> Duration {
        self.0.settings.attempt
    }

    pub(crate) fn learn(&self, cluster: &Cluster) {
        // Without certificates to know them by, https:// hosts are of no use.
        let known = |host: &Host| match host.starts_with("https://") {
            true => !self.0.settings.roots.is_empty(),
            false => !self.0.secure,
        };
        let usable = |url: &String| hosts::parse(url).ok().and_then(|mut hosts| hosts.pop()).filter(known);
        let named = |member: &ClusterMember| {
            let urls = member.urls.iter().filter_map(usable);
            urls.map(|url| (url, member.id.clone())).collect::<Vec<(Host, String)>>()
        };
        let named: Vec<(Host, String)> = cluster.members.iter().flat_map(named).collect();
        let urls: Vec<Host> = named.iter().map(|(url, _)| url.clone()).collect();
        let told = cluster.suggested_host.iter().chain(&cluster.master_urls).find_map(usable);
        let mut hosts = self.hosts();
        if !urls.is_empty() {
            self.links().on_members(named.into_iter().collect());
            hosts.on_members(&urls);
        }
        // Who served a request of the master's is known better than what somebody tells.
        if let Some(master) = told
            && cluster.writable
            && hosts.master().is_none()
        {
            hosts.on_master(&master);
        }
    }

    /// Asks for the current member list beside the request: now and then, and after trouble.
    pub(crate) fn refresh(&self, host: &Host, trouble: bool) {
        if self.known().is_blind() {
            return;
        }
        {
            let mut learned = self.0.learned.lock().unwrap_or_else(PoisonError::into_inner);
            let pause = if trouble { LEARN_AGAIN } else { LEARN_EVERY };
            if learned.is_some_and(|at| at.elapsed() < pause) {
                return;
            }
            *learned = Some(Instant::now());
        }
        let (client, host) = (self.clone(), host.clone());
        tokio::spawn(async move {
            if let Ok(cluster) = client.view_of(&host, client.0.settings.attempt).await {
                client.learn(&cluster);
            }
        });
    }
}

pub(crate) fn one(host: &str) -> Result<Host, Error> {
    let mut hosts = hosts::parse(host)?;
    match hosts.pop() {
        Some(only) if hosts.is_empty() => Ok(only),
        _ => Err(Error::Hosts(format!("found {host:?}, expected one host"))),
    }
}

/// The caller's idempotency key, or a new one.
pub(crate) fn key(given: Option<String>) -> Result<String, Error> {
    match given {
        // What isn't a header value would be refused by every machine; say so before anything is sent.
        Some(key)
            if key.is_empty() || key.len() > 200 || !key.bytes().all(|byte| byte.is_ascii_graphic()) =>
        {
            Err(Error::Key(key))
        }
        Some(key) => Ok(key),
        None => Ok(uuid::Uuid::now_v7().to_string()),
    }
}

pub(crate) fn json(value: &impl serde::Serialize) -> Result<Bytes, Error> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| Error::Unexpected {
        host: "this program".to_owned(),
        why: format!("write the request: {error}"),
    })
}
