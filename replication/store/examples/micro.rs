//! Prints what capture and apply cost on this machine: `cargo run --release -p tanist-store --example micro`.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use rusqlite::params;
use tanist_replication::{Term, Transaction};
use tanist_store::{Captured, Database, Options};

const COUNT: u32 = 3000;

fn report(what: &str, count: u32, time: Duration) {
    println!("{what:<58} {:>9.1} us", time.as_secs_f64() * 1e6 / f64::from(count));
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = std::env::args()
        .nth(1)
        .map_or_else(std::env::temp_dir, Into::into)
        .join(format!("tanist-micro-{}", std::process::id()));
    let (master_dir, backup_dir) = (root.join("master"), root.join("backup"));
    std::fs::create_dir_all(&master_dir)?;
    std::fs::create_dir_all(&backup_dir)?;
    let term = Term(1);
    let mut master = Database::open(&master_dir, Options::default())?;
    master.become_master()?;
    let mut backup = Database::open(&backup_dir, Options::default())?;
    let mut transactions: Vec<Transaction> = Vec::new();
    let keep = |captured, into: &mut Vec<Transaction>| match captured {
        Captured::Transaction(transaction) => into.push(transaction),
        other => panic!("{other:?}"),
    };
    for captured in master.start_reign(term, "bench", "bench")? {
        keep(captured, &mut transactions);
    }
    let mut batch = master.begin(term)?;
    batch.request(|c| {
        c.execute_batch(
            "CREATE TABLE kv (k INTEGER PRIMARY KEY, v TEXT);
             WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i+1 FROM n WHERE i < 9999)
             INSERT INTO kv SELECT i, hex(randomblob(50)) FROM n",
        )
    })??;
    keep(batch.commit()?, &mut transactions);
    backup.apply(&transactions)?;
    transactions.clear();

    // The bare disk.
    let mut file = std::fs::File::create(root.join("append"))?;
    let page = vec![7u8; 8240];
    file.write_all(&vec![0; 16 << 20])?;
    file.sync_all()?;
    use std::io::Seek;
    file.rewind()?;
    let start = Instant::now();
    for _ in 0..1000 {
        file.write_all(&page)?;
        file.sync_data()?;
    }
    report("bare 8 KiB overwrite + fdatasync", 1000, start.elapsed());

    let write = |c: &rusqlite::Connection, key: u32| {
        c.prepare_cached("INSERT INTO kv VALUES (?1, ?2) ON CONFLICT (k) DO UPDATE SET v = excluded.v")?
            .execute(params![key.wrapping_mul(2_654_435_761) % 10_000, format!("{key:0>100}")])
    };
    let (mut begins, mut requests, mut commits, mut checkpoints) = Default::default();
    let timed = |total: &mut Duration, start: Instant| *total += start.elapsed();
    for key in 0..COUNT {
        let start = Instant::now();
        let mut batch = master.begin(term)?;
        timed(&mut begins, start);
        let start = Instant::now();
        batch.request(|c| write(c, key))??;
        timed(&mut requests, start);
        let start = Instant::now();
        let captured = batch.commit()?;
        timed(&mut commits, start);
        keep(captured, &mut transactions);
        let start = Instant::now();
        if master.checkpoint_due() {
            master.checkpoint_step()?;
        }
        timed(&mut checkpoints, start);
    }
    report("begin + 1 upsert + commit + capture", COUNT, begins + requests + commits);
    report("  begin", COUNT, begins);
    report("  request", COUNT, requests);
    report("  commit + capture", COUNT, commits);
    report("  checkpoint", COUNT, checkpoints);
    let start = Instant::now();
    let mut batch = master.begin(term)?;
    for key in 0..COUNT {
        batch.request(|c| write(c, key))??;
    }
    report("  of it the request alone (in one batch)", COUNT, start.elapsed());
    keep(batch.commit()?, &mut transactions);

    let sync = master.wal_sync()?;
    let (mut both, mut last) = (Duration::ZERO, Vec::new());
    for key in 0..1000 {
        let mut batch = master.begin(term)?;
        batch.request(|c| write(c, key))??;
        keep(batch.commit()?, &mut last);
        let start = Instant::now();
        sync.sync()?;
        both += start.elapsed();
    }
    report("fdatasync of the master's WAL after a commit", 1000, both);

    let bytes: usize = transactions.iter().take(COUNT as usize).map(|t| t.payload.len()).sum();
    println!("payload per one-row transaction: {} bytes", bytes / COUNT as usize);

    let start = Instant::now();
    for transaction in &transactions[..500] {
        backup.apply(std::slice::from_ref(transaction))?;
    }
    report("apply + fdatasync, 1 row, WAL file growing", 500, start.elapsed());
    backup.checkpoint_step()?;
    let start = Instant::now();
    for transaction in &transactions[500..1000] {
        backup.apply(std::slice::from_ref(transaction))?;
    }
    report("apply + fdatasync, 1 row, WAL file written over", 500, start.elapsed());
    let start = Instant::now();
    backup.apply(&transactions[1000..2000])?;
    report("apply of 1000 merged, per transaction", 1000, start.elapsed());
    let start = Instant::now();
    for chunk in transactions[2000..3000].chunks(10) {
        backup.apply(chunk)?;
    }
    report("apply of 10 merged, per apply", 100, start.elapsed());
    let start = Instant::now();
    backup.apply(&transactions[3000..])?;
    report("apply of one batch of 3000 rows", 1, start.elapsed());
    backup.apply(&last)?;

    let mut page_commits = Duration::ZERO;
    for round in 0..50 {
        let mut batch = master.begin(term)?;
        batch.request(|c| c.execute("UPDATE kv SET v = ?1 WHERE k < 3300", [format!("{round:0>100}")]))??;
        let start = Instant::now();
        let captured = batch.commit()?;
        page_commits += start.elapsed();
        let Captured::Transaction(transaction) = captured else { continue };
        last.clear();
        last.push(transaction);
        let start = Instant::now();
        backup.apply(&last)?;
        if round == 49 {
            println!("{} bytes plain, {} sent", last[0].plain_len, last[0].payload.len());
            report("apply + fdatasync, about 100 pages", 1, start.elapsed());
        }
    }
    report("commit + capture (compressed), about 100 pages", 50, page_commits);
    println!("wal: master {} KiB, backup {} KiB", master.wal_bytes() >> 10, backup.wal_bytes() >> 10);
    drop((master, backup));
    std::fs::remove_dir_all(&root)?;
    Ok(())
}
