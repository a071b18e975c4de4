//! A copy of a database, damaged: the input says where. What is still taken for whole must give the same database.

use std::{cell::RefCell, error::Error, path::Path};

use tanist_replication::Term;
use tanist_server::{
    backup::{CopyError, read_manifest, take, unpack},
    config::Config,
};
use tanist_store::{Database, Options};
use tempfile::TempDir;

use crate::{edit, scratch, script::Script};

pub(crate) const WORDS: &[&[u8]] = &[
    b"TANISTC1",
    b"\x5e\x2a\x4d\x18",
    b"\x28\xb5\x2f\xfd",
    b"\xff\xff\xff\xff",
    b"\"pages\":0",
    b"\"frame_bytes\":1",
    b"null",
];

struct Fixture {
    directory: TempDir,
    copy: Vec<u8>,
    database: Vec<u8>,
}

thread_local! {
    static FIXTURE: RefCell<Fixture> = RefCell::new(match Fixture::new() {
        Ok(fixture) => fixture,
        Err(error) => panic!("set up: {error}"),
    });
}

impl Fixture {
    fn new() -> Result<Fixture, Box<dyn Error>> {
        let directory = scratch::directory()?;
        let text = "cluster = \"c\"\nid = \"a\"\ndata_dir = \".\"\nkey = \"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\"\n\
            [[member]]\nid = \"a\"\nrank = 1\npeer = [\"127.0.0.1:1\"]\n";
        let config = Config::parse(&directory.path().join("tanist.toml"), text)?;
        let mut master = Database::open(directory.path(), Options::default())?;
        master.become_master()?;
        master.start_reign(Term(1), "a", "test")?;
        let mut copy = vec![];
        take(&config, &mut copy)?;
        let mut fixture = Fixture { directory, copy, database: vec![] };
        fixture.database = fixture.read(&fixture.copy)?;
        Ok(fixture)
    }

    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("copy")
    }

    fn read(&self, copy: &[u8]) -> Result<Vec<u8>, CopyError> {
        let path: &Path = &self.path();
        if let Err(error) = std::fs::write(path, copy) {
            panic!("write {}: {error}", path.display());
        }
        let mut database = vec![];
        let first = read_manifest(path);
        let whole = unpack(path, &mut database, |_| {})?;
        assert_eq!(first?, whole);
        Ok(database)
    }
}

pub(crate) fn run(input: &[u8]) {
    FIXTURE.with_borrow(|fixture| {
        let mut script = Script::new(input);
        // The file itself, one that begins like it, or nothing of it.
        let mut copy = match script.byte() % 4 {
            0 => script.rest().to_vec(),
            _ => fixture.copy.clone(),
        };
        edit::apply(&mut script, &mut copy);
        if let Ok(database) = fixture.read(&copy) {
            assert!(database == fixture.database, "another database was taken for the copied one");
        }
    });
}
