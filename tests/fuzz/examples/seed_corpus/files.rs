//! What stands in files.

use std::error::Error;

use tanist_replication::{HardState, SuccessionRecord, Term};

use crate::{Input, named, peers};

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

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
    let voted = HardState { term: Term(4), voted_for: Some("pc-2".parse()?), record: peers::record()? };
    let blank = HardState { term: Term(0), voted_for: None, record: SuccessionRecord::blank(vec![]) };
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
