//! What a diverged replica held is saved before it is replaced, so that an operator can look at it and put it back.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    io::Read as _,
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use common::{
    Pair,
    exchange::{KEY, begin, context, stage},
    outsider, query, reader,
};
use tanist_replication::{Position, Term, Txid};
use tanist_store::{
    CopyOut, DIVERGENCE_DIR, DivergenceReport, PAGES_FILE, REPORTS_KEPT, ROWS_FILE, Rejoined, ReportContext,
    database_checksum, divergence_directory, divergence_reports,
};

const SCHEMA: &str = "CREATE TABLE item (id INTEGER PRIMARY KEY, note TEXT, amount REAL); \
    INSERT INTO item VALUES (1, 'one', 0.1), (2, 'two', NULL), (3, 'three', 3); \
    CREATE TABLE log (text, at); INSERT INTO log VALUES ('start', 0); \
    CREATE TABLE pair (a TEXT, b TEXT, c BLOB, PRIMARY KEY (a, b)) WITHOUT ROWID; INSERT INTO pair VALUES ('x', 'y', x'00'); \
    CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT, a INTEGER, twice AS (a * 2) STORED); \
    INSERT INTO counted (a) VALUES (7); \
    CREATE TABLE \"odd \"\"name\" (\"a b\" INTEGER PRIMARY KEY, \"select\"); \
    CREATE VIRTUAL TABLE words USING fts5(text); INSERT INTO words VALUES ('hello');";

/// The backup has been promoted and has gone on; the old master, a backup again, holds what `tail` did alone.
fn fork(tail: &str, cluster: &str) -> Pair {
    let mut pair = Pair::new();
    pair.step(SCHEMA);
    let mut batch = pair.master.begin(common::TERM).unwrap();
    batch.request(|c| c.execute_batch(tail)).unwrap().unwrap();
    batch.commit().unwrap();
    pair.master.become_backup().unwrap();
    pair.backup.become_master().unwrap();
    pair.backup.start_reign(Term(2), "pc-2", "promoted").unwrap();
    let mut batch = pair.backup.begin(Term(2)).unwrap();
    batch.request(|c| c.execute_batch(cluster)).unwrap().unwrap();
    batch.commit().unwrap();
    pair
}

/// Brings the old master in line with the new one.
fn mend(pair: &mut Pair, now: u64) -> Rejoined {
    let mut out = CopyOut::open(pair.backup_dir.path(), KEY).unwrap();
    let mut rejoin = begin(&out, &mut pair.master).unwrap();
    stage(&mut out, &mut rejoin, usize::MAX).unwrap();
    let now = UNIX_EPOCH + Duration::from_secs(now);
    let rejoined = rejoin.finish(out.whole_hash().unwrap(), &ReportContext { member: "pc-1", now }).unwrap();
    assert_eq!(
        database_checksum(pair.master_dir.path()).unwrap(),
        database_checksum(pair.backup_dir.path()).unwrap()
    );
    rejoined
}

fn only_report(dir: &Path) -> (DivergenceReport, String) {
    let [report] = divergence_reports(dir).unwrap().try_into().unwrap();
    let rows = std::fs::read_to_string(divergence_directory(dir, &report.id).join(ROWS_FILE)).unwrap();
    (report, rows)
}

