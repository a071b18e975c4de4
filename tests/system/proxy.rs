//! A TCP relay in front of a machine, in which a test can cut the links from single others: bytes stop, connections stay,
//! nothing is refused. Like a pulled cable, as far as the machines can tell.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::nemesis::Dice;

/// All connections that one machine opens to another.
#[derive(Default)]
pub struct Link {
    cut: AtomicBool,
    starves: AtomicBool,
    /// So many of a thousand pieces have to be sent again.
    loses: AtomicUsize,
    /// Milliseconds that each 64 KiB take at least.
    pause: AtomicU64,
}

impl Link {
    pub fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    pub fn mend(&self) {
        self.cut.store(false, Ordering::Relaxed);
    }

    /// Lets at most 64 KiB pass in each `pause` milliseconds and connection.
    pub fn slow_down(&self, pause: u64) {
        self.pause.store(pause, Ordering::Relaxed);
    }

    /// Holds what goes over the bulk channel; heartbeats and votes pass.
    pub fn starve(&self, starves: bool) {
        self.starves.store(starves, Ordering::Relaxed);
    }

    /// So many of a thousand pieces are lost, as packets are: what comes later waits until the system has sent them again.
    pub fn lose(&self, per_mille: usize) {
        self.loses.store(per_mille, Ordering::Relaxed);
    }

    /// How long it takes until a piece has come through: the first time 200 ms, and twice as long each time.
    fn sent_again(&self, dice: &mut Dice) -> Duration {
        let per_mille = self.loses.load(Ordering::Relaxed);
        let lost = (0..4).take_while(|_| dice.roll(1000) < per_mille).count();
        Duration::from_millis((0..lost).map(|n| 200 << n).sum())
    }

    fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    fn holds(&self, bulk: bool) -> bool {
        self.is_cut() || bulk && self.starves.load(Ordering::Relaxed)
    }
}

pub struct Proxy {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl Proxy {
    /// A listener on a free loopback port.
    pub fn listen() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// Relays from `listener` to `target` what the machines in `links` open.
    pub fn start(listener: TcpListener, target: String, links: BTreeMap<String, Arc<Link>>) -> Proxy {
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (stop_in, links) = (Arc::clone(&stop), Arc::new(links));
        std::thread::spawn(move || {
            for inbound in listener.incoming() {
                if stop_in.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(inbound) = inbound else { continue };
                let (target, links, stop) = (target.clone(), Arc::clone(&links), Arc::clone(&stop_in));
                std::thread::spawn(move || serve(inbound, &target, &links, &stop));
            }
        });
        Proxy { address, stop }
    }
}

fn serve(mut inbound: TcpStream, target: &str, links: &BTreeMap<String, Arc<Link>>, stop: &Arc<AtomicBool>) {
    let _ = inbound.set_read_timeout(Some(Duration::from_secs(5)));
    let mut opening = vec![];
    let from = loop {
        let mut buffer = [0; 256];
        match inbound.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(count) => opening.extend_from_slice(&buffer[..count]),
        }
        if let Some(from) = dialler(&opening) {
            break from;
        }
    };
    let Some(link) = links.get(&from).cloned() else { return };
    let bulk = opening.get(CHANNEL) == Some(&BULK);
    while link.holds(bulk) {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let Ok(mut outbound) = TcpStream::connect(target) else { return };
    for stream in [&inbound, &outbound] {
        let _ = stream.set_nodelay(true);
        let _ = stream.set_read_timeout(Some(Duration::from_millis(20)));
    }
    if outbound.write_all(&opening).is_err() {
        return;
    }
    let (Ok(a), Ok(b)) = (inbound.try_clone(), outbound.try_clone()) else { return };
    let (link_back, stop_back) = (Arc::clone(&link), Arc::clone(stop));
    std::thread::spawn(move || relay(b, a, &link_back, bulk, &stop_back));
    relay(inbound, outbound, &link, bulk, stop);
}

/// Where the channel stands, after magic and version,
const CHANNEL: usize = 8 + 2;
/// and which one carries transactions.
const BULK: u8 = 2;

/// Who opens the connection, once that has come: after magic, version, channel, nonce and the cluster's name.
fn dialler(opening: &[u8]) -> Option<String> {
    const CLUSTER: usize = CHANNEL + 1 + 16;
    let name = CLUSTER + 1 + usize::from(*opening.get(CLUSTER)?);
    let text = opening.get(name + 1..name + 1 + usize::from(*opening.get(name)?))?;
    Some(String::from_utf8_lossy(text).into_owned())
}

fn relay(mut from: TcpStream, mut to: TcpStream, link: &Link, bulk: bool, stop: &AtomicBool) {
    let mut buffer = vec![0; 65536];
    let mut dice = Dice(u64::from(to.local_addr().map_or(1, |address| address.port())));
    while !stop.load(Ordering::Relaxed) {
        if link.holds(bulk) {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        }
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                while link.holds(bulk) && !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(5));
                }
                let bytes = u64::try_from(count).unwrap();
                let pause = link.pause.load(Ordering::Relaxed) * 1000 * bytes / 65536;
                std::thread::sleep(Duration::from_micros(pause) + link.sent_again(&mut dice));
                if to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}
