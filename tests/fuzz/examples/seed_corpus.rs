//! Writes the corpus anew from real encodings: `cargo run -p tanist-fuzz --example seed_corpus`. Inputs that were
//! added after a failure stay.

#[path = "seed_corpus/clients.rs"]
mod clients;
#[path = "seed_corpus/files.rs"]
mod files;
#[path = "seed_corpus/peers.rs"]
mod peers;

use std::{error::Error, fs};

use tanist_fuzz::{run, targets};

/// A file name and its bytes.
type Input = (String, Vec<u8>);

fn main() -> Result<(), Box<dyn Error>> {
    write("apply", files::apply())?;
    write("config", files::config())?;
    write("copy", files::copy())?;
    write("hard_state", files::hard_state()?)?;
    write("http", clients::http())?;
    write("node", peers::node()?)?;
    write("node_db", files::node_db())?;
    write("params", clients::params())?;
    write("sql", clients::sql())?;
    write("store_files", files::store_files())?;
    write("frames", peers::frames())?;
    write("handshake", peers::handshake())?;
    write("pages", peers::pages())?;
    write("preamble", peers::preamble()?)?;
    write("text", peers::text())?;
    write("wire", peers::wire()?)?;
    Ok(())
}

fn named(inputs: impl IntoIterator<Item = (&'static str, Vec<u8>)>) -> Vec<Input> {
    inputs.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect()
}

/// Bytes behind their 16-bit length, as targets read them.
fn chunk(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

fn write(target: &str, inputs: Vec<Input>) -> Result<(), Box<dyn Error>> {
    let folder = run::corpus_folder(targets::named(target).ok_or("no such target")?);
    fs::create_dir_all(&folder)?;
    for (name, input) in &inputs {
        fs::write(folder.join(name), input)?;
    }
    println!("{}: {} inputs", folder.display(), inputs.len());
    Ok(())
}
