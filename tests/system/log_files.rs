//! Log files beside the standard error output.

use std::path::Path;

use crate::{
    cluster::{Cluster, Layout},
    workload::create_ledger,
};

fn files(directory: &Path) -> Vec<(String, u64)> {
    let Ok(entries) = std::fs::read_dir(directory) else { return vec![] };
    let mut files: Vec<_> = entries
        .map(|entry| entry.unwrap())
        .filter_map(|entry| Some((entry.file_name().into_string().unwrap(), entry.metadata().ok()?.len())))
        .collect();
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn files_hold_the_log_to_its_end_and_stay_within_their_bounds() {
    let extra = "[log]\ndirectory = \"logs\"\nmax_files = 2\nmax_size = \"64KiB\"\n";
    let mut cluster = Cluster::lay_out(&Layout { extra: extra.to_owned(), ..Layout::of(1) });
    let directory = cluster.machines[0].config.with_file_name("logs");
    // As earlier runs have left them.
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("tanist.log"), "full\n".repeat((64 << 10) / 5)).unwrap();
    std::fs::write(directory.join("tanist.log.1"), "oldest\n").unwrap();
    cluster.start_all();
    cluster.wait_master().await;
    create_ledger(&cluster.client()).await;
    assert!(cluster.terminate(0).success());
    let files = files(&directory);
    assert!(files.iter().map(|(name, _)| name.as_str()).eq(["tanist.log", "tanist.log.1"]), "{files:?}");
    assert!(files.iter().all(|(_, size)| *size <= 64 << 10), "{files:?}");
    let text = std::fs::read_to_string(directory.join("tanist.log")).unwrap();
    assert!(text.contains("became master"), "{text}");
    assert!(text.trim_end().ends_with("stopped"), "the last line counts: {text}");
    let old = std::fs::read_to_string(directory.join("tanist.log.1")).unwrap();
    assert!(old.starts_with("full") && !old.contains("tanist runs"), "{old}");
    assert!(!text.contains('\u{1b}'), "no colors");
    assert!(cluster.log_of(0).contains("stopped"), "the standard error output has it, too");
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disk_under_the_log_stops_nothing() {
    let extra = "[log]\ndirectory = \"logs\"\n";
    let mut cluster = Cluster::lay_out(&Layout { extra: extra.to_owned(), ..Layout::of(1) });
    let directory = cluster.machines[0].config.with_file_name("logs");
    std::fs::create_dir(&directory).unwrap();
    std::os::unix::fs::symlink("/dev/full", directory.join("tanist.log")).unwrap();
    cluster.start_all();
    cluster.wait_master().await;
    create_ledger(&cluster.client()).await;
    assert!(cluster.terminate(0).success());
    assert!(cluster.log_of(0).contains("stopped"));
    cluster.assert_no_panic();
}
