//! SQL functions of our own, called by SQLite: arguments, results, and what the planner has to know of them.
//!
//! Owns the way there and back. What the functions do is in `functions.rs`.

use std::{
    cell::Cell,
    ffi::{CStr, c_int, c_void},
    ptr, slice,
};

use rusqlite::{Connection, Error, ffi};

use super::failure;

/// Why a function has no result.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The deadline has passed.
    Interrupted,
    /// There is no memory for it.
    Memory,
    /// The result is longer than a value may be.
    TooBig,
    /// Anything else, in SQLite's words.
    Message(&'static str),
}

/// What kind of value an argument is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ValueKind {
    Null,
    Blob,
    /// Text, or a number, which has a text.
    Text,
}

/// A function of SQL. Its first four bytes are what SQLite's planner looks for in one that may use an index.
#[repr(C)]
pub(crate) struct Function {
    wildcards: [u8; 4],
    /// It says of its result that it is JSON.
    json: bool,
    run: fn(&Call<'_>) -> Result<(), Failure>,
}

impl Function {
    pub(crate) const fn new(run: fn(&Call<'_>) -> Result<(), Failure>) -> Function {
        Function { wildcards: [0; 4], json: false, run }
    }

    /// One whose result is JSON.
    pub(crate) const fn json(run: fn(&Call<'_>) -> Result<(), Failure>) -> Function {
        Function { wildcards: [0; 4], json: true, run }
    }

    /// One like LIKE or GLOB, with its wildcards: for many characters, for one, for sets. Without sets capitals of ASCII
    /// are what small letters are.
    pub(crate) const fn matching(wildcards: [u8; 3], run: fn(&Call<'_>) -> Result<(), Failure>) -> Function {
        let [all, one, set] = wildcards;
        Function { wildcards: [all, one, set, (set == 0) as u8], json: false, run }
    }
}

/// One call of a function.
pub(crate) struct Call<'c> {
    context: *mut ffi::sqlite3_context,
    arguments: &'c [*mut ffi::sqlite3_value],
}

impl Call<'_> {
    pub(crate) fn arguments(&self) -> usize {
        self.arguments.len()
    }

    pub(crate) fn kind(&self, index: usize) -> ValueKind {
        // SAFETY: arguments live as long as the call.
        match unsafe { ffi::sqlite3_value_type(self.arguments[index]) } {
            ffi::SQLITE_NULL => ValueKind::Null,
            ffi::SQLITE_BLOB => ValueKind::Blob,
            _ => ValueKind::Text,
        }
    }

    /// Bytes of the argument, as text if it is a number.
    pub(crate) fn length(&self, index: usize) -> usize {
        // SAFETY: as above.
        usize::try_from(unsafe { ffi::sqlite3_value_bytes(self.arguments[index]) }).unwrap_or(0)
    }

    /// The argument's text, a blob's bytes as they are; `None` for NULL.
    pub(crate) fn text(&self, index: usize) -> Result<Option<&[u8]>, Failure> {
        match self.kind(index) {
            ValueKind::Null => return Ok(None),
            // As text the value would be changed for everybody who uses it.
            ValueKind::Blob => return Ok(Some(self.blob(index))),
            ValueKind::Text => {}
        }
        // SAFETY: as above; the text stays where it is until the call ends, since nobody asks for another form of it.
        let text = unsafe { ffi::sqlite3_value_text(self.arguments[index]) };
        if text.is_null() {
            return Err(Failure::Memory);
        }
        // SAFETY: SQLite's text has so many bytes.
        Ok(Some(unsafe { slice::from_raw_parts(text, self.length(index)) }))
    }

    pub(crate) fn blob(&self, index: usize) -> &[u8] {
        // SAFETY: as for text; SQLite gives a null pointer for an empty blob.
        let blob = unsafe { ffi::sqlite3_value_blob(self.arguments[index]) };
        let length = self.length(index);
        if blob.is_null() || length == 0 {
            return &[];
        }
        // SAFETY: the blob has so many bytes.
        unsafe { slice::from_raw_parts(blob.cast(), length) }
    }

    fn limit(&self, limit: c_int) -> usize {
        // SAFETY: the context belongs to a live connection; -1 asks only.
        let found = unsafe { ffi::sqlite3_limit(ffi::sqlite3_context_db_handle(self.context), limit, -1) };
        usize::try_from(found).unwrap_or(0)
    }

    pub(crate) fn integer(&self, value: i64) {
        // SAFETY: as above.
        unsafe { ffi::sqlite3_result_int64(self.context, value) };
    }

    /// The result is this text.
    pub(crate) fn give(&self, text: &[u8]) -> Result<(), Failure> {
        let mut output = self.output(text.len() as u64)?;
        output.add(text);
        output.finish(self);
        Ok(())
    }

    /// Room for a text of so many bytes.
    pub(crate) fn output(&self, bytes: u64) -> Result<Output, Failure> {
        if bytes > self.limit(ffi::SQLITE_LIMIT_LENGTH) as u64 {
            return Err(Failure::TooBig);
        }
        // SAFETY: may be called at any time; it counts for users' SQL like all that SQLite takes.
        let start = unsafe { ffi::sqlite3_malloc64(bytes + 1) }.cast::<u8>();
        if start.is_null() {
            return Err(Failure::Memory);
        }
        Ok(Output { start, length: 0, room: usize::try_from(bytes).unwrap_or(0) })
    }

    /// The result is what SQLite's own function gives, called by `sql` on a connection that has it.
    pub(crate) fn pass_on(&self, sql: &'static CStr) -> Result<(), Failure> {
        thread_local! {
            static PLAIN: Option<Connection> = Connection::open_in_memory().ok();
        }
        PLAIN.with(|plain| {
            let plain = plain.as_ref().ok_or(Failure::Memory)?;
            let mut statement = ptr::null_mut();
            // SAFETY: the connection is this thread's and lives longer than the statement, which is finalized below; the
            // values and the context live as long as the call, and both copy what they are given.
            unsafe {
                let db = plain.handle();
                ffi::sqlite3_prepare_v2(db, sql.as_ptr(), -1, &raw mut statement, ptr::null_mut());
                for (index, value) in (1..).zip(self.arguments) {
                    ffi::sqlite3_bind_value(statement, index, *value);
                }
                match ffi::sqlite3_step(statement) {
                    ffi::SQLITE_ROW => {
                        ffi::sqlite3_result_value(self.context, ffi::sqlite3_column_value(statement, 0));
                    }
                    ffi::SQLITE_NOMEM => ffi::sqlite3_result_error_nomem(self.context),
                    _ => ffi::sqlite3_result_error(self.context, ffi::sqlite3_errmsg(db), -1),
                }
                ffi::sqlite3_finalize(statement);
            }
            Ok(())
        })
    }

    /// The result is JSON, and may be a part of other JSON.
    pub(crate) fn is_json(&self) {
        // SAFETY: as above; `J` is how SQLite's own JSON functions say it.
        unsafe { ffi::sqlite3_result_subtype(self.context, u32::from(b'J')) };
    }

    fn fail(&self, why: &Failure) {
        // SAFETY: as above; the message is copied.
        unsafe {
            match why {
                Failure::Interrupted => {
                    ffi::sqlite3_result_error_code(self.context, ffi::SQLITE_INTERRUPT);
                }
                Failure::Memory => ffi::sqlite3_result_error_nomem(self.context),
                Failure::TooBig => ffi::sqlite3_result_error_toobig(self.context),
                Failure::Message(text) => {
                    let length = c_int::try_from(text.len()).unwrap_or(0);
                    ffi::sqlite3_result_error(self.context, text.as_ptr().cast(), length);
                }
            }
        }
    }
}

/// The longest pattern of LIKE and GLOB.
pub(crate) fn longest_pattern(call: &Call<'_>) -> usize {
    call.limit(ffi::SQLITE_LIMIT_LIKE_PATTERN_LENGTH)
}

/// A text that is being made, in SQLite's memory.
pub(crate) struct Output {
    start: *mut u8,
    length: usize,
    room: usize,
}

impl Output {
    /// Adds bytes; no more than there is room for.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(self.room - self.length)];
        // SAFETY: there is room for them, and nobody else has the memory.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.add(self.length), bytes.len()) };
        self.length += bytes.len();
    }

