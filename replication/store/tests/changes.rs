//! Increments: a known state and what has changed since give the snapshot, whatever happened between them.
#![allow(clippy::unwrap_used)] // clippy knows test functions, but not their helpers

mod common;

use common::*;
use proptest::prelude::*;
use tanist_store::{Changes, ChangesError, Database, KnownPages, Options, PageSums, Snapshot};

/// A copy of a database that is kept up by increments.
#[derive(Default)]
struct Copy {
    known: KnownPages,
    pages: Vec<Vec<u8>>,
}

impl Copy {
    fn follow(&mut self, snapshot: &Snapshot, sums: &PageSums) -> Result<u32, ChangesError> {
        let mut taken = vec![];
        let changes: Changes = self.known.changes(snapshot, sums, |page, image| {
            taken.push((page, image.to_vec()));
            Ok::<_, ChangesError>(())
        })?;
        self.pages.resize(snapshot.target().pages as usize, vec![]);
        let count = changes.count();
        assert_eq!(count as usize, taken.len());
        for (page, image) in taken {
            self.pages[page as usize - 1] = image;
        }
        self.known.accept(changes);
        Ok(count)
    }

    /// It is the snapshot, but for what each machine's SQLite writes by itself.
    fn assert_is(&self, snapshot: &Snapshot) {
        assert_eq!(self.pages.len(), snapshot.target().pages as usize);
        let mut image = vec![0; snapshot.target().page_size as usize];
        for (index, page) in self.pages.iter().enumerate() {
            snapshot.page(u32::try_from(index).unwrap() + 1, &mut image).unwrap();
            let from = if index == 0 { 100 } else { 0 };
            assert!(page[from..] == image[from..], "page {}", index + 1);
        }
    }
}

const FILL: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, data BLOB);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
    INSERT INTO t(data) SELECT randomblob(1500) FROM n";

#[test]
fn only_changed_pages_are_in_an_increment() {
    let mut pair = Pair::new();
    pair.step(FILL);
    let (sums, mut copy) = (pair.backup.sums(), Copy::default());
    let whole = Snapshot::open(pair.backup_dir.path()).unwrap();
    assert_eq!(copy.follow(&whole, &sums).unwrap(), whole.target().pages);
    assert_eq!(copy.follow(&whole, &sums).unwrap(), 0);
    drop(whole);
    pair.step("UPDATE t SET data = randomblob(1500) WHERE id = 77");
    let snapshot = Snapshot::open(pair.backup_dir.path()).unwrap();
    // Written after the snapshot: not in it, whatever the sums say.
    pair.step("DELETE FROM t WHERE id > 200");
    let count = copy.follow(&snapshot, &sums).unwrap();
    copy.assert_is(&snapshot);
    assert!((2..10).contains(&count), "{count} pages");
}

#[test]
fn write_from_outside_is_never_taken_in_part() {
    let mut pair = Pair::new();
    pair.step(FILL);
    pair.step("CREATE TABLE u(a)");
    let (sums, mut copy) = (pair.master.sums(), Copy::default());
    copy.follow(&Snapshot::open(pair.master_dir.path()).unwrap(), &sums).unwrap();
    pair.step("INSERT INTO u VALUES (1)");
    let before = copy.pages.clone();
    // It changes a page that has changed since the last increment, and one that hasn't; neither has a number.
    outsider(pair.master_dir.path())
        .execute_batch("BEGIN; INSERT INTO u VALUES (2); UPDATE t SET data = 'x' WHERE id = 40; COMMIT")
        .unwrap();
    let snapshot = Snapshot::open(pair.master_dir.path()).unwrap();
    let refused = copy.follow(&snapshot, &sums).unwrap_err();
    assert!(matches!(refused, ChangesError::Unsettled(_)), "{refused}");
    assert!(copy.pages == before);
    // It gets its number: then the same snapshot is whole.
    assert!(pair.master.outside_change().unwrap());
    let adopted = transaction(pair.master.begin(TERM).unwrap().commit().unwrap());
    pair.backup.apply(&[adopted]).unwrap();
    copy.follow(&snapshot, &sums).unwrap();
    copy.assert_is(&snapshot);
    let newest = Snapshot::open(pair.master_dir.path()).unwrap();
    copy.follow(&newest, &sums).unwrap();
    copy.assert_is(&newest);
}

