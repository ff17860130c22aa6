//! The loop.

use crate::options::{Options, Outcome, UiError};

/// Shows the dashboard until the person leaves.
///
/// # Errors
/// When there is no terminal it could be shown on, or a theme cannot be used.
pub async fn run(_options: Options) -> Result<Outcome, UiError> {
    Ok(Outcome::Quit)
}
