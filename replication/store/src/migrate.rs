//! Begins reigns and brings the schema up to date, each as numbered transactions like any other.
//!
//! Owns the order: a reign's first transaction holds its row in the term history (R5), on an empty database together
//! with the whole schema. Never runs on a backup. Read `migrations/README.md` for the files.

use include_dir::{Dir, include_dir};
use refinery_core::{Migration, Runner, traits::sync};
use rusqlite::Connection;
use tanist_replication::{Reign, Stamp, Term};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    database::{Captured, Database},
    error::StoreError,
    tables::{self, Founding},
};

static MIGRATIONS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../migrations");

/// Which migrations have run. `PRAGMA user_version` is the users'.
const SCHEMA_TABLE: &str = "tanist_schema";

/// A step of the schema: the name of its file without the ending, such as `0001_cluster`, and its SQL.
pub(crate) type Step<'s> = (&'s str, &'s str);

/// The migrations in order.
fn migrations() -> Vec<Step<'static>> {
    let mut files: Vec<_> = MIGRATIONS
        .files()
        .filter(|file| file.path().extension().is_some_and(|extension| extension == "sql"))
        .collect();
    files.sort_by_key(|file| file.path());
    let step = |file: &&'static include_dir::File<'static>| {
        Some((file.path().file_stem()?.to_str()?, file.contents_utf8()?))
    };
    files.iter().filter_map(step).collect()
}

/// Newest version of the schema that this program knows.
pub(crate) fn schema_version() -> usize {
    migrations().len()
}

/// The version of the schema in a database: how many migrations have run; 0 where none has.
pub(crate) fn version_of(connection: &Connection) -> Result<usize, rusqlite::Error> {
    if !tables::table_exists(connection, SCHEMA_TABLE)? {
        return Ok(0);
    }
    let sql = format!("SELECT coalesce(max(version), 0) FROM {SCHEMA_TABLE}");
    connection.query_row(&sql, [], |row| row.get::<_, u32>(0)).map(|version| version as usize)
}

/// The migrations of the first `steps`, for the runner.
fn runner(steps: &[Step<'_>]) -> Result<Runner, refinery_core::Error> {
    let migrations = steps.iter().map(|(name, sql)| {
        let (number, name) = name.split_once('_').unwrap_or((name, ""));
        Migration::unapplied(&format!("V{}__{name}", number.trim_start_matches('0')), sql)
    });
    let migrations = migrations.collect::<Result<Vec<_>, _>>()?;
    let mut runner = Runner::new(&migrations).set_grouped(true);
    runner.set_migration_table_name(SCHEMA_TABLE);
    Ok(runner)
}

/// A database with the first `version` migrations.
pub(crate) fn schema_at(version: usize) -> Result<Connection, StoreError> {
    let steps = migrations();
    let steps = steps.get(..version).ok_or(StoreError::NewerSchema { found: version, known: steps.len() })?;
    let connection = Connection::open_in_memory()
        .map_err(|source| StoreError::Sqlite { doing: "make the schema in memory", source })?;
    runner(steps)?.run(&mut Open(&connection))?;
    Ok(connection)
}

/// The open transaction in which migrations run; whoever has opened it commits.
struct Open<'c>(&'c Connection);

impl sync::Transaction for Open<'_> {
    type Error = rusqlite::Error;

    fn execute<'q, T: Iterator<Item = &'q str>>(&mut self, queries: T) -> Result<usize, rusqlite::Error> {
        let mut count = 0;
        for query in queries {
            self.0.execute_batch(query)?;
            count += 1;
        }
        Ok(count)
    }
}

impl sync::Query<Vec<Migration>> for Open<'_> {
    fn query(&mut self, query: &str) -> Result<Vec<Migration>, rusqlite::Error> {
        let mut statement = self.0.prepare(query)?;
        let rows = statement.query_map([], |row| {
            // Only the version, the name and the checksum are compared.
            let applied_on = row.get::<_, String>(2)?;
            let applied_on =
                OffsetDateTime::parse(&applied_on, &Rfc3339).unwrap_or(OffsetDateTime::UNIX_EPOCH);
            let checksum = row.get::<_, String>(3)?.parse().unwrap_or(0);
            Ok(Migration::applied(row.get(0)?, row.get(1)?, applied_on, checksum))
        })?;
        rows.collect()
    }
}

