//! SQLite's memory and temporary files, taken by way of `account.rs`.
//!
//! Owns the heads before pieces of memory and the sizes behind file objects. Decides nothing: the account does.

use std::{
    alloc::{self, Layout},
    ffi::{CString, c_char, c_int, c_void},
    path::Path,
    ptr,
    sync::OnceLock,
};

use rusqlite::ffi;

use crate::account;

/// Whether [`prepare`] was called before anything used SQLite; none: it wasn't called.
static IN_TIME: OnceLock<bool> = OnceLock::new();

/// Whether [`prepare`] was called.
pub(crate) fn is_prepared() -> bool {
    IN_TIME.get().is_some()
}

/// Makes SQLite ask `account.rs` for memory and for room in temporary files, which go to `temp`. Once in a process, before
/// SQLite is first used; says whether it was in time for the memory.
pub(crate) fn prepare(temp: &Path) -> bool {
    *IN_TIME.get_or_init(|| {
        let mut methods = ffi::sqlite3_mem_methods {
            xMalloc: Some(allocate),
            xFree: Some(free),
            xRealloc: Some(reallocate),
            xSize: Some(size),
            xRoundup: Some(round_up),
            xInit: Some(begin_memory),
            xShutdown: Some(end_memory),
            pAppData: ptr::null_mut(),
        };
        // SAFETY: SQLite copies the table; it refuses it when it is in use already. The functions keep its contract.
        let code = unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_MALLOC, &raw mut methods) };
        // SAFETY: may be called at any time.
        if unsafe { ffi::sqlite3_initialize() } == ffi::SQLITE_OK {
            count_temporary_files();
            #[cfg(windows)]
            let name = temp.to_str().and_then(|text| CString::new(text).ok());
            #[cfg(not(windows))]
            let name = CString::new(std::os::unix::ffi::OsStrExt::as_bytes(temp.as_os_str())).ok();
            if let Some(name) = name {
                // SAFETY: set once, before the first connection of this crate is opened; the text comes from SQLite's
                // memory, as it expects, and is never freed.
                unsafe { ffi::sqlite3_temp_directory = ffi::sqlite3_mprintf(c"%s".as_ptr(), name.as_ptr()) };
            }
        }
        code == ffi::SQLITE_OK
    })
}

/// Before each piece of memory: its size, and in the lowest bit whether it was taken for users' SQL.
const HEAD: usize = 8;

fn layout(bytes: usize) -> Option<Layout> {
    Layout::from_size_align(bytes + HEAD, HEAD).ok()
}

unsafe extern "C" fn begin_memory(_: *mut c_void) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn end_memory(_: *mut c_void) {}

unsafe extern "C" fn round_up(bytes: c_int) -> c_int {
    bytes.saturating_add(7) & !7
}

/// Reads the head of a piece: its size, and whether it was taken for users' SQL.
fn head(piece: *mut c_void) -> (usize, bool) {
    // SAFETY: SQLite gives pieces that `allocate` or `reallocate` made, behind their head.
    let head = unsafe { piece.cast::<u8>().sub(HEAD).cast::<u64>().read() };
    (usize::try_from(head >> 1).unwrap_or(0), head & 1 == 1)
}

/// Writes the head; the place behind it.
fn with_head(start: *mut u8, bytes: usize, users: bool) -> *mut c_void {
    // SAFETY: `start` is a piece of HEAD and `bytes` bytes, aligned to HEAD.
    unsafe {
        start.cast::<u64>().write((bytes as u64) << 1 | u64::from(users));
        start.add(HEAD).cast()
    }
}

unsafe extern "C" fn allocate(bytes: c_int) -> *mut c_void {
    // SAFETY: plain arithmetic.
    let rounded = usize::try_from(unsafe { round_up(bytes) }).unwrap_or(0);
    let Some(layout) = layout(rounded) else { return ptr::null_mut() };
    let users = account::is_users();
    if users && !account::take(layout.size() as u64) {
        return ptr::null_mut();
    }
    // SAFETY: the layout isn't empty.
    let start = unsafe { alloc::alloc(layout) };
    if start.is_null() {
        if users {
            account::give(layout.size() as u64);
        }
        return ptr::null_mut();
    }
    with_head(start, rounded, users)
}

