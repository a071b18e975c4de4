//! Power cuts: of one machine and of the whole site, under load. What wasn't synced is gone, torn or out of order; see
//! `power_log.rs` for the model, `power.c` for how the processes are watched. Longer: `TANIST_ROUNDS=100`.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tanist_api::Statement;

use crate::{
    cluster::{Cluster, Layout},
    nemesis::{Dice, number},
    power_log::{Cut, Kept, cut, cut_keeping},
    workload::{Outcome, Workload, create_ledger, execute},
};

/// A cluster that comes back by itself takes no longer, on a busy computer too.
const PATIENCE: Duration = Duration::from_secs(30);

/// Compiles a library for LD_PRELOAD from the source of that name beside this file; `None` where that can't be done.
pub fn shim(name: &str) -> Option<PathBuf> {
    let source = format!("{}/../tests/system/{name}.c", env!("CARGO_MANIFEST_DIR"));
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let built = tempfile::NamedTempFile::new_in(dir).unwrap();
    let run =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(built.path()).arg(source).output();
    match run {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("there is no C compiler (cc), so there is no {name}.so: left out");
            return None;
        }
        Err(error) => panic!("cc: {error}"),
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
    }
    let library = dir.join(format!("{name}.so"));
    built.persist(&library).unwrap();
    Some(library)
}

pub fn log_dir(cluster: &Cluster, i: usize) -> PathBuf {
    cluster.machines[i].config.with_file_name("power")
}

/// Three machines whose power can be cut, with a ledger. `lies`: a sync of the files whose names end so does nothing.
pub async fn powered(lies: Option<&str>) -> Option<Cluster> {
    let library = shim("power")?;
    // Checkpoints, restarts of the WAL and rejoins come often.
    let extra = "[store]\nwal_limit = \"1MiB\"\n[replication]\nbuffer = \"1MiB\"".to_owned();
    let mut cluster = Cluster::lay_out(&Layout { extra, ..Layout::of(3) });
    for i in 0..3 {
        let log = log_dir(&cluster, i);
        std::fs::create_dir(&log).unwrap();
        cluster.machines[i].environment = vec![
            ("LD_PRELOAD", library.clone()),
            ("TANIST_POWER_LOG", log),
            ("TANIST_POWER_ROOT", cluster.data_dir(i)),
        ];
        if let Some(end) = lies {
            cluster.machines[i].environment.push(("TANIST_POWER_LIES", PathBuf::from(end)));
        }
    }
    cluster.start_all();
    cluster.wait_master().await;
    create_ledger(&cluster.client()).await;
    Some(cluster)
}

/// Reads a copy of a machine's database, so that nothing of it is touched.
pub fn read_copy<T>(
    cluster: &Cluster,
    i: usize,
    file: &str,
    read: impl FnOnce(&rusqlite::Connection) -> Result<T, rusqlite::Error>,
) -> Result<T, rusqlite::Error> {
    let copy = tempfile::tempdir().unwrap();
    for name in [file.to_owned(), format!("{file}-wal")] {
        let _ = std::fs::copy(cluster.data_dir(i).join(&name), copy.path().join(&name));
    }
    read(&rusqlite::Connection::open(copy.path().join(file))?)
}

/// Term and vote of a machine that is down.
pub fn vote(cluster: &Cluster, i: usize) -> (i64, Option<String>) {
    let sql = "SELECT term, voted_for FROM node";
    let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
    read_copy(cluster, i, "node.db", |connection| connection.query_row(sql, [], row)).unwrap_or_default()
}

/// The newest vote of a machine that runs, which is on its disk.
fn living_vote(cluster: &Cluster, i: usize) -> (i64, Option<String>) {
    let read = || -> Result<_, rusqlite::Error> {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let connection = rusqlite::Connection::open_with_flags(cluster.data_dir(i).join("node.db"), flags)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.query_row("SELECT term, voted_for FROM node", [], |row| Ok((row.get(0)?, row.get(1)?)))
    };
    read().unwrap_or_default()
}

