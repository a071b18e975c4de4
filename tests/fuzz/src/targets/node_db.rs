//! `node.db` damaged on disk: the input says where.

use std::sync::OnceLock;

use tanist_replication::{HardState, Known, Member, Rank, SuccessionRecord, Term};
use tanist_server::durable::Durable;

use crate::{edit, scratch, script::Script};

fn hard(term: u64) -> HardState {
    let member = |id: &str, rank| match id.parse() {
        Ok(id) => {
            Member { id, rank: Rank(rank), peer_addresses: vec!["h:1".into()], urls: vec![], absent: false }
        }
        Err(error) => panic!("{error}"),
    };
    let (a, b) = (member("a", 1), member("b", 2));
    HardState {
        term: Term(term),
        voted_for: Some(b.id.clone()),
        record: SuccessionRecord::blank(vec![a, b]),
        promised: std::time::Duration::from_millis(term),
        known: Known::default(),
    }
}

/// A good `node.db`, all in one file.
fn template() -> Vec<u8> {
    let make = || -> Result<Vec<u8>, Box<dyn std::error::Error>> {
        let dir = scratch::directory()?;
        let (durable, _) = Durable::open(dir.path(), "c", "a")?;
        durable.persist(&hard(7))?;
        durable.mark_clean()?;
        drop(durable);
        Ok(std::fs::read(dir.path().join("node.db"))?)
    };
    match make() {
        Ok(bytes) => bytes,
        Err(error) => panic!("set up: {error}"),
    }
}

pub(crate) fn run(input: &[u8]) {
    static TEMPLATE: OnceLock<Vec<u8>> = OnceLock::new();
    let mut bytes = TEMPLATE.get_or_init(template).clone();
    edit::apply(&mut Script::new(input), &mut bytes);
    if let Err(error) = open(&bytes) {
        panic!("set up: {error}");
    }
}

fn open(bytes: &[u8]) -> std::io::Result<()> {
    let dir = scratch::directory()?;
    std::fs::write(dir.path().join("node.db"), bytes)?;
    let (durable, _) = match Durable::open(dir.path(), "c", "a") {
        Ok(opened) => opened,
        Err(error) => {
            assert!(error.to_string().contains("node.db"), "no file is named: {error}");
            return Ok(());
        }
    };
    // What it says it has written is there after the next start.
    if durable.persist(&hard(8)).is_ok() {
        drop(durable);
        match Durable::open(dir.path(), "c", "a") {
            Ok((_, recovered)) => assert_eq!(recovered.hard, Some(hard(8))),
            Err(error) => assert!(error.to_string().contains("node.db"), "{error}"),
        }
    }
    Ok(())
}
