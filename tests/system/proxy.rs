//! A TCP relay between two machines that a test can cut: bytes stop, connections stay, nothing is refused. Like a pulled
//! cable, as far as the machines can tell.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

pub struct Proxy {
    pub address: SocketAddr,
    cut: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    /// Milliseconds that each 64 KiB take at least.
    pause: Arc<AtomicU64>,
}

impl Proxy {
    /// Relays from a free loopback port to `target`.
    pub fn start(target: String) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (cut_in, stop_in) = (Arc::clone(&cut), Arc::clone(&stop));
        let pause = Arc::new(AtomicU64::new(0));
        let pause_in = Arc::clone(&pause);
        std::thread::spawn(move || {
            for inbound in listener.incoming() {
                if stop_in.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(inbound) = inbound else { continue };
                let (target, cut, stop) = (target.clone(), Arc::clone(&cut_in), Arc::clone(&stop_in));
                let pause = Arc::clone(&pause_in);
                std::thread::spawn(move || {
                    while cut.load(Ordering::Relaxed) {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    let Ok(outbound) = TcpStream::connect(&target) else { return };
                    for stream in [&inbound, &outbound] {
                        let _ = stream.set_nodelay(true);
                        let _ = stream.set_read_timeout(Some(Duration::from_millis(20)));
                    }
                    let (Ok(a), Ok(b)) = (inbound.try_clone(), outbound.try_clone()) else { return };
                    let (cut_back, stop_back) = (Arc::clone(&cut), Arc::clone(&stop));
                    let pause_back = Arc::clone(&pause);
                    std::thread::spawn(move || relay(b, a, &cut_back, &stop_back, &pause_back));
                    relay(inbound, outbound, &cut, &stop, &pause);
                });
            }
        });
        Proxy { address, cut, stop, pause }
    }

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
}

fn relay(mut from: TcpStream, mut to: TcpStream, cut: &AtomicBool, stop: &AtomicBool, pause: &AtomicU64) {
    let mut buffer = vec![0; 65536];
    while !stop.load(Ordering::Relaxed) {
        if cut.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        }
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                while cut.load(Ordering::Relaxed) && !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(5));
                }
                let bytes = u64::try_from(count).unwrap();
                std::thread::sleep(Duration::from_micros(
                    pause.load(Ordering::Relaxed) * 1000 * bytes / 65536,
                ));
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
