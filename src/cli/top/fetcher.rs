//! The dashboard's way to the inputs of an action.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use farmhand_ui::{FetchRequest, Fetched, Fetcher};
use indicatif::ProgressBar;
use tokio::runtime::Handle;

use super::super::error::CliError;
use super::super::{action, fetch, target};

/// Letters of the digest in the name of a directory.
const LETTERS: usize = 12;

/// Directories that one action may have.
const MOST: usize = 1000;

/// Fetches into the directory for temporary files, from the node of a control socket.
pub(super) struct FetchFrom {
    /// The socket.
    pub(super) socket: PathBuf,
}

#[async_trait]
impl Fetcher for FetchFrom {
    async fn fetch(&self, request: FetchRequest) -> Result<Fetched, String> {
        let (socket, runtime) = (self.socket.clone(), Handle::current());
        // It writes files, which may take long: not on the thread that draws.
        let fetched = tokio::task::spawn_blocking(move || runtime.block_on(fetch_inputs(&socket, request)));
        match fetched.await {
            Ok(fetched) => fetched.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}

async fn fetch_inputs(socket: &Path, request: FetchRequest) -> Result<Fetched, CliError> {
    let mut control = target::connect(socket).await?;
    let found = action::look_up(&mut control, request.digest, request.instance).await?;
    let directory = free_directory(&std::env::temp_dir(), &found.digest)?;
    let request = fetch::FetchRequest {
        decoded: action::decode(&found)?,
        digest: found.digest,
        instance: found.instance_name,
        directory,
        outputs: false,
    };
    let fetched = fetch::fetch(control, &request, ProgressBar::hidden()).await?;
    Ok(Fetched { directory: fetched.directory, command: fetched.command })
}

/// A directory that is not there yet, named after the action.
fn free_directory(parent: &Path, digest: &str) -> Result<PathBuf, CliError> {
    let hash = digest.trim_start_matches("blake3/");
    let hash: String = hash.chars().take_while(char::is_ascii_hexdigit).take(LETTERS).collect();
    let name = |number| match number {
        1 => format!("farmhand-{hash}"),
        _ => format!("farmhand-{hash}-{number}"),
    };
    let free =
        (1..=MOST).map(|number| parent.join(name(number))).find(|path| path.symlink_metadata().is_err());
    free.ok_or_else(|| CliError::new(format!("{} is full of earlier ones", parent.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_there_is_a_directory_of_its_own() {
        let parent = tempfile::tempdir().unwrap();
        let digest = format!("blake3/{}/1", "0123456789abcdef".repeat(4));
        let mut made = Vec::new();
        for _ in 0..3 {
            let directory = free_directory(parent.path(), &digest).unwrap();
            std::fs::create_dir(&directory).unwrap();
            made.push(directory.file_name().unwrap().to_string_lossy().into_owned());
        }
        let expected = ["farmhand-0123456789ab", "farmhand-0123456789ab-2", "farmhand-0123456789ab-3"];
        assert_eq!(made, expected);
    }
}
