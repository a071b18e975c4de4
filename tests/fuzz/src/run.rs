//! The bounded run: the corpus as it is, then a fixed number of mutations of it.
//!
//! Owns the seeds, the corpus folder and what is said of a failure. Never goes on after one.

use std::{
    fmt::Write as _,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::PathBuf,
};

use crate::{
    Target,
    mutate::{Random, mutate},
};

const SEED: u64 = 0x7a61_6e69_7374;

/// Folder of a target's committed inputs.
#[must_use]
pub fn corpus_folder(target: &Target) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name)
}

/// A target's committed inputs, with their file names, in their order.
///
/// # Panics
/// When the folder can't be read or is empty.
#[must_use]
pub fn corpus(target: &Target) -> Vec<(String, Vec<u8>)> {
    let folder = corpus_folder(target);
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries.filter_map(Result::ok),
        Err(error) => panic!("read {}: {error}", folder.display()),
    };
    let mut files: Vec<_> = entries
        .filter_map(|entry| {
            Some((entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path()).ok()?))
        })
        .collect();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files.sort();
    files
}

/// Runs the corpus and as many mutations as the target asks for (`TANIST_FUZZ_ITERATIONS` says another number,
/// `TANIST_FUZZ_SEED` another seed).
///
/// # Panics
/// As the target does; what it was given is printed before.
pub fn bounded(target: &Target) {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let iterations = number("TANIST_FUZZ_ITERATIONS").unwrap_or(u64::from(target.iterations));
    let seed = number("TANIST_FUZZ_SEED").unwrap_or(SEED);
    with(target, seed, iterations, target.run);
}

/// Runs the corpus and `iterations` mutations through `check`.
///
/// # Panics
/// As `check` does; what it was given is printed before.
pub fn with(target: &Target, seed: u64, iterations: u64, check: impl Fn(&[u8])) {
    let files = corpus(target);
    for (name, input) in &files {
        guarded(target, name, input, &check);
    }
    let corpus: Vec<_> = files.into_iter().map(|(_, input)| input).collect();
    let mut random = Random::new(seed);
    for iteration in 0..iterations {
        let input = mutate(&mut random, &corpus, target.words);
        guarded(target, &format!("seed {seed}, mutation {iteration}"), &input, &check);
    }
}

fn guarded(target: &Target, source: &str, input: &[u8], check: &impl Fn(&[u8])) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(input))) {
        let mut hex = String::new();
        for byte in input {
            let _ = write!(hex, "{byte:02x}");
        }
        eprintln!(
            "target {} failed ({source}). To keep the input:\n  echo {hex} | xxd -r -p > tests/fuzz/corpus/{}/NAME",
            target.name, target.name
        );
        resume_unwind(panic);
    }
}
