//! The SQLite side of replication: captures what a master commits, applies it on a backup, brings replicas in line.
//!
//! Owns `state.db` and its write-ahead log (WAL). Never starts a thread, never opens a socket, never decides who is
//! master. Read `database.rs` next, then `batch.rs` (master) and `apply.rs` (backup).

mod account;
mod apply;
mod aside;
mod authorizer;
mod batch;
mod branch;
mod btree;
mod changes;
mod checkpoint;
mod checksum;
mod closing;
mod connection;
mod copy;
mod database;
mod divergence;
mod doubt;
mod encode;
mod error;
mod functions;
mod inserted;
mod limits;
mod memory;
mod migrate;
mod opening;
mod outside;
mod page_hash;
pub mod private;
mod reader;
mod rejoin;
mod reserve;
mod restore;
mod scrub;
mod snapshot;
mod sqlite_file;
mod staging;
mod sums;
mod tables;
mod utc;
mod verify;
mod wal;
mod walk;

use std::sync::Arc;

pub use account::{Usage, set_sql_room, sql_usage};
pub use apply::Applied;
pub use aside::put_aside;
pub use authorizer::{is_denied, is_reserved};
pub use batch::{Batch, prepare_user};
pub use changes::{Changes, ChangesError, KnownPages};
pub use checkpoint::{CheckpointOutcome, Checkpointer, WalSync};
pub use checksum::{checksum_of, database_checksum};
pub use closing::Closed;
pub use connection::{check_file, prepare};
pub use copy::CopyOut;
pub use database::{Captured, Database};
pub use divergence::{
    DIVERGENCE_DIR, DivergenceReport, PAGES_FILE, REPORT_FILE, REPORTS_KEPT, ROWS_FILE, ReportContext,
    ReportStamp, TableDifference, divergence_directory, divergence_reports,
};
pub use error::{StoreError, is_disk_code};
pub use inserted::{InsertWatch, forget_inserts, watch_inserts};
pub use limits::Interrupted;
pub use memory::{Memory, WalPlace, forget_replica};
pub use migrate::{HOLD_TABLE, Hold, is_next_version, known_levels};
pub use page_hash::{PAGE_HASH_BYTES, window_pages};
pub use reader::{Reader, open_reader};
pub use rejoin::{Question, Rejoin, RejoinCounts, Rejoined};
pub use reserve::{RESERVE_FILE, Reserve, Room};
pub use restore::{Anew, Inspection, Reigned, begin_anew, inspect};
pub use scrub::{Scrub, Scrubbed};
pub use snapshot::{Snapshot, Target};
pub use sqlite_file::sync_files;
pub use staging::Staging;
pub use sums::PageSums;
pub use tables::Founding;
pub use utc::Utc;

/// File name of the replicated database in the data directory.
pub const DATABASE_FILE: &str = "state.db";

/// Page size in bytes of databases created here.
pub const PAGE_SIZE: u32 = 4096;

/// Limits of one open database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Page cache of the writer in bytes; default 8 MiB. Capped at half of `max_transaction_bytes`, because only
    /// what leaves the cache is counted against that limit.
    pub page_cache_bytes: usize,
    /// WAL size in bytes from which a checkpoint is due; default 16 MiB.
    pub wal_limit_bytes: u64,
    /// Bytes one request may write before it fails; default 16 MiB. A page that leaves the writer's cache more than
    /// once (random access to more than the cache holds) counts each time. Larger transactions (several requests, or a
    /// write from outside) are still replicated up to four times this or 64 MiB, whichever is more; beyond that
    /// backups must rejoin.
    pub max_transaction_bytes: u64,
    /// How long to wait for another process that holds the write lock, in milliseconds; default 5,000.
    pub busy_timeout_ms: u32,
    /// Whether this machine was the master when it last ran, so that others may have written to its file what nobody has
    /// numbered; default `false`.
    pub was_master: bool,
    /// Whether no other machine is known to hold everything acknowledged, so that a replica whose sync has failed is written
    /// anew from what can be read of it; default `false`.
    pub alone: bool,
    /// Room that is held back on the disk; default none.
    pub reserve: Option<Arc<Reserve>>,
    /// The cluster's name, for the data of one that is founded here; empty, the default: it says nothing of that.
    pub cluster: String,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            page_cache_bytes: 8 << 20,
            wal_limit_bytes: 16 << 20,
            max_transaction_bytes: 16 << 20,
            busy_timeout_ms: 5_000,
            was_master: false,
            alone: false,
            reserve: None,
            cluster: String::new(),
        }
    }
}

impl Options {
    /// Largest payload (uncompressed, in bytes) that is captured as a transaction or accepted from a master.
    #[must_use]
    pub fn payload_limit(&self) -> u64 {
        self.max_transaction_bytes.saturating_mul(4).clamp(64 << 20, 1 << 30)
    }

    /// Cache of the writer in bytes; see [`Options::page_cache_bytes`].
    fn writer_cache_bytes(&self) -> u64 {
        (self.page_cache_bytes as u64).min(self.max_transaction_bytes / 2)
    }
}
