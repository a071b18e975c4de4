//! Programs are upgraded machine by machine, in every order, with masters killed in between, and can be taken back until the
//! cluster's level is raised. No write is lost, and none waits for long.
//!
//! The next version is made up: one more migration, a message and a field of heartbeats that this one doesn't know. In the everyday
//! test it is this program told to pass for it; with `TANIST_UPGRADE=1` it is built as such. `TANIST_BASE` names an older program.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tanist_api::{Statement, Upgrade};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::{
    cluster::{Cluster, HTTP_PORT, Layout, read, tanist},
    workload::{Outcome, create_ledger, execute},
};

/// How long all machines must have known the next level.
const CALM: &str = "[upgrade]\ncalm = \"1s\"\n";

/// A program that a machine can run.
#[derive(Clone, Default)]
struct Build {
    /// Where it is; this one otherwise.
    file: Option<PathBuf>,
    /// It is told to pass for the next version.
    pretends: bool,
    /// It reads `[upgrade]` in its configuration.
    knows_upgrades: bool,
}

impl Build {
    fn current() -> Build {
        Build { knows_upgrades: true, ..Build::default() }
    }

    fn next() -> Build {
        Build { pretends: true, ..Build::current() }
    }

    fn at(file: PathBuf) -> Build {
        Build { file: Some(file), ..Build::default() }
    }
}

/// From the next start on the machine runs that.
fn install(cluster: &mut Cluster, i: usize, build: &Build) {
    let machine = &mut cluster.machines[i];
    machine.program.clone_from(&build.file);
    machine.environment.clear();
    if build.pretends {
        machine.environment.push(("TANIST_NEXT_VERSION", "1".into()));
    }
    // An administrator adds the section when all programs know it, at the end of the file at the earliest.
    let text = std::fs::read_to_string(&machine.config).unwrap().replace(CALM, "");
    let head = if build.knows_upgrades { CALM } else { "" };
    let text = text.replacen("[listen]", &format!("{head}[listen]"), 1);
    crate::cluster::write_secret(&machine.config, &text);
}

/// Clients that insert distinct entries over plain HTTP, each until it is acknowledged, at whatever machine.
struct Writers {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    acknowledged: BTreeSet<String>,
    last: Option<Instant>,
    gap: Duration,
}

/// One try; whether it was acknowledged.
async fn write(ip: &str, entry: &str) -> bool {
    let body = format!(r#"{{"statements":[{{"sql":"INSERT INTO ledger VALUES ('{entry}')"}}]}}"#);
    let request = format!(
        "POST /v1/execute HTTP/1.1\r\nhost: localhost:{HTTP_PORT}\r\nconnection: close\r\nidempotency-key: {entry}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let exchange = async {
        let mut stream = TcpStream::connect((ip, HTTP_PORT)).await.ok()?;
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok()?;
        String::from_utf8_lossy(&answer).split(' ').nth(1)?.parse::<u16>().ok()
    };
    timeout(Duration::from_secs(10), exchange).await.ok().flatten() == Some(200)
}

impl Writers {
    fn start(cluster: &Cluster, count: usize) -> Writers {
        let (stop, seen) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Seen>>::default());
        let ips: Vec<String> = cluster.machines.iter().map(|machine| machine.ip.clone()).collect();
        let task = |writer: usize| {
            let (stop, seen, ips) = (Arc::clone(&stop), Arc::clone(&seen), ips.clone());
            tokio::spawn(async move {
                let mut at = writer;
                let mut number = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    let entry = format!("w{writer}-{number}");
                    number += 1;
                    // Once sent, it must be known what became of it.
                    while !write(&ips[at % ips.len()], &entry).await {
                        at += 1;
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    let mut seen = seen.lock().unwrap();
                    let now = Instant::now();
                    seen.gap = seen.gap.max(seen.last.map_or(Duration::ZERO, |last| now - last));
                    seen.last = Some(now);
                    seen.acknowledged.insert(entry);
                }
            })
        };
        let tasks = (0..count).map(task).collect();
        Writers { stop, seen, tasks }
    }

    fn count(&self) -> usize {
        self.seen.lock().unwrap().acknowledged.len()
    }

    async fn go_on(&self, cluster: &Cluster) {
        let target = self.count() + 20;
        cluster.wait("writes go on", || async { (self.count() >= target).then_some(()) }).await;
    }

    /// The longest time without an acknowledgement since it was last asked.
    fn gap(&self) -> Duration {
        std::mem::take(&mut self.seen.lock().unwrap().gap)
    }

    async fn finish(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        let seen = std::mem::take(&mut *self.seen.lock().unwrap());
        Outcome { acknowledged: seen.acknowledged, unknown: BTreeSet::new() }
    }
}

/// How a story goes on.
struct Story {
    cluster: Cluster,
    writers: Writers,
    gaps: Vec<(String, Duration)>,
}

