//! What is found at a start, held against what the machine remembers of its replica: a WAL that was lost, writes to the file
//! of a stopped machine.
//!
//! Owns the judgement, and that it is remembered before anything else is done. A replica whose WAL and file are as they were
//! is believed without a look into it. Read `memory.rs` for what is remembered, `outside.rs` for what becomes of foreign writes.

use std::path::Path;

use rusqlite::Connection;
use tanist_replication::{Position, Stamp};

use crate::{
    Options, checkpoint, connection,
    database::wal_index,
    doubt::Doubt,
    error::StoreError,
    memory::{Facts, FileMark, Mark, Memory, WalPlace},
    outside::{self, NumberedEnd},
    sqlite_file::WalIndex,
    sums::{self, PageSum},
    tables,
    wal::{self, is_lock_page},
};

/// What is there before anything of ours has opened it.
pub(crate) struct Before {
    file: Option<FileMark>,
    wal_bytes: u64,
    remembered: Option<Facts>,
}

/// What a replica is taken for.
pub(crate) struct Replica {
    /// Up to here it is numbered.
    pub(crate) captured: WalIndex,
    pub(crate) stamp: Stamp,
    pub(crate) unnumbered: bool,
    pub(crate) base_lost: bool,
    pub(crate) diverged: bool,
    pub(crate) lost: Option<Position>,
    /// Of all pages, where they were read.
    pub(crate) proven: Option<Vec<(u32, PageSum)>>,
}

/// What was found.
struct Found<'f> {
    index: WalIndex,
    stamp: Stamp,
    file: Option<FileMark>,
    wal_bytes: u64,
    remembered: Option<&'f Facts>,
}

/// What it comes to.
struct Opening {
    mark: Mark,
    why: String,
    numbered: NumberedEnd,
    sums: Option<Vec<(u32, PageSum)>>,
}

impl Before {
    pub(crate) fn of(dir: &Path, remembered: Option<Facts>) -> Before {
        let wal_bytes = std::fs::metadata(connection::wal_path(dir)).map_or(0, |wal| wal.len());
        Before { file: FileMark::of(&connection::database_path(dir)), wal_bytes, remembered }
    }

    /// Judges what `writer`, which has the write lock, finds, and remembers that.
    pub(crate) fn open(
        self,
        writer: &Connection,
        path: &Path,
        page_size: u32,
        options: &Options,
        doubt: &Doubt,
        memory: &Memory,
    ) -> Result<Replica, StoreError> {
        let error = |error| StoreError::sqlite(path, "open the database", error);
        let Before { mut file, wal_bytes, remembered } = self;
        let mut index = wal_index(writer, page_size).map_err(error)?;
        let stamp = tables::read_stamp(writer, path)?;
        let found = Found { index, stamp, file, wal_bytes, remembered: remembered.as_ref() };
        let Opening { mark, why, numbered, sums: proven } = found.judge(writer, options).map_err(error)?;
        if doubt.stands() && options.alone && mark == Mark::Sound {
            checkpoint::write_anew(writer).map_err(error)?;
            doubt.settle()?;
            (index, file) = (wal_index(writer, page_size).map_err(error)?, FileMark::of(path));
            tracing::warn!(
                position = %stamp.position,
                "a sync of state.db had failed, and nobody else holds everything: what can be read of it was written anew"
            );
        }
        let (captured, unnumbered, base_lost) = match numbered {
            NumberedEnd::Newest => (index, false, false),
            NumberedEnd::At(end) => (end, true, false),
            NumberedEnd::Lost(end) => (end, true, true),
        };
        if mark != Mark::Sound {
            tracing::warn!(?mark, why, position = %stamp.position, "state.db isn't what this machine has left");
        }
        let lost = remembered.filter(|_| mark == Mark::Lost).map(|known| known.stamp().position);
        memory.set(|facts| {
            if lost.is_none() {
                facts.set_stamp(stamp);
                facts.wal = if base_lost { WalPlace::default() } else { WalPlace::of(&captured) };
                facts.file = file;
                facts.sum = facts.sum.filter(|_| mark == Mark::Sound && captured.frames == 0);
            }
            (facts.clean, facts.mark) = (false, mark);
        })?;
        // Nobody could bring it in line: what there is must do, but for what is known to be missing.
        let diverged = mark == Mark::Damaged && !options.alone;
        Ok(Replica { captured, stamp, unnumbered, base_lost, diverged, lost, proven })
    }
}

impl Opening {
    fn sound(numbered: NumberedEnd) -> Opening {
        Opening { mark: Mark::Sound, why: String::new(), numbered, sums: None }
    }

    fn marked(mark: Mark, numbered: NumberedEnd, why: String) -> Opening {
        Opening { mark, why, numbered, sums: None }
    }
}

