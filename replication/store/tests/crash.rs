//! A replica killed (`kill -9`) at any point of a rejoin holds either what it held or the master's database. The test runs
//! itself again as the process that is killed.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use common::{
    Pair,
    exchange::{KEY, begin, context, rejoin},
    query,
};
use tanist_replication::Term;
use tanist_store::{CopyOut, Database, Options, database_checksum, divergence_reports};
use tempfile::TempDir;

/// Set in the process that is killed: the master's directory and the replica's.
const DIRECTORIES: &str = "TANIST_REJOIN_DIRECTORIES";
const NAME: &str = "replica_killed_at_any_point_holds_the_old_or_the_new_state";

/// Says how far it is and goes on.
fn say(what: &str) {
    println!("\nstep {what}");
    std::io::stdout().flush().unwrap();
}

/// The process that is killed: a rejoin, step by step.
fn run(master: &Path, replica: &Path) {
    let mut backup = Database::open(replica, Options::default()).unwrap();
    let mut out = CopyOut::open(master, KEY).unwrap();
    let mut rejoin = begin(&out, &mut backup).unwrap();
    say("begun");
    while let Some(question) = rejoin.question().unwrap() {
        rejoin.answer(out.differing(question.first, question.count, &question.hashes).unwrap()).unwrap();
        say("staged");
    }
    rejoin.save_divergence(&context()).unwrap();
    say("saved");
    rejoin.finish(out.whole_hash().unwrap(), &context()).unwrap();
    say("finished");
    // To be killed here.
    std::thread::sleep(Duration::from_secs(60));
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs until `step` has been said `times` times and `later` has passed, and kills.
fn kill_after(master: &Path, replica: &Path, step: &str, times: usize, later: Duration) {
    let directories = format!("{}\n{}", master.display(), replica.display());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(DIRECTORIES, directories)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let killed = Killed(child);
    let wanted = format!("step {step}");
    let said = lines.map_while(Result::ok).filter(|line| *line == wanted).take(times).count();
    assert_eq!(said, times, "it said {step:?}");
    let until = Instant::now() + later;
    while Instant::now() < until {
        std::hint::spin_loop();
    }
    drop(killed);
}

#[test]
fn replica_killed_at_any_point_holds_the_old_or_the_new_state() {
    if let Ok(directories) = std::env::var(DIRECTORIES) {
        let (master, replica) = directories.split_once('\n').unwrap();
        return run(Path::new(master), Path::new(replica));
    }
    let mut pair = Pair::new();
    pair.step(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a); \
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 3000) \
         INSERT INTO t SELECT i, randomblob(900) FROM n",
    );
    // The replica has a tail of its own; the master has changed half of the pages and grown.
    pair.backup.become_master().unwrap();
    pair.backup.start_reign(Term(9), "pc-2", "alone").unwrap();
    let Pair { mut master, master_dir, backup, backup_dir } = pair;
    drop(backup);
    common::commit(&mut master, "UPDATE t SET a = randomblob(900) WHERE id % 2 = 0");
    common::commit(&mut master, "INSERT INTO t SELECT id + 10000, randomblob(900) FROM t LIMIT 500");
    let (master_dir, original) = (master_dir.path(), backup_dir.path());
    let old = database_checksum(original).unwrap();
    let new = database_checksum(master_dir).unwrap();
    assert_ne!(old.0, new.0);

    let points = [("begun", 1), ("staged", 1), ("staged", 3), ("saved", 1), ("finished", 1)];
    let exact = points.map(|(step, times)| (step, times, Duration::ZERO));
    // In the middle of the one transaction.
    let within = (0..8).map(|n| ("saved", 1, Duration::from_millis(n * n * 6)));
    let (mut olds, mut news) = (0, 0);
    for (step, times, later) in exact.into_iter().chain(within) {
        let copy = TempDir::new().unwrap();
        std::fs::copy(original.join("state.db"), copy.path().join("state.db")).unwrap();
        std::fs::copy(original.join("state.db-wal"), copy.path().join("state.db-wal")).unwrap();
        kill_after(master_dir, copy.path(), step, times, later);
        let is = database_checksum(copy.path()).unwrap();
        assert!(is == old || is == new, "neither old nor new after {step} {times} and {later:?}");
        assert_eq!(query(copy.path(), "PRAGMA integrity_check"), "ok");
        if step == "begun" || step == "staged" {
            assert_eq!(is, old);
        }
        if step == "finished" {
            assert_eq!(is, new);
        }
        *(if is == old { &mut olds } else { &mut news }) += 1;
        if is == new || step == "saved" {
            let reports = divergence_reports(copy.path()).unwrap();
            assert_eq!(reports.len(), 1, "nothing is overwritten before its report is there");
        }
        let mut backup = Database::open(copy.path(), Options::default()).unwrap();
        assert_eq!(backup.stamp(), is.1);
        let (rejoined, traffic) = rejoin(master_dir, &mut backup).unwrap();
        assert_eq!(rejoined.stamp, new.1);
        assert_eq!(database_checksum(copy.path()).unwrap(), new);
        assert_eq!(divergence_reports(copy.path()).unwrap().len(), 1);
        if step == "saved" || step == "finished" {
            assert_eq!(traffic.counts.received, 0, "after {step} and {later:?} everything was there");
        }
        assert!(!copy.path().join("rejoin.pages").exists());
    }
    println!("{olds} times the old state, {news} times the new one");
    assert!(olds >= 4 && news >= 1);
}
