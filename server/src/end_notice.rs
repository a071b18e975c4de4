//! Word for the others that this process has ended.
//!
//! On Linux that shows by itself: the computer refuses connections to a port on which nobody listens. The firewall of
//! Windows lets nobody see that, so there the others would wait for the lease, or a master for the answer of a backup. A
//! helper, a small process of its own, holds the reading end of a pipe of which this process has the only writing end. The
//! system closes that when this process has ended, in whatever way, and the helper tells every peer with the cluster's key.
//!
//! Owns both processes' side. Never closes the pipe while this machine takes part in the cluster: a false word would end a
//! lease that is still used.

use std::{
    io::{BufRead as _, Write as _},
    mem::ManuallyDrop,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    time::Duration,
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tanist_replication::MemberId;
use tanist_transport::{Config as TransportConfig, KeyRing, Keys, Limits};
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};

use crate::{hooks::guard, upgrade};

/// The members and where they are reached.
pub(crate) type Peers = Vec<(MemberId, Vec<String>)>;

/// Changes of the members that wait for a helper which doesn't read; further ones are dropped.
const WAITING: usize = 4;
/// How long each part of a dial may take: a peer that needs longer has seen the lease end.
const DIAL_TIME: Duration = Duration::from_secs(1);
/// How long a machine that stops waits until all others have been told.
const TELL_TIME: Duration = Duration::from_secs(1);

/// A process as its peers know it, and who they are.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    /// It and the cluster's secret.
    pub config: TransportConfig,
    /// The others.
    pub peers: watch::Receiver<Peers>,
}

/// One line of the pipe.
#[derive(Serialize, Deserialize)]
struct Line {
    cluster: String,
    member: String,
    incarnation: [u8; 16],
    key: String,
    other_key: Option<String>,
    peers: Vec<(String, Vec<String>)>,
}

impl Line {
    fn of(config: &TransportConfig, peers: &Peers) -> Line {
        let keys = config.keys.now();
        // The helper has looked no name up yet when it must tell.
        let with_known = |addresses: &[String]| {
            let known =
                addresses.iter().filter_map(|name| config.names.led(name)).map(|known| known.to_string());
            addresses.iter().cloned().chain(known).collect::<Vec<_>>()
        };
        Line {
            cluster: config.cluster.to_string(),
            member: config.me.to_string(),
            incarnation: config.incarnation,
            key: keys.key.to_text(),
            other_key: keys.other.map(|key| key.to_text()),
            peers: peers
                .iter()
                .filter(|(id, _)| *id != config.me)
                .map(|(id, at)| (id.to_string(), with_known(at)))
                .collect(),
        }
    }

    fn into_parts(self) -> anyhow::Result<(TransportConfig, Peers)> {
        let limits = Limits { connect_timeout: DIAL_TIME, handshake_timeout: DIAL_TIME, ..Limits::default() };
        let config = TransportConfig {
            cluster: self.cluster.parse()?,
            me: self.member.parse()?,
            incarnation: self.incarnation,
            keys: KeyRing::new(Keys {
                key: self.key.parse()?,
                other: self.other_key.map(|key| key.parse()).transpose()?,
            }),
            addresses: vec![],
            admit_strangers: false,
            program: upgrade::program(),
            names: tanist_transport::Names::default(),
            lives: tanist_transport::Lives::default(),
            limits,
        };
        let peers = self.peers.into_iter().map(|(id, at)| Ok((id.parse()?, at)));
        Ok((config, peers.collect::<anyhow::Result<_>>()?))
    }
}

enum Order {
    Tell(Line),
    /// It is as good as ended. Answered when the helper has told the others.
    Ended(oneshot::Sender<()>),
}

/// The helper of a running machine. When this is dropped, the helper stays until the process ends.
#[derive(Debug)]
pub(crate) struct EndNotice {
    orders: SyncSender<Order>,
    following: tokio::task::JoinHandle<()>,
}

impl EndNotice {
    /// Starts the helper. Without one this machine runs as well: its end is then seen by its silence.
    ///
    /// # Errors
    /// When the system gives no process or thread.
    pub(crate) fn start(subject: Subject) -> std::io::Result<EndNotice> {
        let mut command = Command::new(guard::program());
        #[cfg(unix)]
        {
            use std::os::unix::process::CommandExt as _;
            command.arg0("tanist").process_group(0);
        }
        #[cfg(windows)]
        {
            use std::os::windows::process::CommandExt as _;
            // A Ctrl-C isn't for it (CREATE_NEW_PROCESS_GROUP), nor is a window (CREATE_NO_WINDOW).
            command.creation_flags(0x0800_0200);
        }
        command.arg("end-notice").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let input = child.stdin.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
        let (orders, received) = sync_channel(WAITING);
        std::thread::Builder::new()
            .name("end-notice".to_owned())
            .spawn(move || keep(child, input, &received))?;
        let Subject { config, mut peers } = subject;
        let telling = orders.clone();
        let following = tokio::spawn(async move {
            let mut keys = config.keys.changes();
            loop {
                let line = Line::of(&config, &peers.borrow_and_update());
                let _ = telling.try_send(Order::Tell(line));
                let goes_on = tokio::select! {
                    changed = peers.changed() => changed.is_ok(),
                    changed = keys.next() => changed,
                };
                if !goes_on {
                    return;
                }
            }
        });
        Ok(EndNotice { orders, following })
    }

    /// This machine takes part in nothing any more: the others are told, and the helper has ended.
    pub(crate) async fn tell(self) {
        self.following.abort();
        let (done, told) = oneshot::channel();
        if self.orders.try_send(Order::Ended(done)).is_ok() {
            let _ = timeout(TELL_TIME, told).await;
        }
    }
}

/// Writes to the helper what it has to know.
fn keep(mut child: Child, input: ChildStdin, orders: &Receiver<Order>) {
    // Whatever becomes of this thread or the machine, only the end of the process is sure to be its end.
    let mut input = ManuallyDrop::new(input);
    let mut there = true;
    for order in orders {
        match order {
            Order::Tell(line) if there => {
                let text = serde_json::to_string(&line).unwrap_or_default();
                if let Err(error) = writeln!(input, "{text}") {
                    there = false;
                    tracing::warn!(%error, "the helper that tells of this process's end has ended itself: silence alone will tell");
                }
            }
            Order::Tell(_) => {}
            Order::Ended(done) => {
                drop(ManuallyDrop::into_inner(input));
                let _ = child.wait();
                let _ = done.send(());
                return;
            }
        }
    }
}

/// The helper: waits for the end of the process that started it, and tells of it.
///
/// # Errors
/// When what it was told can't be read; then it tells nobody.
pub(crate) fn run() -> anyhow::Result<()> {
    let mut subject: Option<Line> = None;
    for line in std::io::stdin().lock().split(b'\n') {
        let line = line.context("read standard input")?;
        // One that was cut off by the end changes nothing.
        if let Ok(read) = serde_json::from_slice(&line) {
            subject = Some(read);
        }
    }
    let Some(subject) = subject else { return Ok(()) };
    let (config, peers) = subject.into_parts()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(tanist_transport::tell_of_end(config, peers));
    Ok(())
}