#[test]
fn tail_is_told_and_can_be_put_back() {
    let tail = "INSERT INTO item VALUES (100, 'it''s\nonly here', 1e300); \
        UPDATE item SET note = 'changed here' WHERE id = 1; DELETE FROM item WHERE id = 3; \
        INSERT INTO log VALUES ('only here', x'ff'), ('only here', x'ff'), (NULL, NULL); \
        INSERT INTO pair VALUES ('x', 'z', NULL); UPDATE pair SET c = x'01' WHERE b = 'y'; \
        INSERT INTO counted (a) VALUES (8); \
        INSERT INTO \"odd \"\"name\" VALUES (5, 'quoted'); INSERT INTO words VALUES ('lost'); \
        CREATE TABLE made_here (a TEXT PRIMARY KEY, -- a note\n b); INSERT INTO made_here VALUES ('k', 'v'); \
        CREATE INDEX item_by_note ON item (note)";
    let mut pair =
        fork(tail, "INSERT INTO item VALUES (200, 'cluster', 2); UPDATE item SET note = 'zwei' WHERE id = 2");
    let held = pair.master.stamp();
    let rejoined = mend(&mut pair, 1_700_000_000);
    let (report, rows) = only_report(pair.master_dir.path());
    assert_eq!(rejoined.report.as_deref(), Some(report.id.as_str()));
    assert_eq!(report.id, format!("20231114T221320Z-1-{}", held.position.txid));
    assert_eq!((report.member.as_str(), report.saved_at.as_str()), ("pc-1", "2023-11-14T22:13:20Z"));
    assert_eq!(report.replica.position, held.position.to_string());
    assert_eq!(report.cluster.position, pair.backup.stamp().position.to_string());
    let common = Position { term: Term(1), txid: Txid(held.position.txid.0 - 1) };
    assert_eq!(report.common, common.to_string());
    assert!(!report.foreign_write && report.rows == "complete", "{report:?}");
    let table = |name: &str| report.tables.iter().find(|table| table.name == name).unwrap();
    let item = table("item");
    assert_eq!((item.rows_here, item.rows_in_cluster), (3, Some(4)));
    // What the cluster changed in row 2 differs, too; nobody can tell which side is newer.
    assert_eq!((item.only_here, item.changed), (1, 2));
    assert_eq!((table("log").only_here, table("log").changed), (2, 0));
    assert_eq!((table("pair").only_here, table("pair").changed), (1, 1));
    assert_eq!((table("counted").only_here, table("odd \"name").only_here), (1, 1));
    assert_eq!((table("made_here").rows_in_cluster, table("made_here").only_here), (None, 1));
    assert!(table("words").note.as_deref().unwrap().contains("virtual"));
    for own in ["tanist_position", "tanist_terms", "tanist_requests", "tanist_events", "sqlite_sequence"] {
        assert!(table(own).note.as_deref().unwrap().contains("not to be put back"), "{own}");
        assert!(!rows.contains(&format!("INTO \"{own}\"")), "{rows}");
    }
    assert!(rows.contains("-- UPDATE \"item\" SET \"note\" = 'changed here' WHERE \"id\" IS 1; -- in the cluster: \"note\" = 'one'"), "{rows}");
    assert!(rows.contains("-- CREATE INDEX item_by_note"), "{rows}");

    // It can be applied where it belongs, and a second time it changes nothing.
    let cluster = outsider(pair.backup_dir.path());
    for _ in 0..2 {
        cluster.execute_batch(&rows).unwrap();
        let text = |sql: &str| query(pair.backup_dir.path(), sql);
        assert_eq!(text("SELECT count(*) || max(amount) FROM item"), "51.0e+300");
        assert_eq!(text("SELECT note FROM item WHERE id = 100"), "it's\nonly here");
        assert_eq!(text("SELECT note FROM item WHERE id = 1"), "one", "what differs is a comment");
        assert_eq!(text("SELECT count(*) FROM log"), "3");
        assert_eq!(text("SELECT count(*) FROM pair"), "2");
        assert_eq!(text("SELECT sum(twice) FROM counted"), "30");
        assert_eq!(text("SELECT \"select\" FROM \"odd \"\"name\""), "quoted");
        assert_eq!(text("SELECT b FROM made_here"), "v");
    }
}

#[test]
fn replaced_pages_are_saved_as_they_were() {
    let mut pair = fork(
        "WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i+1 FROM n WHERE i < 2000) \
         INSERT INTO item SELECT i, 'page ' || i, i FROM n",
        "INSERT INTO log VALUES ('cluster', 1)",
    );
    let page = |number: u32| -> Vec<u8> {
        reader(pair.master_dir.path())
            .query_row("SELECT data FROM sqlite_dbpage WHERE pgno = ?1", [number], |row| row.get(0))
            .unwrap()
    };
    let before: Vec<Vec<u8>> = (1..=pair.master.pages()).map(page).collect();
    mend(&mut pair, 1);
    let (report, _) = only_report(pair.master_dir.path());
    assert_eq!(report.pages_before as usize, before.len());
    assert!(report.pages_after < report.pages_before);
    let file = std::fs::File::open(divergence_directory(pair.master_dir.path(), &report.id).join(PAGES_FILE));
    let mut plain = vec![];
    zstd::stream::read::Decoder::new(file.unwrap()).unwrap().read_to_end(&mut plain).unwrap();
    let records: Vec<&[u8]> = plain.chunks(4 + 4096).collect();
    assert_eq!(records.len(), report.replaced_pages as usize);
    let numbers: Vec<u32> = records.iter().map(|r| u32::from_be_bytes([r[0], r[1], r[2], r[3]])).collect();
    for (number, record) in numbers.iter().zip(&records) {
        assert_eq!(&record[4..], before[*number as usize - 1], "page {number}");
    }
    let told: Vec<u32> = report.replaced.iter().flat_map(|[first, last]| *first..=*last).collect();
    assert_eq!(told, numbers);
    assert!(numbers.ends_with(&[report.pages_before]), "pages that were cut off are there");
}

