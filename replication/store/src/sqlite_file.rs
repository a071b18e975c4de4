//! What SQLite's safe interface doesn't give: the header of the WAL index, reads of the WAL file, pager counters, a look at
//! pages as they are read, the row id of the last insert to be set, memory and temporary files that are counted, functions of
//! our own.
//!
//! Owns, with the two modules below it, all unsafe code of the crate. Never writes and never opens a file: it reads and syncs through the file objects of a
//! connection (a second handle on the database would drop its POSIX locks). Read `wal.rs` next.
#![allow(unsafe_code)]

mod function;
mod room;

use std::{ffi::c_void, ptr, sync::atomic};

use parking_lot::Mutex;
use rusqlite::{Connection, Error, ffi, functions::Context};

pub(crate) use function::{
    Call, Failure, Function, ValueKind, add_function, let_indexes_help, longest_pattern,
};
pub(crate) use room::{is_prepared, prepare};

/// The WAL index's header: where the WAL ends for every reader now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WalIndex {
    /// Counts commits, by whomever; wraps around.
    pub(crate) change: u32,
    /// Page size in bytes; 0 in a database whose WAL was never written.
    pub(crate) page_size: u32,
    /// Valid frames in the WAL.
    pub(crate) frames: u32,
    /// Database size in pages.
    pub(crate) pages: u32,
    /// Salts of the WAL as they stand in its frames.
    pub(crate) salts: [u8; 8],
    /// Frames already copied into the database file.
    pub(crate) backfilled: u32,
    /// The header as SQLite keeps it, by which it finds the state of this moment again.
    header: [u32; HEADER_WORDS],
}

const HEADER_WORDS: usize = 12;
const REGION_BYTES: i32 = 32768;

fn failure(code: i32, message: &str) -> Error {
    Error::SqliteFailure(ffi::Error::new(code), Some(message.to_owned()))
}

/// A file object of the connection's main database and its methods.
fn file(
    connection: &Connection,
    operation: i32,
) -> Result<(*mut ffi::sqlite3_file, &ffi::sqlite3_io_methods), Error> {
    let mut file: *mut ffi::sqlite3_file = ptr::null_mut();
    // SAFETY: the handle is valid while `connection` lives; both file-pointer operations store a `sqlite3_file *`
    // through the argument; a null name means the main database.
    let code = unsafe {
        ffi::sqlite3_file_control(
            connection.handle(),
            ptr::null(),
            operation,
            ptr::from_mut(&mut file).cast::<c_void>(),
        )
    };
    if code != ffi::SQLITE_OK || file.is_null() {
        return Err(failure(code, "no file object"));
    }
    // SAFETY: SQLite gave a file object that lives as long as the connection; pMethods is null while it isn't open.
    let methods = unsafe { (*file).pMethods.as_ref() };
    methods
        .map(|methods| (file, methods))
        .ok_or_else(|| failure(ffi::SQLITE_MISUSE, "file object isn't open"))
}

impl WalIndex {
    /// What the header was when the WAL ended with frame `frames`, whose header in the WAL has this checksum, `commits`
    /// before this one.
    pub(crate) fn earlier(self, frames: u32, pages: u32, checksum: [u32; 2], commits: u32) -> WalIndex {
        let change = self.change.wrapping_sub(commits);
        let mut header = self.header;
        (header[2], header[4], header[5]) = (change, frames, pages);
        (header[6], header[7]) = (checksum[0], checksum[1]);
        let sums = checksum_of(&header);
        (header[10], header[11]) = (sums[0], sums[1]);
        WalIndex { change, frames, pages, header, ..self }
    }
}

/// Reads the header of the WAL index. The connection must have read from the database in WAL mode before.
pub(crate) fn wal_index(connection: &Connection) -> Result<WalIndex, Error> {
    let (file, methods) = file(connection, ffi::SQLITE_FCNTL_FILE_POINTER)?;
    let (Some(map), Some(barrier)) = (methods.xShmMap, methods.xShmBarrier) else {
        return Err(failure(ffi::SQLITE_MISUSE, "file system without shared memory"));
    };
    let mut region: *mut c_void = ptr::null_mut();
    // SAFETY: region 0 of this size exists since the connection opened the WAL (SQLite maps it with the same size);
    // without `extend` the call only returns the address of the mapping.
    let code = unsafe { map(file, 0, REGION_BYTES, 0, &raw mut region) };
    if code != ffi::SQLITE_OK || region.is_null() {
        return Err(failure(code, "WAL index isn't mapped"));
    }
    let words = region.cast::<u32>();
    let read = |from: usize| {
        let mut copy = [0u32; HEADER_WORDS];
        for (index, word) in copy.iter_mut().enumerate() {
            // SAFETY: the two headers and the checkpoint word are the first 100 bytes of a mapping of 32 KiB that is
            // aligned to a page. Other processes write it meanwhile, hence volatile; torn copies are detected below.
            *word = unsafe { words.add(from + index).read_volatile() };
        }
        copy
    };
    for attempt in 0..1000 {
        let first = read(0);
        // SAFETY: the barrier takes any open file object.
        unsafe { barrier(file) };
        let second = read(HEADER_WORDS);
        if first == second && checksum_of(&first) == [first[10], first[11]] {
            // SAFETY: as above; the word after the two headers counts the backfilled frames.
            let backfilled = unsafe { words.add(2 * HEADER_WORDS).read_volatile() };
            return Ok(parse(&first, backfilled));
        }
        if attempt > 10 {
            std::thread::yield_now();
        }
        atomic::fence(atomic::Ordering::SeqCst);
    }
    Err(failure(ffi::SQLITE_PROTOCOL, "header of the WAL index doesn't come to rest"))
}

