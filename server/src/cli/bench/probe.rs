//! What the computer itself can do: the disk's fsync, a round trip over loopback. The measure for all other numbers.

use std::{
    fs::OpenOptions,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::histogram::Histogram;

/// How long the disk is measured each time.
pub(in crate::cli) const FSYNC_TIME: Duration = Duration::from_secs(1);
const ROUND_TRIPS: u32 = 5000;
/// About what a small packet carries.
const MESSAGE: usize = 128;

/// Appends 4 KiB and syncs, again and again, in a file of its own that is deleted then. Blocks.
pub(in crate::cli) fn fsync(dir: &Path) -> anyhow::Result<Histogram> {
    let path = dir.join(format!("tanist-bench-{}.tmp", std::process::id()));
    let open = || format!("write {} (--data-dir must be a directory on the disk to measure)", path.display());
    let mut file = OpenOptions::new().create_new(true).append(true).open(&path).with_context(open)?;
    let mut measure = || {
        let page = [0xa5; 4096];
        let mut times = Histogram::default();
        let until = Instant::now() + FSYNC_TIME;
        loop {
            let began = Instant::now();
            if began >= until {
                return std::io::Result::Ok(times);
            }
            file.write_all(&page)?;
            file.sync_data()?;
            times.record(began.elapsed());
        }
    };
    let times = measure().with_context(open);
    let removed = std::fs::remove_file(&path).with_context(|| format!("delete {}", path.display()));
    let times = times?;
    removed?;
    Ok(times)
}

/// A message and its echo between two threads over loopback TCP. Blocks.
pub(in crate::cli) fn round_trip() -> anyhow::Result<Histogram> {
    let measure = || -> std::io::Result<Histogram> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let mut near = TcpStream::connect(listener.local_addr()?)?;
        let (mut far, _) = listener.accept()?;
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        let echo = std::thread::spawn(move || -> std::io::Result<()> {
            let mut message = [0; MESSAGE];
            for _ in 0..ROUND_TRIPS {
                far.read_exact(&mut message)?;
                far.write_all(&message)?;
            }
            Ok(())
        });
        let mut times = Histogram::default();
        let mut message = [7; MESSAGE];
        for _ in 0..ROUND_TRIPS {
            let began = Instant::now();
            near.write_all(&message)?;
            near.read_exact(&mut message)?;
            times.record(began.elapsed());
        }
        match echo.join() {
            Ok(ended) => ended.map(|()| times),
            Err(_) => Err(std::io::Error::other("the echo thread panicked")),
        }
    };
    measure().context("measure a round trip over loopback")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_measure_something_and_leave_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        assert!(fsync(dir.path()).unwrap().count() > 0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(round_trip().unwrap().count(), u64::from(ROUND_TRIPS));
        let error = fsync(&dir.path().join("missing")).unwrap_err();
        assert!(error.to_string().contains("--data-dir"), "{error}");
    }
}
