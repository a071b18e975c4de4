//! Writes the corpus anew from real encodings: `cargo run -p tanist-fuzz --example seed_corpus`. Inputs that were
//! added after a failure stay.

#[path = "seed_corpus/peers.rs"]
mod peers;

use std::{error::Error, fs};

use tanist_fuzz::{run, targets};

/// A file name and its bytes.
type Input = (String, Vec<u8>);

fn main() -> Result<(), Box<dyn Error>> {
    write("frames", peers::frames())?;
    write("handshake", peers::handshake())?;
    write("pages", peers::pages())?;
    write("preamble", peers::preamble()?)?;
    write("text", peers::text())?;
    write("wire", peers::wire()?)?;
    Ok(())
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
