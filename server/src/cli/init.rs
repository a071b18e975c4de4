//! `tanist init`: a commented configuration and a new cluster key.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use clap::Args;
use tanist_api::{ClusterMember, NewMember, code};
use tanist_client::Client;
use tanist_transport::ClusterKey;

use super::Usage;
use crate::{auth::operator_key, config::Config, secret};

#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// Where to write tanist.toml and cluster.key.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Where the database goes, from --dir on unless it is a whole path: for a service /var/lib/tanist, say.
    #[arg(long, default_value = "data")]
    data_dir: String,
    /// The cluster's name, the same on all machines.
    #[arg(long, default_value = "cluster")]
    cluster: String,
    /// This machine's name, one of the members.
    #[arg(long, default_value = "pc-1")]
    id: String,
    /// A machine: `id=host`, `id=host:peerport` (an IPv6 address in brackets: `id=[fd00::1]:7450`), `id=host:peerport,httpport` or `id=host:peerport,httpport,rank`. Without
    /// ranks the machines should reign in the order given; rank 0, or `,witness` at the end, is one without data. Repeat for
    /// each.
    #[arg(long = "member")]
    members: Vec<String>,
    /// Join a running cluster: some of its machines, `http://a:8080,http://b:8080`. Needs --key-file, and --member for this
    /// machine alone; its rank is the last unless given.
    #[arg(long)]
    join: Option<String>,
    /// Take this key file of another machine instead of making a new key.
    #[arg(long)]
    key_file: Option<PathBuf>,
    /// Overwrite files.
    #[arg(long)]
    force: bool,
    /// Windows: believe what stands in a --dir below ProgramData although it isn't administrators', or nobody can say whose it is.
    #[arg(long)]
    trust_folder: bool,
}

#[derive(Debug, Clone, PartialEq)]
struct Planned {
    id: String,
    host: String,
    peer: u16,
    http: u16,
    /// As given; 0 for a witness.
    rank: Option<u32>,
}

impl Planned {
    /// Whether only this computer reaches it.
    fn is_local(&self) -> bool {
        let address = self.host.trim_matches(['[', ']']).parse::<IpAddr>();
        self.host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }

    /// Whether it is reached at an IPv6 address.
    fn is_v6(&self) -> bool {
        self.host.starts_with('[')
    }

    /// The address to listen on; what a name leads to isn't known here, and IPv4 is what every computer has.
    fn listens(&self) -> &str {
        match self.host.as_str() {
            "localhost" => "127.0.0.1",
            host if self.is_local() => host,
            _ if self.is_v6() => "[::]",
            _ => "0.0.0.0",
        }
    }

    fn member(&self) -> NewMember {
        NewMember {
            id: self.id.clone(),
            rank: self.rank.unwrap_or_default(),
            peer_addresses: vec![format!("{}:{}", self.host, self.peer)],
            urls: vec![format!("http://{}:{}", self.host, self.http)],
        }
    }
}

/// Reads one `--member`.
fn planned(text: &str) -> Result<Planned, Usage> {
    let wrong = || {
        Usage(format!(
            "--member: found {text:?}, expected id=host, id=host:7450,8080 or id=host:7450,8080,1, with rank 0 or \",witness\" for a machine without data; an IPv6 address stands in brackets: id=[fd00::1]:7450,8080"
        ))
    };
    let (id, rest) = text.split_once('=').filter(|(id, _)| !id.is_empty()).ok_or_else(wrong)?;
    let (rest, witness) = match rest.strip_suffix(",witness") {
        Some(rest) => (rest, true),
        None => (rest, false),
    };
    // Both `host:7450,8080,1` and `host:7450:8080`: people write either.
    let (host, numbers) = match rest.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(wrong)?;
            (format!("[{host}]"), rest)
        }
        None => {
            let end = rest.find([':', ',']).unwrap_or(rest.len());
            (rest[..end].to_owned(), &rest[end..])
        }
    };
    let mut numbers = numbers.split([':', ',']);
    if host.is_empty() || numbers.next() != Some("") {
        return Err(wrong());
    }
    let mut port = |default| numbers.next().map_or(Ok(default), |port| port.parse().map_err(|_| wrong()));
    let (peer, http) = (port(7450)?, port(8080)?);
    let rank = numbers.next().map(|rank| rank.parse().map_err(|_| wrong())).transpose()?;
    if numbers.next().is_some() || (witness && rank.is_some()) {
        return Err(wrong());
    }
    Ok(Planned { id: id.to_owned(), host, peer, http, rank: if witness { Some(0) } else { rank } })
}