unsafe extern "C" fn free(piece: *mut c_void) {
    if piece.is_null() {
        return;
    }
    let (bytes, users) = head(piece);
    let Some(layout) = layout(bytes) else { return };
    // SAFETY: the head says with which layout it was made.
    unsafe { alloc::dealloc(piece.cast::<u8>().sub(HEAD), layout) };
    if users {
        account::give(layout.size() as u64);
    }
}

unsafe extern "C" fn reallocate(piece: *mut c_void, bytes: c_int) -> *mut c_void {
    // SAFETY: plain arithmetic.
    let rounded = usize::try_from(unsafe { round_up(bytes) }).unwrap_or(0);
    let (before, was_users) = head(piece);
    let (Some(old), Some(new)) = (layout(before), layout(rounded)) else { return ptr::null_mut() };
    let users = was_users || account::is_users();
    let had = if was_users { old.size() as u64 } else { 0 };
    let wants = if users { new.size() as u64 } else { 0 };
    if wants > had && !account::take(wants - had) {
        return ptr::null_mut();
    }
    // SAFETY: the head says with which layout it was made; the new size isn't zero.
    let start = unsafe { alloc::realloc(piece.cast::<u8>().sub(HEAD), old, new.size()) };
    if start.is_null() {
        if wants > had {
            account::give(wants - had);
        }
        return ptr::null_mut();
    }
    if wants < had {
        account::give(had - wants);
    }
    with_head(start, rounded, users)
}

unsafe extern "C" fn size(piece: *mut c_void) -> c_int {
    if piece.is_null() { 0 } else { c_int::try_from(head(piece).0).unwrap_or(0) }
}

/// Files that exist while a statement, or a sort, does; statement journals aren't among them: what they hold is bounded by
/// what a transaction may write.
const TEMPORARY: c_int =
    ffi::SQLITE_OPEN_TEMP_DB | ffi::SQLITE_OPEN_TRANSIENT_DB | ffi::SQLITE_OPEN_TEMP_JOURNAL;

/// The file system's own methods, for [`open_file`].
struct FileSystem(*mut ffi::sqlite3_vfs);

// SAFETY: SQLite's default file system lives, unchanged, as long as the process.
unsafe impl Send for FileSystem {}
// SAFETY: as above.
unsafe impl Sync for FileSystem {}

static FILE_SYSTEM: OnceLock<FileSystem> = OnceLock::new();

/// Methods of a temporary file that count.
struct Counted {
    methods: ffi::sqlite3_io_methods,
    original: &'static ffi::sqlite3_io_methods,
}

// SAFETY: never changed after it was made.
unsafe impl Sync for Counted {}
// SAFETY: as above.
unsafe impl Send for Counted {}

static COUNTED: OnceLock<Counted> = OnceLock::new();

/// Puts a file system before the default one that differs in nothing but temporary files.
fn count_temporary_files() {
    // SAFETY: SQLite is initialized; a null name asks for the default.
    let original = unsafe { ffi::sqlite3_vfs_find(ptr::null()) };
    if original.is_null() || FILE_SYSTEM.set(FileSystem(original)).is_err() {
        return;
    }
    // SAFETY: found above; the table is plain data.
    let mut own = unsafe { original.read() };
    own.zName = c"tanist".as_ptr();
    own.xOpen = Some(open_file);
    own.szOsFile += COUNT_BYTES;
    own.pNext = ptr::null_mut();
    let own = Box::leak(Box::new(own));
    // SAFETY: the table lives for ever.
    unsafe { ffi::sqlite3_vfs_register(own, 1) };
}

/// Room behind a file object for the size that was counted, with its alignment.
const COUNT_BYTES: c_int = 16;

