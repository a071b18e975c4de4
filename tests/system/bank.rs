//! Money that is moved between accounts over plain HTTP: the sum is the same in every read of every machine, however old, no
//! account is overdrawn, and in the end each acknowledged transfer stands in the books once.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, read},
    nemesis::Dice,
    plain::{Plain, Told, rows},
};

const ACCOUNTS: usize = 8;
const EACH: i64 = 100;

/// Clients that move money and look at it, until they are stopped.
pub struct Bank {
    stop: Arc<AtomicBool>,
    movers: Vec<tokio::task::JoinHandle<Moved>>,
    auditors: Vec<tokio::task::JoinHandle<usize>>,
}

/// What became of one client's transfers, by number.
#[derive(Default)]
struct Moved {
    done: BTreeMap<String, Transfer>,
    unknown: BTreeMap<String, Transfer>,
    refused: usize,
}

#[derive(Clone, Copy)]
struct Transfer {
    from: usize,
    to: usize,
    amount: i64,
}

impl Bank {
    /// Opens the accounts; three clients move, one for each consistency looks.
    pub async fn start(cluster: &Cluster, seed: u64) -> Bank {
        let hosts = cluster.hosts();
        let open = Plain::new(&hosts, 0)
            .execute(&[
                ("CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)".into(), json!([])),
                (
                    "CREATE TABLE transfer (number TEXT PRIMARY KEY, source INTEGER, target INTEGER, amount INTEGER)"
                        .into(),
                    json!([]),
                ),
                (
                    format!(
                        "INSERT INTO account WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {}) \
                         SELECT i, {EACH} FROM n",
                        ACCOUNTS - 1
                    ),
                    json!([]),
                ),
            ])
            .await;
        assert!(matches!(open, Told::Done(_)), "{open:?}");
        let stop = Arc::<AtomicBool>::default();
        let movers = (0..3)
            .map(|client| {
                let plain = Plain::new(&hosts, client);
                tokio::spawn(move_money(plain, client, Dice(seed ^ client as u64), Arc::clone(&stop)))
            })
            .collect();
        let auditors = ["strong", "bounded", "local"]
            .into_iter()
            .enumerate()
            .map(|(i, consistency)| tokio::spawn(look(Plain::new(&hosts, i), consistency, Arc::clone(&stop))))
            .collect();
        Bank { stop, movers, auditors }
    }

    /// Ends the clients and compares the books of every machine with what they were told.
    pub async fn finish(self, cluster: &Cluster) -> String {
        self.stop.store(true, Ordering::Relaxed);
        let (mut done, mut unknown) = (BTreeMap::new(), BTreeMap::new());
        let (mut refused, mut looks) = (0, 0);
        for mover in self.movers {
            let moved = mover.await.unwrap();
            done.extend(moved.done);
            unknown.extend(moved.unknown);
            refused += moved.refused;
        }
        for auditor in self.auditors {
            looks += auditor.await.unwrap();
        }
        cluster.settle().await;
        for i in (0..cluster.machines.len()).filter(|i| cluster.data_dir(*i).join("state.db").exists()) {
            if let Err(why) = audit(&cluster.data_dir(i), &done, &unknown) {
                panic!("{}: {why}", cluster.machines[i].id);
            }
        }
        format!("{} transfers, {refused} refused, {} unknown, {looks} looks", done.len(), unknown.len())
    }
}

