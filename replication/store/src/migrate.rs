//! Begins reigns and raises the level of the schema, each as a numbered transaction like any other.
//!
//! Owns the order: a reign's first transaction holds its row in the term history (R5), on an empty database together
//! with the whole schema. The level is raised only on the server's word, which knows what the others run. Never runs on a backup. Read `migrations/README.md` for the files.

use std::sync::LazyLock;

use include_dir::{Dir, include_dir};
use refinery_core::{Migration, Runner, traits::sync};
use rusqlite::{Connection, OptionalExtension as _};
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

/// The level at which the last program was that said nothing of levels; the lowest that a cluster can have.
const FIRST_LEVEL: u32 = 6;

/// Whether this program is to pass for a made-up next version of itself: with one more level. For tests of upgrades.
#[must_use]
pub fn is_next_version() -> bool {
    cfg!(feature = "next-version")
        || (cfg!(debug_assertions) && std::env::var_os("TANIST_NEXT_VERSION").is_some())
}

/// The made-up next version's.
const NEXT: &str = include_str!("../tests/next_version.sql");

/// The migrations in order.
fn migrations() -> &'static [Step<'static>] {
    static STEPS: LazyLock<Vec<Step<'static>>> = LazyLock::new(|| {
        let mut steps = released();
        if is_next_version() {
            steps.push((format!("{:04}_next_version", steps.len() + 1).leak(), NEXT));
        }
        steps
    });
    &STEPS
}

fn released() -> Vec<Step<'static>> {
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

/// The levels of a cluster that this program can serve, lowest and highest. A level is the number of the newest migration that has
/// run; a level that is about features alone has a migration that changes nothing.
#[must_use]
pub fn known_levels() -> (u32, u32) {
    (FIRST_LEVEL, schema_version() as u32)
}

/// The version of the schema in a database: how many migrations have run; 0 where none has.
pub(crate) fn version_of(connection: &Connection) -> Result<usize, rusqlite::Error> {
    if !tables::table_exists(connection, SCHEMA_TABLE)? {
        return Ok(0);
    }
    let sql = format!("SELECT coalesce(max(version), 0) FROM {SCHEMA_TABLE}");
    connection.query_row(&sql, [], |row| row.get::<_, u32>(0)).map(|version| version as usize)
}

/// Who holds the level where it is, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// The token's name, if there are tokens.
    pub by: Option<String>,
    /// By the wall clock of the master of then.
    pub since: String,
}

/// The SQL of the table of holds, for a database whose level is below that of its migration.
pub const HOLD_TABLE: &str = include_str!("../../../migrations/0007_upgrade.sql");

fn hold_is_kept(connection: &Connection) -> Result<bool, rusqlite::Error> {
    tables::table_exists(connection, "tanist_upgrade_hold")
}

fn hold_of(connection: &Connection) -> Result<Option<Hold>, rusqlite::Error> {
    if !hold_is_kept(connection)? {
        return Ok(None);
    }
    let row = |row: &rusqlite::Row<'_>| Ok(Hold { by: row.get(0)?, since: row.get(1)? });
    connection
        .prepare_cached("SELECT held_by, held_at FROM tanist_upgrade_hold")?
        .query_row([], row)
        .optional()
}

