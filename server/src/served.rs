//! For how long the cluster has been served: what idempotency keys and records are aged by.
//!
//! A master adds the time it has reigned, by its monotonic clock, to the row of `tanist_served`, in a transaction that keeps
//! something by it anyway. So the count is the cluster's: it goes on with the next master, and no wall clock moves it. It
//! never runs ahead of the time that has passed. What a master hadn't stored before it was lost isn't counted, nor is the
//! time without a master: whatever goes by it stays longer then, never shorter.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _};
use tanist_store::{Batch, StoreError};

/// So much is counted between two looks at most: a machine that slept, or hung, served nobody meanwhile.
const MOST: Duration = Duration::from_secs(10);
/// Less isn't worth a change of the row.
const STEP: Duration = Duration::from_secs(1);

/// One machine's share: what it has reigned and not yet stored.
#[derive(Debug, Default)]
pub(crate) struct Served {
    /// When it was last looked at, on `clock::now_ns`; `None` while another reigns.
    seen: Option<u64>,
    unstored: Duration,
}

impl Served {
    /// To be called often, with the moment on `clock::now_ns` and whether this machine reigns.
    pub(crate) fn look(&mut self, now: u64, reigns: bool) {
        if !reigns {
            *self = Served::default();
            return;
        }
        let passed = Duration::from_nanos(now.saturating_sub(self.seen.unwrap_or(now)));
        self.unstored += passed.min(MOST);
        self.seen = Some(now);
    }

    /// Adds what is due to the row, and gives the count in milliseconds.
    ///
    /// # Errors
    /// When the row can't be written: the batch must not commit.
    pub(crate) fn store(&mut self, batch: &mut Batch<'_>) -> Result<i64, StoreError> {
        if self.unstored >= STEP {
            let add = millis(self.unstored);
            batch
                .internal(|connection| {
                    connection
                        .prepare_cached(
                            "INSERT INTO tanist_served (id, ms) VALUES (1, ?1) ON CONFLICT (id) DO UPDATE SET ms = ms + ?1",
                        )?
                        .execute([add])
                })?
                .map_err(|source| StoreError::Sqlite { doing: "count the time served", source })?;
            self.unstored = Duration::ZERO;
        }
        stored(batch.connection())
            .map_err(|source| StoreError::Sqlite { doing: "read the time served", source })
    }

    /// The count in milliseconds, with what isn't stored yet.
    ///
    /// # Errors
    /// When the row can't be read.
    pub(crate) fn now_ms(&self, connection: &Connection) -> Result<i64, rusqlite::Error> {
        Ok(stored(connection)?.saturating_add(millis(self.unstored)))
    }
}

/// What served at `now_ms` at the latest is older than `age`.
pub(crate) fn before(now_ms: i64, age: Duration) -> i64 {
    now_ms.saturating_sub(millis(age))
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

fn stored(connection: &Connection) -> Result<i64, rusqlite::Error> {
    let mut statement = connection.prepare_cached("SELECT ms FROM tanist_served")?;
    Ok(statement.query_row([], |row| row.get(0)).optional()?.unwrap_or(0))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const SECOND: u64 = 1_000_000_000;

    #[test]
    fn only_time_that_this_machine_has_reigned_counts_and_none_that_it_slept() {
        let mut served = Served::default();
        served.look(100 * SECOND, false);
        served.look(200 * SECOND, true);
        assert_eq!(served.unstored, Duration::ZERO, "what was before the reign");
        for second in 201..=260 {
            served.look(second * SECOND, true);
        }
        assert_eq!(served.unstored, Duration::from_secs(60));
        served.look((260 + 7200) * SECOND, true);
        assert_eq!(served.unstored, Duration::from_secs(70), "two hours of sleep");
        served.look(10 * SECOND, true);
        assert_eq!(served.unstored, Duration::from_secs(70), "a clock that went back");
        served.look(11 * SECOND, false);
        assert_eq!((served.unstored, served.seen), (Duration::ZERO, None));
    }
}
