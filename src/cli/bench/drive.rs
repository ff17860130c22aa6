//! `farmhand drive`: load on a server, for the scripts below `tests`. They are in Python, which has no
//! gRPC; this is their hand. Hidden from the help of the program: nobody else needs it.

use std::time::Duration;

use bytes::Bytes;
use farmhand_proto::reapi;
use prost::Message;
use serde_json::json;
use tokio::time::Instant;

use super::super::error::{CliError, Explain};
use super::super::output::print;
use super::super::remote::{self, Blob, Client};
use super::blobs::Maker;
use super::load::time_all;
use super::parse_time;
use crate::digest::{DigestFunction, Hasher};

mod mix;

/// Bytes of a piece of a large blob.
const PIECE: u64 = 1 << 20;

/// Blobs in a call, calls in flight, and calls prepared at once when a store is filled.
const BATCH: usize = 1000;
const IN_FLIGHT: usize = 4;
const ROUND: usize = 16;

/// Put load on a server (for scripts); prints one JSON object a line
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  farmhand drive 127.0.0.1:8980 fill --blobs 1000000\n  farmhand drive unix:/run/farmhand/reapi.sock mix --seconds 60"
)]
pub(in crate::cli) struct DriveArgs {
    /// REAPI of the server: IP:PORT or unix:PATH
    #[arg(value_name = "ADDR")]
    server: String,
    #[command(subcommand)]
    job: Job,
}

#[derive(Debug, clap::Subcommand)]
enum Job {
    /// Store many small blobs
    Fill {
        /// How many
        #[arg(long, value_name = "N")]
        blobs: usize,
        /// Bytes of each
        #[arg(long, value_name = "BYTES", default_value_t = 100)]
        size: usize,
    },
    /// Store one large blob and read it back
    Large {
        /// Its size
        #[arg(long, value_name = "BYTES")]
        bytes: u64,
    },
    /// Run an action that writes to stdout
    Stdout {
        /// How much
        #[arg(long, value_name = "BYTES")]
        bytes: u64,
    },
    /// Run a shell script as an action; report its exit code and what the server says of it
    Run {
        /// The script
        script: String,
        /// Its target, as a build tool would tell it
        #[arg(long, value_name = "LABEL", default_value = "")]
        target: String,
    },
    /// Do a bit of everything for some time; report every second
    Mix {
        /// How long
        #[arg(long, value_name = "SECONDS", value_parser = parse_time)]
        seconds: Duration,
        /// Decides what is done, and in which order
        #[arg(long, value_name = "N", default_value_t = 1)]
        seed: u64,
    },
}

/// Does the job.
pub(in crate::cli) async fn run(args: DriveArgs) -> Result<(), CliError> {
    let channel = remote::connect(&args.server).await.explain("cannot reach the server")?;
    let client = Client::new(channel, "");
    let start = Instant::now();
    match args.job {
        Job::Fill { blobs, size } => fill(&client, blobs, size).await?,
        Job::Large { bytes } => large(&client, bytes).await?,
        Job::Stdout { bytes } => stdout(&client, bytes).await?,
        Job::Run { script, target } => return run_script(&client, &script, target).await,
        Job::Mix { seconds, seed } => return mix::run(&client, seconds, seed).await,
    }
    print_line(&json!({ "seconds": start.elapsed().as_secs_f64() }))
}

fn print_line(line: &serde_json::Value) -> Result<(), CliError> {
    print(&format!("{line}\n"))
}

async fn fill(client: &Client, blobs: usize, size: usize) -> Result<(), CliError> {
    let maker = Maker::new();
    let mut left = blobs;
    while left > 0 {
        let blobs = maker.blobs(left.min(ROUND * BATCH), size);
        let requests: Vec<Bytes> = blobs.chunks(BATCH).map(|batch| client.update_request(batch)).collect();
        time_all(IN_FLIGHT, requests.into_iter().map(|request| client.update(request))).await?;
        left -= blobs.len();
    }
    Ok(())
}

