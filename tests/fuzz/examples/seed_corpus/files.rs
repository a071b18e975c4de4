//! What stands in files.

use std::error::Error;

use tanist_replication::{HardState, Known, Position, SuccessionRecord, Term};

use crate::{Input, named, peers};

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

pub(crate) fn copy() -> Vec<Input> {
    named([
        ("whole", vec![1]),
        ("empty", vec![0]),
        ("end_mark_alone", [&[0; 45][..], b"TANISTC1"].concat()),
        ("frame_alone", b"\x00\x28\xb5\x2f\xfd\x24\x05\x29\x00\x00hello\x00\x00\x00\x00".to_vec()),
        ("bit_flipped", vec![1, 2, 4, 0, 3]),
        ("cut", vec![1, 3, 4, 0, 0]),
        ("part_given_twice", vec![1, 3, 4, 0, 1]),
        ("end_overwritten", [&[1, 0, 0xff, 0xff, 31][..], &[0xff; 31]].concat()),
    ])
}

pub(crate) fn config() -> Vec<Input> {
    let start = format!("cluster = \"wall\"\nid = \"pc-1\"\nkey = \"{KEY}\"\n");
    let member = |id: &str, rank: u32| {
        format!(
            "[[member]]\nid = \"{id}\"\nrank = {rank}\npeer = [\"{id}:7450\", \"10.0.0.{rank}:7450\"]\nurl = [\"http://{id}:8080/\"]\n"
        )
    };
    let members = format!("{}{}{}", member("pc-1", 1), member("pc-2", 2), member("w", 0));
    let with = |middle: &str| format!("{start}{middle}{members}").into_bytes();
    named([
        ("least", format!("{start}{}", member("pc-1", 1)).into_bytes()),
        (
            "three",
            with("data_dir = \"data\"\n[listen]\npeer = \"0.0.0.0:7450\"\nhttp = \"127.0.0.1:8080\"\n"),
        ),
        ("open_http", with("[listen]\nhttp = \"[::]:8080\"\ninsecure = true\n")),
        (
            "timing",
            with(
                "[timing]\nheartbeat = \"50ms\"\nlease = \"500ms\"\ndrift_margin = \"20ms\"\nsync_timeout = \"1 s\"\n\
                 election_stagger = \"50ms\"\ntrust_refused = false\nfailback = \"1m\"\n",
            ),
        ),
        (
            "sizes",
            with(
                "[replication]\nsync_backups = 1\nmin_sync_backups = 1\nbuffer = \"64MiB\"\nmax_transaction = \"256MiB\"\n\
                 [store]\nwal_limit = \"4GiB\"\ncache = \"256KiB\"\n",
            ),
        ),
        (
            "limits",
            with(
                "[limits]\nbody = \"1MiB\"\nstatements = 10\nrows = 100\nresult = \"1MB\"\nstatement_time = \"1s\"\n\
                 master_wait = \"0ms\"\nconcurrent_requests = 7\nconnections = 9\nrequest_retention = \"720h\"\n[log]\nfilter = \"info\"\nformat = \"json\"\n",
            ),
        ),
        ("huge_numbers", with("[timing]\nlease = \"18446744073709551615h\"\n")),
        (
            "key_without_equals_sign",
            format!("cluster = \"wall\"\nid = \"pc-1\"\nkey \"{KEY}\"\n{members}").into_bytes(),
        ),
        ("key_alone", format!("{KEY}\n{members}").into_bytes()),
        (
            "key_on_a_line_of_its_own",
            format!("cluster = \"wall\"\nid = \"pc-1\"\nkey =\n\"{KEY}\"\n{members}").into_bytes(),
        ),
        ("key_unquoted", format!("cluster = \"wall\"\nid = \"pc-1\"\nkey = {KEY}\n{members}").into_bytes()),
        ("key_elsewhere", format!("cluster = \"{KEY}\"\nid = \"pc-1\"\n{members}").into_bytes()),
        ("no_member", start.clone().into_bytes()),
        (
            "key_file",
            format!("cluster = \"c\"\nid = \"pc-1\"\nkey_file = \"cluster.key\"\n{members}").into_bytes(),
        ),
    ])
}

pub(crate) fn hard_state() -> Result<Vec<Input>, Box<dyn Error>> {
    let voted = HardState {
        term: Term(4),
        voted_for: Some("pc-2".parse()?),
        record: peers::record()?,
        promised: std::time::Duration::from_secs(1),
        known: Known { acknowledged: Position::new(4, 8), trails: true },
    };
    let blank = HardState {
        term: Term(0),
        voted_for: None,
        record: SuccessionRecord::blank(vec![]),
        promised: std::time::Duration::ZERO,
        known: Known::default(),
    };
    Ok(named([("voted", minicbor::to_vec(&voted)?), ("blank", minicbor::to_vec(&blank)?)]))
}

