//! Begins reigns and brings the schema up to date, each as numbered transactions like any other.
//!
//! Owns the order: a reign's first transaction holds its row in the term history (R5), on an empty database together
//! with the whole schema. Never runs on a backup. Read `migrations/README.md` for the files.

use include_dir::{Dir, include_dir};
use rusqlite::TransactionBehavior;
use rusqlite_migration::{M, Migrations};
use tanist_replication::{Reign, Stamp, Term};

use crate::{
    database::{Captured, Database},
    error::StoreError,
    tables,
};

static MIGRATIONS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../migrations");

/// The migrations' SQL in order.
fn migrations() -> Vec<&'static str> {
    let mut files: Vec<_> = MIGRATIONS
        .files()
        .filter(|file| file.path().extension().is_some_and(|extension| extension == "sql"))
        .collect();
    files.sort_by_key(|file| file.path());
    files.iter().filter_map(|file| file.contents_utf8()).collect()
}

impl Database {
    /// Begins the reign of `term`: writes its row and brings the schema up to date. `master` is the member's id,
    /// `reason` is for people. The captured transactions come in order.
    ///
    /// # Errors
    /// As [`crate::Batch::commit`]; what was captured before the error is kept in the database and lost to the caller,
    /// so backups fetch it by a full copy.
    pub fn start_reign(&mut self, term: Term, master: &str, reason: &str) -> Result<Vec<Captured>, StoreError> {
        self.start_reign_with(&migrations(), term, master, reason)
    }

    pub(crate) fn start_reign_with(
        &mut self,
        migrations: &[&'static str],
        term: Term,
        master: &str,
        reason: &str,
    ) -> Result<Vec<Captured>, StoreError> {
        self.check_term(term)?;
        let known = migrations.len();
        let version = self.sqlite("read the schema version", |db| {
            db.writer.pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0))
        })? as usize;
        let stamp = self.next_stamp(term);
        let reign = Reign { term, first_txid: stamp.position.txid };
        if self.stamp == Stamp::default() {
            let mut history = self.history.clone();
            history.push(reign.clone())?;
            let (master, reason) = (master.to_owned(), reason.to_owned());
            let captured = self.run_migrations(migrations, stamp, Some((reign, master, reason)))?;
            self.history = history;
            return Ok(vec![captured]);
        }
        if version > known {
            return Err(StoreError::NewerSchema { found: version, known });
        }
        let mut batch = self.begin(term)?;
        batch.begin_reign(master, reason)?;
        let mut captured = vec![batch.commit()?];
        for step in version + 1..=known {
            let stamp = self.next_stamp(term);
            captured.push(self.run_migrations(&migrations[..step], stamp, None)?);
        }
        Ok(captured)
    }

    /// Runs what is pending of `migrations` as the transaction `stamp`.
    fn run_migrations(
        &mut self,
        migrations: &[&'static str],
        stamp: Stamp,
        reign: Option<(Reign, String, String)>,
    ) -> Result<Captured, StoreError> {
        let mut steps: Vec<M<'_>> = migrations.iter().map(|sql| M::up(sql).foreign_key_check()).collect();
        if let (Some(last), Some(sql)) = (steps.last_mut(), migrations.last()) {
            // Runs inside the transaction, after the SQL of the last migration.
            *last = M::up_with_hook(sql, move |transaction: &rusqlite::Transaction<'_>| {
                if let Some((reign, master, reason)) = &reign {
                    tables::write_reign(transaction, reign, master, reason)?;
                }
                tables::write_stamp(transaction, &stamp)?;
                Ok(())
            })
            .foreign_key_check();
        }
        self.writer.set_transaction_behavior(TransactionBehavior::Immediate);
        let gate = self.gate.clone();
        gate.pass(|| Migrations::new(steps).to_latest(&mut self.writer))?;
        Ok(self.capture(stamp))
    }
}