async fn large(client: &Client, size: u64) -> Result<(), CliError> {
    let salt = uuid::Uuid::new_v4().into_bytes();
    let mut hasher = Hasher::new(DigestFunction::Sha256);
    pieces(salt, size).for_each(|piece| hasher.update(&piece));
    let digest = hasher.finish();
    client.write_pieces(&digest, pieces(salt, size)).await?;
    let mut hasher = Hasher::new(DigestFunction::Sha256);
    client.read_with(&digest, |piece| hasher.update(piece)).await?;
    if hasher.finish() == digest { Ok(()) } else { Err(CliError::new("other bytes came back")) }
}

/// The content of a large blob, piece by piece: cheap to make, and no two pieces are equal.
fn pieces(salt: [u8; 16], size: u64) -> impl Iterator<Item = Bytes> + Send + 'static {
    let mut piece = vec![0x5a; PIECE as usize];
    piece[..16].copy_from_slice(&salt);
    (0..size.div_ceil(PIECE)).map(move |number| {
        piece[16..24].copy_from_slice(&number.to_le_bytes());
        let len = PIECE.min(size - number * PIECE);
        Bytes::copy_from_slice(&piece[..len as usize])
    })
}

async fn stdout(client: &Client, bytes: u64) -> Result<(), CliError> {
    let script = format!("head -c {bytes} /dev/zero");
    let (request, blobs) = action(client, &script, &[], &[]);
    client.store(&blobs).await?;
    let result = client.execute(request.encode_to_vec().into()).await?.result.unwrap_or_default();
    let written = result.stdout_digest.map_or(0, |digest| digest.size_bytes);
    if u64::try_from(written) == Ok(bytes) {
        return Ok(());
    }
    Err(CliError::new(format!("{written} bytes of {bytes} are in stdout")))
}

async fn run_script(client: &Client, script: &str, target: String) -> Result<(), CliError> {
    let client = &client.on_behalf_of(&reapi::RequestMetadata { target_id: target, ..Default::default() });
    let (request, blobs) = action(client, script, &[], &[]);
    client.store(&blobs).await?;
    let request = reapi::ExecuteRequest { skip_cache_lookup: true, ..request };
    let start = Instant::now();
    let response = client.execute(request.encode_to_vec().into()).await?;
    let status = response.status.unwrap_or_default();
    let message = format!("{}{}", status.message, response.message);
    print_line(&json!({
        "seconds": start.elapsed().as_secs_f64(),
        "code": status.code,
        "exit_code": response.result.map(|result| result.exit_code),
        "message": message,
    }))
}

/// The request that runs a shell script on these inputs, and all blobs it needs.
fn action(
    client: &Client,
    script: &str,
    inputs: &[Blob],
    outputs: &[String],
) -> (reapi::ExecuteRequest, Vec<Blob>) {
    let node = |(i, blob): (usize, &Blob)| reapi::FileNode {
        name: format!("input{i}"),
        digest: Some(blob.digest.to_wire()),
        ..Default::default()
    };
    let files = inputs.iter().enumerate().map(node).collect();
    let root = Blob::of(&reapi::Directory { files, ..Default::default() });
    let path = reapi::command::EnvironmentVariable { name: "PATH".into(), value: "/usr/bin:/bin".into() };
    let command = Blob::of(&reapi::Command {
        arguments: ["sh", "-c", script].map(ToOwned::to_owned).to_vec(),
        environment_variables: vec![path],
        output_paths: outputs.to_vec(),
        ..Default::default()
    });
    let action = Blob::of(&reapi::Action {
        command_digest: Some(command.digest.to_wire()),
        input_root_digest: Some(root.digest.to_wire()),
        ..Default::default()
    });
    let request = reapi::ExecuteRequest {
        instance_name: client.instance(),
        action_digest: Some(action.digest.to_wire()),
        ..Default::default()
    };
    (request, [inputs, &[root, command, action]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_blob_has_its_size_and_no_equal_pieces() {
        let all: Vec<Bytes> = pieces([1; 16], 2 * PIECE + 5).collect();
        assert_eq!(all.iter().map(Bytes::len).sum::<usize>() as u64, 2 * PIECE + 5);
        assert!(all.len() == 3 && all[0] != all[1]);
    }
}
