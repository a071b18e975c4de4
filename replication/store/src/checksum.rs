//! One hash over all pages of a database, to compare replicas.
//!
//! Owns what is left out of it. Never used on the data path. Read `copy.rs` for moving pages.

use std::path::Path;

use rusqlite::Connection;
use tanist_replication::Stamp;

use crate::{
    connection,
    error::StoreError,
    tables,
    wal::{self, is_lock_page},
};

/// Bytes of page 1 that each machine's SQLite writes by itself: the change counter, the counter at the version and the
/// version of the library that wrote last.
const OWN_BYTES: [std::ops::Range<usize>; 2] = [24..28, 92..100];

/// Hash over all pages of the database in `dir` and the stamp it belongs to, from one snapshot.
///
/// # Errors
/// When it can't be opened or read.
pub fn database_checksum(dir: &Path) -> Result<([u8; 32], Stamp), StoreError> {
    let connection = connection::open_read_only(dir, 512 << 10)?;
    checksum_of(&connection, &connection::database_path(dir))
}

/// The same on an open connection, inside its transaction if it is in one; `path` is for errors.
///
/// # Errors
/// When it can't be read.
pub fn checksum_of(connection: &Connection, path: &Path) -> Result<([u8; 32], Stamp), StoreError> {
    let error = |error| StoreError::sqlite(path, "hash the database", error);
    let own_transaction = connection.is_autocommit();
    if own_transaction {
        connection.execute_batch("BEGIN").map_err(error)?;
    }
    let stamp = tables::read_stamp(connection, path)?;
    let hash = hash_pages(connection).map_err(error)?;
    if own_transaction {
        connection.execute_batch("COMMIT").map_err(error)?;
    }
    Ok((hash, stamp))
}

/// Clears what each machine's SQLite writes by itself in the image of page 1.
pub(crate) fn mask_own_bytes(first_page: &mut [u8]) {
    for range in OWN_BYTES {
        first_page[range].fill(0);
    }
}

fn hash_pages(connection: &Connection) -> Result<[u8; 32], rusqlite::Error> {
    let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, u32>(0));
    let (page_size, pages) = (number("page_size")?, number("page_count")?);
    let mut hasher = blake3::Hasher::new();
    let mut image = vec![0; page_size as usize];
    for page in (1..=pages).filter(|page| !is_lock_page(*page, page_size)) {
        wal::read_page(connection, page, &mut image)?;
        if page == 1 {
            mask_own_bytes(&mut image);
        }
        hasher.update(&page.to_be_bytes());
        hasher.update(&image);
    }
    Ok(*hasher.finalize().as_bytes())
}
