//! To be written.

use std::process::ExitCode;

/// Runs the spawner if this process was started as one; `None` for an ordinary start.
pub fn spawner_main() -> Option<ExitCode> {
    None
}