/// All of them, each with a rank: as given, or by the order.
fn ranked(mut members: Vec<Planned>) -> Result<Vec<Planned>, Usage> {
    let given = members.iter().filter(|member| member.rank.is_some_and(|rank| rank > 0)).count();
    let data = members.iter().filter(|member| member.rank != Some(0)).count();
    if given != 0 && given != data {
        return Err(Usage(format!(
            "--member: found a rank for {given} of {data} machines, expected for all or for none"
        )));
    }
    let mut next = 1;
    for member in &mut members {
        if member.rank.is_none() {
            member.rank = Some(next);
            next += 1;
        }
    }
    Ok(members)
}

pub(super) async fn init(args: &InitArgs) -> anyhow::Result<()> {
    let config_path = args.dir.join("tanist.toml");
    let key_path = args.dir.join("cluster.key");
    for path in [&config_path, &key_path] {
        if path.exists() && !args.force {
            bail!(
                "{} exists already; --force overwrites it (a new key locks this machine out of its cluster)",
                path.display()
            );
        }
    }
    // Closed to others before a secret is in it.
    #[cfg(windows)]
    tanist_windows::close(&args.dir, args.trust_folder).map_err(anyhow::Error::msg)?;
    let key = match &args.key_file {
        None => ClusterKey::generate(),
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
            text.parse().with_context(|| format!("read {}", path.display()))?
        }
    };
    let planned: Vec<Planned> = if args.members.is_empty() {
        vec![planned(&format!("{}=127.0.0.1", args.id))?]
    } else {
        args.members.iter().map(|member| planned(member)).collect::<Result<_, _>>()?
    };
    let joined = match &args.join {
        None => None,
        Some(hosts) => Some(join(args, hosts, &planned, &key).await?),
    };
    let joins = joined.is_some();
    let cluster = match joined {
        Some(joined) => joined,
        None => {
            let members: Vec<_> = ranked(planned.clone())?.iter().map(Planned::member).collect();
            let tokens = planned.iter().any(|member| !member.is_local());
            Joined { cluster: args.cluster.clone(), members, tokens }
        }
    };
    let me = planned.iter().find(|member| member.id == args.id).ok_or_else(|| {
        let ids: Vec<_> = planned.iter().map(|member| member.id.as_str()).collect();
        Usage(format!("--id: found {:?}, expected one of the members: {}", args.id, ids.join(", ")))
    })?;
    let mut text = config_text(&cluster, me, &args.data_dir);
    if cfg!(windows) {
        // The editor that is there shows the whole file as one line otherwise.
        text = text.replace('\n', "\r\n");
    }
    std::fs::create_dir_all(&args.dir).with_context(|| format!("make {}", args.dir.display()))?;
    write_secret(&key_path, &format!("{}\n", key.to_text()))?;
    write_secret(&config_path, &text)?;
    // What was written must be readable: a name with a space, say, is found here and not at the first start.
    Config::load(&config_path)?;
    println!("Wrote {} and {}.", config_path.display(), key_path.display());
    if joins {
        println!("{} is a member of {} now, and counts as soon as it runs:", args.id, cluster.cluster);
        println!("`tanist run --config {}`.", config_path.display());
    } else {
        println!("Copy cluster.key to the other machines and keep it secret: who has it is a member.");
        println!("On each: the same file with its own id, then `tanist run --config tanist.toml`.");
        println!("The first start of a new cluster needs all machines once.");
        if cluster.tokens {
            println!(
                "Clients need a token: `tanist token make ui --role write --config {}`.",
                config_path.display()
            );
        }
    }
    Ok(())
}