async fn move_money(plain: Plain, client: usize, mut dice: Dice, stop: Arc<AtomicBool>) -> Moved {
    let mut moved = Moved::default();
    let mut turn = 0;
    while !stop.load(Ordering::Relaxed) {
        turn += 1;
        let number = format!("{client}-{turn}");
        let from = dice.roll(ACCOUNTS);
        let to = (from + 1 + dice.roll(ACCOUNTS - 1)) % ACCOUNTS;
        let transfer = Transfer { from, to, amount: i64::try_from(1 + dice.roll(40)).unwrap() };
        // The second statement fails, and undoes the first, if the account has too little.
        let told = plain
            .execute(&[
                (
                    "INSERT INTO transfer VALUES (?, ?, ?, ?)".into(),
                    json!([number, from, to, transfer.amount]),
                ),
                (
                    "UPDATE account SET balance = CASE WHEN balance >= ?1 THEN balance - ?1 END WHERE id = ?2"
                        .into(),
                    json!([transfer.amount, from]),
                ),
                ("UPDATE account SET balance = balance + ? WHERE id = ?".into(), json!([transfer.amount, to])),
            ])
            .await;
        match told {
            Told::Done(_) => drop(moved.done.insert(number, transfer)),
            Told::Unknown => drop(moved.unknown.insert(number, transfer)),
            Told::Refused(http::StatusCode::CONFLICT, _) => moved.refused += 1,
            Told::Refused(status, answer) => panic!("transfer {number}: {status} {answer}"),
        }
    }
    moved
}

async fn look(plain: Plain, consistency: &'static str, stop: Arc<AtomicBool>) -> usize {
    let mut looks = 0;
    while !stop.load(Ordering::Relaxed) {
        // Two statements of one request: they must see one state.
        let told = plain
            .query(
                consistency,
                &[
                    ("SELECT sum(balance), min(balance), count(*) FROM account".into(), json!([])),
                    (
                        "SELECT id, balance FROM account EXCEPT SELECT id, ? \
                         + (SELECT coalesce(sum(amount), 0) FROM transfer WHERE target = id) \
                         - (SELECT coalesce(sum(amount), 0) FROM transfer WHERE source = id) FROM account"
                            .into(),
                        json!([EACH]),
                    ),
                ],
            )
            .await;
        match told {
            Told::Done(answer) => {
                let total = i64::try_from(ACCOUNTS).unwrap() * EACH;
                let found = &rows(&answer, 0)[0];
                assert_eq!(found[0], json!(total), "{consistency}: money was made or lost: {answer}");
                assert!(found[1].as_i64().unwrap() >= 0, "{consistency}: an account is overdrawn: {answer}");
                let wrong: &[Value] = rows(&answer, 1);
                assert!(wrong.is_empty(), "{consistency}: balances that no transfer explains: {wrong:?}");
                looks += 1;
            }
            // A machine that has just started may not have the tables yet, when asked as it is.
            Told::Refused(_, _) if consistency != "strong" => {}
            Told::Unknown => {}
            Told::Refused(status, answer) => panic!("{consistency} read: {status} {answer}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    looks
}

/// Every acknowledged transfer stands in the books as it was asked for; the others are among those without an answer.
fn audit(
    dir: &std::path::Path,
    done: &BTreeMap<String, Transfer>,
    unknown: &BTreeMap<String, Transfer>,
) -> Result<(), String> {
    let booked: String =
        read(dir, "SELECT json_group_array(json_array(number, source, target, amount)) FROM transfer");
    let booked: Vec<(String, usize, usize, i64)> = serde_json::from_str(&booked).unwrap();
    let mut balances = [EACH; ACCOUNTS];
    let mut found = BTreeMap::new();
    for (number, from, to, amount) in booked {
        let Some(asked) = done.get(&number).or_else(|| unknown.get(&number)) else {
            return Err(format!("transfer {number} was refused, or never asked for"));
        };
        if (asked.from, asked.to, asked.amount) != (from, to, amount) {
            return Err(format!("transfer {number} is booked otherwise than asked for"));
        }
        balances[from] -= amount;
        balances[to] += amount;
        found.insert(number, ());
    }
    if let Some(lost) = done.keys().find(|number| !found.contains_key(*number)) {
        return Err(format!("transfer {lost} was acknowledged and is lost"));
    }
    for (id, expected) in balances.iter().enumerate() {
        let balance: i64 = read(dir, &format!("SELECT balance FROM account WHERE id = {id}"));
        if balance != *expected {
            return Err(format!("account {id} has {balance}, its transfers make {expected}"));
        }
    }
    Ok(())
}
