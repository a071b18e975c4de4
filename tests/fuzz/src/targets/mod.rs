//! One plain function per kind of bytes: whatever it is given, it returns, or the code under it is wrong.

mod apply;
mod config;
mod copy;
mod frames;
mod handshake;
mod hard_state;
mod http;
mod node;
mod node_db;
mod pages;
mod params;
mod preamble;
mod sql;
mod store_files;
mod text;
mod wire;

/// A function that takes any bytes.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Name, also of its corpus folder.
    pub name: &'static str,
    /// Panics when the code under it is wrong.
    pub run: fn(&[u8]),
    /// Mutations in the everyday run.
    pub iterations: u32,
    /// Pieces that mean something to it.
    pub words: &'static [&'static [u8]],
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "apply", run: apply::run, iterations: 600, words: apply::WORDS },
    Target { name: "config", run: config::run, iterations: 8_000, words: config::WORDS },
    Target { name: "copy", run: copy::run, iterations: 10_000, words: copy::WORDS },
    Target { name: "frames", run: frames::run, iterations: 2_500, words: frames::WORDS },
    Target { name: "handshake", run: handshake::run, iterations: 1_000, words: handshake::WORDS },
    Target { name: "hard_state", run: hard_state::run, iterations: 30_000, words: wire::WORDS },
    Target { name: "http", run: http::run, iterations: 20_000, words: http::WORDS },
    Target { name: "node", run: node::run, iterations: 20_000, words: wire::WORDS },
    Target { name: "node_db", run: node_db::run, iterations: 150, words: &[] },
    Target { name: "pages", run: pages::run, iterations: 20_000, words: &[] },
    Target { name: "params", run: params::run, iterations: 20_000, words: params::WORDS },
    Target { name: "preamble", run: preamble::run, iterations: 20_000, words: preamble::WORDS },
    Target { name: "sql", run: sql::run, iterations: 3_000, words: sql::WORDS },
    Target { name: "store_files", run: store_files::run, iterations: 200, words: &[] },
    Target { name: "text", run: text::run, iterations: 30_000, words: text::WORDS },
    Target { name: "wire", run: wire::run, iterations: 30_000, words: wire::WORDS },
];

/// The target of this name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Runs one input through the target of this name.
///
/// # Panics
/// When there is no such target, and as the target does.
pub fn run(name: &str, input: &[u8]) {
    match named(name) {
        Some(target) => (target.run)(input),
        None => panic!("no target {name}"),
    }
}
