//! Every target over its corpus and a fixed number of mutations. What fails prints its input.

use tanist_fuzz::{TARGETS, run, targets};

macro_rules! replay {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            match targets::named(stringify!($name)) {
                Some(target) => run::bounded(target),
                None => panic!("no such target"),
            }
        })*

        #[test]
        fn every_target_is_replayed() {
            let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

replay! { apply config copy frames handshake hard_state http node node_db pages params preamble sql store_files text wire }

#[test]
fn corpus_is_small_and_every_folder_has_its_target() {
    let folders = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus")).unwrap();
    let mut folders: Vec<_> =
        folders.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    folders.sort();
    let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(folders, names);
    for target in TARGETS {
        let files = run::corpus(target);
        assert!(files.len() <= 40, "{}: {} files", target.name, files.len());
        for (name, input) in files {
            assert!(input.len() <= 2048, "{}/{name}: {} bytes", target.name, input.len());
        }
    }
}

#[test]
fn every_target_has_its_program_for_libfuzzer() {
    let manifest =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/coverage/Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let programs = manifest["bin"].as_array().unwrap().iter();
    let mut programs: Vec<_> = programs.map(|program| program["name"].as_str().unwrap()).collect();
    programs.sort_unstable();
    let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(programs, names);
}
