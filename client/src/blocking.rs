//! The same client for programs without an async runtime.
//!
//! ```no_run
//! use tanist_client::{api::{ExecuteRequest, Statement}, blocking::Client};
//! let client = Client::new("pc-1:8080,pc-2:8080,pc-3:8080")?;
//! let insert = Statement::with("INSERT INTO note(text) VALUES (?)", vec!["hello".into()]);
//! client.execute(ExecuteRequest { statements: vec![insert], transaction: true })?;
//! # Ok::<(), tanist_client::Error>(())
//! ```
//!
//! Each call is the async one of the same name, waited for on the caller's thread: same order of hosts, same retries, same
//! deadlines. A client owns one thread, which keeps its connections and learns the cluster's members between the calls.
//! A clone shares both. Usable from many threads at once.
//!
//! Not for async tasks: there each call ends with [`Error::Runtime`] at once; take [`crate::Client`] there.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use serde_json::{Map, Value};
use tanist_api::{
    Access, AuditRecord, Cluster, Command, ConfigChange, ConfigEntry, DesiredState, ExecuteRequest,
    ExecuteResponse, HandoverResponse, MadeToken, MemberPatch, MembersResponse, NewCommand, NewMember,
    NewOutcome, NewToken, Node, NodeSpec, NodeSummary, Page, QueryRequest, QueryResponse, Removed, Report,
    ReportedState, Role, Seen, TokenInfo, Upgrade, WatchEvent, WatchedTable, WatchedTables,
};
use tokio::{
    runtime::{self, Handle},
    time::timeout,
};

use crate::{
    At, Builder, ChangeOptions, CommandFilter, Consistency, Error, ExecuteOptions, Link, Need, Part,
    ReadOptions, WatchOptions, hosts::Host,
};

/// The runtime of a client and its clones.
#[derive(Debug)]
struct Runtime(Option<runtime::Runtime>);

impl Runtime {
    fn start() -> Result<Runtime, Error> {
        // Not one on the caller's thread: between two calls nothing would be learned, nor would a connection's end be seen.
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("tanist-client")
            .enable_all()
            .build()
            .map_err(|error| Error::Runtime(format!("start the client's thread: {error}")))?;
        Ok(Runtime(Some(runtime)))
    }

