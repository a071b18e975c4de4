use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use tanist_replication::{Position, Term};
use tanist_store::{Database, KnownPages, Options, Snapshot, inspect};

use super::{file::increments_of, increments::Chain, points::*, take::write_copy, *};

/// A master, its copy, and the chain that follows it.
struct World {
    directory: tempfile::TempDir,
    master: Database,
    source: Source,
    copy: PathBuf,
    chain: Chain,
    /// Position and rows after each increment; the first is the copy's.
    states: Vec<(Position, i64)>,
}

impl World {
    fn new() -> World {
        let directory = tempfile::tempdir().unwrap();
        let mut master = Database::open(directory.path(), Options::default()).unwrap();
        master.become_master().unwrap();
        master.start_reign(Term(1), "pc-1", "first start").unwrap();
        let source = Source {
            directory: directory.path().to_owned(),
            cluster: "wall".to_owned(),
            keys: tanist_transport::ClusterKey::from_bytes([7; 32]).into(),
            member: "pc-1".to_owned(),
        };
        write(&mut master, "CREATE TABLE t(x)");
        let (copy, chain) = copy(&source, "first.db.zst");
        let states = vec![(master.stamp().position, 0)];
        World { directory, master, source, copy, chain, states }
    }

    fn step(&mut self, sql: &str) {
        write(&mut self.master, sql);
        let made = self.chain.next(&self.source, &self.master.sums(), &AtomicBool::new(false)).unwrap();
        let position = self.master.stamp().position;
        assert_eq!(made.unwrap().position(), position);
        self.states.push((position, rows(self.directory.path())));
    }

    fn increments(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(increments_of(&self.copy)).unwrap();
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    }
}

fn write(master: &mut Database, sql: &str) {
    let mut batch = master.begin(Term(1)).unwrap();
    batch.request(|connection| connection.execute_batch(sql)).unwrap().unwrap();
    batch.commit().unwrap();
}

fn copy(source: &Source, name: &str) -> (PathBuf, Chain) {
    let path = source.directory.join(name);
    let mut file = CopyFile::begin(&path).unwrap();
    write_copy(source, Snapshot::open(&source.directory).unwrap(), LEVEL, &mut file).unwrap();
    let mut known = KnownPages::default();
    let manifest = file.finish_pages(|page, image| known.set(page, image)).unwrap();
    let chain = Chain::of(&path, &manifest, known).unwrap();
    (path, chain)
}

fn rows(directory: &Path) -> i64 {
    let connection = rusqlite::Connection::open(directory.join("state.db")).unwrap();
    connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
}

/// Position and rows of a point.
fn restored(point: &Point) -> (Position, i64) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    unpack(&point.copy, &mut fs::File::create(&path).unwrap(), |_| {}).unwrap();
    point.apply(&path, |_| {}).unwrap();
    let found = inspect(&path).unwrap();
    assert_eq!((found.problems, found.stamp), (vec![], point.newest().stamp().unwrap()));
    (found.stamp.position, rows(directory.path()))
}

const MANY: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400) \
                    INSERT INTO t SELECT randomblob(300) FROM n";

#[test]
fn every_increment_is_a_point_that_can_be_restored() {
    let mut world = World::new();
    world.step(MANY);
    world.step("DELETE FROM t WHERE rowid > 100");
    world.step("INSERT INTO t VALUES (1)");
    assert_eq!(world.chain.next(&world.source, &world.master.sums(), &AtomicBool::new(false)).unwrap(), None);
    assert_eq!(world.increments().len(), 3);
    let small = fs::metadata(&world.increments()[2]).unwrap().len();
    assert!(small * 10 < fs::metadata(&world.increments()[0]).unwrap().len(), "only what changed: {small}");
    for (position, rows) in world.states.clone() {
        let point = Point::of(&world.copy).unwrap().cut(&Until::Position(position)).unwrap();
        assert_eq!(restored(&point), (position, rows));
    }
    // Between two increments: the one before.
    let between = Position { txid: world.states[3].0.txid.next(), ..world.states[3].0 };
    let point = Point::of(&world.copy).unwrap().cut(&Until::Position(between)).unwrap();
    assert_eq!(restored(&point), world.states[3]);
    assert_eq!(restored(&Point::alone(&world.copy).unwrap()), world.states[0]);
}

#[test]
fn chain_goes_on_after_a_restart_and_after_an_unknown_time() {
    let mut world = World::new();
    world.step(MANY);
    // Nobody made increments meanwhile, nor knows what was written.
    write(&mut world.master, "UPDATE t SET x = 7 WHERE rowid % 50 = 0");
    drop(world.master);
    world.master = Database::open(world.directory.path(), Options::default()).unwrap();
    world.master.become_master().unwrap();
    let (chain, newest) = Chain::open(&world.copy).unwrap();
    assert_eq!(newest.position(), world.states[1].0);
    world.chain = chain;
    world.step("INSERT INTO t VALUES (2)");
    let point = Point::of(&world.copy).unwrap();
    assert_eq!((point.increments.len(), restored(&point)), (2, world.states[2]));
}