/// The cluster that the configuration is for.
struct Joined {
    cluster: String,
    members: Vec<NewMember>,
    /// Whether requests need a token.
    tokens: bool,
}

/// Makes this machine a member of a running cluster.
async fn join(args: &InitArgs, hosts: &str, planned: &[Planned], key: &ClusterKey) -> anyhow::Result<Joined> {
    let [me] = planned else {
        return Err(Usage(format!(
            "--member: found {} machines, expected this one with --join",
            planned.len()
        ))
        .into());
    };
    if me.id != args.id || args.members.is_empty() {
        let found = args.members.first().map_or("nothing", String::as_str);
        return Err(Usage(format!("--member: found {found:?}, expected {}=host with --join", args.id)).into());
    }
    if args.key_file.is_none() {
        return Err(
            Usage("--key-file: found nothing, expected the cluster's key with --join".to_owned()).into()
        );
    }
    let client = Client::builder().hosts(hosts).operator(operator_key(key)).build()?;
    let cluster = client.cluster().await?;
    // As the others do it: a token is asked for everywhere or nowhere.
    let tokens = match Client::new(hosts)?.cluster().await {
        Err(tanist_client::Error::Problem(problem)) if problem.code == code::UNAUTHORIZED => true,
        other => other.map(|_| false)?,
    };
    let last = cluster.members.iter().map(|member| member.rank).max().unwrap_or_default();
    let new = NewMember { rank: me.rank.unwrap_or(last + 1), ..me.member() };
    let now = client.add_member(&new).await?;
    let as_given = |member: ClusterMember| NewMember {
        id: member.id,
        rank: member.rank,
        peer_addresses: member.peer_addresses,
        urls: member.urls,
    };
    let members = now.members.into_iter().map(as_given).collect();
    Ok(Joined { cluster: cluster.cluster, members, tokens })
}

