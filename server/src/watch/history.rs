//! What a watcher reads that is behind the ring: a page of the table at a time.

use rusqlite::Connection;

use super::event::{Filter, Read, Shown, read};

/// Events in a page.
const PAGE_EVENTS: usize = 64;
/// Bytes in a page (one larger event is a page all the same): what a watcher may hold for itself.
const PAGE_BYTES: usize = 32 << 10;

/// A page of the table.
#[derive(Debug)]
pub(crate) enum Page {
    /// The wanted events; all of them up to `until` are among them.
    Events {
        /// In order.
        events: Vec<Shown>,
        /// The watcher's new place.
        until: u64,
    },
    /// What should come next was removed; the oldest that is kept.
    Pruned(u64),
}

/// The page after `after`, up to `until`, which may be told.
///
/// # Errors
/// SQLite's.
pub(crate) fn page(
    connection: &Connection,
    after: u64,
    until: u64,
    filter: &Filter,
) -> Result<Page, rusqlite::Error> {
    let oldest = oldest(connection)?;
    if after.saturating_add(1) < oldest {
        return Ok(Page::Pruned(oldest));
    }
    let Read { events, until } = read(connection, after, until, filter, (PAGE_EVENTS, PAGE_BYTES))?;
    Ok(Page::Events { events, until })
}

/// The oldest event that is kept; the next one's number when there is none.
pub(super) fn oldest(connection: &Connection) -> Result<u64, rusqlite::Error> {
    let oldest = connection
        .prepare_cached(
            "SELECT coalesce((SELECT min(id) FROM tanist_events), 1 + coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'tanist_events'), 0))",
        )?
        .query_row([], |row| row.get::<_, i64>(0))?;
    Ok(u64::try_from(oldest).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_events_are_noticed_also_when_none_is_left() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(include_str!("../../../migrations/0001_cluster.sql")).unwrap();
        connection.execute_batch(include_str!("../../../migrations/0002_events.sql")).unwrap();
        let after = |after| match page(&connection, after, 9, &Filter::default()).unwrap() {
            Page::Events { events, .. } => events.iter().map(|event| event.id).collect(),
            Page::Pruned(oldest) => vec![1000 + oldest],
        };
        assert_eq!(after(0), Vec::<u64>::new());
        connection
            .execute_batch(
                "INSERT INTO tanist_events (kind, subject) VALUES ('node', 'a'), ('node', 'b'), ('node', 'c')",
            )
            .unwrap();
        assert_eq!(after(0), [1, 2, 3]);
        connection.execute_batch("DELETE FROM tanist_events WHERE id = 1").unwrap();
        assert_eq!((after(0), after(1)), (vec![1002], vec![2, 3]));
        connection.execute_batch("DELETE FROM tanist_events").unwrap();
        assert_eq!((after(2), after(3)), (vec![1004], vec![]));
    }
}
