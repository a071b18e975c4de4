//! Copies that a machine takes of its own replica by itself, and keeps some of.
//!
//! Owns a thread and the files in `[backup] directory` that are named like this machine's copies; touches no others. Never
//! removes the newest copies, whatever the wall clock says: they are told by position.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use tanist_api::ScheduledCopies;
use tanist_replication::Position;
use tanist_store::{KnownPages, PageSums, Snapshot, Utc, private};

use super::{
    COPY_SUFFIX, CopyError, CopyFile, LEVEL, Manifest, Source, TakeError,
    file::increments_of,
    increments::{self, Chain},
    place, read_manifest, write_copy,
};
use crate::{config::Backup, durable};

/// After a failure it is tried again so soon.
const TRY_AGAIN: Duration = Duration::from_secs(60);
/// A copy leaves so much room on its disk, or a 16th of it: below, the machine whose data is there takes no more.
const ROOM_LEFT: u64 = 64 << 20;
/// While the replica is still empty it is looked at again so soon.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How the copies stand, for displays.
pub(crate) type Board = Arc<Mutex<ScheduledCopies>>;

/// The thread, as long as it should run.
#[derive(Debug)]
pub(crate) struct Schedule {
    stop: mpsc::Sender<()>,
    stopping: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Schedule {
    /// Starts it.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub(crate) fn start(
        source: Source,
        sums: Arc<PageSums>,
        config: Backup,
        board: Board,
    ) -> io::Result<Schedule> {
        let (stop, stopped) = mpsc::channel();
        let stopping = Arc::new(AtomicBool::new(false));
        let keeper = Keeper { source, sums, config, board, stopping: Arc::clone(&stopping) };
        let thread =
            std::thread::Builder::new().name("copies".to_owned()).spawn(move || keeper.run(&stopped))?;
        Ok(Schedule { stop, stopping, thread })
    }

    /// Ends it; a copy that is being taken is given up.
    pub(crate) fn stop(self) {
        self.stopping.store(true, Relaxed);
        drop(self.stop);
        let _ = self.thread.join();
    }
}

/// Why a copy could not be kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeepError {
    #[error("{doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "{}: found it on the disk of the system or of the data, expected another disk, where earlier copies went: is it mounted? If it \
         is meant to be here, remove {}", path.display(), mark.display()
    )]
    Unmounted { path: PathBuf, mark: PathBuf },
    #[error("{}: found {found} bytes free, expected {expected}, as many as the database has", path.display())]
    Room { path: PathBuf, found: u64, expected: u64 },
    #[error(transparent)]
    Take(#[from] TakeError),
    #[error(transparent)]
    Copy(#[from] CopyError),
}

/// A copy of this machine's in the directory.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kept {
    position: Position,
    made_at: String,
    name: String,
}

struct Keeper {
    source: Source,
    sums: Arc<PageSums>,
    config: Backup,
    board: Board,
    stopping: Arc<AtomicBool>,
}

impl Keeper {
    fn run(&self, stopped: &mpsc::Receiver<()>) {
        let now = Instant::now();
        let mut copy_due = now + self.first_pause();
        let mut increment_due = self.config.increments.map(|pause| now + pause);
        self.close_to_others();
        let (mut chain, mut looked) = (None, false);
        let mut mark = self.source.key_mark();
        loop {
            // Without a copy to follow there is nothing to do before the next one.
            let next = increment_due.filter(|_| chain.is_some() || !looked);
            let next = next.map_or(copy_due, |due| due.min(copy_due));
            let pause = next.saturating_duration_since(Instant::now());
            if stopped.recv_timeout(pause) != Err(mpsc::RecvTimeoutError::Timeout) {
                return;
            }
            if self.source.key_mark() != mark {
                // Increments follow a copy of the same key.
                mark = self.source.key_mark();
                (chain, looked, copy_due) = (None, true, Instant::now());
            }
            if Instant::now() >= copy_due {
                copy_due = Instant::now() + self.copy(&mut chain);
            } else if let Some(chain) = &mut chain {
                self.increment(chain);
            } else {
                looked = true;
                chain = self.find_chain();
                if chain.is_none() {
                    copy_due = Instant::now();
                }
                continue;
            }
            increment_due = self.config.increments.map(|pause| Instant::now() + pause);
        }
    }