/// No machine goes back in term, nor votes anew in the same one (R1).
pub fn check_vote(before: &(i64, Option<String>), after: &(i64, Option<String>)) -> Result<(), String> {
    let kept = after.0 > before.0 || (after.0 == before.0 && (before.1.is_none() || after.1 == before.1));
    if kept { Ok(()) } else { Err(format!("had voted {before:?}, and after the cut {after:?}")) }
}

/// Cuts the power of these machines at one moment; they stay down. Wrong is when one has forgotten its vote.
fn cut_power(cluster: &mut Cluster, victims: &[usize], dice: &mut Dice) -> Result<Cut, String> {
    let votes: Vec<_> = victims.iter().map(|i| living_vote(cluster, *i)).collect();
    for i in victims {
        cluster.signal(*i, rustix::process::Signal::KILL);
    }
    let mut total = Cut::default();
    for (i, before) in victims.iter().zip(&votes) {
        cluster.kill(*i);
        total += cut(&cluster.data_dir(*i), &log_dir(cluster, *i), dice);
        check_vote(before, &vote(cluster, *i))
            .map_err(|error| format!("{}: {error}", cluster.machines[*i].id))?;
    }
    Ok(total)
}

/// A master serves, and everything acknowledged is on every machine, exactly once.
async fn check(cluster: &Cluster, outcome: &Outcome, bounded: Duration) -> Result<(), String> {
    let master = tokio::time::timeout(bounded, cluster.wait_master()).await;
    let master = master.map_err(|_| "no master serves".to_owned())?;
    outcome.check_in(&cluster.data_dir(master))?;
    let sums = tokio::time::timeout(bounded, cluster.settle()).await;
    let sums = sums.map_err(|_| "the replicas don't come together".to_owned())?;
    if sums.windows(2).any(|pair| pair[0] != pair[1]) {
        return Err("the replicas differ".to_owned());
    }
    (0..cluster.machines.len()).try_for_each(|i| outcome.check_in(&cluster.data_dir(i)))
}

/// The library has seen what it is there to see.
fn assert_seen(total: &Cut) {
    assert!(total.wal_writes > 0 && total.wal_syncs > 0 && total.directory_syncs > 0, "{total:?}");
    assert!(total.unsynced > 0 && total.lost > 0, "nothing was ever lost: {total:?}");
}

async fn some_time(dice: &mut Dice, limit_ms: usize) {
    tokio::time::sleep(Duration::from_millis(dice.roll(limit_ms) as u64)).await;
}