/// SQLite's checksum over the first 40 bytes of the header.
fn checksum_of(header: &[u32; HEADER_WORDS]) -> [u32; 2] {
    let mut sums = [0u32; 2];
    for pair in header[..10].chunks_exact(2) {
        sums[0] = sums[0].wrapping_add(pair[0]).wrapping_add(sums[1]);
        sums[1] = sums[1].wrapping_add(pair[1]).wrapping_add(sums[0]);
    }
    sums
}

fn parse(header: &[u32; HEADER_WORDS], backfilled: u32) -> WalIndex {
    let flags = header[3].to_ne_bytes();
    let page_size = u16::from_ne_bytes([flags[2], flags[3]]);
    let mut salts = [0; 8];
    salts[..4].copy_from_slice(&header[8].to_ne_bytes());
    salts[4..].copy_from_slice(&header[9].to_ne_bytes());
    WalIndex {
        change: header[2],
        page_size: if page_size == 1 { 65536 } else { u32::from(page_size) },
        frames: header[4],
        pages: header[5],
        salts,
        backfilled,
        header: *header,
    }
}

/// The change counter of the state that `connection` reads in its open read transaction; `None` when all of it is in the
/// database file.
///
/// # Errors
/// SQLite's.
pub(crate) fn change_read(connection: &Connection) -> Result<Option<u32>, Error> {
    let mut snapshot: *mut ffi::sqlite3_snapshot = ptr::null_mut();
    // SAFETY: the connection is open and used by this thread alone; SQLite stores a snapshot that the caller frees.
    let code = unsafe { ffi::sqlite3_snapshot_get(connection.handle(), c"main".as_ptr(), &raw mut snapshot) };
    if code == ffi::SQLITE_ERROR {
        return Ok(None); // the WAL is empty
    }
    if code != ffi::SQLITE_OK || snapshot.is_null() {
        return Err(failure(code, "look which state is read"));
    }
    // SAFETY: SQLite has just made it; it is a copy of the WAL index's header, freed here and not used afterwards.
    let hidden = unsafe {
        let hidden = (*snapshot).hidden;
        ffi::sqlite3_snapshot_free(snapshot);
        hidden
    };
    let word = |at: usize| [hidden[at], hidden[at + 1], hidden[at + 2], hidden[at + 3]];
    Ok(Some(u32::from_ne_bytes(word(2 * size_of::<u32>()))))
}

/// Begins to read the database as it was at `index`, in the read transaction that `connection` has just begun.
///
/// # Errors
/// SQLite's, also when the WAL has been started over or checkpointed beyond that moment since.
pub(crate) fn read_as_of(connection: &Connection, index: &WalIndex) -> Result<(), Error> {
    const _: () = assert!(size_of::<ffi::sqlite3_snapshot>() == HEADER_WORDS * size_of::<u32>());
    let mut snapshot = ffi::sqlite3_snapshot { hidden: [0; HEADER_WORDS * size_of::<u32>()] };
    for (place, word) in snapshot.hidden.chunks_exact_mut(size_of::<u32>()).zip(index.header) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    // SAFETY: the connection is open and used by this thread alone; SQLite's snapshot is a copy of the header, which it only
    // reads during the call, after it has compared the salts.
    let code =
        unsafe { ffi::sqlite3_snapshot_open(connection.handle(), c"main".as_ptr(), &raw mut snapshot) };
    if code == ffi::SQLITE_OK { Ok(()) } else { Err(failure(code, "read an earlier state")) }
}