/// Why a database is none that this program can write: its schema is newer, or was made by other migrations.
fn foreign_schema(
    connection: &Connection,
    migrations: &[Step<'_>],
) -> Result<Option<StoreError>, rusqlite::Error> {
    let (found, known) = (version_of(connection)?, migrations.len());
    if found > known {
        return Ok(Some(StoreError::NewerSchema { found, known }));
    }
    if found == 0 {
        return Ok(None);
    }
    let mut statement = connection
        .prepare_cached(&format!("SELECT version, checksum FROM {SCHEMA_TABLE} ORDER BY version"))?;
    let applied = statement
        .query_map([], |row| Ok((row.get::<_, u32>(0)?, row.get::<_, String>(1)?)))?
        .collect::<Result<Vec<_>, _>>()?;
    let other = migrations.iter().zip(applied).find_map(|((name, sql), (version, checksum))| {
        let ours = migration(name, sql).ok()?;
        (ours.version() as i64 != i64::from(version) || ours.checksum().to_string() != checksum)
            .then(|| StoreError::OtherSchema { migration: (*name).to_owned() })
    });
    Ok(other)
}

/// Why a level isn't raised.
enum Raise {
    NotNow,
    Migration(refinery_core::Error),
    Sqlite(rusqlite::Error),
}

fn migration(name: &str, sql: &str) -> Result<Migration, refinery_core::Error> {
    let (number, name) = name.split_once('_').unwrap_or((name, ""));
    Migration::unapplied(&format!("V{}__{name}", number.trim_start_matches('0')), sql)
}

/// The migrations of the first `steps`, for the runner.
fn runner(steps: &[Step<'_>]) -> Result<Runner, refinery_core::Error> {
    let migrations = steps.iter().map(|(name, sql)| migration(name, sql)).collect::<Result<Vec<_>, _>>()?;
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

/// What Tanist's own schema must be in this database.
pub(crate) fn schema_like(found: &Connection) -> Result<Connection, StoreError> {
    let error = |source| StoreError::Sqlite { doing: "make the schema in memory", source };
    let connection = schema_at(version_of(found).map_err(error)?)?;
    if hold_is_kept(found).map_err(error)? {
        connection.execute_batch(HOLD_TABLE).map_err(error)?;
    }
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
    /// Why no reign can begin on this replica by this program, if none can: its schema is a newer program's, or another's.
    ///
    /// # Errors
    /// When the schema can't be read.
    pub fn newer_schema(&self) -> Result<Option<StoreError>, StoreError> {
        self.sqlite("read the schema version", |db| foreign_schema(db.onlooker(), migrations()))
    }

    /// The founding of the cluster that the data belongs to; `None` on an empty replica.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn founding(&self) -> Result<Option<Founding>, StoreError> {
        // On a master the observer's snapshot is from before the reign's first transaction.
        self.sqlite("read the founding", |db| tables::read_founding(&db.writer))
    }

    /// What sees all that this machine has committed. The observer of a master looks at the past.
    fn onlooker(&self) -> &Connection {
        if self.is_master() { &self.writer } else { &self.observer }
    }

    /// The level of the database; 0 while it is empty.
    ///
    /// # Errors
    /// When the schema can't be read.
    pub fn level(&self) -> Result<u32, StoreError> {
        self.sqlite("read the schema version", |db| version_of(db.onlooker())).map(|version| version as u32)
    }

    /// Whether an operator holds the level where it is.
    ///
    /// # Errors
    /// When that can't be read.
    pub fn level_hold(&self) -> Result<Option<Hold>, StoreError> {
        self.sqlite("read the hold of upgrades", |db| hold_of(db.onlooker()))
    }

    /// A reign on an empty database is to begin at this level, if this program knows it; at the highest that it knows otherwise.
    pub fn set_founding_level(&mut self, level: u32) {
        self.founding_level = Some(level as usize);
    }

    /// Raises the level to `to`: runs the migrations up to it, as one transaction of the reign of `term`. Nothing is done when it is
    /// there already, or held. `what` is for people, in the event that tells of it.
    ///
    /// # Errors
    /// As [`crate::Batch::commit`], and when this program doesn't know that level; nothing was changed then.
    pub fn raise_level(&mut self, term: Term, to: u32, what: &str) -> Result<Captured, StoreError> {
        self.raise_level_with(migrations(), term, to as usize, what)
    }

    pub(crate) fn raise_level_with(
        &mut self,
        migrations: &[Step<'_>],
        term: Term,
        to: usize,
        what: &str,
    ) -> Result<Captured, StoreError> {
        let steps =
            migrations.get(..to).ok_or(StoreError::NewerSchema { found: to, known: migrations.len() })?;
        let runner = runner(steps)?;
        let cluster = self.options.cluster.clone();
        let mut batch = self.begin(term)?;
        batch.part_from_users()?;
        let raised = batch.internal(|connection| {
            let from = version_of(connection).map_err(Raise::Sqlite)?;
            if from == 0 || from >= to || hold_of(connection).map_err(Raise::Sqlite)?.is_some() {
                return Err(Raise::NotNow);
            }
            let founded = tables::read_founding(connection).map_err(Raise::Sqlite)?.is_some();
            runner.run(&mut Open(connection)).map_err(Raise::Migration)?;
            if !founded {
                tables::write_founding(connection, &cluster).map_err(Raise::Sqlite)?;
            }
            let event = "INSERT INTO tanist_events (kind, subject, data) VALUES ('cluster', 'level', \
                         json_object('what', 'level', 'level', ?1, 'before', ?2, 'why', ?3))";
            connection.execute(event, (to as i64, from as i64, what)).map(drop).map_err(Raise::Sqlite)
        })?;
        match raised {
            Ok(()) => batch.commit(),
            // What others have written is adopted all the same.
            Err(Raise::NotNow) => batch.commit(),
            Err(Raise::Migration(error)) => Err(error.into()),
            Err(Raise::Sqlite(source)) => Err(StoreError::Sqlite { doing: "raise the level", source }),
        }
    }

    /// Begins the reign of `term`: writes its row, and on an empty database the whole schema. `master` is the member's id,
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
        self.start_reign_with(migrations(), term, master, reason)
    }

    pub(crate) fn start_reign_with(
        &mut self,
        migrations: &[Step<'_>],
        term: Term,
        master: &str,
        reason: &str,
    ) -> Result<Vec<Captured>, StoreError> {
        self.check_term(term)?;
        let stamp = self.next_stamp(term);
        let reign = Reign { term, first_txid: stamp.position.txid };
        if self.stamp == Stamp::default() {
            let mut history = self.history.clone();
            history.push(reign.clone())?;
            let level = self.founding_level.filter(|level| (1..=migrations.len()).contains(level));
            let steps = &migrations[..level.unwrap_or(migrations.len())];
            let captured = self.found(steps, stamp, (&reign, master, reason))?;
            self.history = history;
            return Ok(vec![captured]);
        }
        let foreign = self.sqlite("read the schema version", |db| foreign_schema(&db.writer, migrations))?;
        if let Some(error) = foreign {
            return Err(error);
        }
        let mut batch = self.begin(term)?;
        batch.part_from_users()?;
        batch.begin_reign(master, reason)?;
        Ok(vec![batch.commit()?])
    }

    /// Runs `steps` on an empty database as the transaction `stamp`.
    fn found(
        &mut self,
        steps: &[Step<'_>],
        stamp: Stamp,
        (reign, master, reason): (&Reign, &str, &str),
    ) -> Result<Captured, StoreError> {
        let runner = runner(steps)?;
        self.let_go()?;
        self.sqlite("migrate the schema", |db| db.writer.execute_batch("BEGIN IMMEDIATE"))?;
        let written = runner.run(&mut Open(&self.writer)).map_err(StoreError::from).and_then(|_| {
            self.sqlite("migrate the schema", |db| {
                tables::write_reign(&db.writer, reign, master, reason)?;
                tables::write_founding(&db.writer, &db.options.cluster)?;
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

    /// What the level stands on, and two more steps.
    fn steps() -> Vec<Step<'static>> {
        let mut steps = migrations().to_vec();
        steps.push(("0009_second", "CREATE TABLE second (a)"));
        steps.push(("0010_third", "CREATE TABLE third (a); INSERT INTO third VALUES (1)"));
        steps
    }

    #[test]
    fn reign_leaves_the_schema_as_it_is_and_a_raise_brings_all_steps_in_one_transaction() {
        let (dir, backup_dir) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let mut master = master(&dir);
        let mut backup = Database::open(backup_dir.path(), Options::default()).unwrap();
        let steps = steps();
        let first = steps.len() - 2;
        let mut captured = master.start_reign_with(&steps[..first], Term(1), "pc-1", "first").unwrap();
        captured.extend(master.start_reign_with(&steps, Term(2), "pc-1", "upgrade").unwrap());
        assert_eq!(master.level().unwrap() as usize, first, "the older program can still reign");
        captured.extend(master.start_reign_with(&steps[..first], Term(3), "pc-1", "taken back").unwrap());
        captured.push(master.raise_level_with(&steps, Term(3), first + 2, "all know it").unwrap());
        assert_eq!(positions(&captured), ["1.1", "2.2", "3.3", "3.4"]);
        assert_eq!(master.level().unwrap() as usize, first + 2);
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
        assert_eq!(backup.level().unwrap() as usize, first + 2);
        // It is there already, and one that this program doesn't know.
        let again = master.raise_level_with(&steps, Term(3), first + 2, "again").unwrap();
        assert_eq!(again, Captured::Nothing);
        let unknown = master.raise_level_with(&steps, Term(3), first + 3, "unknown");
        assert!(matches!(unknown, Err(StoreError::NewerSchema { .. })), "{unknown:?}");
        // An older program refuses before it changes anything.
        let refused = master.start_reign_with(&steps[..first + 1], Term(4), "pc-1", "downgrade");
        assert!(
            matches!(refused, Err(StoreError::NewerSchema { found, known }) if found == first + 2 && known == first + 1)
        );
        assert_eq!(master.stamp().position.to_string(), "3.4");
    }

    #[test]
    fn held_level_stays_even_where_the_table_of_holds_is_newer_than_the_level() {
        let dir = TempDir::new().unwrap();
        let mut master = master(&dir);
        let steps = steps();
        master.start_reign_with(&steps[..FIRST_LEVEL as usize], Term(1), "pc-1", "first").unwrap();
        assert_eq!(master.level_hold().unwrap(), None);
        let write = |master: &mut Database, sql: &str| {
            let mut batch = master.begin(Term(1)).unwrap();
            batch.change(|connection| connection.execute_batch(sql)).unwrap().unwrap();
            batch.commit().unwrap();
        };
        write(&mut master, HOLD_TABLE);
        write(&mut master, "INSERT INTO tanist_upgrade_hold (id) VALUES (1)");
        assert!(master.level_hold().unwrap().is_some_and(|hold| hold.by.is_none() && !hold.since.is_empty()));
        let to = FIRST_LEVEL as usize + 1;
        assert_eq!(master.raise_level_with(&steps, Term(1), to, "held").unwrap(), Captured::Nothing);
        write(&mut master, "DELETE FROM tanist_upgrade_hold");
        let raised = master.raise_level_with(&steps, Term(1), to, "released").unwrap();
        assert!(matches!(raised, Captured::Transaction(_)), "{raised:?}");
        assert_eq!(master.level().unwrap() as usize, to);
    }

    #[test]
    fn level_at_which_a_database_is_founded_is_given() {
        let dir = TempDir::new().unwrap();
        let mut master = master(&dir);
        master.set_founding_level(FIRST_LEVEL);
        master.start_reign(Term(1), "pc-1", "first").unwrap();
        assert_eq!(master.level().unwrap(), FIRST_LEVEL);
        assert!(known_levels().1 > FIRST_LEVEL);
    }

    #[test]
    fn schema_of_another_build_is_refused_by_the_migration_that_differs() {
        let dir = TempDir::new().unwrap();
        let mut master = master(&dir);
        let mut steps = steps();
        let last = steps.len() - 1;
        master.start_reign_with(&steps, Term(1), "pc-1", "first").unwrap();
        steps[last].1 = "CREATE TABLE third (a, b)";
        let refused = master.start_reign_with(&steps, Term(2), "pc-1", "another build");
        assert!(
            matches!(&refused, Err(StoreError::OtherSchema { migration }) if migration == "0010_third"),
            "{refused:?}"
        );
        assert_eq!(master.stamp().position.to_string(), "1.1");
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
        assert!(matches!(
            master.raise_level_with(&steps, Term(1), 2, "second"),
            Err(StoreError::Migration(_))
        ));
        assert_eq!((master.stamp().position.to_string().as_str(), master.level().unwrap()), ("1.1", 1));
        assert!(count(&master, "second").is_err());
    }
}
