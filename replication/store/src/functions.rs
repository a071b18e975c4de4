//! SQL functions of SQLite's whose time grows faster than their arguments, made anew: they give the same answers, and
//! look at the deadline while they work.
//!
//! `instr`, `replace`, `like`, `glob`, `trim`, `ltrim`, `rtrim`; `json_patch` is SQLite's, with a bound. Each follows SQLite's own step by step, embedded NULs and
//! broken UTF-8 included; `tests/functions.rs` compares them. Read `sqlite_file.rs` for how they are called.

use std::ffi::CStr;

use memchr::{memchr, memchr2, memmem};
use rusqlite::Connection;

use crate::{
    account,
    sqlite_file::{self, Call, Failure, Function, ValueKind},
};

/// Steps between two looks at the deadline.
const STEPS: u32 = 1 << 14;
/// Bytes that a fast search goes through between two looks.
const STRETCH: usize = 1 << 20;

type Done = Result<(), Failure>;

static INSTR: Function = Function::new(instr);
static REPLACE: Function = Function::new(replace);
static TRIM: Function = Function::new(|call| trim(call, true, true));
static LTRIM: Function = Function::new(|call| trim(call, true, false));
static RTRIM: Function = Function::new(|call| trim(call, false, true));
static LIKE: Function = Function::matching(*b"%_\0", |call| matches(call, LIKE_RULES));
static GLOB: Function = Function::matching(*b"*?[", |call| matches(call, GLOB_RULES));

static JSON_PATCH: Function = Function::json(|call| json_patch(call, c"SELECT json_patch(?1, ?2)", true));
static JSONB_PATCH: Function = Function::new(|call| json_patch(call, c"SELECT jsonb_patch(?1, ?2)", false));

/// Puts them in the place of SQLite's own. The planner goes on using an index for `like` and `glob`.
pub(crate) fn install(connection: &Connection) -> Result<(), rusqlite::Error> {
    sqlite_file::add_function(connection, c"instr", 2, &INSTR)?;
    sqlite_file::add_function(connection, c"replace", 3, &REPLACE)?;
    for arguments in [1, 2] {
        sqlite_file::add_function(connection, c"trim", arguments, &TRIM)?;
        sqlite_file::add_function(connection, c"ltrim", arguments, &LTRIM)?;
        sqlite_file::add_function(connection, c"rtrim", arguments, &RTRIM)?;
    }
    sqlite_file::add_function(connection, c"json_patch", 2, &JSON_PATCH)?;
    sqlite_file::add_function(connection, c"jsonb_patch", 2, &JSONB_PATCH)?;
    sqlite_file::add_function(connection, c"like", 2, &LIKE)?;
    sqlite_file::add_function(connection, c"like", 3, &LIKE)?;
    sqlite_file::add_function(connection, c"glob", 2, &GLOB)?;
    sqlite_file::let_indexes_help(connection, "SELECT like('a', 'a'), like('a', 'a', '!'), glob('a', 'a')")
}

/// Counts steps, and looks at the deadline now and then.
#[derive(Default)]
struct Clock(u32);

impl Clock {
    fn step(&mut self) -> Done {
        self.0 += 1;
        if self.0 < STEPS { Ok(()) } else { self.look() }
    }

    fn look(&mut self) -> Done {
        self.0 = 0;
        if account::is_late() { Err(Failure::Interrupted) } else { Ok(()) }
    }
}