fn config_text(cluster: &Joined, me: &Planned, data_dir: &str) -> String {
    let Joined { cluster, members, tokens } = cluster;
    let listen = me.listens();
    let mut text = format!(
        r#"# One machine of a Tanist cluster. The same on all machines but for `id`.

cluster = "{}"             # peers of another cluster are refused
id = "{}"                  # this machine, one of the members below
data_dir = {:<15} # relative to this file: state.db (yours to read), node.db (this machine's votes)
key_file = "cluster.key"   # the secret that all members share; `tanist key` changes it

[listen]
peer = "{listen}:{}"       # for the other machines; always encrypted
http = "{listen}:{}"       # for clients
"#,
        cluster,
        me.id,
        toml::Value::from(data_dir).to_string(),
        me.peer,
        me.http
    );
    if *tokens {
        text += "\n[auth]\ntokens = true              # who asks needs a token: `tanist token make ui --role write --config tanist.toml`\n";
    } else if !me.is_local() {
        text += "insecure = true            # as on the other machines: everybody on this network may read and write\n";
    }
    for member in members {
        text += &format!(
            "\n[[member]]\nid = \"{}\"\nrank = {}                   # {}\npeer = {:?}\nurl = {:?}\n",
            member.id,
            member.rank,
            if member.rank == 0 { "a witness: votes, holds no data" } else { "1 is nearest to the throne" },
            member.peer_addresses,
            member.urls,
        );
    }
    text + r#"
[timing]
heartbeat = "100ms"
lease = "1s"               # a master that reaches no majority for so long stops answering
sync_timeout = "1s"        # a backup that doesn't answer for so long is no longer waited for
# All machines should have the same times; while they differ, a lease is as short as the voters promise.
end_notice = true          # a helper process tells the others, with the cluster key, when this one has ended: failover in milliseconds
trust_refused = false      # true: "connection refused" proves it, too. Only where no firewall or port forwarder can refuse for a machine that lives
voter_timeout = "10s"      # with four or more: one silent for so long doesn't count as a voter until it answers; "off": all do
failback = "off"           # "10m": a better-ranked machine that has kept up for so long gets the throne back

[replication]
sync_backups = 1           # backups that must have a write on disk before it is answered
min_sync_backups = 0       # 1: rather refuse writes than go on with a single copy
buffer = "16MiB"           # transactions kept for backups that catch up
max_transaction = "16MiB"  # at most "256MiB"; a transaction is whole in memory on each machine

[store]
wal_limit = "16MiB"
cache = "8MiB"
lock_patience = "10s"      # another program (a sqlite3 shell, say) may hold state.db's write lock so long before the master hands over
reserve = "16MiB"          # of the disk, held back for votes and deletes, and as much is kept free; at most a 16th of it; "off"
scrub = "2MiB"             # bytes a second that are read again to find pages that the disk has changed; "off"

# In [listen]: cors = ["https://panel.example"] lets pages of that origin ask this machine from a browser; "*", with tokens only: any.
# names = ["wall.example"] are further names by which clients reach this machine, where there are no tokens: it refuses others,
# so that no page of another site gets here by a name of its own.

[limits]
body = "1MiB"
statements = 1000
rows = 10000
result = "8MiB"
answers = "64MiB"          # of large answers together that clients haven't taken yet; further requests are refused meanwhile
statement_time = "5s"
sql_memory = "256MiB"      # of all SQL together, beside the page caches; one request gets half of it at most
sql_temp = "1GiB"          # temporary files of all SQL together, in the data directory
master_wait = "2s"         # a request waits so long for the next master before it is answered 503
concurrent_requests = 1024
concurrent_requests_per_client = 512 # of one token's holder, or of one address where there are no tokens
requests_per_second = 0    # of one token's holder, or of one address where there are no tokens; 0: as many as it likes
connections = 2048
connections_per_address = 1024 # many screens may be behind one; operators have a reserve beside all these limits
request_retention = "1h"   # how long a repeated Idempotency-Key gives the first answer
watchers = 1000            # streams of /v1/events; each also counts as a connection
watchers_per_client = 500  # of one token's holder, or of one address where there are no tokens
event_retention = "24h"    # how long events are kept for watchers who were away (the newest 1000 always)
events = 100000            # and how many at most
backup_stall = "10s"       # a client that fetches a copy and takes nothing of it for so long is cut off
backup_time = "30m"        # or that doesn't take all of it in this time: meanwhile the WAL grows

[nodes]
silent_after = "5s"        # a managed node whose agent gives no sign of life for so long counts as silent

# [upgrade]                # leave it out while programs that are older than it may still have to read this file
# calm = "60s"             # for so long all machines must have known the next level before the cluster comes to it

# [tls]                    # clients speak https:// then; name the machines' URLs so, and give clients the authority: --ca-file
# cert_file = "tls.crt"    # these files are read again when they change
# key_file = "tls.key"
# client_ca_file = "clients.crt"        # only clients with a certificate that these authorities have signed are let in
# client_certificates = "required"      # or "optional": without one they are let in too, with a wrong one not
# ca_file = "ca.crt"       # the authority, for commands with --config on this machine; without it what is in cert_file is believed

# [audit]                  # who has changed what by SQL is on record (`tanist audit export`), never the values of parameters
# sql = true               # default: where [auth] tokens = true
# retention = "720h"
# records = 100000         # so many stay in the database; younger ones beyond that are never just removed:
# when_full = "file"       # the master moves the oldest to files, one a day; "refuse": changes by SQL are refused
# directory = "data/audit" # where those files are; default: audit in data_dir

[health]                   # an unhealthy machine comes last in the chain, and hands over if it is the master
program = []               # ["/usr/bin/check", "-q"]: your own check; exit code 0 is healthy, else its first line says why not
every = "5s"
timeout = "5s"             # the program counts as failed then
failures = 3               # so many in a row, and the machine is unhealthy
recovery = "60s"           # good for so long, and it is healthy again
min_free = "64MiB"         # with less room on the data directory's disk it is unhealthy; "off"
slow_sync = "1s"           # a sync to disk that takes so long counts as failed; "off"
stall = "2s"               # a commit, write or sync under way for so long: the machine is unhealthy at once, and leaves if it is the master

# [backup]                 # this machine copies its replica by itself; see also `tanist backup`
# directory = "backups"    # best on another disk
# every = "24h"
# increments = "1m"        # what has changed since, for `tanist restore --until`; default: "off"
# keep = 7                 # the newest; older ones are removed

[hooks]                    # told when this machine's reign begins and ends, with TANIST_MEMBER, _TERM, _REASON, _MASTER: docs/hooks.md
on_promote = []            # ["/etc/tanist/up.sh"]
on_demote = []             # ["/etc/tanist/down.sh"]
timeout = "10s"            # each is killed then
required = false           # true: a failing on_promote hands the throne over, if anybody healthy can take it
retry = "10s"              # otherwise it is tried again so often
recovery = "60s"           # so long after its reign this machine isn't fit to reign, when its on_promote failed

[service]                  # a program that runs only while this machine reigns, and is ended before the lease is
command = []               # ["/usr/bin/wall-control", "--quiet"]
# stop_time = "250ms"      # between SIGTERM and SIGKILL, when the lease isn't renewed; default: a quarter of the lease

# [discovery]              # say on the local network that this machine is there: `tanist discover` lists who does
# announce = true
# addresses = []           # on the network cards with these addresses; all when empty

[log]
filter = "info"
format = "text"            # or "json"
# directory = "logs"       # files beside the standard error output: tanist.log, tanist.log.1 ...
# max_files = 10
# max_size = "10MiB"       # of each
"#
}