impl Story {
    async fn begin(old: &Build) -> Story {
        let mut cluster = Cluster::lay_out(&Layout::of(3));
        for i in 0..3 {
            install(&mut cluster, i, old);
        }
        cluster.start_all();
        cluster.wait_master().await;
        cluster.wait_both_keep_up().await;
        create_ledger(&cluster.client()).await;
        let writers = Writers::start(&cluster, 3);
        let story = Story { cluster, writers, gaps: vec![] };
        story.writers.go_on(&story.cluster).await;
        story.writers.gap();
        story
    }

    /// Both others keep up, and one of them has every write.
    async fn wait_whole(&self) {
        self.cluster.wait_both_keep_up().await;
        let whole = || async {
            let master = self.cluster.master().await?;
            (self.cluster.view(master).await.ok()?.sync_set.len() == 2).then_some(())
        };
        self.cluster.wait("the sync set is whole", whole).await;
    }

    async fn level(&self) -> Option<Upgrade> {
        let master = self.cluster.master().await?;
        self.cluster.view(master).await.ok()?.upgrade
    }

    /// Notes how long writes stood still.
    async fn note(&mut self, what: String) {
        self.writers.go_on(&self.cluster).await;
        self.gaps.push((what, self.writers.gap()));
    }

    /// The machine runs that from now on: stopped as an administrator does it, or killed.
    async fn change(&mut self, i: usize, build: &Build, what: &str, killed: bool) {
        self.wait_whole().await;
        let master = self.cluster.wait_master().await == i;
        if killed {
            self.kill(i).await;
        } else {
            self.cluster.terminate(i);
        }
        install(&mut self.cluster, i, build);
        self.cluster.start_machine(i);
        self.wait_whole().await;
        let role = if master { ", the master" } else { "" };
        let how = if killed { "killed and " } else { "" };
        self.note(format!("pc-{}{role} {how}{what}", i + 1)).await;
    }

    /// Dies, and comes back only when another reigns: one that is back before anybody has seen its end must be waited for as
    /// long as its lease lasts.
    async fn kill(&mut self, i: usize) {
        self.cluster.kill(i);
        self.cluster.wait_master().await;
    }

    /// The master dies, and comes back as what it was.
    async fn kill_the_master(&mut self) {
        self.wait_whole().await;
        let master = self.cluster.wait_master().await;
        self.kill(master).await;
        self.cluster.start_machine(master);
        self.wait_whole().await;
        self.note(format!("the master pc-{} killed", master + 1)).await;
    }

    async fn wait_blocked(&self, by: &str) {
        let what = format!("what blocks the next level names {by:?}");
        self.cluster
            .wait(&what, || async { self.level().await?.blocked.filter(|why| why.contains(by)).map(drop) })
            .await;
    }

    async fn wait_level(&self, level: u32) {
        let what = format!("the level is {level}");
        self.cluster.wait(&what, || async { (self.level().await?.level == level).then_some(()) }).await;
    }

    /// Nothing that was acknowledged is missing anywhere.
    async fn end(self, limit: Duration) {
        let Story { cluster, writers, gaps } = self;
        let outcome = writers.finish().await;
        println!("{} writes; gaps {gaps:?}", outcome.acknowledged.len());
        cluster.assert_identical().await;
        for i in 0..3 {
            outcome.assert_in(&cluster.data_dir(i));
        }
        cluster.assert_no_panic();
        for (what, gap) in gaps {
            assert!(gap < limit, "{what}: {gap:?} without a write");
        }
    }
}

fn level_of(data: &Path) -> u32 {
    read(data, "SELECT max(version) FROM tanist_schema")
}

