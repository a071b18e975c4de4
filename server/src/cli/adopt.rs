//! `tanist adopt`: this data directory keeps its member's name, on this computer, and every copy of it loses that.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;

use crate::{
    config::Config,
    durable::{self, DirectoryLock, Durable},
};

#[derive(Debug, Args)]
pub(super) struct AdoptArgs {
    /// This machine's configuration file. It must be stopped, and so must be every machine with a copy of its data directory.
    #[arg(long, default_value = "tanist.toml")]
    config: PathBuf,
}

pub(super) fn adopt(args: &AdoptArgs) -> anyhow::Result<()> {
    let config = Config::load(&args.config)?;
    let _lock = DirectoryLock::take(&config.data_dir).context("the machine must be stopped")?;
    let node = config.data_dir.join("node.db");
    if !node.exists() {
        bail!("{} isn't there: this machine has never run, and needs no adoption", node.display());
    }
    let (durable, found) = Durable::open(&config.data_dir, config.cluster.as_str(), config.id.as_str())?;
    let adopted = durable.adopt(durable::machine_mark().as_deref());
    if found.clean {
        durable.mark_clean()?;
    }
    adopted?;
    println!(
        "{} is this computer's now. Start it: the others let it in, and no other copy of this data directory.",
        config.data_dir.display()
    );
    Ok(())
}
