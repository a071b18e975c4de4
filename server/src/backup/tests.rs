use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use tanist_replication::Term;
use tanist_store::{Captured, Database, Options, Snapshot, inspect};

use super::{file::CopyFile, format, read::unpack, take::write_copy, *};

fn source(directory: &Path) -> Source {
    Source {
        directory: directory.to_owned(),
        cluster: "wall".to_owned(),
        keys: tanist_transport::ClusterKey::from_bytes([7; 32]).into(),
        member: "pc-1".to_owned(),
    }
}

/// A replica with some rows, and a whole copy of it.
fn copy() -> (tempfile::TempDir, PathBuf, Manifest) {
    let directory = tempfile::tempdir().unwrap();
    let mut master = Database::open(directory.path(), Options::default()).unwrap();
    master.become_master().unwrap();
    master.start_reign(Term(1), "pc-1", "first start").unwrap();
    let mut batch = master.begin(Term(1)).unwrap();
    let rows = "CREATE TABLE t(x); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) \
                INSERT INTO t SELECT hex(randomblob(200)) FROM n";
    batch.request(|connection| connection.execute_batch(rows)).unwrap().unwrap();
    assert!(matches!(batch.commit().unwrap(), Captured::Transaction(_)));
    let path = directory.path().join("copy.db.zst");
    let mut file = CopyFile::begin(&path).unwrap();
    let snapshot = Snapshot::open(directory.path()).unwrap();
    let taken = write_copy(&source(directory.path()), snapshot, LEVEL, &mut file).unwrap();
    let manifest = file.finish(|_| {}).unwrap();
    assert_eq!(taken, manifest);
    assert_eq!(manifest.stamp().unwrap(), master.stamp());
    (directory, path, manifest)
}

/// What `unpack` says of these bytes, which must not be a whole copy.
fn refused(directory: &Path, bytes: &[u8]) -> String {
    let path = directory.join("changed");
    fs::write(&path, bytes).unwrap();
    unpack(&path, &mut std::io::sink(), |_| {}).unwrap_err().to_string()
}

#[test]
fn copy_gives_the_replica_back_and_opens_with_ordinary_tools() {
    let (directory, path, manifest) = copy();
    let out = directory.path().join("out.db");
    let mut file = fs::File::create(&out).unwrap();
    let mut progress = 0;
    assert_eq!(unpack(&path, &mut file, |bytes| progress = bytes).unwrap(), manifest);
    assert_eq!(progress, manifest.database_bytes());
    let found = inspect(&out).unwrap();
    assert_eq!((found.stamp, found.problems), (manifest.stamp().unwrap(), vec![]));
    // Anybody's zstd passes over the trailer.
    let plain = zstd::stream::decode_all(fs::File::open(&path).unwrap()).unwrap();
    assert_eq!(plain, fs::read(&out).unwrap());
    assert!(!directory.path().join("copy.db.zst.partial").exists());
}

#[test]
fn copy_that_was_cut_anywhere_is_recognized() {
    let (directory, path, _) = copy();
    let whole = fs::read(&path).unwrap();
    let places = (0..whole.len()).step_by(997).chain(whole.len() - 600..whole.len());
    for length in places {
        let error = refused(directory.path(), &whole[..length]);
        assert!(error.contains("broke off"), "cut to {length}: {error}");
    }
    // The end is there, but not all before it.
    for missing in [0..1, 100..200, whole.len() / 2..whole.len() / 2 + 4096] {
        let bytes = [&whole[..missing.start], &whole[missing.end..]].concat();
        let error = refused(directory.path(), &bytes);
        assert!(error.contains("frame_bytes: found"), "without {missing:?}: {error}");
    }
    let error = refused(directory.path(), &[b"x".as_slice(), &whole].concat());
    assert!(error.contains("frame_bytes: found"), "{error}");
    let error = refused(directory.path(), &[&whole, b"x".as_slice()].concat());
    assert!(error.contains("broke off"), "{error}");
}

#[test]
fn flipped_bit_anywhere_is_recognized() {
    let (directory, path, manifest) = copy();
    let whole = fs::read(&path).unwrap();
    let frame = usize::try_from(manifest.frame_bytes).unwrap();
    let places = (0..64).chain((64..frame).step_by(1499)).chain(frame - 8..whole.len());
    for at in places {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        let error = refused(directory.path(), &bytes);
        assert!(error.contains("damaged") || error.contains("broke off"), "byte {at}: {error}");
    }
}