/// One machine after the other, in this order; between `from` and `to` the level is held, one is taken back and comes again.
async fn roll(old: &Build, new: &Build, order: [usize; 3], limit: Duration) {
    let mut story = Story::begin(old).await;
    let before = level_of(&story.cluster.data_dir(0));
    for (turn, i) in order.into_iter().enumerate() {
        story.change(i, new, "upgraded", turn == 1).await;
        if turn == 0 {
            story.kill_the_master().await;
        }
        if turn == 1 {
            // The new program reigns beside an old one: that it is upgraded is all that the next level waits for.
            let last = order[2];
            story.cluster.crown(i).await;
            let why = format!("pc-{} runs 0.1.0", last + 1);
            story.wait_blocked(&why).await;
            // An older machine doesn't know the route, and so not whom it would send on.
            let held = story.cluster.client_of(i).hold_upgrade().await.unwrap();
            assert!(held.held && held.level == before, "{held:?}");
            story.writers.gap();
        }
    }
    story.cluster.crown(order[0]).await;
    story.wait_blocked("is held back").await;
    // The calm time would be over.
    let held_for = Instant::now();
    // Taken back, as long as it isn't final: it reigns as ever, and knows what was written meanwhile.
    let back = order[1];
    story.change(back, old, "taken back", false).await;
    story.cluster.crown(back).await;
    story.note(format!("pc-{} reigns with the old program", back + 1)).await;
    story.kill_the_master().await;
    story.change(back, new, "upgraded again", true).await;
    story.cluster.crown(order[2]).await;
    story.wait_blocked("is held back").await;
    tokio::time::sleep_until((held_for + Duration::from_secs(2)).into()).await;
    for i in 0..3 {
        assert_eq!(level_of(&story.cluster.data_dir(i)), before);
    }
    story.writers.gap();
    let released = story.cluster.client().release_upgrade().await.unwrap();
    assert!(!released.held, "{released:?}");
    // All levels that the new program knows come at once.
    let after = tanist_store::known_levels().1.max(before + 1);
    story.wait_level(after).await;
    story.note("the level raised".to_owned()).await;
    story.kill_the_master().await;
    for i in 0..3 {
        assert_eq!(level_of(&story.cluster.data_dir(i)), after);
    }
    let told = "SELECT group_concat(json_extract(data, '$.what')) FROM tanist_events WHERE subject = 'level'";
    assert_eq!(read::<String>(&story.cluster.data_dir(0), told), "hold,go,level");
    story.end(limit).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_are_upgraded_one_by_one_and_taken_back_until_the_level_is_raised() {
    // Gaps are for the long run: here others use the processors.
    roll(&Build::current(), &Build::next(), [1, 0, 2], Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn program_that_does_not_know_the_level_is_shown_and_does_not_reign() {
    let mut story = Story::begin(&Build::next()).await;
    let level = level_of(&story.cluster.data_dir(0));
    story.cluster.crown(0).await;
    // Too late to be taken back: it follows, holds its copy, and doesn't reign.
    story.cluster.terminate(2);
    install(&mut story.cluster, 2, &Build::current());
    story.cluster.start_machine(2);
    let barred = format!("schema version {level} is newer than this program's {}", level - 1);
    let cluster = &story.cluster;
    cluster
        .wait("it is shown why pc-3 can't reign", || async {
            let view = cluster.view(0).await.ok()?;
            view.members[2].unhealthy.as_ref().filter(|why| why.contains(&barred)).map(drop)
        })
        .await;
    let refused = cluster.client().promote("pc-3").await.unwrap_err().to_string();
    assert!(refused.contains("pc-3"), "{refused}");
    let config = cluster.machines[0].config.display().to_string();
    let (code, text) = tanist(&["upgrade", "status", "--config", &config]);
    assert_eq!(code, Some(0), "{text}");
    let rows: Vec<_> = text.lines().filter(|line| line.starts_with("pc-")).collect();
    assert!(text.starts_with(&format!("Level {level}.\n")) && rows.len() == 3, "{text}");
    assert!(rows[0].contains("0.1.0-next") && rows[2].contains("0.1.0 "), "{text}");
    story.cluster.kill(0);
    story.cluster.wait("pc-2 reigns", || async { (story.cluster.master().await? == 1).then_some(()) }).await;
    story.writers.go_on(&story.cluster).await;
    story.cluster.start_machine(0);
    story.wait_whole().await;
    story.end(Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_is_founded_at_the_level_that_all_machines_know() {
    let mut cluster = Cluster::lay_out(&Layout::of(3));
    for i in 0..3 {
        install(&mut cluster, i, &if i == 2 { Build::current() } else { Build::next() });
    }
    cluster.start_all();
    let master = cluster.wait_master().await;
    cluster.client().execute(execute(vec![Statement::new("CREATE TABLE t(a)")])).await.unwrap();
    cluster.wait_both_keep_up().await;
    cluster.assert_identical().await;
    let view = cluster.view(master).await.unwrap();
    let known = view.members.iter().map(|member| member.program.as_ref().unwrap().levels.max);
    let known: Vec<_> = known.collect();
    assert_eq!(known[0], known[2] + 1, "{known:?}");
    assert_eq!(level_of(&cluster.data_dir(0)), known[2]);
    cluster.assert_no_panic();
}

/// The made-up next version, built as such.
fn build_next() -> Build {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("next-version");
    let status = std::process::Command::new(env!("CARGO"))
        .args(["build", "-p", "tanist", "--bin", "tanist", "--features", "next-version", "--target-dir"])
        .arg(&target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .unwrap();
    assert!(status.success(), "the next version isn't built");
    Build { file: Some(target.join("debug/tanist")), ..Build::current() }
}

const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

#[tokio::test(flavor = "multi_thread")]
async fn every_order_of_upgrades_loses_no_write_and_no_second() {
    if std::env::var_os("TANIST_UPGRADE").is_none() {
        return eprintln!("set TANIST_UPGRADE=1 to build the next version and upgrade in every order");
    }
    let next = build_next();
    for order in ORDERS {
        roll(&Build::current(), &next, order, Duration::from_secs(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn older_program_is_upgraded_to_this_one_in_every_order() {
    let Some(base) = std::env::var_os("TANIST_BASE") else {
        return eprintln!("set TANIST_BASE=/path/to/an/older/tanist to upgrade from it in every order");
    };
    // When a machine of a program without end notices is killed, a refusal is all that tells of it, which proves nothing any more:
    // then a lease passes, or several.
    for order in ORDERS {
        roll(&Build::at((&base).into()), &Build::current(), order, Duration::from_secs(10)).await;
    }
}