impl Found<'_> {
    fn judge(&self, writer: &Connection, options: &Options) -> Result<Opening, rusqlite::Error> {
        let Some(known) = self.remembered else {
            let numbered = match options.was_master {
                true => outside::numbered_end(writer, &self.index, &self.stamp, 0)?,
                false => NumberedEnd::Newest,
            };
            return Ok(self.by_end(numbered));
        };
        let (own, then) = (self.stamp, known.stamp());
        if own.position < then.position {
            let why = format!("it holds {}, but {} had been stored", own.position, then.position);
            return Ok(Opening::marked(Mark::Lost, NumberedEnd::Newest, why));
        }
        if own == Stamp::default() && known.mark == Mark::Sound {
            return Ok(Opening::sound(NumberedEnd::Newest)); // it holds nothing, and never did
        }
        let opening = self.compare(known, writer)?;
        // What was lost has been put back, beside the very file that it belongs to.
        let put_back = own == then && own != Stamp::default() && self.file == known.file;
        // All other marks only a rejoin takes away.
        Ok(match (known.mark, opening.mark) {
            (Mark::Lost, Mark::Sound) if put_back => opening,
            (Mark::Damaged | Mark::Lost | Mark::Unreadable, _) => {
                Opening { mark: known.mark, why: "it was marked so before".to_owned(), ..opening }
            }
            (Mark::Foreign, Mark::Sound) => {
                let numbered = match opening.numbered {
                    NumberedEnd::Newest => self.lost_end(),
                    end => end,
                };
                Opening::marked(Mark::Foreign, numbered, "others had written before it ended".to_owned())
            }
            _ => opening,
        })
    }

    fn compare(&self, known: &Facts, writer: &Connection) -> Result<Opening, rusqlite::Error> {
        let (own, then) = (self.stamp, known.stamp());
        let index = &self.index;
        let moved = own != then;
        if moved && (known.clean || own.position == then.position) {
            let why = format!("its position {} was changed: it was {}", own.position, then.position);
            return Ok(Opening::marked(Mark::Damaged, NumberedEnd::Newest, why));
        }
        let same_end = match index.frames {
            0 => known.wal.frames == 0,
            frames => known.wal.same_wal(index) && frames == known.wal.frames,
        };
        if (known.clean || (index.frames == 0 && known.wal.frames == 0))
            && same_end
            && known.file == self.file
        {
            return Ok(Opening::sound(NumberedEnd::Newest));
        }
        if known.clean || (index.frames == 0 && known.wal.frames == 0) {
            return self.compare_pages(known, writer);
        }
        if index.frames == 0 && self.wal_bytes > 0 {
            // A power cut as it started over, when all of it was in the database file.
            return Ok(Opening::sound(NumberedEnd::Newest));
        }
        if index.frames == 0 || (known.wal.frames > 0 && !known.wal.leads_to(index)) {
            let why = "its WAL isn't there any more, or is another".to_owned();
            return Ok(Opening::marked(Mark::Foreign, self.lost_end(), why));
        }
        let floor = if known.wal.same_wal(index) && own == then { known.wal.frames } else { 0 };
        Ok(self.by_end(outside::numbered_end(writer, index, &own, floor)?))
    }

    fn by_end(&self, numbered: NumberedEnd) -> Opening {
        match numbered {
            NumberedEnd::Newest => Opening::sound(numbered),
            _ => Opening::marked(Mark::Foreign, numbered, "others have written to it".to_owned()),
        }
    }

    /// The file or the WAL was touched while no process of ours ran: perhaps only copied, or read with a shell.
    fn compare_pages(&self, known: &Facts, writer: &Connection) -> Result<Opening, rusqlite::Error> {
        let why = "others have written to its file while it was stopped";
        let Some(sum) = known.sum else {
            let why = format!("{why}, or may have: not all of its pages were known");
            return Ok(Opening::marked(Mark::Foreign, self.lost_end(), why));
        };
        let (whole, sums) = whole(writer, self.index.page_size, self.index.pages)?;
        if whole != sum {
            return Ok(Opening::marked(Mark::Foreign, self.lost_end(), why.to_owned()));
        }
        Ok(Opening { sums: Some(sums), ..Opening::sound(NumberedEnd::Newest) })
    }

    fn lost_end(&self) -> NumberedEnd {
        NumberedEnd::lost(&self.index)
    }
}

/// The sum of all pages, as `PageSums` makes it, and of each.
fn whole(
    connection: &Connection,
    page_size: u32,
    pages: u32,
) -> Result<(u64, Vec<(u32, PageSum)>), rusqlite::Error> {
    let mut image = vec![0; page_size as usize];
    let mut all = Vec::with_capacity(pages as usize);
    let mut whole = 0u64;
    for page in 1..=pages {
        if is_lock_page(page, page_size) {
            whole = whole.wrapping_add(PageSum::MIN.get());
            continue;
        }
        wal::read_page(connection, page, &mut image)?;
        let sum = sums::sum(page, &image);
        whole = whole.wrapping_add(sum.get());
        all.push((page, sum));
    }
    Ok((whole, all))
}
