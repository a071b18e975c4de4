//! The newest transactions across a clean stop, so that after a restart of all a backup that is a little behind is streamed
//! to, instead of having all its pages compared.
//!
//! Owns the file `recent.transactions`, which lives from a clean stop to the next start. It is only worth something: what is
//! missing, torn or of another state is as if it had never been there.

use std::{
    fs::File,
    io::{self, BufWriter, Write as _},
    path::Path,
};

use bytes::{Buf as _, Bytes};
use tanist_replication::{Message, Position, Transaction, wire};
use tanist_store::{Reserve, private};

const FILE: &str = "recent.transactions";
/// Before each record: the lengths of head and body, and a checksum of both.
const RECORD: usize = 4 + 4 + 32;

/// Keeps them for the next start, where there is room.
pub(crate) fn keep<'t>(
    directory: &Path,
    reserve: &Reserve,
    transactions: impl Iterator<Item = &'t Transaction>,
) {
    let path = directory.join(FILE);
    if let Err(error) = write(&path, reserve, transactions) {
        tracing::warn!(path = %path.display(), %error, "the newest transactions can't be kept for the next start");
        let _ = std::fs::remove_file(&path);
    }
}

fn write<'t>(
    path: &Path,
    reserve: &Reserve,
    transactions: impl Iterator<Item = &'t Transaction>,
) -> io::Result<()> {
    let file = private::options().write(true).create(true).truncate(true).open(path)?;
    let mut out = BufWriter::new(file);
    for transaction in transactions {
        if !reserve.has_room_for(transaction.payload.len() as u64) {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the disk is nearly full"));
        }
        let term = transaction.stamp.position.term;
        let (head, body) = wire::encode(Message::Append {
            term,
            transaction: transaction.clone(),
            acknowledged: Position::ZERO,
        });
        for length in [head.len(), body.len()] {
            let length = u32::try_from(length).map_err(io::Error::other)?;
            out.write_all(&length.to_be_bytes())?;
        }
        out.write_all(checksum(&head, &body).as_bytes())?;
        out.write_all(&head)?;
        out.write_all(&body)?;
    }
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

/// What the last stop has kept, up to `limit` bytes; it is of no use to another start.
pub(crate) fn take(directory: &Path, limit: u64) -> Vec<Transaction> {
    let path = directory.join(FILE);
    let fits = File::open(&path).and_then(|file| file.metadata()).is_ok_and(|file| file.len() <= limit);
    let bytes = if fits { std::fs::read(&path).unwrap_or_default() } else { vec![] };
    let _ = std::fs::remove_file(&path);
    let mut bytes = Bytes::from(bytes);
    std::iter::from_fn(|| next(&mut bytes)).collect()
}

fn next(bytes: &mut Bytes) -> Option<Transaction> {
    if bytes.len() < RECORD {
        return None;
    }
    let (head, body) = (bytes.get_u32() as usize, bytes.get_u32() as usize);
    let found = bytes.split_to(RECORD - 8);
    if bytes.len() < head.checked_add(body)? {
        return None;
    }
    let (head, body) = (bytes.split_to(head), bytes.split_to(body));
    if found[..] != checksum(&head, &body).as_bytes()[..] {
        return None;
    }
    match wire::decode(&head, body) {
        Ok(Message::Append { transaction, .. }) => Some(transaction),
        _ => None,
    }
}

fn checksum(head: &[u8], body: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(head);
    hasher.update(body);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use tanist_replication::{Checksum, Encoding, Stamp};

    use super::*;

    fn transaction(txid: u64) -> Transaction {
        let stamp = |txid| Stamp { position: Position::new(1, txid), ..Stamp::default() };
        Transaction {
            previous: stamp(txid - 1),
            stamp: stamp(txid),
            checksum: Checksum::default(),
            encoding: Encoding::Plain,
            plain_len: 3,
            payload: Bytes::from_static(b"abc"),
        }
    }

    #[test]
    fn kept_ones_are_taken_once_and_a_torn_end_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let reserve = Reserve::open(directory.path(), 0);
        let kept: Vec<_> = (5..9).map(transaction).collect();
        keep(directory.path(), &reserve, kept.iter());
        assert_eq!(take(directory.path(), 1 << 20), kept);
        assert_eq!(take(directory.path(), 1 << 20), []);
        keep(directory.path(), &reserve, kept.iter());
        assert_eq!(take(directory.path(), 10), [], "more than may be");
        keep(directory.path(), &reserve, kept.iter());
        let path = directory.path().join(FILE);
        let length = std::fs::metadata(&path).unwrap().len();
        File::options().write(true).open(&path).unwrap().set_len(length - 1).unwrap();
        assert_eq!(take(directory.path(), 1 << 20), kept[..3]);
    }
}
