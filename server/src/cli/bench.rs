//! placeholder
use super::Connection;
#[derive(Debug, clap::Args)]
pub(super) struct BenchArgs {
    #[command(flatten)]
    connection: Connection,
}
pub(super) async fn bench(_: &BenchArgs) -> anyhow::Result<()> {
    Ok(())
}