    /// Takes a copy, and says when the next is due.
    fn copy(&self, chain: &mut Option<Chain>) -> Duration {
        let begun = Instant::now();
        match self.keep_one() {
            Ok(Some((manifest, begins))) => {
                let seconds = begun.elapsed().as_secs_f32();
                let position = manifest.position();
                tracing::info!(%position, bytes = manifest.frame_bytes, seconds, "a scheduled copy was taken");
                self.show(manifest);
                *chain = begins;
                self.config.every
            }
            Ok(None) => LOOK_AGAIN.min(self.config.every),
            Err(error) => self.tell(&error, "a scheduled copy failed"),
        }
    }

    fn increment(&self, chain: &mut Chain) {
        let checked = place::check(&self.config.directory, &self.source.directory);
        match checked.and_then(|()| chain.next(&self.source, &self.sums, &self.stopping)) {
            Ok(Some(manifest)) => {
                let changed = manifest.after.as_ref().map_or(0, |after| after.changed);
                let (position, bytes) = (manifest.position(), manifest.frame_bytes);
                tracing::debug!(%position, bytes, changed, "an increment was taken");
                self.show(manifest);
            }
            Ok(None) => {}
            // A write from outside that has no number yet, most likely.
            Err(KeepError::Take(TakeError::Changes(why))) if chain.put_off() => {
                tracing::debug!(%why, "an increment is put off");
            }
            Err(error) => {
                self.tell(&error, "an increment failed");
            }
        }
    }

    /// Goes on with the increments of an earlier process. Not when its copy is another cluster's, or can't be read: then a new
    /// copy must be taken.
    fn find_chain(&self) -> Option<Chain> {
        let newest = self.kept().ok()?.pop()?;
        match Chain::open(&self.config.directory.join(&newest.name)) {
            Ok((chain, manifest)) if manifest.key_mark == self.source.key_mark() => {
                self.show(manifest);
                Some(chain)
            }
            Ok(_) => None,
            Err(error) => {
                self.tell(&error.into(), "increments can't be continued: a new copy is taken");
                None
            }
        }
    }

    fn tell(&self, error: &KeepError, message: &'static str) -> Duration {
        if !self.stopping.load(Relaxed) {
            tracing::error!(%error, message);
            self.board.lock().failed = Some(error.to_string());
        }
        TRY_AGAIN.min(self.config.every)
    }

    fn show(&self, newest: Manifest) {
        let position = Some(newest.position().to_string());
        *self.board.lock() = ScheduledCopies { made_at: Some(newest.made_at), position, failed: None };
    }

    /// Copies that others may read, from before. The directory may be for more than this, and stays as it is.
    fn close_to_others(&self) {
        for copy in self.kept().into_iter().flatten() {
            let copy = self.config.directory.join(copy.name);
            durable::tell_mended(&self.config.directory, &private::mend_file(&copy));
            durable::tell_mended(&self.config.directory, &private::mend(&increments_of(&copy)));
        }
    }

    /// Goes on where an earlier process was, as far as the clock can be believed.
    fn first_pause(&self) -> Duration {
        let Ok(kept) = self.kept() else { return Duration::ZERO };
        let Some(newest) = kept.last().map(|newest| self.config.directory.join(&newest.name)) else {
            return Duration::ZERO;
        };
        let Ok(manifest) = read_manifest(&newest) else { return Duration::ZERO };
        self.show(manifest);
        let made = fs::metadata(&newest).and_then(|file| file.modified());
        let age = made.ok().and_then(|made| SystemTime::now().duration_since(made).ok());
        age.map_or(Duration::ZERO, |age| self.config.every.saturating_sub(age))
    }