/// The library and the model, with programs of which it is plain what they do.
#[test]
fn what_was_synced_stays_and_the_rest_is_taken_back() {
    let Some(library) = shim("power") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (data, log) = (dir.path().join("data"), dir.path().join("log"));
    std::fs::create_dir(&data).unwrap();
    std::fs::create_dir(&log).unwrap();
    let run = |script: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-ec", script]).current_dir(&data).env("LD_PRELOAD", &library);
        let status = shell.env("TANIST_POWER_ROOT", &data).env("TANIST_POWER_LOG", &log).status().unwrap();
        assert!(status.success(), "{script}");
    };
    let found = |name: &str| std::fs::read_to_string(data.join(name)).ok();
    let mut dice = Dice(1);

    run("printf one > a; printf two > b; sync a b .");
    cut_keeping(Kept::Nothing, &data, &log, &mut dice);
    assert_eq!((found("a").as_deref(), found("b").as_deref()), (Some("one"), Some("two")));

    // What is in `a` is synced under its other name, but no name is.
    run(
        "printf changed > a; printf more >> b; rm b; printf new > c; mv a d; mkdir e; printf f > e/f; sync c d e e/f",
    );
    let cut = cut_keeping(Kept::Nothing, &data, &log, &mut dice);
    assert_eq!((found("a").as_deref(), found("b").as_deref()), (Some("changed"), Some("two")));
    assert!(!data.join("c").exists() && !data.join("d").exists() && !data.join("e").exists());
    assert_eq!((cut.unsynced, cut.lost, cut.names_lost), (1, 1, 4), "{cut:?}");

    run(
        "head -c 65536 /dev/zero | tr '\\0' x > a; sync a; head -c 65536 /dev/zero | tr '\\0' y | dd of=a conv=notrunc bs=65536 iflag=fullblock status=none",
    );
    let cut = cut_keeping(Kept::Sectors, &data, &log, &mut dice);
    let torn = found("a").unwrap().into_bytes();
    let sectors: Vec<_> = torn.chunks(512).collect();
    assert!(torn.len() == 65536 && sectors.iter().all(|sector| sector.iter().all(|byte| byte == &sector[0])));
    assert!([b'x', b'y'].iter().all(|kind| sectors.iter().any(|sector| sector[0] == *kind)));
    assert_eq!((cut.unsynced, cut.torn), (1, 1), "{cut:?}");

    // What a sync that failed has dropped stays away, whatever later syncs say, unless it is written again.
    run("printf 12345678 > a; sync a");
    std::fs::write(log.join("fails"), "data/a").unwrap();
    run("printf abcd | dd of=a conv=notrunc status=none; ! sync a 2> /dev/null");
    std::fs::remove_file(log.join("fails")).unwrap();
    run("printf AB | dd of=a conv=notrunc status=none; sync a");
    cut_keeping(Kept::Nothing, &data, &log, &mut dice);
    assert_eq!(found("a").as_deref(), Some("AB345678"));
}