/// Where a temporary file's counted size stands.
fn counted_size(file: *mut ffi::sqlite3_file) -> Option<*mut u64> {
    let original = FILE_SYSTEM.get()?.0;
    // SAFETY: the file object was made with room for `szOsFile` of the own table, which is COUNT_BYTES more.
    let end = unsafe { file.cast::<u8>().add(usize::try_from((*original).szOsFile).ok()?) };
    let aligned = end.wrapping_add(end.align_offset(8));
    Some(aligned.cast::<u64>())
}

unsafe extern "C" fn open_file(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    let Some(original) = FILE_SYSTEM.get() else { return ffi::SQLITE_MISUSE };
    // SAFETY: the default file system always has it.
    let Some(open) = (unsafe { (*original.0).xOpen }) else { return ffi::SQLITE_MISUSE };
    // SAFETY: the very arguments that SQLite meant for it, with its own table.
    let code = unsafe { open(original.0, name, file, flags, out) };
    if code != ffi::SQLITE_OK || flags & TEMPORARY == 0 {
        return code;
    }
    // SAFETY: the file was opened; its methods are one of SQLite's constant tables.
    let Some(methods) = (unsafe { (*file).pMethods.as_ref::<'static>() }) else { return code };
    let counted = COUNTED.get_or_init(|| Counted {
        methods: ffi::sqlite3_io_methods {
            xWrite: Some(write_counted),
            xTruncate: Some(truncate_counted),
            xClose: Some(close_counted),
            ..*methods
        },
        original: methods,
    });
    if ptr::eq(counted.original, methods)
        && let Some(size) = counted_size(file)
    {
        // SAFETY: there is room for it, see `counted_size`; the new table does all that the old one did.
        unsafe {
            size.write(0);
            (*file).pMethods = &raw const counted.methods;
        }
    }
    code
}

unsafe extern "C" fn write_counted(
    file: *mut ffi::sqlite3_file,
    from: *const c_void,
    length: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    let (Some(counted), Some(size)) = (COUNTED.get(), counted_size(file)) else { return ffi::SQLITE_MISUSE };
    let Some(write) = counted.original.xWrite else { return ffi::SQLITE_MISUSE };
    let end = u64::try_from(offset.saturating_add(length.into())).unwrap_or(0);
    // SAFETY: written when the file was opened; only this thread uses the file.
    let before = unsafe { size.read() };
    if end > before {
        if !account::take_temp(end - before) {
            return ffi::SQLITE_FULL;
        }
        // SAFETY: as above.
        unsafe { size.write(end) };
    } else if account::is_late() {
        return ffi::SQLITE_FULL;
    }
    // SAFETY: the very arguments that SQLite meant for it.
    unsafe { write(file, from, length, offset) }
}

unsafe extern "C" fn truncate_counted(file: *mut ffi::sqlite3_file, length: ffi::sqlite3_int64) -> c_int {
    let (Some(counted), Some(size)) = (COUNTED.get(), counted_size(file)) else { return ffi::SQLITE_MISUSE };
    let Some(truncate) = counted.original.xTruncate else { return ffi::SQLITE_MISUSE };
    let length_now = u64::try_from(length).unwrap_or(0);
    // SAFETY: written when the file was opened; only this thread uses the file.
    let before = unsafe { size.read() };
    if length_now < before {
        account::give_temp(before - length_now);
        // SAFETY: as above.
        unsafe { size.write(length_now) };
    }
    // SAFETY: the very arguments that SQLite meant for it.
    unsafe { truncate(file, length) }
}

unsafe extern "C" fn close_counted(file: *mut ffi::sqlite3_file) -> c_int {
    let (Some(counted), Some(size)) = (COUNTED.get(), counted_size(file)) else { return ffi::SQLITE_MISUSE };
    // SAFETY: written when the file was opened; only this thread uses the file.
    account::give_temp(unsafe { size.read() });
    let Some(close) = counted.original.xClose else { return ffi::SQLITE_MISUSE };
    // SAFETY: its own method, on a file that was opened by it.
    unsafe { close(file) }
}
