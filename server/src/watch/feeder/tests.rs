//! The feeder beside a real store, which plays master, backup and outsider.

use tanist_replication::Term;
use tanist_store::{Batch, Database, Options};

use super::{
    super::hub::{Look, Presence},
    *,
};
use crate::view::View;

struct Machine {
    _dir: tempfile::TempDir,
    database: Database,
    gate: Arc<Gate>,
    hub: Arc<Hub>,
    _feeder: Feeder,
}

impl Machine {
    fn new() -> Machine {
        let dir = tempfile::tempdir().unwrap();
        let mut database = Database::open(dir.path(), Options::default()).unwrap();
        database.become_master().unwrap();
        database.start_reign(Term(1), "pc-1", "test").unwrap();
        let gate = Arc::new(Gate::new(View::default(), 0));
        gate.set_stored(database.stamp().position);
        let hub = Hub::new();
        let parts = Parts {
            directory: dir.path().to_owned(),
            gate: Arc::clone(&gate),
            hub: Arc::clone(&hub),
            stale_after: Duration::MAX,
        };
        Machine { _dir: dir, database, gate, hub, _feeder: Feeder::start(parts).unwrap() }
    }

    /// A transaction with these events, stored here.
    fn write(&mut self, term: u64, subjects: &[&str]) -> Position {
        let mut batch = self.database.begin(Term(term)).unwrap();
        put(&mut batch, subjects);
        batch.commit().unwrap();
        let position = self.database.stamp().position;
        self.gate.set_stored(position);
        position
    }

    async fn wait_newest(&self, id: u64) {
        let mut changes = self.hub.changes();
        let reached = async {
            while self.hub.newest() != Ok(Some(id)) || self.hub.told() != Some(id) {
                changes.changed().await.unwrap();
            }
        };
        if timeout(Duration::from_secs(10), reached).await.is_err() {
            panic!("newest is {:?}, not {id}", self.hub.newest());
        }
    }
}

fn put(batch: &mut Batch<'_>, subjects: &[&str]) {
    for subject in subjects {
        batch
            .internal(|db| {
                db.execute("INSERT INTO tanist_events (kind, subject) VALUES ('row', ?1)", [subject])
            })
            .unwrap()
            .unwrap();
    }
}

fn subjects(presence: &Presence, mut after: u64) -> Vec<String> {
    let mut found = vec![];
    while let Look::Event(event) = presence.look(after, &Filter::default()) {
        found.push(event.subject.to_string());
        after = event.id;
    }
    found
}

#[test]
fn only_a_position_of_the_acknowledged_term_may_be_told() {
    let at = |term, txid| Position::new(term, txid);
    let cases = [
        (at(2, 5), at(2, 5), Verdict::Tell),
        (at(2, 4), at(2, 5), Verdict::Tell),
        (at(2, 6), at(2, 5), Verdict::Wait),
        (at(3, 6), at(2, 9), Verdict::Wait),
        (at(1, 4), at(2, 5), Verdict::OffBranch),
        (at(1, 9), at(2, 5), Verdict::OffBranch),
        (at(1, 1), Position::ZERO, Verdict::Wait),
    ];
    for (snapshot, acknowledged, expected) in cases {
        assert_eq!(verdict(snapshot, acknowledged), expected, "{snapshot} {acknowledged}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn event_is_told_when_its_transaction_is_acknowledged_and_not_before() {
    let mut machine = Machine::new();
    let presence = machine.hub.enter();
    machine.gate.set_acknowledged(machine.database.stamp().position);
    machine.wait_newest(1).await;
    let first = machine.write(1, &["a", "b"]);
    let second = machine.write(1, &["c"]);
    machine.gate.set_acknowledged(first);
    // The snapshot holds both transactions: the first waits for the second, or is told before it was written.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!subjects(&presence, 1).contains(&"c".to_owned()));
    machine.gate.set_acknowledged(second);
    machine.wait_newest(4).await;
    assert_eq!(subjects(&presence, 1), ["a", "b", "c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn event_of_a_lost_tail_is_never_told_though_its_number_comes_again() {
    let mut machine = Machine::new();
    let presence = machine.hub.enter();
    let acknowledged = machine.write(1, &["kept"]);
    machine.gate.set_acknowledged(acknowledged);
    machine.wait_newest(2).await;
    machine.write(1, &["lost"]);
    // The next master has made other transactions of the same numbers; this replica hasn't been brought in line.
    machine.gate.set_acknowledged(Position::new(2, acknowledged.txid.0 + 3));
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(subjects(&presence, 1), ["kept"]);
    // As after R12: the tail is gone, the reign's first transactions are there.
    let mut batch = machine.database.begin(Term(2)).unwrap();
    batch.internal(|db| db.execute("DELETE FROM tanist_events WHERE subject = 'lost'", [])).unwrap().unwrap();
    batch.internal(|db| db.execute("UPDATE sqlite_sequence SET seq = 2", [])).unwrap().unwrap();
    batch.begin_reign("pc-2", "test").unwrap();
    put(&mut batch, &["new"]);
    batch.commit().unwrap();
    machine.gate.set_stored(machine.database.stamp().position);
    machine.wait_newest(4).await;
    assert_eq!(subjects(&presence, 1), ["kept", "pc-2", "new"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn write_from_outside_is_told_when_it_is_numbered() {
    let mut machine = Machine::new();
    let presence = machine.hub.enter();
    let position = machine.write(1, &["inside"]);
    machine.gate.set_acknowledged(position);
    machine.wait_newest(2).await;
    let outside = Connection::open(machine._dir.path().join("state.db")).unwrap();
    outside.execute("INSERT INTO tanist_events (kind, subject) VALUES ('row', 'outside')", []).unwrap();
    // Nothing says that it came, so that only the look of every second can find it.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(subjects(&presence, 1), ["inside"]);
    let position = machine.write(1, &[]);
    machine.gate.set_acknowledged(position);
    machine.wait_newest(3).await;
    assert_eq!(subjects(&presence, 1), ["inside", "outside"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn accepted_loss_of_told_events_ends_the_streams() {
    let mut machine = Machine::new();
    let presence = machine.hub.enter();
    let position = machine.write(1, &["a"]);
    machine.gate.set_acknowledged(position);
    machine.wait_newest(2).await;
    // A reign whose history has no place for what was told: begun by force elsewhere, with more events by now.
    let mut batch = machine.database.begin(Term(1)).unwrap();
    batch
        .internal(|db| {
            db.execute(
                "INSERT INTO tanist_terms (term, master, first_txid, reason) VALUES (2, 'x', 2, 'forced')",
                [],
            )
        })
        .unwrap()
        .unwrap();
    put(&mut batch, &["b", "c"]);
    batch.commit().unwrap();
    let outside = Connection::open(machine._dir.path().join("state.db")).unwrap();
    outside.execute("UPDATE tanist_position SET term = 2, txid = 9", []).unwrap();
    machine.gate.set_acknowledged(Position::new(2, 9));
    machine.gate.set_stored(Position::new(2, 9));
    machine.wait_newest(5).await;
    assert!(matches!(presence.look(2, &Filter::default()), Look::End(super::super::End::Lost)));
}