fn write_secret(path: &Path, text: &str) -> anyhow::Result<()> {
    secret::replace(path, text).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_configuration_is_read_as_meant() {
        let dir = tempfile::TempDir::new().unwrap();
        let me = planned("pc-1=127.0.0.1").unwrap();
        let members = vec![NewMember { rank: 1, ..me.member() }];
        let cluster = Joined { cluster: "wall".to_owned(), members, tokens: false };
        write_secret(&dir.path().join("cluster.key"), &ClusterKey::generate().to_text()).unwrap();
        for data_dir in ["data", "/var/lib/tanist", r#"D:\Daten\der "Wand""#] {
            let text = config_text(&cluster, &me, data_dir);
            let config = Config::parse(&dir.path().join("tanist.toml"), &text).unwrap();
            assert_eq!(config.data_dir, dir.path().join(data_dir), "{text}");
        }
    }

    #[test]
    fn ipv6_members_are_written_in_brackets_and_listened_for() {
        for (given, host, listens) in [
            ("a=[fd00::1]:7451,8081", "[fd00::1]", "[::]"),
            ("a=[::1]", "[::1]", "[::1]"),
            ("a=[::1],witness", "[::1]", "[::1]"),
            ("a=10.0.0.1", "10.0.0.1", "0.0.0.0"),
            ("a=localhost", "localhost", "127.0.0.1"),
        ] {
            let found = planned(given).unwrap();
            assert_eq!((found.host.as_str(), found.listens()), (host, listens), "{given}");
        }
        // Where its port begins nobody can tell.
        assert!(planned("a=fd00::1:7450").unwrap_err().0.contains("in brackets"));
        let dir = tempfile::TempDir::new().unwrap();
        write_secret(&dir.path().join("cluster.key"), &ClusterKey::generate().to_text()).unwrap();
        let me = planned("pc-1=[fd00::1]:7451,8081,1").unwrap();
        let cluster = Joined { cluster: "wall".to_owned(), members: vec![me.member()], tokens: true };
        let text = config_text(&cluster, &me, "data");
        let config = Config::parse(&dir.path().join("tanist.toml"), &text).unwrap();
        assert_eq!((config.listen.peer.as_str(), config.listen.http.as_str()), ("[::]:7451", "[::]:8081"));
        assert_eq!(config.me().peer_addresses, ["[fd00::1]:7451"]);
        assert_eq!(config.client_urls(), ["http://[fd00::1]:8081"]);
    }
}
