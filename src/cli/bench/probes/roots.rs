//! A large input root: what staging adds to an action, for a tree that is new, known, or nearly known.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use farmhand_proto::reapi;
use tokio::time::Instant;

use super::super::super::error::{CliError, Explain};
use super::super::super::remote::Blob;
use super::super::super::scratch::Scratch;
use super::super::Bench;
use super::super::blobs::Maker;
use super::super::figure::Figure;
use super::super::load::Samples;
use super::actions::{action, no_op, request};
use crate::digest::Digest;

/// Directories below the root, and below each of those.
const DIRECTORIES: (usize, usize) = (25, 10);

/// Files in each of the lower directories.
const FILES: usize = 20;

/// New trees measured at most: each is 39 MiB to upload.
const FIRSTS: usize = 5;

/// An input root: contents of files by directory, in two levels.
struct Root {
    branches: Vec<Vec<Vec<Blob>>>,
}

/// Three figures: a new tree, another command on it, and one changed file in it.
pub(super) async fn latencies(bench: &Bench) -> Result<Vec<Figure>, CliError> {
    let mut first = Samples::default();
    let mut root = Root::new(&bench.blobs);
    for _ in 0..FIRSTS {
        root = Root::new(&bench.blobs);
        let digest = root.upload(bench).await?;
        run(bench, digest, &mut first).await?;
        if first.sum() >= bench.time.as_secs_f64() {
            break;
        }
    }
    let digest = root.upload(bench).await?;
    let again = until(bench.time, async |samples| run(bench, digest, samples).await).await?;
    let mut turn = 0;
    let changed = until(bench.time, async |samples| {
        turn += 1;
        let digest = root.change(turn, bench).await?;
        run(bench, digest, samples).await
    })
    .await?;
    let process = bench.limits.spawn()?.p50();
    let (write, link) = stage_by_hand(&root).explain("cannot stage files")?;
    Ok(vec![
        Figure::latency("root-first", first.p50())
            .beside("fork+exec, writing the files", process + write.as_secs_f64())
            .beside("fork+exec, hard links", process + link.as_secs_f64()),
        Figure::latency("root-again", again.p50()).beside("fork+exec", process),
        Figure::latency("root-changed", changed.p50()).beside("fork+exec", process),
    ])
}

/// Repeats `measure` until its samples are `time` together.
async fn until(
    time: Duration,
    mut measure: impl AsyncFnMut(&mut Samples) -> Result<(), CliError>,
) -> Result<Samples, CliError> {
    let mut samples = Samples::default();
    loop {
        measure(&mut samples).await?;
        if samples.sum() >= time.as_secs_f64() {
            return Ok(samples);
        }
    }
}

/// Runs a command nobody has run before.
async fn run(bench: &Bench, root: Digest, samples: &mut Samples) -> Result<(), CliError> {
    let command = Blob::of(&no_op(&[&uuid::Uuid::new_v4().to_string()]));
    let action = action(bench, &command.digest, &root);
    let request = request(bench, &action.digest);
    bench.client.store(&[command, action]).await?;
    let begin = Instant::now();
    bench.client.execute(request).await?;
    samples.add(begin.elapsed());
    Ok(())
}

// === impl Root ===

impl Root {
    fn new(maker: &Maker) -> Self {
        let mut number = 0;
        let mut file = || {
            number += 1;
            maker.blob(file_size(number))
        };
        let mut leaf = || (0..FILES).map(|_| file()).collect();
        let mut branch = || (0..DIRECTORIES.1).map(|_| leaf()).collect();
        Self { branches: (0..DIRECTORIES.0).map(|_| branch()).collect() }
    }

    /// Stores all of it; the digest of the root.
    async fn upload(&self, bench: &Bench) -> Result<Digest, CliError> {
        let files: Vec<Blob> = self.branches.iter().flatten().flatten().cloned().collect();
        bench.client.store(&files).await?;
        let directories = self.directories();
        bench.client.store(&directories).await?;
        directories.last().map(|root| root.digest).ok_or_else(|| CliError::new("a root has no directory"))
    }