#[test]
fn snapshot_that_the_sums_do_not_reach_waits() {
    let mut pair = Pair::new();
    let sums = pair.backup.sums();
    let mut copy = Copy::default();
    copy.follow(&Snapshot::open(pair.backup_dir.path()).unwrap(), &sums).unwrap();
    let transaction = pair.commit(FILL);
    // The master's snapshot against the backup's sums: as if these came late.
    let ahead = Snapshot::open(pair.master_dir.path()).unwrap();
    assert!(matches!(copy.follow(&ahead, &sums), Err(ChangesError::Behind)));
    pair.backup.apply(&[transaction]).unwrap();
    copy.follow(&ahead, &sums).unwrap();
    copy.assert_is(&ahead);
}

#[derive(Debug, Clone)]
enum Step {
    Insert(u8, u16),
    Delete(u8),
    Toggle,
    Vacuum,
    Rejoin,
    Restart,
    Checkpoint,
    /// With the snapshot opened now, to be taken at the next one; or at once.
    Increment {
        early: bool,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1..20u8, 1..3000u16).prop_map(|(rows, bytes)| Step::Insert(rows, bytes)),
        3 => any::<u8>().prop_map(Step::Delete),
        3 => Just(Step::Toggle),
        1 => Just(Step::Vacuum),
        1 => Just(Step::Rejoin),
        1 => Just(Step::Restart),
        1 => Just(Step::Checkpoint),
        4 => any::<bool>().prop_map(|early| Step::Increment { early }),
    ];
    prop::collection::vec(step, 1..40)
}

fn run(steps: Vec<Step>) {
    let mut pair = Pair::new();
    pair.step("CREATE TABLE t(id INTEGER PRIMARY KEY, data BLOB); CREATE TABLE flag(on_off); INSERT INTO flag VALUES (0)");
    let mut copy = Copy::default();
    let mut early = None;
    for step in steps.into_iter().chain([Step::Increment { early: false }]) {
        let grow = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i <";
        match step {
            Step::Insert(rows, bytes) => {
                pair.step(&format!("{grow} {rows}) INSERT INTO t(data) SELECT randomblob({bytes}) FROM n"));
            }
            Step::Delete(rest) => {
                pair.step(&format!(
                    "DELETE FROM t WHERE id % 7 = {}; INSERT INTO t(id) VALUES (NULL)",
                    rest % 7
                ));
            }
            Step::Toggle => {
                // There and back again: the page is what it was.
                pair.step("UPDATE flag SET on_off = 1 - on_off");
            }
            Step::Vacuum => {
                // It gets smaller.
                outsider(pair.master_dir.path()).execute_batch("VACUUM").unwrap();
                assert!(pair.master.outside_change().unwrap());
                let adopted = transaction(pair.master.begin(TERM).unwrap().commit().unwrap());
                pair.backup.apply(&[adopted]).unwrap();
            }
            Step::Rejoin => {
                pair.commit("INSERT INTO t(data) VALUES (randomblob(9000))");
                early = None;
                exchange::rejoin(pair.master_dir.path(), &mut pair.backup).unwrap();
            }
            Step::Restart => {
                early = None;
                let Pair { master_dir, backup_dir, master, backup } = pair;
                drop(backup);
                let backup = Database::open(backup_dir.path(), Options::default()).unwrap();
                pair = Pair { master_dir, backup_dir, master, backup };
            }
            Step::Checkpoint => {
                pair.backup.checkpoint_step().unwrap();
            }
            Step::Increment { early: true } if early.is_none() => {
                early = Some(Snapshot::open(pair.backup_dir.path()).unwrap());
            }
            Step::Increment { .. } => {
                let snapshot =
                    early.take().unwrap_or_else(|| Snapshot::open(pair.backup_dir.path()).unwrap());
                copy.follow(&snapshot, &pair.backup.sums()).unwrap();
                copy.assert_is(&snapshot);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn increments_give_each_snapshot(steps in steps()) {
        run(steps);
    }
}
