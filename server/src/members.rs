//! The replicated table of members: for people and their queries, nothing is decided by it.
//!
//! The master writes it when a reign begins and when the members change.

use rusqlite::params;
use tanist_replication::Member;
use tanist_store::{Batch, StoreError};

/// Makes the table say what the record says; writes nothing when it does already.
///
/// # Errors
/// When SQLite refuses: the batch must not commit.
pub(crate) fn keep(batch: &mut Batch<'_>, members: &[Member]) -> Result<(), StoreError> {
    let refused = |source| StoreError::Sqlite { doing: "keep the table of members", source };
    let wanted: Vec<_> = members.iter().map(row).collect();
    let found = batch
        .connection()
        .prepare_cached("SELECT id, rank, addresses, urls, absent FROM tanist_members")
        .and_then(|mut statement| {
            let rows = statement
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))?;
            rows.collect::<Result<Vec<Row>, _>>()
        })
        .map_err(refused)?;
    let gone: Vec<_> = found.iter().filter(|old| wanted.iter().all(|new| new.0 != old.0)).collect();
    let changed: Vec<_> = wanted.iter().filter(|new| !found.contains(new)).collect();
    if gone.is_empty() && changed.is_empty() {
        return Ok(());
    }
    batch
        .internal(|connection| {
            for (id, ..) in gone {
                connection.prepare_cached("DELETE FROM tanist_members WHERE id = ?1")?.execute([id])?;
            }
            for (id, rank, addresses, urls, absent) in changed {
                connection
                    .prepare_cached(
                        "REPLACE INTO tanist_members (id, rank, addresses, urls, absent) VALUES (?1, ?2, ?3, ?4, ?5)",
                    )?
                    .execute(params![id, rank, addresses, urls, absent])?;
            }
            Ok(())
        })?
        .map_err(refused)
}

/// Id, rank, addresses, URLs, absent.
type Row = (String, u32, String, String, bool);

fn row(member: &Member) -> Row {
    let json = |list: &[String]| serde_json::to_string(list).unwrap_or_else(|_| "[]".to_owned());
    (member.id.to_string(), member.rank.0, json(&member.peer_addresses), json(&member.urls), member.absent)
}
