use super::error::CliError;
#[derive(Debug, clap::Args)]
pub(super) struct DoctorArgs {}
pub(super) fn run(_: &DoctorArgs) -> Result<(), CliError> {
    Ok(())
}