impl sync::Migrate for Open<'_> {}

impl Database {
    /// Why no reign can begin on this replica by this program, if none can: a newer one has changed its schema.
    ///
    /// # Errors
    /// When the schema can't be read.
    pub fn newer_schema(&self) -> Result<Option<StoreError>, StoreError> {
        let found = self.sqlite("read the schema version", |db| version_of(&db.observer))?;
        let known = schema_version();
        Ok((found > known).then_some(StoreError::NewerSchema { found, known }))
    }

    /// The founding of the cluster that the data belongs to; `None` on an empty replica.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn founding(&self) -> Result<Option<Founding>, StoreError> {
        // On a master the observer's snapshot is from before the reign's first transaction.
        self.sqlite("read the founding", |db| tables::read_founding(&db.writer))
    }

    /// Begins the reign of `term`: writes its row and brings the schema up to date. `master` is the member's id,
    /// `reason` is for people. The captured transactions come in order.
    ///
    /// # Errors
    /// As [`crate::Batch::commit`]; what was captured before the error is kept in the database and lost to the caller,
    /// so backups fetch it by a rejoin.
    pub fn start_reign(
        &mut self,
        term: Term,
        master: &str,
        reason: &str,
    ) -> Result<Vec<Captured>, StoreError> {
        self.start_reign_with(&migrations(), term, master, reason)
    }

    pub(crate) fn start_reign_with(
        &mut self,
        migrations: &[Step<'_>],
        term: Term,
        master: &str,
        reason: &str,
    ) -> Result<Vec<Captured>, StoreError> {
        self.check_term(term)?;
        let known = migrations.len();
        let version = self.sqlite("read the schema version", |db| version_of(&db.writer))?;
        let stamp = self.next_stamp(term);
        let reign = Reign { term, first_txid: stamp.position.txid };
        if self.stamp == Stamp::default() {
            let mut history = self.history.clone();
            history.push(reign.clone())?;
            let captured = self.run_migrations(migrations, stamp, Some((&reign, master, reason)))?;
            self.history = history;
            return Ok(vec![captured]);
        }
        if version > known {
            return Err(StoreError::NewerSchema { found: version, known });
        }
        let mut batch = self.begin(term)?;
        batch.part_from_users()?;
        batch.begin_reign(master, reason)?;
        let mut captured = vec![batch.commit()?];
        for step in version + 1..=known {
            let stamp = self.next_stamp(term);
            captured.push(self.run_migrations(&migrations[..step], stamp, None)?);
        }
        Ok(captured)
    }

    /// Runs what is pending of `steps` as the transaction `stamp`.
    fn run_migrations(
        &mut self,
        steps: &[Step<'_>],
        stamp: Stamp,
        reign: Option<(&Reign, &str, &str)>,
    ) -> Result<Captured, StoreError> {
        let runner = runner(steps)?;
        self.sqlite("migrate the schema", |db| db.writer.execute_batch("BEGIN IMMEDIATE"))?;
        let written = runner.run(&mut Open(&self.writer)).map_err(StoreError::from).and_then(|_| {
            self.sqlite("migrate the schema", |db| {
                if let Some((reign, master, reason)) = reign {
                    tables::write_reign(&db.writer, reign, master, reason)?;
                    if !db.options.cluster.is_empty() {
                        tables::write_founding(&db.writer, &db.options.cluster)?;
                    }
                }
                tables::write_stamp(&db.writer, &stamp)?;
                db.gate.pass(|| db.writer.execute_batch("COMMIT"))
            })
        });
        if let Err(error) = written {
            if !self.writer.is_autocommit() {
                self.sqlite("roll a migration back", |db| db.writer.execute_batch("ROLLBACK"))?;
            }
            return Err(error);
        }
        Ok(self.capture(stamp))
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::Options;

    fn master(dir: &TempDir) -> Database {
        let mut master = Database::open(dir.path(), Options::default()).unwrap();
        master.become_master().unwrap();
        master
    }

    fn positions(captured: &[Captured]) -> Vec<String> {
        captured
            .iter()
            .map(|captured| match captured {
                Captured::Transaction(transaction) => transaction.stamp.position.to_string(),
                other => format!("{other:?}"),
            })
            .collect()
    }

    fn count(database: &Database, table: &str) -> Result<i64, rusqlite::Error> {
        database.writer.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))
    }

    #[test]
    fn files_are_numbered_from_one_without_gap() {
        let mut names: Vec<_> = MIGRATIONS
            .files()
            .filter_map(|file| file.path().to_str())
            .filter(|name| name.ends_with(".sql"))
            .collect();
        names.sort_unstable();
        for (index, name) in names.iter().enumerate() {
            assert!(name.starts_with(&format!("{:04}_", index + 1)), "{name}");
        }
        assert_eq!(migrations().len(), names.len());
        assert!(!names.is_empty());
    }

    #[test]
    fn empty_database_gets_all_migrations_and_the_reign_in_one_transaction() {
        let dir = TempDir::new().unwrap();
        let mut master = master(&dir);
        let steps = [
            migrations()[0],
            ("0002_second", "CREATE TABLE second (a)"),
            ("0003_third", "CREATE TABLE third (a)"),
        ];
        let captured = master.start_reign_with(&steps, Term(4), "pc-1", "first").unwrap();
        assert_eq!(positions(&captured), ["4.1"]);
        assert_eq!(count(&master, "second").unwrap() + count(&master, "third").unwrap(), 0);
        assert_eq!(
            master.history().reigns(),
            [Reign { term: Term(4), first_txid: tanist_replication::Txid(1) }]
        );
    }

    #[test]
    fn older_schema_gets_the_reign_first_and_each_migration_numbered() {
        let (dir, backup_dir) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let mut master = master(&dir);
        let mut backup = Database::open(backup_dir.path(), Options::default()).unwrap();
        let steps = [
            migrations()[0],
            ("0002_second", "CREATE TABLE second (a)"),
            ("0003_third", "CREATE TABLE third (a)"),
        ];
        let mut captured = master.start_reign_with(&steps[..1], Term(1), "pc-1", "first").unwrap();
        captured.extend(master.start_reign_with(&steps, Term(2), "pc-1", "upgrade").unwrap());
        assert_eq!(positions(&captured), ["1.1", "2.2", "2.3", "2.4"]);
        let transactions: Vec<_> = captured
            .into_iter()
            .filter_map(|captured| match captured {
                Captured::Transaction(transaction) => Some(transaction),
                _ => None,
            })
            .collect();
        backup.apply(&transactions).unwrap();
        assert_eq!(
            crate::database_checksum(dir.path()).unwrap(),
            crate::database_checksum(backup_dir.path()).unwrap()
        );
        // Up to date: only the reign.
        let captured = master.start_reign_with(&steps, Term(3), "pc-1", "again").unwrap();
        assert_eq!(positions(&captured), ["3.5"]);
        // An older program refuses before it changes anything.
        let refused = master.start_reign_with(&steps[..2], Term(4), "pc-1", "downgrade");
        assert!(matches!(refused, Err(StoreError::NewerSchema { found: 3, known: 2 })));
        assert_eq!(master.stamp().position.to_string(), "3.5");
    }

    #[test]
    fn failing_migration_is_rolled_back_whole() {
        let dir = TempDir::new().unwrap();
        let mut master = master(&dir);
        let steps =
            [migrations()[0], ("0002_second", "CREATE TABLE second (a); INSERT INTO nowhere VALUES (1)")];
        assert!(matches!(
            master.start_reign_with(&steps, Term(1), "pc-1", "first"),
            Err(StoreError::Migration(_))
        ));
        assert_eq!(master.stamp(), Stamp::default());
        assert!(count(&master, "tanist_position").is_err());
        let captured = master.start_reign_with(&steps[..1], Term(1), "pc-1", "first").unwrap();
        assert_eq!(positions(&captured), ["1.1"]);
        master.start_reign_with(&steps, Term(2), "pc-1", "second").unwrap_err();
        assert_eq!(master.stamp().position.to_string(), "2.2", "the reign stands");
        assert!(count(&master, "second").is_err());
    }
}