    /// Takes one and lets the oldest go; `None` while there is nothing to copy.
    fn keep_one(&self) -> Result<Option<(Manifest, Option<Chain>)>, KeepError> {
        let directory = &self.config.directory;
        let fail = |doing| move |source| KeepError::Io { doing, path: directory.clone(), source };
        let snapshot =
            Snapshot::open_numbered(&self.source.directory, &self.sums).map_err(TakeError::from)?;
        let (position, expected) = (snapshot.target().stamp.position, snapshot.target().bytes());
        if position == Position::ZERO {
            return Ok(None);
        }
        place::check(directory, &self.source.directory)?;
        private::create_dir_all(directory).map_err(fail("make"))?;
        place::remember(directory, &self.source.directory).map_err(fail("remember the disk of"))?;
        self.remove_partial().map_err(fail("clear"))?;
        let found = fs4::available_space(directory).map_err(fail("look for room in"))?;
        // Beside what the disk's other users need, this machine first of all.
        let total = fs4::total_space(directory).map_err(fail("look for room in"))?;
        let expected = expected.saturating_add(ROOM_LEFT.min(total / 16));
        if found < expected {
            return Err(KeepError::Room { path: directory.clone(), found, expected });
        }
        let made_at = Utc::of(SystemTime::now()).compact();
        let name = format!("{}{made_at}-{position}{COPY_SUFFIX}", self.prefix());
        let path = directory.join(&name);
        let mut file = CopyFile::begin(&path)?;
        let mut out = Stoppable { file: &mut file, stopping: &self.stopping };
        write_copy(&self.source, snapshot, LEVEL, &mut out)?;
        let (manifest, chain) = match self.config.increments {
            None => (file.finish(|_| {})?, None),
            Some(_) => {
                let mut known = KnownPages::default();
                let manifest = file.finish_pages(|page, image| known.set(page, image))?;
                let chain = Chain::of(&path, &manifest, known)?;
                (manifest, Some(chain))
            }
        };
        self.let_go(&name).map_err(fail("clear"))?;
        Ok(Some((manifest, chain)))
    }

    fn prefix(&self) -> String {
        format!("{}-{}-", self.source.cluster, self.source.member)
    }

    /// This machine's copies, the newest last.
    fn kept(&self) -> io::Result<Vec<Kept>> {
        let prefix = self.prefix();
        let mut kept = vec![];
        for entry in fs::read_dir(&self.config.directory)? {
            if let Ok(name) = entry?.file_name().into_string()
                && let Some(copy) = parse(&name, &prefix)
            {
                kept.push(copy);
            }
        }
        kept.sort();
        Ok(kept)
    }

    /// Keeps the newest, `made` in any case: after a new founding positions are lower.
    fn let_go(&self, made: &str) -> io::Result<()> {
        let mut kept = self.kept()?;
        kept.retain(|copy| copy.name != made);
        let surplus = (kept.len() + 1).saturating_sub(self.config.keep);
        for copy in kept.iter().take(surplus) {
            let copy = self.config.directory.join(&copy.name);
            increments::remove(&copy)?;
            fs::remove_file(copy)?;
        }
        Ok(())
    }