#[tokio::test(flavor = "multi_thread")]
async fn power_cuts_of_one_machine_after_another_lose_nothing() {
    let Some(mut cluster) = powered(None).await else { return };
    let rounds = number("TANIST_ROUNDS").unwrap_or(6);
    let mut dice = Dice::thrown();
    let workload = Workload::start(&cluster.client(), 3, "w");
    let mut total = Cut::default();
    for round in 0..rounds {
        // Now and then before the last one stands again.
        if dice.roll(4) > 0 {
            workload.wait_for(20).await;
        }
        some_time(&mut dice, 300).await;
        let victim = match dice.roll(2) {
            0 => cluster.master().await,
            _ => None,
        };
        let victim = victim.unwrap_or(usize::try_from(round % 3).unwrap());
        total += cut_power(&mut cluster, &[victim], &mut dice).unwrap();
        some_time(&mut dice, 500).await;
        cluster.start_machine(victim);
    }
    workload.wait_for(20).await;
    let outcome = workload.finish().await;
    check(&cluster, &outcome, PATIENCE).await.unwrap_or_else(|error| panic!("{error}\n{}", cluster.logs()));
    cluster.assert_no_panic();
    assert_seen(&total);
    println!("{rounds} cuts of one machine: {} writes acknowledged; {total:?}", outcome.acknowledged.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn power_cuts_of_the_whole_site_lose_nothing_and_it_comes_back_by_itself() {
    let Some(mut cluster) = powered(None).await else { return };
    let rounds = number("TANIST_ROUNDS").unwrap_or(4);
    let mut dice = Dice::thrown();
    let mut total = Cut::default();
    let mut all = Outcome { acknowledged: BTreeSet::new(), unknown: BTreeSet::new() };
    for round in 0..rounds {
        let workload = Workload::start(&cluster.client(), 3, &format!("r{round}"));
        workload.wait_for(20).await;
        some_time(&mut dice, 300).await;
        total += cut_power(&mut cluster, &[0, 1, 2], &mut dice).unwrap();
        cluster.start_all();
        if dice.roll(3) == 0 {
            // Once more, while they start and elect.
            some_time(&mut dice, 400).await;
            total += cut_power(&mut cluster, &[0, 1, 2], &mut dice).unwrap();
            cluster.start_all();
        }
        workload.wait_for(20).await;
        let outcome = workload.finish().await;
        all.acknowledged.extend(outcome.acknowledged);
        all.unknown.extend(outcome.unknown);
        check(&cluster, &all, PATIENCE)
            .await
            .unwrap_or_else(|error| panic!("round {round}: {error}\n{}", cluster.logs()));
    }
    cluster.assert_no_panic();
    assert_seen(&total);
    println!("{rounds} cuts of the site: {} writes acknowledged; {total:?}", all.acknowledged.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn power_cuts_in_the_middle_of_a_rejoin_leave_the_old_or_the_new_database() {
    let Some(mut cluster) = powered(None).await else { return };
    let rounds = number("TANIST_ROUNDS").unwrap_or(2);
    let mut dice = Dice::thrown();
    let client = cluster.client();
    let create = "CREATE TABLE kept(id INTEGER PRIMARY KEY, version INTEGER, data BLOB)";
    let fill = "INSERT INTO kept(version, data) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
        SELECT 0, randomblob(10000) FROM n";
    let change = "UPDATE kept SET version = version + 1, data = randomblob(10000)";
    client.execute(execute(vec![Statement::new(create), Statement::new(fill)])).await.unwrap();
    let (mut total, mut versions) = (Cut::default(), BTreeSet::new());
    for _ in 0..rounds {
        cluster.settle().await;
        let victim = (cluster.wait_master().await + 1 + dice.roll(2)) % 3;
        total += cut_power(&mut cluster, &[victim], &mut dice).unwrap();
        // More than the master's buffer holds.
        for _ in 0..3 {
            client.execute(execute(vec![Statement::new(change)])).await.unwrap();
        }
        for _ in 0..1 + dice.roll(3) {
            cluster.start_machine(victim);
            some_time(&mut dice, 700).await;
            total += cut_power(&mut cluster, &[victim], &mut dice).unwrap();
            let (intact, distinct, version) = read_copy(&cluster, victim, "state.db", |connection| {
                let intact: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
                let sql = "SELECT count(DISTINCT version), max(version) FROM kept";
                connection
                    .query_row(sql, [], |row| Ok((intact, row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))
            })
            .unwrap();
            assert_eq!((intact.as_str(), distinct), ("ok", 1), "a mixture at version {version}");
            versions.insert(version);
        }
        cluster.start_machine(victim);
    }
    cluster.assert_identical().await;
    cluster.assert_no_panic();
    assert_seen(&total);
    let rejoins: usize = (0..3).map(|i| cluster.log_of(i).matches("rejoin started").count()).sum();
    assert!(rejoins > 0, "{}", cluster.logs());
    println!("{rounds} rounds, {rejoins} rejoins begun, found at versions {versions:?}; {total:?}");
}

/// That the others can fail: with disks that forget what they said was synced, the same checks find it out.
async fn found_out(lies: &str) {
    let mut dice = Dice::thrown();
    for round in 0..8 {
        let Some(mut cluster) = powered(Some(lies)).await else { return };
        let workload = Workload::start(&cluster.client(), 3, "w");
        workload.wait_for(100).await;
        let outcome = workload.finish().await;
        let kept = match cut_power(&mut cluster, &[0, 1, 2], &mut dice) {
            Ok(_) => {
                cluster.start_all();
                check(&cluster, &outcome, Duration::from_secs(8)).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = kept {
            println!("syncs of {lies:?} are lies: found in round {round}: {error}");
            return;
        }
    }
    panic!("eight times the disks forgot what they had of {lies:?}, and nothing was missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_that_lie_about_every_sync_are_found_out() {
    found_out("").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_about_the_wal_alone_are_found_out() {
    found_out("state.db-wal").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_about_the_votes_alone_are_found_out() {
    found_out("node.db-wal").await;
}