#[test]
fn lengths_that_lie_take_no_memory_and_are_named() {
    let (directory, path, manifest) = copy();
    let whole = fs::read(&path).unwrap();
    let frame = &whole[..usize::try_from(manifest.frame_bytes).unwrap()];
    let with = |change: fn(&mut Manifest)| {
        let mut changed = manifest.clone();
        change(&mut changed);
        refused(directory.path(), &[frame, &format::encode(&changed)].concat())
    };
    assert!(with(|m| m.pages = u32::MAX).contains("expected 17"), "more is announced than comes");
    assert!(with(|m| m.pages = 1).contains("more than the 4096 bytes"));
    assert!(with(|m| m.pages = 0).contains("pages: found 0"));
    assert!(with(|m| m.page_size = 4095).contains("page_size: found 4095"));
    assert!(with(|m| m.chain = "+f".repeat(16)).contains("chain: found"));
    assert!(with(|m| m.frame_bytes = u64::MAX).contains("frame_bytes: found"));
    assert!(with(|m| m.blake3 = String::new()).contains("checksum"));
    assert!(with(|m| m.cluster = "x".repeat(20_000)).contains("expected 1 to 16384"));
    // A length of the manifest that reaches before the file's beginning.
    let mut end = whole[whole.len() - format::END_BYTES..].to_vec();
    end[32..36].copy_from_slice(&16_000u32.to_le_bytes());
    assert!(refused(directory.path(), &end).contains("in a file of 44"));
    // A frame that unpacks to far more than it says is left as soon as that shows.
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap();
    let mut changed = manifest.clone();
    changed.frame_bytes = bomb.len() as u64;
    let error = refused(directory.path(), &[bomb.as_slice(), &format::encode(&changed)].concat());
    assert!(error.contains("more than the"), "{error}");
    // A window larger than Tanist's own.
    let mut encoder = zstd::stream::write::Encoder::new(vec![], 3).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(&vec![1; 40 << 20]).unwrap();
    let wide = encoder.finish().unwrap();
    changed.frame_bytes = wide.len() as u64;
    let error = refused(directory.path(), &[wide.as_slice(), &format::encode(&changed)].concat());
    assert!(error.contains("memory") || error.contains("window"), "{error}");
    for text in [&b""[..], b"x", b"SQLite format 3\0", &[0xff; 100]] {
        assert!(refused(directory.path(), text).contains("broke off"));
    }
}

#[test]
fn copy_that_is_not_finished_never_has_its_name() {
    let (directory, path, _) = copy();
    fs::remove_file(&path).unwrap();
    let mut file = CopyFile::begin(&path).unwrap();
    file.write_all(b"half").unwrap();
    let second = CopyFile::begin(&path).unwrap_err().to_string();
    assert!(second.contains("another process"), "{second}");
    let error = file.finish(|_| {}).unwrap_err().to_string();
    assert!(error.contains("broke off"), "{error}");
    drop(CopyFile::begin(&path).unwrap());
    assert!(!path.exists() && !directory.path().join("copy.db.zst.partial").exists());
    // What a kill left behind is replaced.
    fs::write(directory.path().join("copy.db.zst.partial"), vec![7; 1 << 20]).unwrap();
    let mut file = CopyFile::begin(&path).unwrap();
    let snapshot = Snapshot::open(directory.path()).unwrap();
    write_copy(&source(directory.path()), snapshot, 9, &mut file).unwrap();
    file.finish(|_| {}).unwrap();
    assert!(path.exists());
}

#[test]
fn copy_bears_the_mark_of_the_key_that_is_in_use_when_it_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let mut master = Database::open(directory.path(), Options::default()).unwrap();
    master.become_master().unwrap();
    let source = source(directory.path());
    let mark = || {
        let snapshot = tanist_store::Snapshot::open(directory.path()).unwrap();
        write_copy(&source, snapshot, 1, &mut std::io::sink()).unwrap().key_mark
    };
    let before = mark();
    assert_eq!(before, mark());
    let keys = tanist_transport::ClusterKey::from_bytes([8; 32]);
    source.keys.set(tanist_transport::Keys {
        key: keys,
        other: Some(tanist_transport::ClusterKey::from_bytes([7; 32])),
    });
    assert_ne!(before, mark());
}
