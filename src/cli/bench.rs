use super::error::CliError;
#[derive(Debug, clap::Args)]
pub(super) struct BenchArgs {}
pub(super) async fn run(_: BenchArgs) -> Result<(), CliError> {
    Ok(())
}
