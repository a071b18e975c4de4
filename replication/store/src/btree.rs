//! SQLite's b-trees as they stand in pages: which pages belong to one, and whether a page can be one of them.
//!
//! Owns no connection. Reads only interior pages to find all pages of a tree, about one in a hundred. Overflow pages aren't
//! followed. Read `outside.rs` for what it is used for; the format is SQLite's, described in its "Database File Format".

use std::collections::BTreeSet;

use rusqlite::Connection;

use crate::wal::read_page;

/// Deeper trees than this can't be: each level multiplies the pages by three at least.
const DEEPEST: usize = 24;

/// What a page of a b-tree holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    IndexInterior,
    TableInterior,
    IndexLeaf,
    TableLeaf,
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        match byte {
            2 => Some(Kind::IndexInterior),
            5 => Some(Kind::TableInterior),
            10 => Some(Kind::IndexLeaf),
            13 => Some(Kind::TableLeaf),
            _ => None,
        }
    }

    fn is_interior(self) -> bool {
        matches!(self, Kind::IndexInterior | Kind::TableInterior)
    }
}

/// A page as one of a b-tree.
pub(crate) struct TreePage<'i> {
    kind: Kind,
    image: &'i [u8],
    /// Where the b-tree's header begins: the first page has the database's before it.
    header: usize,
    cells: usize,
}

impl<'i> TreePage<'i> {
    /// The page, if it is well-formed: every cell lies within it, and every child within a database of `pages` pages.
    pub(crate) fn parse(page: u32, image: &'i [u8], usable: usize, pages: u32) -> Option<TreePage<'i>> {
        let header = if page == 1 { 100 } else { 0 };
        let kind = Kind::of(*image.get(header)?)?;
        let cells = usize::from(u16_at(image, header + 3)?);
        let tree = TreePage { kind, image, header, cells };
        let array_end = tree.array() + 2 * cells;
        let content = match u16_at(image, header + 5)? {
            0 => 65536, // two bytes can't say it
            start => usize::from(start),
        };
        let fits = array_end <= content && content <= usable && usable <= image.len();
        (fits
            && (0..cells).all(|cell| tree.cell_fits(cell, array_end, usable))
            && tree.children().all(|child| (2..=pages).contains(&child)))
        .then_some(tree)
    }

    fn array(&self) -> usize {
        self.header + if self.kind.is_interior() { 12 } else { 8 }
    }

    fn cell(&self, cell: usize) -> Option<usize> {
        u16_at(self.image, self.array() + 2 * cell).map(usize::from)
    }

    fn cell_fits(&self, cell: usize, array_end: usize, usable: usize) -> bool {
        let Some(at) = self.cell(cell).filter(|at| (array_end..usable).contains(at)) else { return false };
        self.cell_bytes(at, usable).is_some_and(|bytes| at + bytes <= usable)
    }

    /// Bytes of the cell at `at` in this page.
    fn cell_bytes(&self, at: usize, usable: usize) -> Option<usize> {
        let mut next = at + if self.kind.is_interior() { 4 } else { 0 };
        if self.kind == Kind::TableInterior {
            return Some(next + varint(self.image, next)?.1 - at);
        }
        let (payload, bytes) = varint(self.image, next)?;
        next += bytes;
        if self.kind == Kind::TableLeaf {
            next += varint(self.image, next)?.1;
        }
        let most = match self.kind {
            Kind::TableLeaf => usable - 35,
            _ => (usable - 12) * 64 / 255 - 23,
        };
        let payload = usize::try_from(payload).ok()?;
        if payload <= most {
            return Some(next + payload - at);
        }
        let least = (usable - 12) * 32 / 255 - 23;
        let local = least + (payload - least) % (usable - 4);
        Some(next + if local <= most { local } else { least } + 4 - at)
    }

    /// The pages below it.
    pub(crate) fn children(&self) -> impl Iterator<Item = u32> {
        let interior = self.kind.is_interior();
        let right = interior.then(|| u32_at(self.image, self.header + 8)).flatten();
        let left = (0..self.cells).filter_map(move |cell| {
            interior.then(|| self.cell(cell).and_then(|at| u32_at(self.image, at))).flatten()
        });
        left.chain(right)
    }
}

fn u16_at(image: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(image.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(image: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(image.get(at..at + 4)?.try_into().ok()?))
}

/// The integers of the only row of a table, as they stand in its root page, when it has such a row and this many columns at
/// least: `None` for a column that is no integer in the record.
pub(crate) fn only_row(image: &[u8], columns: usize) -> Option<Vec<Option<i64>>> {
    let page = TreePage::parse(2, image, image.len(), u32::MAX)?;
    if page.kind != Kind::TableLeaf || page.cells != 1 {
        return None;
    }
    let (payload, bytes) = varint(image, page.cell(0)?)?;
    let record = page.cell(0)? + bytes;
    let start = record + varint(image, record)?.1;
    let end = start.checked_add(usize::try_from(payload).ok()?)?;
    let (header, mut next) = varint(image, start)?;
    let (mut at, mut values) = (start + usize::try_from(header).ok()?, vec![]);
    next += start;
    for _ in 0..columns {
        let (kind, bytes) = varint(image, next)?;
        next += bytes;
        let length = match kind {
            0 | 8 | 9 => 0,
            1..=4 => usize::try_from(kind).ok()?,
            5 => 6,
            6 | 7 => 8,
            other => usize::try_from(other.saturating_sub(12) / 2).ok()?,
        };
        let bytes = image.get(at..at.checked_add(length)?).filter(|_| at + length <= end)?;
        at += length;
        let negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
        let number = bytes
            .iter()
            .fold(if negative { -1i64 } else { 0 }, |number, byte| number << 8 | i64::from(*byte));
        values.push(match kind {
            1..=6 => Some(number),
            8 => Some(0),
            9 => Some(1),
            _ => None,
        });
    }
    Some(values)
}

/// A number of variable length and its bytes.
pub(crate) fn varint(image: &[u8], at: usize) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for bytes in 1..=9 {
        let byte = *image.get(at + bytes - 1)?;
        if bytes == 9 {
            return Some((value << 8 | u64::from(byte), bytes));
        }
        value = value << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some((value, bytes));
        }
    }
    None
}