/// Edits: 0 overwrites (place, length, bytes), 2 flips a bit (place, bit), 3 cuts or repeats (place, which).
pub(crate) fn node_db() -> Vec<Input> {
    named([
        ("unharmed", vec![]),
        ("empty", vec![3, 0, 0, 0]),
        ("half_a_page", vec![3, 8, 0, 0]),
        ("one_page", vec![3, 16, 0, 0]),
        ("other_page_size", vec![0, 0, 16, 2, 2, 0]),
        ("header_garbage", vec![0, 0, 0, 16, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]),
        ("schema_bit", vec![2, 15, 0xf0, 3]),
        ("row_bit", vec![2, 31, 0xf0, 3]),
        ("state_overwritten", vec![0, 31, 0xe0, 8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ("tail_repeated", vec![3, 16, 0, 1]),
    ])
}

/// Which (how many in the upper half, the changed one in the lower), flags, field and its change, then edits.
pub(crate) fn apply() -> Vec<Input> {
    const FAULTY_MASTER: u8 = 1 | 2 | 4;
    let all = 0x40;
    named([
        ("first_intact", vec![0, 0]),
        ("all_intact", vec![all, 0]),
        ("other_predecessor", vec![0, 16, 1, 0, 1]),
        ("number_left_out", vec![all, 16, 4, 0, 3]),
        ("term_goes_back", vec![0x22, 16, 3, 0, 3]),
        ("term_beyond_all_numbers", vec![0, 0, 0x33, 0xff, 0xff]),
        ("other_chain", vec![0x11, 0, 5, 0, 4]),
        ("wrong_checksum", vec![all | 1, 16, 7, 0, 2]),
        ("wrong_length", vec![0x11, 16, 8, 0, 1]),
        ("huge_length", vec![0x11, 16, 0xf8, 0xff, 0xff]),
        ("wrong_encoding", vec![0x11, 16, 9, 0, 0]),
        ("bit_in_zstd", vec![0x11, 16, 0, 0, 0, 2, 0, 9, 4]),
        ("bit_in_a_page", vec![0, 16, 0, 0, 0, 2, 4, 9, 4]),
        ("faulty_bit_in_a_page", vec![0, FAULTY_MASTER, 0, 0, 0, 2, 4, 9, 4]),
        ("faulty_compressed", vec![0x11, 8 | 2 | 4, 0, 0, 0, 2, 16, 9, 4]),
        ("faulty_page_size", vec![0, FAULTY_MASTER, 0, 0, 0, 0, 0, 0, 4, 0, 0, 32, 0]),
        ("faulty_no_pages", vec![0, FAULTY_MASTER, 0, 0, 0, 3, 0, 12, 0, 0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("faulty_huge_size", vec![0, FAULTY_MASTER, 0, 0, 0, 0, 0, 4, 4, 0xff, 0xff, 0xff, 0xff]),
        (
            "faulty_page_far_out",
            vec![
                0,
                FAULTY_MASTER,
                0,
                0,
                0,
                0,
                0,
                4,
                4,
                0xff,
                0xff,
                0xff,
                0xff,
                0,
                0,
                12,
                4,
                0xff,
                0xff,
                0xff,
                0xff,
            ],
        ),
        (
            "faulty_lock_page",
            vec![0, FAULTY_MASTER, 0, 0, 0, 0, 0, 4, 4, 0, 4, 0, 1, 0, 0, 12, 4, 0, 4, 0, 1],
        ),
        (
            "faulty_header_page",
            vec![0x33, FAULTY_MASTER, 0, 0, 0, 0, 0, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ),
    ])
}

/// 0 for the WAL, 1 for the database, then edits as above.
pub(crate) fn store_files() -> Vec<Input> {
    named([
        ("wal_unharmed", vec![0]),
        ("wal_empty", vec![0, 3, 0, 0, 0]),
        ("wal_half_a_header", vec![0, 3, 0, 16, 0]),
        ("wal_cut_in_a_frame", vec![0, 3, 0x13, 0x88, 0]),
        ("wal_last_byte_gone", vec![0, 3, 0x70, 0, 0]),
        ("wal_header_bit", vec![0, 2, 0, 11, 4]),
        ("wal_salt", vec![0, 2, 0, 17, 1]),
        ("wal_frame_size_bit", vec![0, 2, 0, 39, 1]),
        ("wal_page_bit", vec![0, 2, 0x10, 0, 1]),
        ("wal_repeated", vec![0, 3, 0, 0, 1]),
        ("db_unharmed", vec![1]),
        ("db_empty", vec![1, 3, 0, 0, 0]),
        ("db_cut", vec![1, 3, 0x10, 0, 0]),
        ("db_header", vec![1, 0, 0, 16, 4, 2, 0, 1, 1]),
        ("db_schema", vec![1, 2, 0x0f, 0xf0, 1]),
        ("db_size", vec![1, 0, 0, 28, 4, 0xff, 0xff, 0xff, 0xff]),
    ])
}