#[test]
fn missing_or_damaged_increment_is_named_and_ends_the_chain() {
    let mut world = World::new();
    for _ in 0..3 {
        world.step("INSERT INTO t VALUES (1)");
    }
    let paths = world.increments();
    let second = fs::read(&paths[1]).unwrap();
    let broken = second[..second.len() / 2].to_vec();
    let cases = [
        ("is missing", None),
        ("broke off", Some(broken)),
        ("not an increment", Some(fs::read(&world.copy).unwrap())),
    ];
    for (expected, instead) in cases {
        match instead {
            None => fs::remove_file(&paths[1]).unwrap(),
            Some(bytes) => fs::write(&paths[1], bytes).unwrap(),
        }
        let point = Point::of(&world.copy).unwrap();
        assert_eq!(point.increments.len(), 1, "{expected}");
        let error = point.cut(&Until::Newest).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(Chain::open(&world.copy).unwrap_err().to_string().contains(expected));
        // What stands before it can be had by name; what doesn't, can't by any.
        let until = |n: usize| Point::of(&world.copy).unwrap().cut(&Until::Position(world.states[n].0));
        assert_eq!(restored(&until(1).unwrap()), world.states[1]);
        until(2).unwrap_err();
        fs::write(&paths[1], &second).unwrap();
    }
    // A flipped bit in its pages shows when they are read.
    let mut bytes = second.clone();
    bytes[20] ^= 1;
    fs::write(&paths[1], bytes).unwrap();
    let point = Point::of(&world.copy).unwrap();
    let path = world.directory.path().join("out");
    unpack(&point.copy, &mut fs::File::create(&path).unwrap(), |_| {}).unwrap();
    assert!(point.apply(&path, |_| {}).unwrap_err().to_string().contains("damaged"));
    let error = unpack(&paths[0], &mut std::io::sink(), |_| {}).unwrap_err().to_string();
    assert!(error.contains("an increment"), "{error}");
}

#[test]
fn best_copy_of_a_directory_is_chosen() {
    let mut world = World::new();
    world.step("INSERT INTO t VALUES (1)");
    let (second, chain) = copy(&world.source, "second.db.zst");
    let first = std::mem::replace(&mut world.copy, second.clone());
    world.chain = chain;
    world.step("INSERT INTO t VALUES (2)");
    let directory = world.directory.path();
    fs::write(directory.join("broken.db.zst"), b"x").unwrap();
    let points = || {
        let (points, unusable) = points_in(directory).unwrap();
        assert_eq!((points.len(), unusable.len()), (2, 1));
        points
    };
    let chosen = choose(points(), &Until::Newest).unwrap().unwrap();
    assert_eq!((&chosen.copy, restored(&chosen)), (&second, world.states[2]));
    let chosen = choose(points(), &Until::Position(world.states[1].0)).unwrap().unwrap();
    assert_eq!(restored(&chosen), world.states[1]);
    let chosen = choose(points(), &Until::Position(world.states[0].0)).unwrap().unwrap();
    assert_eq!((&chosen.copy, restored(&chosen)), (&first, world.states[0]));
    assert!(choose(points(), &Until::Time("2020-01-01T00:00:00Z".to_owned())).unwrap().is_none());
    let chosen = choose(points(), &Until::Time("2120-01-01T00:00:00Z".to_owned())).unwrap().unwrap();
    assert_eq!(restored(&chosen), world.states[2]);
    // The older one's increments are broken: only what the newer one holds as well can do without.
    fs::write(&world_increments(&first)[0], b"x").unwrap();
    assert_eq!(restored(&choose(points(), &Until::Newest).unwrap().unwrap()), world.states[2]);
    let before = Position { txid: world.states[1].0.txid, ..world.states[1].0 };
    let chosen = choose(points(), &Until::Position(before)).unwrap().unwrap();
    assert_eq!(chosen.copy, second, "it stands there itself");
    // The newer one's are: nobody else has what they held.
    fs::write(&world_increments(&second)[0], b"x").unwrap();
    choose(points(), &Until::Newest).unwrap_err();
}

fn world_increments(copy: &Path) -> Vec<PathBuf> {
    fs::read_dir(increments_of(copy)).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn wanted_points_are_read_from_what_people_write() {
    let time = |text: &str| Until::Time(text.to_owned());
    for (text, expected) in [
        ("2026-01-31T23:59:59Z", time("2026-01-31T23:59:59Z")),
        ("2026-01-31 23:59", time("2026-01-31T23:59:00Z")),
        ("2026-01-31", time("2026-01-31T00:00:00Z")),
        ("3.812", Until::Position("3.812".parse().unwrap())),
        ("newest", Until::Newest),
    ] {
        assert_eq!(text.parse(), Ok(expected), "{text}");
    }
    for text in ["", "yesterday", "2026-1-31", "2026-01-31T23:59:59+02:00", "3", "2026-01-31T23:59:59ä"] {
        let error = text.parse::<Until>().unwrap_err();
        assert!(error.contains("2026-01-31T23:59:59Z"), "{error}");
    }
}