/// Syncs the database file and the WAL, through SQLite's own file objects. The connection must have read from the database in
/// WAL mode before. An earlier process may have written what is in them and ended before its sync: from the system's cache it
/// reads like what is on the disk.
///
/// # Errors
/// SQLite's, when the disk refuses.
pub fn sync_files(connection: &Connection) -> Result<(), Error> {
    for (operation, what) in [
        (ffi::SQLITE_FCNTL_FILE_POINTER, "sync the database file"),
        (ffi::SQLITE_FCNTL_JOURNAL_POINTER, "sync the WAL"),
    ] {
        let (file, methods) = file(connection, operation)?;
        let Some(sync) = methods.xSync else {
            return Err(failure(ffi::SQLITE_MISUSE, "file object without sync"));
        };
        // SAFETY: the file object is open and lives as long as the connection, which this thread alone uses.
        let code = unsafe { sync(file, ffi::SQLITE_SYNC_NORMAL) };
        if code != ffi::SQLITE_OK {
            return Err(failure(code, what));
        }
    }
    Ok(())
}

/// Fills `buffer` from the WAL file at `offset`.
pub(crate) fn read_wal(connection: &Connection, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
    let (file, methods) = file(connection, ffi::SQLITE_FCNTL_JOURNAL_POINTER)?;
    let Some(read) = methods.xRead else {
        return Err(failure(ffi::SQLITE_MISUSE, "file object without read"));
    };
    let too_far = || failure(ffi::SQLITE_TOOBIG, "WAL offset");
    let mut offset = i64::try_from(offset).map_err(|_| too_far())?;
    for part in buffer.chunks_mut(1 << 20) {
        let length = i32::try_from(part.len()).map_err(|_| too_far())?;
        // SAFETY: `part` has room for `length` bytes, the file object is open; SQLite fills what a short read lacks
        // with zeros and reports it.
        let code = unsafe { read(file, part.as_mut_ptr().cast::<c_void>(), length, offset) };
        if code != ffi::SQLITE_OK {
            return Err(failure(code, "read the WAL"));
        }
        offset += i64::from(length);
    }
    Ok(())
}

/// A pager counter of the connection, cumulative; wraps around.
fn counter(db: *mut ffi::sqlite3, operation: i32) -> u32 {
    let (mut current, mut highest) = (0, 0);
    // SAFETY: callers hold a live connection on its own thread; both out-pointers are valid.
    unsafe { ffi::sqlite3_db_status(db, operation, &raw mut current, &raw mut highest, 0) };
    current.cast_unsigned()
}

/// Pages the connection has written to the WAL so far, spilled ones included.
pub(crate) fn written_pages(connection: &Connection) -> u32 {
    // SAFETY: only borrowed for the call.
    counter(unsafe { connection.handle() }, ffi::SQLITE_DBSTATUS_CACHE_WRITE)
}

/// Whether a foreign key (immediate or deferred) is violated in the open transaction.
pub(crate) fn foreign_keys_violated(connection: &Connection) -> bool {
    // SAFETY: only borrowed for the call.
    counter(unsafe { connection.handle() }, ffi::SQLITE_DBSTATUS_DEFERRED_FKS) != 0
}

/// Sets what `last_insert_rowid()` says.
pub(crate) fn set_last_insert_rowid(connection: &Connection, id: i64) {
    // SAFETY: the handle is valid while `connection` lives, and is only used for this call, on the connection's own thread.
    unsafe { ffi::sqlite3_set_last_insert_rowid(connection.handle(), id) };
}

/// What the connection that calls this function has inserted last, as SQLite itself knows it.
pub(crate) fn last_insert_rowid_within(context: &Context<'_>) -> Result<i64, Error> {
    // SAFETY: the borrowed connection ends with this call, within the function that SQLite is running on it.
    Ok(unsafe { context.get_connection() }?.last_insert_rowid())
}

/// Counts the pages that left a connection's cache in the middle of a transaction, also from within its progress
/// handler.
#[derive(Debug)]
pub(crate) struct SpillMeter(*mut ffi::sqlite3);

// SAFETY: moves into the progress handler of the very connection it points to, which calls it only on the thread that
// uses the connection and drops it when the connection closes.
unsafe impl Send for SpillMeter {}

impl SpillMeter {
    /// The meter of `connection`, for its own progress handler only.
    pub(crate) fn of(connection: &Connection) -> SpillMeter {
        // SAFETY: the pointer is used while the connection's progress handler exists, see above.
        SpillMeter(unsafe { connection.handle() })
    }

    /// Pages spilled so far; wraps around.
    pub(crate) fn pages(&self) -> u32 {
        counter(self.0, ffi::SQLITE_DBSTATUS_CACHE_SPILL)
    }
}

/// Pages spilled so far; wraps around.
pub(crate) fn spilled_pages(connection: &Connection) -> u32 {
    SpillMeter::of(connection).pages()
}

