//! Which data directory this is, and which the others' are: `node.db`'s part against copies of a disk.
//!
//! Owns the words of this directory's starts (`tanist_transport::Lives` says what they are for), the computer that it belongs to, the
//! cluster's founding as this machine knows it, what is remembered of the other members, and where their names have led.

use std::{collections::BTreeMap, net::SocketAddr};

use rusqlite::{OptionalExtension as _, params};
use tanist_replication::MemberId;
use tanist_transport::{KnownLife, Life, MOST_STARTS};

use super::{Durable, DurableError};

pub(super) const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS identity (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        directory BLOB NOT NULL,
        number INTEGER NOT NULL,
        starts BLOB NOT NULL,
        machine TEXT,
        founding BLOB
    ) STRICT;
    CREATE TABLE IF NOT EXISTS lives (member TEXT PRIMARY KEY, life BLOB NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS names (name TEXT PRIMARY KEY, address TEXT NOT NULL) STRICT, WITHOUT ROWID;";

/// What a start has found and begun.
#[derive(Debug)]
pub struct Begun {
    /// This directory, with the word of this start; on disk.
    pub life: Life,
    /// The founding of the cluster that this machine belongs to, once a master has confirmed it.
    pub founding: Option<[u8; 16]>,
    /// What is remembered of the others.
    pub known: BTreeMap<MemberId, KnownLife>,
    /// Where names have led.
    pub names: Vec<(String, SocketAddr)>,
}

/// The directory's row.
struct Row {
    life: Life,
    machine: Option<String>,
    founding: Option<[u8; 16]>,
}

impl Durable {
    fn failed(&self, context: &'static str) -> impl FnOnce(rusqlite::Error) -> DurableError {
        let path = self.path.clone();
        move |source| DurableError::Database { context, path, source }
    }

    fn row(&self) -> Result<Option<Row>, DurableError> {
        let read = |row: &rusqlite::Row<'_>| {
            let starts: Vec<u8> = row.get(2)?;
            let (words, _) = starts.as_chunks::<8>();
            Ok(Row {
                life: Life {
                    directory: row.get(0)?,
                    number: row.get::<_, i64>(1)?.unsigned_abs(),
                    starts: words.iter().take(MOST_STARTS).map(|word| u64::from_le_bytes(*word)).collect(),
                },
                machine: row.get(3)?,
                founding: row.get(4)?,
            })
        };
        self.connection
            .query_row("SELECT directory, number, starts, machine, founding FROM identity", [], read)
            .optional()
            .map_err(self.failed("read"))
    }

    fn write_row(&self, row: &Row) -> Result<(), DurableError> {
        let starts: Vec<u8> = row.life.starts.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.connection
            .execute(
                "INSERT OR REPLACE INTO identity (id, directory, number, starts, machine, founding) VALUES (1, ?1, ?2, ?3, ?4, ?5)",
                params![
                    row.life.directory,
                    i64::try_from(row.life.number).unwrap_or(i64::MAX),
                    starts,
                    row.machine,
                    row.founding
                ],
            )
            .map(drop)
            .map_err(self.failed("write"))
    }

    fn new_row(&self, machine: Option<&str>, founding: Option<[u8; 16]>) -> Result<Row, DurableError> {
        let mut directory = [0; 16];
        getrandom::fill(&mut directory).map_err(|error| self.no_randomness(&error))?;
        let life = Life { directory, number: 0, starts: vec![] };
        Ok(Row { life, machine: machine.map(str::to_owned), founding })
    }

    fn no_randomness(&self, error: &getrandom::Error) -> DurableError {
        let source = std::io::Error::other(error.to_string());
        DurableError::Directory { path: self.path.clone(), source }
    }

    /// Begins a start, on the computer with this mark if the system gives one. What it says of itself is on disk then: whatever it
    /// tells others of it, it knows itself the next time.
    ///
    /// # Errors
    /// [`DurableError::Moved`] when the directory belongs to another computer; nothing was changed. When the disk refuses.
    pub fn begin_life(&self, machine: Option<&str>) -> Result<Begun, DurableError> {
        let mut row = match self.row()? {
            Some(row) => row,
            None => self.new_row(machine, None)?,
        };
        match (&row.machine, machine) {
            (Some(known), Some(here)) if known != here => {
                return Err(DurableError::Moved { path: self.path.clone() });
            }
            (None, Some(here)) => row.machine = Some(here.to_owned()),
            _ => {}
        }
        let word = getrandom::u64().map_err(|error| self.no_randomness(&error))?;
        row.life.number += 1;
        row.life.starts.insert(0, word);
        row.life.starts.truncate(MOST_STARTS);
        self.write_row(&row)?;
        Ok(Begun { life: row.life, founding: row.founding, known: self.lives()?, names: self.names()? })
    }

    /// Makes of this directory a new one, of the computer with this mark: by an administrator's word it keeps its member's name, and
    /// every copy of what it was loses it.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn adopt(&self, machine: Option<&str>) -> Result<(), DurableError> {
        let founding = self.row()?.and_then(|row| row.founding);
        self.write_row(&self.new_row(machine, founding)?)
    }

    /// A master has confirmed to which founding this machine belongs.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn keep_founding(&self, founding: [u8; 16]) -> Result<(), DurableError> {
        self.connection
            .execute("UPDATE identity SET founding = ?1", [founding])
            .map(drop)
            .map_err(self.failed("write"))
    }

    /// Remembers a member's data directory.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn keep_life(&self, member: &MemberId, life: &KnownLife) -> Result<(), DurableError> {
        let bytes = minicbor::to_vec(life).unwrap_or_default();
        self.connection
            .execute(
                "INSERT OR REPLACE INTO lives (member, life) VALUES (?1, ?2)",
                params![member.as_str(), bytes],
            )
            .map(drop)
            .map_err(self.failed("write"))
    }

    /// The member is none any more.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn forget_life(&self, member: &MemberId) -> Result<(), DurableError> {
        self.connection
            .execute("DELETE FROM lives WHERE member = ?1", [member.as_str()])
            .map(drop)
            .map_err(self.failed("write"))
    }

    /// Remembers where a name has led.
    ///
    /// # Errors
    /// When the disk refuses; nothing depends on it but a start while the name service is away.
    pub fn keep_name(&self, name: &str, address: SocketAddr) -> Result<(), DurableError> {
        self.connection
            .execute(
                "INSERT OR REPLACE INTO names (name, address) VALUES (?1, ?2)",
                [name, &address.to_string()],
            )
            .map(drop)
            .map_err(self.failed("write"))
    }

    /// What can't be read any more is as good as not remembered.
    fn lives(&self) -> Result<BTreeMap<MemberId, KnownLife>, DurableError> {
        let rows = self.pairs("SELECT member, life FROM lives")?;
        let read =
            |(member, life): (String, Vec<u8>)| Some((member.parse().ok()?, minicbor::decode(&life).ok()?));
        Ok(rows.into_iter().filter_map(read).collect())
    }

    fn names(&self) -> Result<Vec<(String, SocketAddr)>, DurableError> {
        let rows = self.pairs::<String>("SELECT name, address FROM names")?;
        Ok(rows.into_iter().filter_map(|(name, address)| Some((name, address.parse().ok()?))).collect())
    }

    fn pairs<T: rusqlite::types::FromSql>(&self, sql: &str) -> Result<Vec<(String, T)>, DurableError> {
        let read = || {
            let mut statement = self.connection.prepare(sql)?;
            statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<Vec<_>, _>>()
        };
        read().map_err(self.failed("read"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_has_one_identity_and_a_word_for_each_start() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Durable::open(directory.path(), "c", "a").unwrap().0;
        let first = open().begin_life(None).unwrap().life;
        let second = open().begin_life(None).unwrap().life;
        assert_eq!((first.number, second.number), (1, 2));
        assert_eq!(first.directory, second.directory);
        assert_eq!(second.starts[1..], first.starts);
        assert_ne!(second.starts[0], second.starts[1]);
        for _ in 0..MOST_STARTS {
            open().begin_life(None).unwrap();
        }
        assert_eq!(open().begin_life(None).unwrap().life.starts.len(), MOST_STARTS);
        open().keep_founding([4; 16]).unwrap();
        open().adopt(None).unwrap();
        let adopted = open().begin_life(None).unwrap();
        assert_ne!(adopted.life.directory, first.directory);
        assert_eq!((adopted.life.number, adopted.founding), (1, Some([4; 16])));
    }

    #[test]
    fn directory_on_another_computer_is_refused_until_it_is_adopted() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Durable::open(directory.path(), "c", "a").unwrap().0;
        open().begin_life(None).unwrap();
        open().begin_life(Some("one")).unwrap(); // the system can say it now
        open().begin_life(None).unwrap(); // and now it can't
        let before = open().begin_life(Some("one")).unwrap().life.number;
        let error = open().begin_life(Some("two")).unwrap_err().to_string();
        assert!(error.contains("tanist adopt"), "{error}");
        assert_eq!(open().begin_life(Some("one")).unwrap().life.number, before + 1, "nothing was changed");
        open().adopt(Some("two")).unwrap();
        open().begin_life(Some("two")).unwrap();
        assert!(matches!(open().begin_life(Some("one")), Err(DurableError::Moved { .. })));
    }

    #[test]
    fn what_is_known_of_others_survives_a_reopen() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Durable::open(directory.path(), "c", "a").unwrap().0;
        let begun = open().begin_life(None).unwrap();
        assert!(begun.known.is_empty() && begun.names.is_empty() && begun.founding.is_none());
        let at: SocketAddr = "[::1]:7450".parse().unwrap();
        open().keep_name("pc-2:7450", "10.0.0.2:7450".parse().unwrap()).unwrap();
        open().keep_name("pc-2:7450", at).unwrap();
        assert_eq!(open().begin_life(None).unwrap().names, [("pc-2:7450".to_owned(), at)]);
    }
}
