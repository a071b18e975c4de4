//! Finds what was committed between two points of the WAL.
//!
//! Owns the frame format. Never trusts an offset: the end comes from the WAL index, and the commits found must be as
//! many as the index counted, or frames were lost. Read `batch.rs` next.

use bytes::Bytes;
use rusqlite::Connection;
use tanist_replication::PagesWriter;

use crate::sqlite_file::{self, WalIndex};

const WAL_HEADER: u64 = 32;
const FRAME_HEADER: usize = 24;
/// Ranges up to this many bytes are read at once.
const READ_AT_ONCE: u64 = 1 << 20;

/// Bytes of a WAL with `frames` frames.
pub(crate) fn wal_bytes(frames: u32, page_size: u32) -> u64 {
    if frames == 0 {
        0
    } else {
        WAL_HEADER + u64::from(frames) * (FRAME_HEADER as u64 + u64::from(page_size))
    }
}

/// The page with SQLite's lock bytes (at 1 GiB): never written, never in a frame.
pub(crate) fn lock_page(page_size: u32) -> u32 {
    0x4000_0000 / page_size + 1
}

/// Whether `page` is the one with SQLite's lock bytes.
pub(crate) fn is_lock_page(page: u32, page_size: u32) -> bool {
    page == lock_page(page_size)
}

