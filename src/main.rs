//! The binary: see [`farmhand`] for the map.

use std::process::ExitCode;

fn main() -> ExitCode {
    // A spawner process must stay single-threaded and small: decided before anything else starts.
    if let Some(code) = farmhand::worker::sandbox::spawner_main() {
        return code;
    }
    farmhand::cli::main()
}
