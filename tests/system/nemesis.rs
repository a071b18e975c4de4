//! Whatever can happen to machines and to the links between them, in any order, while clients write and read. Longer:
//! `TANIST_ROUNDS=200`; the same faults again: `TANIST_SEED=n`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::process::Signal;
use tanist_api::{NewMember, QueryRequest, Statement};
use tanist_client::{Client, Consistency, Error};

use crate::{
    bank::Bank,
    cluster::Cluster,
    cut_off::{Links, cuttable_of, mend},
    list_append::Lists,
    register::Register,
    workload::{Workload, create_ledger},
};

/// Numbers that are the same for the same seed.
pub struct Dice(pub u64);

impl Dice {
    /// Another at each run, unless `TANIST_SEED` says which; says itself which.
    pub fn thrown() -> Dice {
        let seed = number("TANIST_SEED").unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            u64::from(now.subsec_nanos())
        });
        println!("TANIST_SEED={seed}");
        Dice(seed)
    }

    /// From 0 up to, not including, `sides`.
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }
}

pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Reads again and again: no read misses a write that was acknowledged before it began.
fn read_on(client: Client, written: Arc<Workload>, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<usize> {
    tokio::spawn(async move {
        let mut reads = 0;
        while !stop.load(Ordering::Relaxed) {
            let before = i64::try_from(written.count()).unwrap();
            let statements = vec![Statement::new("SELECT count(*) FROM ledger")];
            match client.query(QueryRequest { statements }, Consistency::Strong, None).await {
                Ok(answer) => {
                    let found = answer.results[0].rows[0][0].as_i64().unwrap();
                    assert!(
                        found >= before,
                        "a read saw {found} rows, {before} were acknowledged before it (I5)"
                    );
                    reads += 1;
                }
                Err(Error::Unavailable { .. }) => {}
                Err(error) => panic!("read: {error}"),
            }
        }
        reads
    })
}

async fn wreak(cluster: &mut Cluster, links: &Links, dice: &mut Dice) -> String {
    let count = cluster.machines.len();
    let victim = dice.roll(count);
    let other = (victim + 1 + dice.roll(count - 1)) % count;
    let time = Duration::from_millis(300 + dice.roll(2200) as u64);
    let on = |touches: &dyn Fn(usize, usize) -> bool, act: &dyn Fn(&crate::proxy::Link)| {
        links.iter().filter(|(from, to, _)| touches(*from, *to)).for_each(|(_, _, link)| act(link));
    };
    let cut = |touches: &dyn Fn(usize, usize) -> bool| on(touches, &crate::proxy::Link::cut);
    let name = |i: usize| format!("pc-{}", i + 1);
    match dice.roll(11) {
        0 => {
            cut(&|from, to| from == victim || to == victim);
            tokio::time::sleep(time).await;
            format!("{} is cut off for {time:?}", name(victim))
        }
        1 => {
            cut(&|from, _| from == victim);
            tokio::time::sleep(time).await;
            format!("{} is not heard for {time:?}", name(victim))
        }
        2 => {
            cut(&|_, to| to == victim);
            tokio::time::sleep(time).await;
            format!("{} hears nobody for {time:?}", name(victim))
        }
        3 => {
            cut(&|from, to| (from, to) == (victim, other) || (to, from) == (victim, other));
            tokio::time::sleep(time).await;
            format!("{} and {} are cut off from each other for {time:?}", name(victim), name(other))
        }
        4 => {
            // Two sides: the victim's has it and, among five, the other.
            let side = |i: usize| i == victim || (count > 3 && i == other);
            cut(&|from, to| side(from) != side(to));
            tokio::time::sleep(time).await;
            format!("{} and perhaps {} are on one side for {time:?}", name(victim), name(other))
        }
        5 => {
            let flaps = 3 + dice.roll(8);
            for _ in 0..flaps {
                cut(&|from, to| from == victim || to == victim);
                tokio::time::sleep(Duration::from_millis(50 + dice.roll(250) as u64)).await;
                mend(links);
                tokio::time::sleep(Duration::from_millis(20 + dice.roll(100) as u64)).await;
            }
            format!("{}'s links flap {flaps} times", name(victim))
        }
        6 => {
            on(&|from, to| from == victim || to == victim, &|link| link.slow_down(400));
            tokio::time::sleep(time).await;
            on(&|_, _| true, &|link| link.slow_down(0));
            format!("{}'s links are slow for {time:?}", name(victim))
        }
        7 => {
            cluster.kill(victim);
            tokio::time::sleep(time / 2).await;
            cluster.start_machine(victim);
            format!("{} is killed", name(victim))
        }
        8 => {
            cluster.signal(victim, Signal::STOP);
            tokio::time::sleep(time).await;
            cluster.signal(victim, Signal::CONT);
            format!("{} stands still for {time:?}", name(victim))
        }
        9 => {
            // A machine that never runs comes and goes, and the master may die in the middle of it.
            let phantom = NewMember {
                id: "phantom".to_owned(),
                rank: 0,
                peer_addresses: vec!["127.0.0.1:1".to_owned()],
                urls: vec![],
            };
            let client = cluster.client();
            let adding = tokio::spawn(async move { client.add_member(&phantom).await.is_ok() });
            tokio::time::sleep(Duration::from_millis(dice.roll(12) as u64)).await;
            let dies = cluster.master().await.unwrap_or(victim);
            cluster.kill(dies);
            cluster.start_machine(dies);
            let added = adding.await.unwrap();
            let client = cluster.client();
            cluster
                .wait("the phantom is gone", || async {
                    let members = client.members().await.ok()?.members;
                    if members.iter().any(|member| member.id == "phantom") {
                        let _ = client.remove_member("phantom").await;
                        return None;
                    }
                    // Asked of the master: another may not have heard of it yet.
                    let master = cluster.view(cluster.master().await?).await.ok()?;
                    (master.members.len() == count).then_some(())
                })
                .await;
            format!(
                "{} is killed while members change, which {}",
                name(dies),
                if added { "is done" } else { "fails" }
            )
        }
        _ => {
            for i in 0..count {
                cluster.kill(i);
            }
            cluster.start_all();
            "all are killed at once".to_owned()
        }
    }
}

async fn survive(ranks: &[u32]) {
    let rounds = number("TANIST_ROUNDS").unwrap_or(3);
    let mut dice = Dice::thrown();
    let (mut cluster, links) = cuttable_of(ranks, "").await;
    create_ledger(&cluster.client()).await;
    let workload = Arc::new(Workload::start(&cluster.client(), 3, "w"));
    let stop = Arc::new(AtomicBool::new(false));
    let reader = read_on(cluster.client(), Arc::clone(&workload), Arc::clone(&stop));
    let register = Register::start(|| cluster.client());
    let bank = Bank::start(&cluster, dice.0).await;
    let lists = Lists::start(&cluster, dice.0).await;
    workload.wait_for(20).await;
    for round in 0..rounds {
        let what = wreak(&mut cluster, &links, &mut dice).await;
        mend(&links);
        println!("{round}: {what}");
        workload.wait_for(10).await;
        assert!(!reader.is_finished(), "the reader ended early");
    }
    stop.store(true, Ordering::Relaxed);
    let reads = reader.await.unwrap();
    let register = register.finish().await;
    let (bank, lists) = (bank.finish(&cluster).await, lists.finish(&cluster).await);
    let outcome = Arc::into_inner(workload).unwrap().finish().await;
    cluster.assert_identical().await;
    for i in (0..ranks.len()).filter(|i| ranks[*i] > 0) {
        outcome.assert_in(&cluster.data_dir(i));
    }
    cluster.assert_no_panic();
    println!(
        "ranks {ranks:?}, {rounds} faults: {} writes acknowledged, {} unknown, {reads} reads; register: {register}; {bank}; {lists}",
        outcome.acknowledged.len(),
        outcome.unknown.len()
    );
}

/// Each machine in turn, killed or told to stop, again and again without a rest.
#[tokio::test(flavor = "multi_thread")]
async fn restarts_in_a_row_lose_nothing() {
    let restarts = number("TANIST_ROUNDS").map_or(9, |rounds| rounds.max(50));
    let mut cluster = Cluster::of(3).await;
    create_ledger(&cluster.client()).await;
    let workload = Workload::start(&cluster.client(), 3, "w");
    for restart in 0..restarts {
        let i = usize::try_from(restart % 3).unwrap();
        if restart % 2 == 0 {
            cluster.kill(i);
        } else {
            assert!(cluster.terminate(i).success());
        }
        cluster.start_machine(i);
        workload.wait_for(5).await;
    }
    let outcome = workload.finish_on(&cluster).await;
    println!("{restarts} restarts: {} writes acknowledged", outcome.acknowledged.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn three_machines_survive_whatever_happens() {
    survive(&[1, 2, 3]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_machines_survive_whatever_happens() {
    survive(&[1, 2, 3, 4, 5]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_machines_and_a_witness_survive_whatever_happens() {
    survive(&[1, 2, 0]).await;
}