/// What lies between two points of the WAL.
#[derive(Debug)]
pub(crate) enum Range {
    /// The pages, as a payload.
    Payload {
        /// Uncompressed.
        plain: Bytes,
        /// Commits found in it.
        commits: u32,
    },
    /// Frames are missing, or there are too many of them.
    Break(&'static str),
}

/// A page's newest frame, counted from the start of the range.
#[derive(Debug, Clone, Copy)]
struct PageFrame {
    page: u32,
    frame: u32,
}

/// The pages, in order, that were committed after `from` up to `to`; `None` when frames are missing.
pub(crate) fn touched(
    connection: &Connection,
    from: &WalIndex,
    to: &WalIndex,
) -> Result<Option<Vec<u32>>, rusqlite::Error> {
    let start = if from.salts == to.salts { from.frames } else { 0 };
    let Some(count) = to.frames.checked_sub(start) else { return Ok(None) };
    let (mut pages, mut commits) = (Vec::with_capacity(count as usize), 0u32);
    for frame in 0..count {
        let Some(Frame { page, size, .. }) = frame_header(connection, start + frame, to)? else {
            return Ok(None);
        };
        commits += u32::from(size != 0);
        pages.push(page);
    }
    pages.sort_unstable();
    pages.dedup();
    Ok((commits == to.change.wrapping_sub(from.change)).then_some(pages))
}

/// What stands before the page image in a frame.
pub(crate) struct Frame {
    pub(crate) page: u32,
    /// Size of the database in pages; 0 but for the last frame of a commit.
    pub(crate) size: u32,
    /// Of the WAL up to here.
    pub(crate) checksum: [u32; 2],
}

/// Reads a frame's header, counted from 0; `None` when it belongs to another WAL.
pub(crate) fn frame_header(
    connection: &Connection,
    frame: u32,
    index: &WalIndex,
) -> Result<Option<Frame>, rusqlite::Error> {
    let mut header = [0u8; FRAME_HEADER];
    sqlite_file::read_wal(connection, frame_offset(frame, index.page_size), &mut header)?;
    let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    Ok((header[8..16] == index.salts).then(|| Frame {
        page: word(0),
        size: word(4),
        checksum: [word(16), word(20)],
    }))
}

/// Reads the page image in a frame, counted from 0.
pub(crate) fn frame_image(
    connection: &Connection,
    frame: u32,
    image: &mut [u8],
) -> Result<(), rusqlite::Error> {
    let page_size = u32::try_from(image.len()).unwrap_or(u32::MAX);
    sqlite_file::read_wal(connection, frame_offset(frame, page_size) + FRAME_HEADER as u64, image)
}

fn frame_offset(frame: u32, page_size: u32) -> u64 {
    WAL_HEADER + u64::from(frame) * (FRAME_HEADER as u64 + u64::from(page_size))
}

/// Reads what was committed after `from` up to `to`; all pages of the database when `whole`.
pub(crate) fn read_range(
    connection: &Connection,
    from: &WalIndex,
    to: &WalIndex,
    whole: bool,
    limit_bytes: u64,
    scratch: &mut Vec<u8>,
) -> Result<Range, rusqlite::Error> {
    let page_size = to.page_size;
    let start = if from.salts == to.salts { from.frames } else { 0 };
    let Some(count) = to.frames.checked_sub(start) else {
        return Ok(Range::Break("the WAL has become shorter"));
    };
    let frame_bytes = FRAME_HEADER as u64 + u64::from(page_size);
    let offset = |frame: u32| WAL_HEADER + u64::from(start + frame) * frame_bytes;
    let at_once = u64::from(count) * frame_bytes <= READ_AT_ONCE;
    if at_once {
        scratch.resize(count as usize * frame_bytes as usize, 0);
        if count > 0 {
            sqlite_file::read_wal(connection, offset(0), scratch)?;
        }
    }

    let mut frames = Vec::with_capacity(count as usize);
    let (mut commits, mut smallest) = (0u32, from.pages);
    let mut header = [0u8; FRAME_HEADER];
    for frame in 0..count {
        if at_once {
            let at = frame as usize * frame_bytes as usize;
            header.copy_from_slice(&scratch[at..at + FRAME_HEADER]);
        } else {
            sqlite_file::read_wal(connection, offset(frame), &mut header)?;
        }
        let word =
            |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        if header[8..16] != to.salts {
            return Ok(Range::Break("a frame belongs to another WAL"));
        }
        let size = word(4);
        if size != 0 {
            commits += 1;
            smallest = smallest.min(size);
        }
        frames.push(PageFrame { page: word(0), frame });
    }
    if commits != to.change.wrapping_sub(from.change) {
        return Ok(Range::Break("commits have left the WAL before they were captured"));
    }
    // The newest frame of each page comes last.
    frames.sort_unstable_by_key(|entry| (entry.page, entry.frame));
    frames.dedup_by(|later, earlier| {
        let same = later.page == earlier.page;
        if same {
            *earlier = *later;
        }
        same
    });
    frames.retain(|entry| entry.page <= to.pages);

    // Pages that are new but in no frame (a page allocated and freed again).
    let new_after = if whole { 0 } else { smallest };
    let missing: Vec<u32> = {
        let mut present = frames[frames.partition_point(|entry| entry.page <= new_after)..]
            .iter()
            .map(|entry| entry.page)
            .peekable();
        (new_after.saturating_add(1)..=to.pages)
            .filter(|page| present.next_if_eq(page).is_none() && !is_lock_page(*page, page_size))
            .collect()
    };

    let total = frames.len() + missing.len();
    if total as u64 * (u64::from(page_size) + 4) > limit_bytes {
        return Ok(Range::Break("the transaction is larger than a backup accepts"));
    }
    let mut writer = PagesWriter::new(page_size, total);
    let mut missing = missing.into_iter().peekable();
    for entry in &frames {
        while let Some(page) = missing.next_if(|page| *page < entry.page) {
            read_page(connection, page, writer.page(page))?;
        }
        let image = writer.page(entry.page);
        if at_once {
            let at = entry.frame as usize * frame_bytes as usize + FRAME_HEADER;
            image.copy_from_slice(&scratch[at..at + page_size as usize]);
        } else {
            sqlite_file::read_wal(connection, offset(entry.frame) + FRAME_HEADER as u64, image)?;
        }
    }
    for page in missing {
        read_page(connection, page, writer.page(page))?;
    }
    Ok(Range::Payload { plain: writer.finish(to.pages), commits })
}

/// Reads a page as the connection sees it.
pub(crate) fn read_page(connection: &Connection, page: u32, image: &mut [u8]) -> Result<(), rusqlite::Error> {
    let mut statement = connection.prepare_cached("SELECT data FROM sqlite_dbpage WHERE pgno = ?1")?;
    statement.query_row([page], |row| {
        let data = row.get_ref(0)?.as_blob()?;
        if data.len() != image.len() {
            return Err(rusqlite::Error::InvalidColumnType(
                0,
                "page of another size".into(),
                rusqlite::types::Type::Blob,
            ));
        }
        image.copy_from_slice(data);
        Ok(())
    })
}