#[test]
fn rows_have_a_limit_and_the_report_says_what_is_missing() {
    let mut pair = fork(
        "WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i+1 FROM n WHERE i < 29) \
         INSERT INTO log SELECT randomblob(500000), i FROM n",
        "INSERT INTO log VALUES ('cluster', 1)",
    );
    mend(&mut pair, 1);
    let (report, rows) = only_report(pair.master_dir.path());
    assert!(rows.len() < (16 << 20) + 1000, "{} bytes", rows.len());
    assert!(
        report.rows.contains("rows are left out") && rows.contains("rows are left out"),
        "{}",
        report.rows
    );
    let log = report.tables.iter().find(|table| table.name == "log").unwrap();
    assert_eq!(log.only_here, 20, "all are counted");
    assert!(rows.matches("INSERT INTO \"log\"").count() > 3);
}

#[test]
fn report_of_a_try_that_failed_is_replaced_and_unfinished_ones_are_no_reports() {
    let mut pair = fork("INSERT INTO log VALUES ('tail', 1)", "INSERT INTO log VALUES ('cluster', 1)");
    let dir = pair.master_dir.path().to_owned();
    let before = database_checksum(&dir).unwrap();
    let mut out = CopyOut::open(pair.backup_dir.path(), KEY).unwrap();
    let mut rejoin = begin(&out, &mut pair.master).unwrap();
    stage(&mut out, &mut rejoin, usize::MAX).unwrap();
    let first = rejoin.save_divergence(&context()).unwrap().unwrap().to_owned();
    assert_eq!(rejoin.save_divergence(&context()).unwrap(), Some(first.as_str()), "once is enough");
    // It ends between the report and the overwrite.
    drop(rejoin);
    assert_eq!(database_checksum(&dir).unwrap(), before);
    let (report, rows) = only_report(&dir);
    assert!(report.id == first && rows.contains("'tail'"));
    // Or in the middle of a report.
    let unfinished = dir.join(DIVERGENCE_DIR).join(".saving");
    std::fs::create_dir(&unfinished).unwrap();
    std::fs::write(unfinished.join(ROWS_FILE), "half").unwrap();
    std::fs::create_dir(dir.join(DIVERGENCE_DIR).join("something else")).unwrap();
    assert_eq!(divergence_reports(&dir).unwrap().len(), 1);
    let rejoined = mend(&mut pair, 1_800_000_000);
    let (report, rows) = only_report(&dir);
    assert_eq!(rejoined.report, Some(report.id));
    assert!(rows.contains("'tail'") && !unfinished.exists());
    assert!(divergence_reports(pair.backup_dir.path()).unwrap().is_empty());
}

#[test]
fn oldest_report_goes_when_there_are_too_many() {
    let mut pair = Pair::new();
    for round in 0..REPORTS_KEPT as u64 + 3 {
        pair.backup.become_master().unwrap();
        pair.backup.start_reign(Term(100 + round), "pc-2", "alone").unwrap();
        pair.backup.become_backup().unwrap();
        let mut out = CopyOut::open(pair.master_dir.path(), KEY).unwrap();
        let mut rejoin = begin(&out, &mut pair.backup).unwrap();
        stage(&mut out, &mut rejoin, usize::MAX).unwrap();
        let now = UNIX_EPOCH + Duration::from_secs(1000 + round);
        let context = ReportContext { member: "pc-2", now };
        rejoin.finish(out.whole_hash().unwrap(), &context).unwrap();
    }
    let reports = divergence_reports(pair.backup_dir.path()).unwrap();
    assert_eq!(reports.len(), REPORTS_KEPT);
    assert_eq!(reports.first().unwrap().saved_at, "1970-01-01T00:16:43Z");
    assert_eq!(reports.last().unwrap().saved_at, "1970-01-01T00:16:52Z");
    pair.assert_identical();
}

#[test]
fn write_from_outside_is_saved_as_one_that_no_master_numbered() {
    let mut pair = Pair::new();
    pair.step(SCHEMA);
    // As when the server was stopped: nobody holds the lock, then it is found changed.
    let dir = pair.backup_dir.path().to_owned();
    pair.backup.become_master().unwrap();
    outsider(&dir).execute_batch("INSERT INTO log VALUES ('from outside', 1)").unwrap();
    assert!(pair.backup.become_backup().is_err());
    assert!(pair.backup.is_diverged());
    pair.commit("INSERT INTO log VALUES ('cluster', 1)");
    let (rejoined, _) = common::exchange::rejoin(pair.master_dir.path(), &mut pair.backup).unwrap();
    assert!(rejoined.report.is_some() && !pair.backup.is_diverged());
    let (report, rows) = only_report(&dir);
    assert!(report.foreign_write && rows.contains("'from outside'"), "{rows}");
    pair.assert_identical();
}