fn continues(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

fn instr(call: &Call<'_>) -> Done {
    let kinds = (call.kind(0), call.kind(1));
    if kinds.0 == ValueKind::Null || kinds.1 == ValueKind::Null {
        return Ok(());
    }
    let text = kinds != (ValueKind::Blob, ValueKind::Blob);
    let (hay, needle) = if text {
        (call.text(0)?.unwrap_or_default(), call.text(1)?.unwrap_or_default())
    } else {
        (call.blob(0), call.blob(1))
    };
    let (mut clock, mut place) = (Clock::default(), 1);
    let (mut counted, mut from) = (0, 0);
    if needle.is_empty() {
        call.integer(1);
        return Ok(());
    }
    let finder = memmem::Finder::new(needle);
    loop {
        clock.look()?;
        // In stretches that overlap by what could begin in one and end in the next.
        let until = hay.len().min(from + STRETCH + needle.len());
        let found = finder.find(&hay[from..until]).map(|at| from + at);
        // SQLite tries the first byte, and then the first byte of each character.
        let upto = found.unwrap_or(until.saturating_sub(needle.len() - 1)).max(from);
        if text {
            place += hay[counted.max(1).min(upto)..upto].iter().filter(|byte| !continues(**byte)).count();
            counted = upto;
        } else {
            place = upto + 1;
        }
        match found {
            Some(at) if !text || at == 0 || !continues(hay[at]) => {
                if text && at > 0 {
                    place += 1;
                }
                call.integer(i64::try_from(place).unwrap_or(i64::MAX));
                return Ok(());
            }
            Some(at) => from = at + 1,
            None if until == hay.len() => break,
            None => from = upto,
        }
    }
    call.integer(0);
    Ok(())
}

fn replace(call: &Call<'_>) -> Done {
    let (Some(text), Some(pattern)) = (call.text(0)?, call.text(1)?) else { return Ok(()) };
    if pattern.first().is_none_or(|byte| *byte == 0) {
        return call.give(text);
    }
    let Some(new) = call.text(2)? else { return Ok(()) };
    let finder = memmem::Finder::new(pattern);
    let mut clock = Clock::default();
    let mut count = 0usize;
    each(&finder, pattern.len(), text, &mut clock, |_| count += 1)?;
    let length = (text.len() - count * pattern.len()) as u64 + count as u64 * new.len() as u64;
    let mut output = call.output(length)?;
    let mut copied = 0;
    each(&finder, pattern.len(), text, &mut clock, |at| {
        output.add(&text[copied..at]);
        output.add(new);
        copied = at + pattern.len();
    })?;
    output.add(&text[copied..]);
    output.finish(call);
    Ok(())
}

/// Calls `found` with the place of each, none overlapping another.
fn each(
    finder: &memmem::Finder<'_>,
    length: usize,
    text: &[u8],
    clock: &mut Clock,
    mut found: impl FnMut(usize),
) -> Done {
    let mut from = 0;
    loop {
        let until = text.len().min(from + STRETCH + length);
        match finder.find(&text[from..until]) {
            Some(at) => {
                clock.step()?;
                found(from + at);
                from += at + length;
            }
            None if until == text.len() => return Ok(()),
            None => {
                clock.look()?;
                from = until - (length - 1);
            }
        }
    }
}

/// Bytes of the one times bytes of the other that `json_patch` may be given: it looks for each name of the one in the
/// other. About a second's worth.
const MOST_PATCHING: usize = 1 << 32;

/// SQLite's own, where it doesn't take long.
fn json_patch(call: &Call<'_>, own: &'static CStr, text: bool) -> Done {
    if call.length(0).saturating_mul(call.length(1)) > MOST_PATCHING {
        return Err(Failure::Message("json_patch: too large, both together"));
    }
    call.pass_on(own)?;
    if text {
        call.is_json();
    }
    Ok(())
}

fn trim(call: &Call<'_>, left: bool, right: bool) -> Done {
    let Some(mut text) = call.text(0)? else { return Ok(()) };
    let set = match call.arguments() {
        1 => b" ",
        _ => match call.text(1)? {
            Some(set) => to_nul(set),
            None => return Ok(()),
        },
    };
    let mut clock = Clock::default();
    if left {
        while let Some(one) = fitting(set, &mut clock, |one| text.starts_with(one))? {
            text = &text[one..];
        }
    }
    if right {
        while let Some(one) = fitting(set, &mut clock, |one| text.ends_with(one))? {
            text = &text[..text.len() - one];
        }
    }
    call.give(text)
}

/// The length of the set's first character that fits. The set isn't taken apart before, which would need memory.
fn fitting(set: &[u8], clock: &mut Clock, fits: impl Fn(&[u8]) -> bool) -> Result<Option<usize>, Failure> {
    let mut rest = set;
    while !rest.is_empty() {
        clock.step()?;
        let (one, others) = rest.split_at(character(rest));
        if fits(one) {
            return Ok(Some(one.len()));
        }
        rest = others;
    }
    Ok(None)
}

/// Bytes of the first character, as SQLite skips it.
fn character(text: &[u8]) -> usize {
    match text.first() {
        None => 0,
        Some(first) if *first < 0xc0 => 1,
        Some(_) => 1 + text[1..].iter().take_while(|byte| continues(**byte)).count(),
    }
}

fn to_nul(text: &[u8]) -> &[u8] {
    &text[..memchr(0, text).unwrap_or(text.len())]
}

/// Reads a character as SQLite does: what isn't UTF-8 gets some number, too; 0 at the end.
fn read(text: &mut &[u8]) -> u32 {
    let Some((first, rest)) = text.split_first() else { return 0 };
    *text = rest;
    let mut number = u32::from(*first);
    if number < 0xc0 {
        return number;
    }
    number &= match first {
        0xc0..=0xdf => 0x1f,
        0xe0..=0xef => 0x0f,
        0xf0..=0xf7 => 0x07,
        0xf8..=0xfb => 0x03,
        0xfc | 0xfd => 0x01,
        _ => 0x00,
    };
    while let Some((next, rest)) = text.split_first()
        && continues(*next)
    {
        number = (number << 6) | u32::from(next & 0x3f);
        *text = rest;
    }
    if number < 0x80 || number & 0xffff_f800 == 0xd800 { 0xfffd } else { number }
}

/// The wildcards, and whether ASCII's capitals are what small letters are.
#[derive(Clone, Copy)]
struct Rules {
    all: u32,
    one: u32,
    /// `[` begins a set of characters; 0: there are none.
    set: u32,
    /// Makes the next character an ordinary one; 0: none does.
    escape: u32,
    fold: bool,
}

const LIKE_RULES: Rules = Rules { all: b'%' as u32, one: b'_' as u32, set: 0, escape: 0, fold: true };
const GLOB_RULES: Rules =
    Rules { all: b'*' as u32, one: b'?' as u32, set: b'[' as u32, escape: 0, fold: false };

fn matches(call: &Call<'_>, mut rules: Rules) -> Done {
    if call.length(0) > sqlite_file::longest_pattern(call) {
        return Err(Failure::Message("LIKE or GLOB pattern too complex"));
    }
    if call.arguments() == 3 {
        let Some(mut escape) = call.text(2)?.map(to_nul) else { return Ok(()) };
        if escape.is_empty() || character(escape) != escape.len() {
            return Err(Failure::Message("ESCAPE expression must be a single character"));
        }
        rules.escape = read(&mut escape);
        if rules.escape == rules.all {
            rules.all = 0;
        }
        if rules.escape == rules.one {
            rules.one = 0;
        }
    }
    let (pattern, text) = (call.text(0)?, call.text(1)?);
    if let (Some(pattern), Some(text)) = (pattern, text) {
        let found = is_match(to_nul(pattern), to_nul(text), rules, &mut Clock::default())?;
        call.integer(found.into());
    }
    Ok(())
}

/// Where to go on when what follows the last wildcard for many doesn't fit here.
struct Again<'p, 't> {
    /// What must begin at the place that is looked for next.
    begin: Begin,
    pattern: &'p [u8],
    text: &'t [u8],
}

enum Begin {
    /// This character, which `pattern` follows.
    Character(u32),
    /// A set, with which `pattern` begins.
    Set,
}

fn is_match(pattern: &[u8], text: &[u8], rules: Rules, clock: &mut Clock) -> Result<bool, Failure> {
    let (mut pattern, mut text) = (pattern, text);
    // Only the last of the wildcards for many is ever tried again: if an earlier one could match elsewhere, so could it.
    let mut again: Option<Again<'_, '_>> = None;
    loop {
        clock.step()?;
        let fits = match next(&mut pattern, &mut text, rules) {
            Next::Fits => true,
            Next::Differs => false,
            Next::End if text.is_empty() => return Ok(true),
            Next::End => false,
            Next::Many => match begin(&mut pattern, &mut text, rules) {
                Many::All => return Ok(true),
                Many::Nothing => return Ok(false),
                Many::From(begin) => {
                    again = Some(Again { begin, pattern, text });
                    false
                }
            },
        };
        if !fits {
            let Some(again) = &mut again else { return Ok(false) };
            if !again.advance(rules, clock)? {
                return Ok(false);
            }
            (pattern, text) = (again.pattern, again.text);
            if matches!(again.begin, Begin::Set) {
                // The set itself is compared at this place; the next try begins one character further.
                again.text = &text[character(text)..];
            }
        }
    }
}

impl Again<'_, '_> {
    /// Goes to the next place where it could begin: behind its first character, or before a set.
    fn advance(&mut self, rules: Rules, clock: &mut Clock) -> Result<bool, Failure> {
        match self.begin {
            Begin::Set => Ok(!self.text.is_empty()),
            Begin::Character(wanted) if wanted < 0x80 => {
                let byte = u8::try_from(wanted).unwrap_or(0);
                let (upper, lower) = if rules.fold {
                    (byte.to_ascii_uppercase(), byte.to_ascii_lowercase())
                } else {
                    (byte, byte)
                };
                let found = memchr2(upper, lower, self.text);
                if let Some(at) = found {
                    self.text = &self.text[at + 1..];
                }
                Ok(found.is_some())
            }
            Begin::Character(wanted) => {
                while !self.text.is_empty() {
                    clock.step()?;
                    if read(&mut self.text) == wanted {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }
}

enum Many {
    /// Nothing follows it.
    All,
    /// The rest can't match any more.
    Nothing,
    From(Begin),
}

/// What follows a wildcard for many: others of its kind, then something to be looked for.
fn begin(pattern: &mut &[u8], text: &mut &[u8], rules: Rules) -> Many {
    loop {
        let at = *pattern;
        let c = read(pattern);
        if c == rules.all && c != 0 {
            continue;
        }
        if c == rules.one && c != 0 {
            if read(text) == 0 {
                return Many::Nothing;
            }
            continue;
        }
        if c == 0 {
            return Many::All;
        }
        if rules.set != 0 && c == rules.set {
            *pattern = at;
            return Many::From(Begin::Set);
        }
        if rules.escape != 0 && c == rules.escape {
            let c = read(pattern);
            return if c == 0 { Many::Nothing } else { Many::From(Begin::Character(c)) };
        }
        return Many::From(Begin::Character(c));
    }
}

enum Next {
    Fits,
    Differs,
    End,
    Many,
}

/// Compares the pattern's next character, or set.
fn next(pattern: &mut &[u8], text: &mut &[u8], rules: Rules) -> Next {
    let mut c = read(pattern);
    if c == 0 {
        return Next::End;
    }
    if rules.all != 0 && c == rules.all {
        return Next::Many;
    }
    let mut escaped = false;
    if rules.set != 0 && c == rules.set {
        return if is_in_set(pattern, text) { Next::Fits } else { Next::Differs };
    }
    if rules.escape != 0 && c == rules.escape {
        c = read(pattern);
        if c == 0 {
            return Next::Differs;
        }
        escaped = true;
    }
    let found = read(text);
    let small = |c: u32| u8::try_from(c).map_or(0, |c| c.to_ascii_lowercase());
    let alike = c == found || (rules.fold && c < 0x80 && found < 0x80 && small(c) == small(found));
    if alike || (c == rules.one && !escaped && found != 0) { Next::Fits } else { Next::Differs }
}

/// Whether the text's next character is one of those up to `]`.
fn is_in_set(pattern: &mut &[u8], text: &mut &[u8]) -> bool {
    const CLOSE: u32 = b']' as u32;
    let c = read(text);
    if c == 0 {
        return false;
    }
    let (mut seen, mut invert, mut before) = (false, false, 0);
    let mut one = read(pattern);
    if one == u32::from(b'^') {
        invert = true;
        one = read(pattern);
    }
    if one == CLOSE {
        seen = c == CLOSE;
        one = read(pattern);
    }
    while one != 0 && one != CLOSE {
        let range = one == u32::from(b'-')
            && pattern.first().is_some_and(|byte| u32::from(*byte) != CLOSE)
            && before > 0;
        if range {
            one = read(pattern);
            seen |= c >= before && c <= one;
            before = 0;
        } else {
            seen |= c == one;
            before = one;
        }
        one = read(pattern);
    }
    one != 0 && seen != invert
}