    /// What a kill has left.
    fn remove_partial(&self) -> io::Result<()> {
        let prefix = self.prefix();
        for entry in fs::read_dir(&self.config.directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.strip_suffix(".partial").is_some_and(|name| parse(name, &prefix).is_some()) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// A copy's name behind the machine's own `prefix`: time, position, suffix.
fn parse(name: &str, prefix: &str) -> Option<Kept> {
    let rest = name.strip_prefix(prefix)?.strip_suffix(COPY_SUFFIX)?;
    let (made_at, position) = rest.split_once('-')?;
    let digits = |text: &str, count| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    let (day, time) = made_at.strip_suffix('Z')?.split_once('T')?;
    if !digits(day, 8) || !digits(time, 6) {
        return None;
    }
    let made_at = made_at.to_owned();
    Some(Kept { position: position.parse().ok()?, made_at, name: name.to_owned() })
}

/// Refuses more bytes when the machine stops.
pub(super) struct Stoppable<'a> {
    pub(super) file: &'a mut CopyFile,
    pub(super) stopping: &'a AtomicBool,
}

impl Write for Stoppable<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.stopping.load(Relaxed) {
            return Err(io::Error::other("this machine stops"));
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Whether two paths are the same directory, or would be.
pub(crate) fn is_same(a: &Path, b: &Path) -> bool {
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    real(a) == real(b)
}

#[cfg(test)]
mod tests {
    use tanist_replication::Term;
    use tanist_store::{Database, Options};

    use super::*;

    fn keeper(data: &Path, database: &Database, directory: PathBuf, keep: usize) -> Keeper {
        let source = Source {
            directory: data.to_owned(),
            cluster: "wall".to_owned(),
            keys: tanist_transport::ClusterKey::from_bytes([7; 32]).into(),
            member: "pc-1".to_owned(),
        };
        let increments = Some(Duration::from_secs(60));
        let config = Backup { directory, every: Duration::from_secs(3600), increments, keep };
        Keeper { source, sums: database.sums(), config, board: Board::default(), stopping: Arc::default() }
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn newest_copies_stay_and_files_of_others_are_left_alone() {
        let data = tempfile::tempdir().unwrap();
        let out = data.path().join("copies");
        let mut master = Database::open(data.path(), Options::default()).unwrap();
        let keeper = keeper(data.path(), &master, out.clone(), 2);
        assert!(keeper.keep_one().unwrap().is_none(), "nothing to copy yet");
        master.become_master().unwrap();
        master.start_reign(Term(1), "pc-1", "first start").unwrap();
        assert_eq!(keeper.first_pause(), Duration::ZERO, "no copy yet: at once");
        let others =
            ["notes.txt", "wall-pc-1-x-20200101T000000Z-1.1.db.zst", "wall-pc-2-20200101T000000Z-1.1.db.zst"];
        fs::create_dir(&out).unwrap();
        for other in others {
            fs::write(out.join(other), b"x").unwrap();
        }
        // Of a machine whose clock was wrong; and what a kill left.
        fs::write(out.join("wall-pc-1-20990101T000000Z-0.1.db.zst"), b"x").unwrap();
        fs::write(out.join("wall-pc-1-20990101T000000Z-1.1.db.zst.partial"), b"x").unwrap();
        for n in 0..4 {
            let mut batch = master.begin(Term(1)).unwrap();
            let sql = if n == 0 { "CREATE TABLE t(x)" } else { "INSERT INTO t VALUES (1)" };
            batch.request(|connection| connection.execute_batch(sql)).unwrap().unwrap();
            batch.commit().unwrap();
            let (manifest, chain) = keeper.keep_one().unwrap().unwrap();
            assert_eq!(manifest.stamp().unwrap(), master.stamp());
            let mut batch = master.begin(Term(1)).unwrap();
            batch
                .request(|connection| connection.execute_batch("INSERT INTO t VALUES (0)"))
                .unwrap()
                .unwrap();
            batch.commit().unwrap();
            chain.unwrap().next(&keeper.source, &keeper.sums, &keeper.stopping).unwrap().unwrap();
        }
        let tip = keeper.kept().unwrap().last().unwrap().position;
        let kept: Vec<_> = keeper.kept().unwrap().into_iter().map(|copy| copy.position.txid.0).collect();
        assert_eq!(
            (kept, tip.txid.0 + 1),
            (vec![tip.txid.0 - 2, tip.txid.0], master.stamp().position.txid.0)
        );
        assert_eq!(
            names(&out).len(),
            others.len() + 4,
            "two copies with their increments: {:?}",
            names(&out)
        );
        assert!(keeper.first_pause() > Duration::from_secs(3500), "the newest is fresh");
        assert_eq!(keeper.board.lock().position, Some(tip.to_string()));
        // The newest stays even where it counts less.
        let mut lower =
            names(&out).iter().filter_map(|name| parse(name, &keeper.prefix())).collect::<Vec<_>>();
        lower.sort();
        keeper.let_go(&lower[0].name).unwrap();
        assert!(out.join(&lower[0].name).exists());
    }

    #[test]
    fn stopped_or_refused_copy_leaves_nothing_and_says_why() {
        let data = tempfile::tempdir().unwrap();
        let mut master = Database::open(data.path(), Options::default()).unwrap();
        master.become_master().unwrap();
        master.start_reign(Term(1), "pc-1", "first start").unwrap();
        let out = data.path().join("copies");
        let stopped = keeper(data.path(), &master, out.clone(), 2);
        stopped.stopping.store(true, Relaxed);
        let error = stopped.keep_one().unwrap_err().to_string();
        assert!(error.contains("this machine stops"), "{error}");
        assert!(names(&out).is_empty());
        fs::write(data.path().join("file"), b"x").unwrap();
        let refused = keeper(data.path(), &master, data.path().join("file"), 2);
        assert!(refused.keep_one().unwrap_err().to_string().contains("make "));
    }
}