/// What is told of each page that a watched connection reads from its files, before SQLite sees it; `false`: it isn't
/// to be believed, and SQLite gets an error instead. Must not panic.
pub(crate) type OnPage = fn(page: u32, image: &[u8]) -> bool;

/// Bytes of a WAL frame's header before the page; it begins with the page's number.
const FRAME_HEADER: i64 = 24;
/// Bytes before the first frame.
const WAL_HEADER: i64 = 32;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Database,
    Wal,
}

/// SQLite's methods of a file, but for `xRead`. The file object points at the first field, so that `xRead` finds the rest.
#[repr(C)]
struct Watched {
    methods: ffi::sqlite3_io_methods,
    read: unsafe extern "C" fn(*mut ffi::sqlite3_file, *mut c_void, i32, ffi::sqlite3_int64) -> i32,
    original: *const ffi::sqlite3_io_methods,
    kind: Kind,
    on_page: OnPage,
}

// SAFETY: never changed after it was made; the original is one of SQLite's own constant tables.
unsafe impl Sync for Watched {}

/// One for each of SQLite's tables in use, never freed: file objects may point at them until the process ends.
static WATCHED: Mutex<Vec<&'static Watched>> = Mutex::new(vec![]);

/// Has `on_page` see every page that this connection reads from now on, be it from the database file or from the WAL. Only for
/// connections that have read in WAL mode before, so that both files are open.
pub(crate) fn watch_pages(connection: &Connection, on_page: OnPage) -> Result<(), Error> {
    watch(connection, ffi::SQLITE_FCNTL_FILE_POINTER, Kind::Database, on_page)?;
    watch(connection, ffi::SQLITE_FCNTL_JOURNAL_POINTER, Kind::Wal, on_page)
}

fn watch(connection: &Connection, operation: i32, kind: Kind, on_page: OnPage) -> Result<(), Error> {
    let (file, methods) = file(connection, operation)?;
    let original = ptr::from_ref(methods);
    let mut all = WATCHED.lock();
    if all.iter().any(|watched| ptr::eq(&raw const watched.methods, original)) {
        return Ok(()); // it is watched already
    }
    let known = all.iter().find(|watched| {
        watched.original == original && watched.kind == kind && ptr::fn_addr_eq(watched.on_page, on_page)
    });
    let watched = match known {
        Some(watched) => *watched,
        None => {
            let Some(read) = methods.xRead else {
                return Err(failure(ffi::SQLITE_MISUSE, "file object without read"));
            };
            let methods = ffi::sqlite3_io_methods { xRead: Some(watched_read), ..*methods };
            let watched: &'static Watched =
                Box::leak(Box::new(Watched { methods, read, original, kind, on_page }));
            all.push(watched);
            watched
        }
    };
    // SAFETY: the file object is open and belongs to this connection, which is used by this thread alone; the new table
    // lives for ever and does all that the old one did.
    unsafe { (*file).pMethods = &raw const watched.methods };
    Ok(())
}

/// Reads as SQLite's own method does, and lets whole pages be seen.
unsafe extern "C" fn watched_read(
    file: *mut ffi::sqlite3_file,
    buffer: *mut c_void,
    length: i32,
    offset: ffi::sqlite3_int64,
) -> i32 {
    // SAFETY: SQLite calls this through a table that is the first field of a `Watched`, with an open file.
    let watched = unsafe { &*(*file).pMethods.cast::<Watched>() };
    // SAFETY: the very arguments that SQLite meant for its own method.
    let code = unsafe { (watched.read)(file, buffer, length, offset) };
    let (Ok(bytes), Ok(at)) = (usize::try_from(length), u64::try_from(offset)) else { return code };
    // All else that SQLite reads of these files is headers.
    if code != ffi::SQLITE_OK || !(512..=65536).contains(&bytes) || !bytes.is_power_of_two() {
        return code;
    }
    let page = match watched.kind {
        Kind::Database if at % bytes as u64 == 0 => u32::try_from(at / bytes as u64 + 1).ok(),
        Kind::Wal if offset >= WAL_HEADER + FRAME_HEADER => {
            let mut number = [0u8; 4];
            // SAFETY: four bytes of the same open file, into a buffer of four.
            let code = unsafe {
                (watched.read)(file, number.as_mut_ptr().cast::<c_void>(), 4, offset - FRAME_HEADER)
            };
            (code == ffi::SQLITE_OK).then(|| u32::from_be_bytes(number))
        }
        Kind::Database | Kind::Wal => None,
    };
    let Some(page) = page else { return code };
    // SAFETY: the read that went well has filled `length` bytes of the buffer, which nobody else uses meanwhile.
    let image = unsafe { std::slice::from_raw_parts(buffer.cast::<u8>(), bytes) };
    if (watched.on_page)(page, image) { code } else { ffi::SQLITE_IOERR_DATA }
}