    /// It is the result.
    pub(crate) fn finish(self, call: &Call<'_>) {
        let (start, length) = (self.start, self.length);
        std::mem::forget(self);
        // SAFETY: one byte more than the room was asked for; SQLite frees it by the function that belongs to it.
        unsafe {
            start.add(length).write(0);
            let utf8 = u8::try_from(ffi::SQLITE_UTF8).unwrap_or(1);
            ffi::sqlite3_result_text64(
                call.context,
                start.cast(),
                length as u64,
                Some(ffi::sqlite3_free),
                utf8,
            );
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // SAFETY: it was never given away.
        unsafe { ffi::sqlite3_free(self.start.cast()) };
    }
}

unsafe extern "C" fn call(
    context: *mut ffi::sqlite3_context,
    count: c_int,
    arguments: *mut *mut ffi::sqlite3_value,
) {
    // SAFETY: every function is registered with a `Function` that lives for ever.
    let function = unsafe { &*ffi::sqlite3_user_data(context).cast::<Function>() };
    // SAFETY: SQLite gives so many arguments.
    let arguments = unsafe { slice::from_raw_parts(arguments, usize::try_from(count).unwrap_or(0)) };
    if INTRODUCING.get() {
        introduce(context, arguments.len(), function);
    }
    let call = Call { context, arguments };
    if let Err(why) = (function.run)(&call) {
        call.fail(&why);
    }
}

/// Adds a function to the connection, in the place of SQLite's own of this name.
pub(crate) fn add_function(
    connection: &Connection,
    name: &CStr,
    arguments: c_int,
    function: &'static Function,
) -> Result<(), Error> {
    let json = if function.json { ffi::SQLITE_RESULT_SUBTYPE } else { 0 };
    let kind = ffi::SQLITE_UTF8 | ffi::SQLITE_DETERMINISTIC | ffi::SQLITE_INNOCUOUS | json;
    // SAFETY: the handle is live; the function lives for ever and needs no destructor.
    let code = unsafe {
        ffi::sqlite3_create_function_v2(
            connection.handle(),
            name.as_ptr(),
            arguments,
            kind,
            ptr::from_ref(function).cast_mut().cast(),
            Some(call),
            None,
            None,
            None,
        )
    };
    if code == ffi::SQLITE_OK { Ok(()) } else { Err(failure(code, "a function can't be added")) }
}

thread_local! {
    /// Whether functions that are called on this thread are made known to the planner.
    static INTRODUCING: Cell<bool> = const { Cell::new(false) };
}

/// The beginning of SQLite's `sqlite3_context`.
#[repr(C)]
struct ContextStart {
    output: *mut c_void,
    definition: *mut Definition,
}

/// The beginning of SQLite's `FuncDef`.
#[repr(C)]
struct Definition {
    arguments: i16,
    flags: u32,
    user_data: *const Function,
}

/// `SQLITE_FUNC_LIKE`: may be answered with an index. `SQLITE_FUNC_CASE`: capitals count.
const LIKE_FLAG: u32 = 0x0004;
const CASE_FLAG: u32 = 0x0008;

/// Lets the planner use indexes for the functions that `sql` calls: SQLite has this for its own LIKE and GLOB alone, and
/// offers no way to say it of others.
pub(crate) fn let_indexes_help(connection: &Connection, sql: &str) -> Result<(), Error> {
    INTRODUCING.set(true);
    let called = connection.query_row(sql, [], |_| Ok(()));
    INTRODUCING.set(false);
    called
}

fn introduce(context: *mut ffi::sqlite3_context, arguments: usize, function: &Function) {
    // SAFETY: a function's context begins so in the SQLite that is compiled in, whose source is part of the build.
    let definition = unsafe { (*context.cast::<ContextStart>()).definition };
    // SAFETY: as above. Were the layout another, the two values that are known would hardly stand where they should.
    unsafe {
        let known = (*definition).user_data == ptr::from_ref(function)
            && usize::try_from((*definition).arguments) == Ok(arguments)
            && (*definition).flags & 3 == ffi::SQLITE_UTF8.cast_unsigned();
        if known && function.wildcards[0] != 0 {
            let case = if function.wildcards[3] == 0 { CASE_FLAG } else { 0 };
            (*definition).flags |= LIKE_FLAG | case;
        }
    }
}