    fn wait<T>(&self, future: impl Future<Output = T>) -> Result<T, Error> {
        if Handle::try_current().is_ok() {
            let why = "found a blocking call in an async task, expected tanist_client::Client there";
            return Err(Error::Runtime(why.to_owned()));
        }
        match &self.0 {
            Some(runtime) => Ok(runtime.block_on(future)),
            None => Err(Error::Runtime("the client's thread has ended".to_owned())),
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // Without waiting, which would panic in an async task.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// A client of a cluster that blocks its caller; cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    inner: crate::Client,
    runtime: Arc<Runtime>,
}

impl Builder {
    /// The client, blocking.
    ///
    /// # Errors
    /// As [`Builder::build`], and [`Error::Runtime`] when its thread can't be started.
    pub fn build_blocking(self) -> Result<Client, Error> {
        Ok(Client { inner: self.build()?, runtime: Arc::new(Runtime::start()?) })
    }
}

/// The calls, one by one as the async client has them.
macro_rules! calls {
    ($($name:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {
        /// # Calls
        impl Client {
            $(
                #[doc = concat!("[`Client::", stringify!($name), "`](crate::Client::", stringify!($name), "), blocking.")]
                ///
                /// # Errors
                /// The same, and [`Error::Runtime`] in an async task.
                pub fn $name(&self, $($argument: $type),*) -> Result<$answer, Error> {
                    self.runtime.wait(self.inner.$name($($argument),*))?
                }
            )*
        }
    };
}

calls! {
    execute(request: ExecuteRequest) -> ExecuteResponse;
    execute_with(request: ExecuteRequest, options: ExecuteOptions) -> ExecuteResponse;
    query(request: QueryRequest, consistency: Consistency, min_position: Option<&str>) -> QueryResponse;
    config(key: &str, options: &ReadOptions) -> At<ConfigEntry>;
    config_unless(key: &str, revision: i64, options: &ReadOptions) -> Option<At<ConfigEntry>>;
    config_list(prefix: &str, part: &Part, options: &ReadOptions) -> At<Page<ConfigEntry>>;
    config_history(key: &str, part: &Part, options: &ReadOptions) -> At<Page<ConfigChange>>;
    set_config(key: &str, value: &Value, options: &ChangeOptions) -> At<ConfigEntry>;
    remove_config(key: &str, options: &ChangeOptions) -> At<Removed>;
    nodes(part: &Part, options: &ReadOptions) -> At<Page<NodeSummary>>;
    node(name: &str, options: &ReadOptions) -> At<Node>;
    set_node(name: &str, spec: &NodeSpec, options: &ChangeOptions) -> At<Node>;
    patch_node(name: &str, patch: &Value, options: &ChangeOptions) -> At<Node>;
    remove_node(name: &str, options: &ChangeOptions) -> At<Removed>;
    desired(node: &str, options: &ReadOptions) -> At<DesiredState>;
    set_desired(node: &str, state: &Map<String, Value>, options: &ChangeOptions) -> At<DesiredState>;
    patch_desired(node: &str, patch: &Map<String, Value>, options: &ChangeOptions) -> At<DesiredState>;
    reported(node: &str, options: &ReadOptions) -> At<ReportedState>;
    report(node: &str, report: &Report, options: &ChangeOptions) -> At<ReportedState>;
    seen(node: &str) -> Seen;
    send_command(command: &NewCommand, options: &ChangeOptions) -> At<Command>;
    commands(filter: &CommandFilter, part: &Part, options: &ReadOptions) -> At<Page<Command>>;
    command(id: i64, options: &ReadOptions) -> At<Command>;
    report_outcome(command: i64, node: &str, outcome: &NewOutcome, options: &ChangeOptions) -> At<Command>;
    watched_tables() -> WatchedTables;
    watch_table(table: &str) -> WatchedTable;
    unwatch_table(table: &str) -> WatchedTable;
    cluster() -> Cluster;
    cluster_of(host: &str) -> Cluster;
    ready(host: &str) -> Role;
    promote(member: &str) -> HandoverResponse;
    demote(member: &str) -> HandoverResponse;
    force(member: &str) -> HandoverResponse;
    members() -> MembersResponse;
    add_member(member: &NewMember) -> MembersResponse;
    change_member(id: &str, patch: &MemberPatch) -> MembersResponse;
    remove_member(id: &str) -> MembersResponse;
    make_token(name: &str, role: Access) -> MadeToken;
    make_token_as(new: &NewToken) -> MadeToken;
    tokens() -> Vec<TokenInfo>;
    tokens_of(host: &str) -> Vec<TokenInfo>;
    audit(part: &Part) -> Page<AuditRecord>;
    check_hosts(patience: Duration) -> ();
    revoke_token(name: &str) -> ();
    hold_upgrade() -> Upgrade;
    release_upgrade() -> Upgrade;
}

/// # Beside the calls
impl Client {
    /// A client with default times; [`crate::Client::builder`] and [`Builder::build_blocking`] for others.
    ///
    /// # Errors
    /// When the host list can't be used.
    pub fn new(hosts: &str) -> Result<Client, Error> {
        Builder::default().hosts(hosts).build_blocking()
    }

    /// The async client that this one drives. Its calls need a runtime of the caller's.
    #[must_use]
    pub fn inner(&self) -> &crate::Client {
        &self.inner
    }

    /// All hosts known now: those given and those learned.
    #[must_use]
    pub fn known_hosts(&self) -> Vec<Host> {
        self.inner.known_hosts()
    }

    /// On which machine the calls of this kind are now, or since when none serves them. Looking at it asks nobody.
    #[must_use]
    pub fn link(&self, need: Need) -> Link {
        self.inner.link(need)
    }

    /// The same to be waited for, as often as it changes.
    #[must_use]
    pub fn observe(&self, need: Need) -> Observer {
        Observer { inner: self.inner.observe(need), runtime: Arc::clone(&self.runtime) }
    }

    /// Begins to fetch a copy of the whole database from this machine, compressed by `level` of zstd (1 to 9). One attempt.
    ///
    /// # Errors
    /// As [`crate::Client::backup_of`], and [`Error::Runtime`] in an async task.
    pub fn backup_of(
        &self,
        host: &str,
        level: Option<u32>,
        min_position: Option<&str>,
    ) -> Result<Download, Error> {
        let inner = self.runtime.wait(self.inner.backup_of(host, level, min_position))??;
        Ok(Download { inner, runtime: Arc::clone(&self.runtime) })
    }

    /// Watches what changes. Nothing is sent before the first [`Watch::next`].
    #[must_use]
    pub fn watch(&self, options: WatchOptions) -> Watch {
        Watch { inner: self.inner.watch(options), runtime: Arc::clone(&self.runtime) }
    }
}

/// [`crate::Observer`], blocking.
#[derive(Debug, Clone)]
pub struct Observer {
    inner: crate::Observer,
    runtime: Arc<Runtime>,
}

impl Observer {
    /// How it is now.
    #[must_use]
    pub fn now(&self) -> Link {
        self.inner.now()
    }

    /// Waits until it is other than when this was called last; `None` when the client is gone.
    ///
    /// # Errors
    /// [`Error::Runtime`] in an async task.
    pub fn changed(&mut self) -> Result<Option<Link>, Error> {
        self.runtime.wait(self.inner.changed())
    }

    /// As [`Observer::changed`], at most for so long; `None` too when nothing has changed.
    ///
    /// # Errors
    /// [`Error::Runtime`] in an async task.
    pub fn changed_within(&mut self, time: Duration) -> Result<Option<Link>, Error> {
        let changed = self.inner.changed();
        Ok(self.runtime.wait(async { timeout(time, changed).await })?.ok().flatten())
    }
}

/// [`crate::Download`], blocking.
#[derive(Debug)]
pub struct Download {
    inner: crate::Download,
    runtime: Arc<Runtime>,
}

impl Download {
    /// The newest transaction in the copy.
    #[must_use]
    pub fn position(&self) -> &str {
        self.inner.position()
    }

    /// Bytes of the database in it, unpacked, if the machine says so.
    #[must_use]
    pub fn database_bytes(&self) -> Option<u64> {
        self.inner.database_bytes()
    }

    /// Who sends it.
    #[must_use]
    pub fn host(&self) -> &str {
        self.inner.host()
    }

    /// The next bytes of it; `None` at the end.
    ///
    /// # Errors
    /// As [`crate::Download::chunk`], and [`Error::Runtime`] in an async task.
    pub fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        self.runtime.wait(self.inner.chunk())?
    }
}

/// [`crate::Watch`], blocking. As an iterator it never ends by itself.
#[derive(Debug)]
pub struct Watch {
    inner: crate::Watch,
    runtime: Arc<Runtime>,
}

impl Watch {
    /// The newest event that was seen: a later watch goes on after it.
    #[must_use]
    pub fn position(&self) -> Option<u64> {
        self.inner.position()
    }

    /// The machine that tells now.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.inner.host()
    }

    /// Connects, and gives the event after which the watch begins.
    ///
    /// # Errors
    /// As [`crate::Watch::next`], and [`Error::Runtime`] in an async task.
    pub fn begin(&mut self) -> Result<u64, Error> {
        self.runtime.wait(self.inner.begin())?
    }

    /// The next event, if one comes within this time; nothing is lost if none does.
    ///
    /// # Errors
    /// As [`Watch::begin`].
    pub fn next_within(&mut self, time: Duration) -> Result<Option<WatchEvent>, Error> {
        let next = self.inner.next();
        self.runtime.wait(async { timeout(time, next).await })?.ok().transpose()
    }
}

impl Iterator for Watch {
    type Item = Result<WatchEvent, Error>;

    fn next(&mut self) -> Option<Result<WatchEvent, Error>> {
        Some(self.runtime.wait(self.inner.next()).and_then(|next| next))
    }
}
