//! `tanist recover`: goes on without a majority that is gone for good. On a stopped machine, by its operator's word.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;
use tanist_replication::MemberId;

use super::Usage;
use crate::{
    config::Config,
    durable::{DirectoryLock, Durable},
};

#[derive(Debug, Args)]
pub(super) struct RecoverArgs {
    /// This machine's configuration file. It must be stopped, and should be the one that holds most.
    #[arg(long, default_value = "tanist.toml")]
    config: PathBuf,
    /// The machines that are left, this one among them: `pc-1,pc-3`.
    #[arg(long, value_delimiter = ',', required = true)]
    members: Vec<String>,
    /// What only the lost machines hold is given up, and they never run again with the data they have.
    #[arg(long)]
    accept_data_loss: bool,
}

pub(super) fn recover(args: &RecoverArgs) -> anyhow::Result<()> {
    let config = Config::load(&args.config)?;
    let members: Vec<MemberId> = args
        .members
        .iter()
        .map(|member| member.trim().parse().map_err(|error| Usage(format!("--members: {error}"))))
        .collect::<Result<_, _>>()?;
    let _lock = DirectoryLock::take(&config.data_dir).context("the machine must be stopped")?;
    let node = config.data_dir.join("node.db");
    if !node.exists() {
        bail!("{} isn't there: this machine has never run", node.display());
    }
    let (durable, found) = Durable::open(&config.data_dir, config.cluster.as_str(), config.id.as_str())?;
    let mark = |durable: &Durable| if found.clean { durable.mark_clean() } else { Ok(()) };
    let Some(hard) = found.hard else {
        mark(&durable)?;
        bail!("this machine has never been in a cluster that served");
    };
    let recovered = match hard.recovered(&config.id, &members) {
        Ok(recovered) => recovered,
        Err(why) => {
            mark(&durable)?;
            bail!("--members: {why}");
        }
    };
    let list =
        |ids: &mut dyn Iterator<Item = &MemberId>| ids.map(MemberId::as_str).collect::<Vec<_>>().join(", ");
    let lost =
        list(&mut hard.record.members.iter().map(|member| &member.id).filter(|id| !members.contains(id)));
    println!(
        "The acknowledged data was on {} by record {}, the newest that {} knows.",
        list(&mut hard.record.sync_set.iter()),
        hard.record.key,
        config.id
    );
    println!(
        "Left behind: {lost}. They must never run again with the data they have: wipe them, then add them as new."
    );
    if !args.accept_data_loss {
        mark(&durable)?;
        return Err(Usage("nothing was changed; expected --accept-data-loss".to_owned()).into());
    }
    durable.persist(&recovered)?;
    // What it had stored beyond what it holds is given up, too.
    tanist_store::forget_replica(&config.data_dir)?;
    mark(&durable)?;
    tracing::warn!(member = %config.id, ?members, record = %recovered.record.key, "recovered by an operator");
    println!(
        "{} begins the next reign once a majority of {} runs: start them.",
        config.id,
        list(&mut members.iter())
    );
    Ok(())
}