/// A database of `pages` pages as `connection` sees it.
pub(crate) struct Trees<'c> {
    pub(crate) connection: &'c Connection,
    pub(crate) page_size: u32,
    /// Bytes of a page that SQLite uses.
    pub(crate) usable: usize,
    pub(crate) pages: u32,
}

impl Trees<'_> {
    /// All pages of the b-tree at `root`, but for its overflow pages.
    ///
    /// # Errors
    /// The outer one: a page can't be read. The inner one: this page isn't one of a b-tree, though it stands in one.
    pub(crate) fn pages_of(&self, root: u32) -> Result<Result<BTreeSet<u32>, u32>, rusqlite::Error> {
        let mut found = BTreeSet::from([root]);
        let mut level = vec![root];
        let mut image = vec![0; self.page_size as usize];
        for _ in 0..DEEPEST {
            // All leaves are on one level: the first page tells what this one is.
            let mut below = vec![];
            for page in &level {
                read_page(self.connection, *page, &mut image)?;
                let Some(tree) = TreePage::parse(*page, &image, self.usable, self.pages) else {
                    return Ok(Err(*page));
                };
                if !tree.kind.is_interior() {
                    return Ok(if page == &level[0] { Ok(found) } else { Err(*page) });
                }
                below.extend(tree.children());
            }
            for page in &below {
                if !found.insert(*page) {
                    return Ok(Err(*page)); // it stands in two places
                }
            }
            level = below;
        }
        Ok(Err(root))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch(
                "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b BLOB); CREATE INDEX i ON t (a, b);
                 CREATE TABLE w (k TEXT PRIMARY KEY, v) WITHOUT ROWID;
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
                 INSERT INTO t SELECT i, hex(randomblob(i % 90)), zeroblob(i % 7 * i) FROM n;
                 INSERT INTO w SELECT a || id, zeroblob(id % 3000) FROM t;
                 DELETE FROM t WHERE id % 13 = 5",
            )
            .unwrap();
        connection
    }

    fn trees(connection: &Connection) -> Trees<'_> {
        let pages = connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
        Trees { connection, page_size: 4096, usable: 4096, pages }
    }

    #[test]
    fn pages_of_a_tree_are_those_that_sqlite_counts() {
        let connection = database();
        for name in ["t", "i", "w", "sqlite_schema"] {
            let root = "SELECT rootpage FROM sqlite_schema WHERE name = ?1 UNION ALL SELECT 1 LIMIT 1";
            let root = connection.query_row(root, [name], |row| row.get(0)).unwrap();
            let found = trees(&connection).pages_of(root).unwrap().unwrap();
            let sql = "SELECT pageno FROM dbstat WHERE name = ?1 AND pagetype <> 'overflow' ORDER BY 1";
            let mut statement = connection.prepare(sql).unwrap();
            let counted: Result<Vec<u32>, _> =
                statement.query_map([name], |row| row.get(0)).unwrap().collect();
            assert_eq!(found.into_iter().collect::<Vec<_>>(), counted.unwrap(), "{name}");
        }
    }

    #[test]
    fn integers_of_a_single_row_are_those_that_sqlite_reads() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE p (id INTEGER PRIMARY KEY, a, b, c BLOB, d)").unwrap();
        let mut image = vec![0; 4096];
        let mut root = |connection: &Connection| {
            read_page(connection, 2, &mut image).unwrap();
            only_row(&image, 5)
        };
        assert_eq!(root(&connection), None, "no row");
        for number in
            [0, 1, 2, -1, 127, 128, -129, 40_000, 8_388_608, 5_000_000_000, 1 << 50, i64::MIN, i64::MAX]
        {
            connection
                .execute("REPLACE INTO p VALUES (1, ?1, 7, zeroblob(16), -?1)", [number.max(-i64::MAX)])
                .unwrap();
            let number = number.max(-i64::MAX);
            assert_eq!(root(&connection), Some(vec![None, Some(number), Some(7), None, Some(-number)]));
        }
        connection.execute("INSERT INTO p VALUES (2, 1, 2, 3, 4)", []).unwrap();
        assert_eq!(root(&connection), None, "two rows");
    }

    #[test]
    fn page_that_is_none_of_its_tree_is_found() {
        let connection = database();
        let trees = trees(&connection);
        let root =
            connection.query_row("SELECT rootpage FROM sqlite_schema WHERE name = 't'", [], |row| row.get(0));
        let root = root.unwrap();
        let leaf = "SELECT pageno FROM dbstat WHERE name = 't' AND pagetype = 'leaf' LIMIT 1 OFFSET 7";
        let leaf: u32 = connection.query_row(leaf, [], |row| row.get(0)).unwrap();
        let mut image = vec![0; 4096];
        read_page(&connection, leaf, &mut image).unwrap();
        assert!(TreePage::parse(leaf, &image, 4096, trees.pages).is_some());
        for (at, byte) in [(0, 0), (3, 0xff), (8, 0xff)] {
            let mut broken = image.clone();
            broken[at] = byte;
            assert!(TreePage::parse(leaf, &broken, 4096, trees.pages).is_none(), "{at} {byte}");
        }
        connection.execute("UPDATE sqlite_dbpage SET data = zeroblob(4096) WHERE pgno = ?1", [leaf]).unwrap();
        assert!(trees.pages_of(root).unwrap().unwrap().contains(&leaf), "leaves aren't read");
    }
}