    /// Gives one file, another each turn, a new content. Stores what is new.
    async fn change(&mut self, turn: usize, bench: &Bench) -> Result<Digest, CliError> {
        let branch = &mut self.branches[turn % DIRECTORIES.0];
        let file = &mut branch[turn % DIRECTORIES.1][turn % FILES];
        *file = bench.blobs.blob(file.data.len());
        bench.client.store(std::slice::from_ref(file)).await?;
        let directories = self.directories();
        bench.client.store(&directories).await?;
        directories.last().map(|root| root.digest).ok_or_else(|| CliError::new("a root has no directory"))
    }

    /// All Directory messages, the root last.
    fn directories(&self) -> Vec<Blob> {
        let mut all = Vec::new();
        let mut top = Vec::new();
        for branch in &self.branches {
            let leaves: Vec<Blob> = branch.iter().map(|files| leaf(files)).collect();
            let parent = parent(&leaves);
            all.extend(leaves);
            top.push(parent);
        }
        let root = parent(&top);
        all.extend(top);
        all.push(root);
        all
    }
}

fn leaf(files: &[Blob]) -> Blob {
    let node = |(i, blob): (usize, &Blob)| reapi::FileNode {
        name: format!("file{i:02}"),
        digest: Some(blob.digest.to_wire()),
        ..Default::default()
    };
    let files = files.iter().enumerate().map(node).collect();
    Blob::of(&reapi::Directory { files, ..Default::default() })
}

fn parent(directories: &[Blob]) -> Blob {
    let node = |(i, blob): (usize, &Blob)| reapi::DirectoryNode {
        name: format!("directory{i:02}"),
        digest: Some(blob.digest.to_wire()),
    };
    let directories = directories.iter().enumerate().map(node).collect();
    Blob::of(&reapi::Directory { directories, ..Default::default() })
}

/// Sizes as in a source tree: mostly small, a few that make up much of the bytes.
fn file_size(number: usize) -> usize {
    let (least, span) = match number % 100 {
        0..50 => (700, 1000),
        50..85 => (2_000, 6_000),
        85..97 => (12_000, 16_000),
        _ => (84_600, 48_000),
    };
    least + (number * 7919) % span
}

/// What it takes to put the tree together with system calls alone: by writing the files, and by
/// linking to files that are there.
fn stage_by_hand(root: &Root) -> io::Result<(Duration, Duration)> {
    let scratch = Scratch::new("bench").map_err(|error| io::Error::other(error.to_string()))?;
    let (written, linked) = (scratch.path().join("written"), scratch.path().join("linked"));
    let begin = Instant::now();
    stage(root, &written, |path, blob| File::create_new(path)?.write_all(&blob.data))?;
    let write = begin.elapsed();
    let begin = Instant::now();
    stage(root, &linked, |path, _| {
        let source = path.strip_prefix(&linked).map_err(io::Error::other)?;
        fs::hard_link(written.join(source), path)
    })?;
    Ok((write, begin.elapsed()))
}

fn stage(root: &Root, at: &Path, make: impl Fn(&Path, &Blob) -> io::Result<()>) -> io::Result<()> {
    fs::create_dir(at)?;
    for (i, branch) in root.branches.iter().enumerate() {
        let upper = at.join(i.to_string());
        fs::create_dir(&upper)?;
        for (i, files) in branch.iter().enumerate() {
            let lower = upper.join(i.to_string());
            fs::create_dir(&lower)?;
            for (i, blob) in files.iter().enumerate() {
                make(&lower.join(i.to_string()), blob)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_what_the_help_says() {
        let root = Root::new(&Maker::new());
        let files: Vec<_> = root.branches.iter().flatten().flatten().collect();
        let mib = files.iter().map(|blob| blob.data.len()).sum::<usize>() as f64 / f64::from(1 << 20);
        assert_eq!(files.len(), 5000);
        assert!((38.5..39.5).contains(&mib), "{mib}");
        // One more than below the root: the root itself.
        assert_eq!(root.directories().len(), 276);
        let sizes = files.iter().map(|blob| blob.data.len());
        assert!(sizes.clone().min() < Some(1000) && sizes.max() > Some(100_000));
    }

    #[test]
    fn staging_by_hand_makes_both_trees() {
        let small = Root { branches: vec![vec![vec![Maker::new().blob(10)]]] };
        let (write, link) = stage_by_hand(&small).unwrap();
        assert!(!write.is_zero() && !link.is_zero());
    }
}
