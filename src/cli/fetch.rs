//! The files of an action in a directory of one's own: `farmhand action DIGEST fetch`, and a key of the
//! dashboard.
//!
//! A [`Plan`] of directories, files and symlinks is made first and carried out in that order, so
//! that nothing is ever written through a symlink. Every byte is verified before it gets its name.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::{IsTerminal, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use farmhand_proto::client::Client;
use farmhand_proto::control::GetStatusRequest;
use farmhand_proto::reapi;
use indicatif::{ProgressBar, ProgressStyle};
use prost::Message;
use tonic::transport::Channel;

use super::action::{Decoded, command_line};
use super::error::{CliError, Explain};
use super::output::{bytes, plural, print, shell_word};
use super::remote::{self, RemoteCas};
use crate::digest::{Digest, DigestFunction, Hasher};
use crate::merkle::Directory;
use crate::path::RootPath;

/// Blobs up to this size are read several in a call.
const SMALL: u64 = 64 << 10;

/// Bytes and blobs of a call.
const BATCH_BYTES: u64 = 3 << 20;
const BATCH_BLOBS: usize = 500;

/// Bytes of the largest Directory or Tree message read.
const LARGEST_MESSAGE: u64 = 256 << 20;

/// Files and directories made at most, as many as an action may have. A few small messages can name billions.
const MOST_ENTRIES: usize = if cfg!(test) { 10_000 } else { 1_000_000 };

/// What to fetch, and where to.
pub(super) struct FetchRequest {
    /// Digest of the action, in full.
    pub(super) digest: String,
    /// Its instance.
    pub(super) instance: String,
    /// Directory to fill.
    pub(super) directory: PathBuf,
    /// Outputs in place of inputs.
    pub(super) outputs: bool,
    /// The action.
    pub(super) decoded: Decoded,
}

/// What to make below the directory. Paths are relative and safe.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    directories: BTreeSet<PathBuf>,
    files: Vec<PlannedFile>,
    symlinks: Vec<(PathBuf, String)>,
}

#[derive(Clone, Debug, PartialEq)]
struct PlannedFile {
    path: PathBuf,
    digest: Digest,
    is_executable: bool,
}

/// What was fetched.
pub(super) struct Fetched {
    files: u64,
    bytes: u64,
    /// The directory, from the root on.
    pub(super) directory: PathBuf,
    /// The shell line that runs the command there.
    pub(super) command: String,
}

/// Fetches, and prints where the files are and how to run the command on them.
pub(super) async fn run(control: Client, request: FetchRequest) -> Result<(), CliError> {
    let fetched = fetch(control, &request, progress_bar()).await?;
    let files = plural(fetched.files, "file");
    eprintln!("{files}, {} in {}", bytes(fetched.bytes), request.directory.display());
    if request.outputs {
        return Ok(());
    }
    print(&format!("{}\n", fetched.command))
}

/// Fetches; `bar` shows how far that is.
pub(super) async fn fetch(
    mut control: Client,
    request: &FetchRequest,
    bar: ProgressBar,
) -> Result<Fetched, CliError> {
    prepare(&request.directory)?;
    let mut cas = RemoteCas::new(reapi_channel(&mut control).await?, &request.instance);
    let function = function_of(&request.digest);
    let plan = if request.outputs {
        plan_outputs(&mut cas, &request.decoded, function).await?
    } else {
        plan_inputs(&mut cas, &request.decoded, function).await?
    };
    let bytes = plan.files.iter().map(|file| file.digest.size()).sum();
    bar.set_length(bytes);
    carry_out(&mut cas, &plan, &request.directory, &bar).await?;
    bar.finish_and_clear();
    let directory = std::path::absolute(&request.directory).explain("cannot tell where this is")?;
    let command = reproduce(&request.decoded.command, &directory);
    Ok(Fetched { files: plan.files.len() as u64, bytes, directory, command })
}

/// The function is in the text form of a digest, unless it is the default one.
fn function_of(digest: &str) -> DigestFunction {
    digest
        .split_once('/')
        .and_then(|(segment, _)| DigestFunction::from_segment(segment))
        .and_then(Result::ok)
        .unwrap_or_default()
}

/// Makes `directory`, or checks that it is empty.
fn prepare(directory: &Path) -> Result<(), CliError> {
    fs::create_dir_all(directory).explain(format!("cannot make {}", directory.display()))?;
    let mut entries = fs::read_dir(directory).explain(format!("cannot read {}", directory.display()))?;
    if entries.next().is_some() {
        return Err(CliError::new(format!("{} is not empty", directory.display()))
            .hint("name a directory that is empty or not there yet"));
    }
    Ok(())
}

/// A channel to the REAPI of the node: its Unix socket, or else its port.
async fn reapi_channel(control: &mut Client) -> Result<Channel, CliError> {
    let status = control.get_status(GetStatusRequest {}).await?.into_inner();
    let doors = status.node.and_then(|node| node.endpoints).unwrap_or_default();
    if !doors.reapi_socket.is_empty()
        && let Ok(channel) = remote::connect(&format!("unix:{}", doors.reapi_socket)).await
    {
        return Ok(channel);
    }
    remote::connect(&doors.reapi).await.explain("cannot reach the REAPI of the node")
}

// === planning ===

async fn plan_inputs(
    cas: &mut RemoteCas,
    decoded: &Decoded,
    function: DigestFunction,
) -> Result<Plan, CliError> {
    let root = Digest::from_field(function, decoded.action.input_root_digest.as_ref())
        .explain("the Action has no usable input root")?;
    let mut plan = Plan::default();
    let mut waiting = vec![(RootPath::root(), root)];
    // One blob may stand at many places: each is read once.
    let mut known: HashMap<Digest, Directory> = HashMap::new();
    while !waiting.is_empty() {
        let wanted: BTreeSet<Digest> =
            waiting.iter().map(|(_, digest)| *digest).filter(|digest| !known.contains_key(digest)).collect();
        for digest in wanted {
            let data = read_message(cas, &digest).await?;
            let directory = Directory::parse(&data, function).explain(format!("directory {digest}"))?;
            known.insert(digest, directory);
        }
        for (path, digest) in std::mem::take(&mut waiting) {
            waiting.extend(plan.add(&path, &known[&digest]).map_err(CliError::new)?);
        }
    }
    let working_directory = RootPath::root()
        .join(&decoded.command.working_directory)
        .explain("the working directory of the Command")?;
    plan.directories.insert(working_directory.to_path_buf());
    plan.add_output_parents(&working_directory, &decoded.command)?;
    Ok(plan)
}

async fn plan_outputs(
    cas: &mut RemoteCas,
    decoded: &Decoded,
    function: DigestFunction,
) -> Result<Plan, CliError> {
    let Some(result) = &decoded.result else {
        return Err(CliError::new("the action has no result").hint("leave out --outputs to fetch its inputs"));
    };
    let base = RootPath::root()
        .join(&decoded.command.working_directory)
        .explain("the working directory of the Command")?;
    let mut plan = Plan::default();
    for file in &result.output_files {
        let digest = Digest::from_field(function, file.digest.as_ref()).explain(&file.path)?;
        let path = base.join(&file.path).explain("output")?;
        plan.add_parents(&path);
        plan.files.push(PlannedFile { path: path.to_path_buf(), digest, is_executable: file.is_executable });
    }
    for directory in &result.output_directories {
        let path = base.join(&directory.path).explain("output")?;
        let digest = Digest::from_field(function, directory.tree_digest.as_ref()).explain(&directory.path)?;
        let data = read_message(cas, &digest).await?;
        plan.add_tree(&path, &data, function)
            .map_err(|reason| CliError::new(format!("output directory {}: {reason}", directory.path)))?;
    }
    #[expect(deprecated, reason = "results of clients of version 2.0 have these two")]
    let links = [&result.output_file_symlinks, &result.output_directory_symlinks, &result.output_symlinks];
    for link in links.into_iter().flatten() {
        let path = base.join(&link.path).explain("output")?;
        plan.add_parents(&path);
        plan.symlinks.push((path.to_path_buf(), link.target.clone()));
    }
    Ok(plan)
}

async fn read_message(cas: &mut RemoteCas, digest: &Digest) -> Result<Vec<u8>, CliError> {
    if digest.size() > LARGEST_MESSAGE {
        return Err(CliError::new(format!("directory {digest} is larger than {}", bytes(LARGEST_MESSAGE))));
    }
    let mut data = Vec::new();
    stream(cas, digest, |piece| {
        data.extend_from_slice(piece);
        Ok(())
    })
    .await?;
    Ok(data)
}

impl Plan {
    /// Adds the entries of `directory` at `path`; its subdirectories with their places.
    fn add(&mut self, path: &RootPath, directory: &Directory) -> Result<Vec<(RootPath, Digest)>, String> {
        if self.directories.len() + self.files.len() > MOST_ENTRIES {
            return Err(format!("there are more than {MOST_ENTRIES} files and directories"));
        }
        self.directories.insert(path.to_path_buf());
        for file in &directory.files {
            self.files.push(PlannedFile {
                path: path.child(file.name.clone()).to_path_buf(),
                digest: file.digest,
                is_executable: file.is_executable,
            });
        }
        for symlink in &directory.symlinks {
            self.symlinks.push((path.child(symlink.name.clone()).to_path_buf(), symlink.target.clone()));
        }
        let below = directory.directories.iter().map(|child| (path.child(child.name.clone()), child.digest));
        Ok(below.collect())
    }

    fn add_parents(&mut self, path: &RootPath) {
        if let Some(parent) = path.parent() {
            self.directories.insert(parent.to_path_buf());
        }
    }

    /// Adds the directories above each output, which a worker makes before it runs the command. One
    /// that a symlink among the inputs leads to is left to that symlink.
    fn add_output_parents(&mut self, base: &RootPath, command: &reapi::Command) -> Result<(), CliError> {
        #[expect(deprecated, reason = "clients of version 2.0 have these two")]
        let outputs = [&command.output_paths, &command.output_files, &command.output_directories];
        for output in outputs.into_iter().flatten() {
            let path = base.join(output).explain("output")?;
            let Some(parent) = path.parent().map(|parent| parent.to_path_buf()) else { continue };
            if !self.symlinks.iter().any(|(link, _)| parent.starts_with(link)) {
                self.directories.insert(parent);
            }
        }
        Ok(())
    }

    /// Adds an encoded Tree at `path`.
    fn add_tree(&mut self, path: &RootPath, data: &[u8], function: DigestFunction) -> Result<(), String> {
        let tree = reapi::Tree::decode(data).map_err(|error| error.to_string())?;
        let parse = |wire| Directory::from_wire(wire, function).map_err(|error| error.to_string());
        let mut children = HashMap::new();
        for child in tree.children {
            let digest = Digest::of(function, &child.encode_to_vec());
            children.insert(digest, parse(child)?);
        }
        let root = parse(tree.root.unwrap_or_default())?;
        // A tree may leave out the empty directory, which everybody knows.
        children.insert(Digest::empty(function), Directory::default());
        let mut waiting = self.add(path, &root)?;
        while let Some((path, digest)) = waiting.pop() {
            let child = children.get(&digest).ok_or_else(|| format!("the tree has no directory {digest}"))?;
            waiting.extend(self.add(&path, child)?);
        }
        Ok(())
    }
}

// === carrying out ===

async fn carry_out(
    cas: &mut RemoteCas,
    plan: &Plan,
    directory: &Path,
    bar: &ProgressBar,
) -> Result<(), CliError> {
    for path in &plan.directories {
        let path = directory.join(path);
        fs::create_dir_all(&path).explain(format!("cannot make {}", path.display()))?;
    }
    let (small, large): (Vec<_>, Vec<_>) = plan.files.iter().partition(|file| file.digest.size() <= SMALL);
    for batch in batches(&small) {
        let digests: BTreeSet<Digest> = batch.iter().map(|file| file.digest).collect();
        let digests: Vec<Digest> = digests.into_iter().collect();
        let blobs: HashMap<_, _> = digests.iter().zip(cas.read_batch(&digests).await?).collect();
        for file in batch {
            write_small(directory, file, &blobs[&file.digest])?;
            bar.inc(file.digest.size());
        }
    }
    for file in large {
        write_large(cas, directory, file, bar).await?;
    }
    for (path, target) in &plan.symlinks {
        let path = directory.join(path);
        std::os::unix::fs::symlink(target, &path).explain(format!("cannot make {}", path.display()))?;
    }
    Ok(())
}

fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style =
        ProgressStyle::with_template("{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left")
            .expect("invariant: the template is constant");
    ProgressBar::new(0).with_style(style)
}

/// Groups of files whose blobs fit one call.
fn batches<'a>(files: &[&'a PlannedFile]) -> Vec<Vec<&'a PlannedFile>> {
    let mut batches: Vec<Vec<&PlannedFile>> = Vec::new();
    let mut size = 0;
    for &file in files {
        let full = batches.last().is_none_or(|batch| batch.len() >= BATCH_BLOBS);
        if full || size + file.digest.size() > BATCH_BYTES {
            batches.push(Vec::new());
            size = 0;
        }
        size += file.digest.size();
        if let Some(batch) = batches.last_mut() {
            batch.push(file);
        }
    }
    batches
}

fn create(directory: &Path, file: &PlannedFile) -> Result<(fs::File, PathBuf), CliError> {
    let path = directory.join(&file.path);
    let created = fs::File::create_new(&path).explain(format!("cannot make {}", path.display()))?;
    let mode = if file.is_executable { 0o755 } else { 0o644 };
    created
        .set_permissions(fs::Permissions::from_mode(mode))
        .explain(format!("cannot set the mode of {}", path.display()))?;
    Ok((created, path))
}

fn write_small(directory: &Path, file: &PlannedFile, data: &[u8]) -> Result<(), CliError> {
    let (mut out, path) = create(directory, file)?;
    out.write_all(data).explain(format!("cannot write {}", path.display()))
}

async fn write_large(
    cas: &mut RemoteCas,
    directory: &Path,
    file: &PlannedFile,
    bar: &ProgressBar,
) -> Result<(), CliError> {
    let (mut out, path) = create(directory, file)?;
    let written = stream(cas, &file.digest, |piece| {
        bar.inc(piece.len() as u64);
        out.write_all(piece).explain(format!("cannot write {}", path.display()))
    })
    .await;
    if written.is_err() {
        // Bytes that were not verified must not look like the file.
        let _ = fs::remove_file(&path);
    }
    written
}

/// Streams a blob into `take` and verifies all of it.
async fn stream(
    cas: &mut RemoteCas,
    digest: &Digest,
    mut take: impl FnMut(&[u8]) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let mut hasher = Hasher::new(digest.function());
    if digest.is_empty_blob() {
        return Ok(());
    }
    let mut pieces = cas.read_stream(digest).await?;
    while let Some(piece) = pieces.message().await? {
        hasher.update(&piece.data);
        take(&piece.data)?;
    }
    if hasher.finish() != *digest {
        return Err(CliError::new(format!("the server sent wrong bytes for blob {digest}")));
    }
    Ok(())
}

// === the command ===

/// The shell line that runs the command on the fetched inputs, with its own variables only.
fn reproduce(command: &reapi::Command, directory: &Path) -> String {
    let place = match command.working_directory.as_str() {
        "" => directory.to_owned(),
        below => directory.join(below),
    };
    let variables: String = command
        .environment_variables
        .iter()
        .map(|variable| format!("{} ", shell_word(&format!("{}={}", variable.name, variable.value))))
        .collect();
    format!(
        "(cd {} && env -i {variables}{})",
        shell_word(&place.to_string_lossy()),
        command_line(&command.arguments)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, size: u64) -> PlannedFile {
        let digest = Digest::from_parts(DigestFunction::Sha256, [7; 32], size);
        PlannedFile { path: name.into(), digest, is_executable: false }
    }

    #[test]
    fn batches_keep_to_their_limits_and_lose_nothing() {
        let files: Vec<_> =
            (0..1200).map(|i| file(&i.to_string(), if i % 2 == 0 { SMALL } else { 1 })).collect();
        let batches = batches(&files.iter().collect::<Vec<_>>());
        assert!(batches.iter().all(|batch| batch.len() <= BATCH_BLOBS));
        assert!(
            batches.iter().all(|batch| batch.iter().map(|f| f.digest.size()).sum::<u64>() <= BATCH_BYTES)
        );
        assert_eq!(batches.concat().len(), files.len());
        assert!(super::batches(&[]).is_empty());
    }

    #[test]
    fn a_tree_becomes_directories_files_and_symlinks() {
        let blob = Digest::of(DigestFunction::Sha256, b"x");
        let child = reapi::Directory {
            files: vec![reapi::FileNode {
                name: "tool".into(),
                digest: Some(blob.to_wire()),
                is_executable: true,
                ..Default::default()
            }],
            ..Default::default()
        };
        let root = reapi::Directory {
            directories: vec![reapi::DirectoryNode {
                name: "bin".into(),
                digest: Some(Digest::of(DigestFunction::Sha256, &child.encode_to_vec()).to_wire()),
            }],
            symlinks: vec![reapi::SymlinkNode {
                name: "link".into(),
                target: "/etc".into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let tree = reapi::Tree { root: Some(root.clone()), children: vec![child] }.encode_to_vec();
        let out = RootPath::root().join("out").unwrap();
        let mut plan = Plan::default();
        plan.add_tree(&out, &tree, DigestFunction::Sha256).unwrap();
        assert_eq!(plan.directories, [PathBuf::from("out"), "out/bin".into()].into());
        assert_eq!(
            plan.files,
            [PlannedFile { path: "out/bin/tool".into(), digest: blob, is_executable: true }]
        );
        assert_eq!(plan.symlinks, [(PathBuf::from("out/link"), "/etc".to_owned())]);

        let torn = reapi::Tree { root: Some(root), children: Vec::new() }.encode_to_vec();
        let error = Plan::default().add_tree(&out, &torn, DigestFunction::Sha256).unwrap_err();
        assert!(error.contains("the tree has no directory"), "{error}");
    }

    #[test]
    fn a_tree_that_unfolds_without_end_is_refused() {
        let mut children = vec![reapi::Directory::default()];
        for _ in 0..40 {
            let below = children.last().map(Message::encode_to_vec).unwrap_or_default();
            let digest = Some(Digest::of(DigestFunction::Sha256, &below).to_wire());
            let node = |name: &str| reapi::DirectoryNode { name: name.into(), digest: digest.clone() };
            let directories = vec![node("a"), node("b")];
            children.push(reapi::Directory { directories, ..Default::default() });
        }
        // Everybody knows the empty one.
        let tree = reapi::Tree { root: children.pop(), children: children.split_off(1) }.encode_to_vec();
        let error = Plan::default().add_tree(&RootPath::root(), &tree, DigestFunction::Sha256).unwrap_err();
        assert!(error.contains("more than"), "{error}");
    }

    #[test]
    fn the_directories_of_outputs_are_made_but_not_in_place_of_a_symlink() {
        let command = reapi::Command {
            output_paths: vec!["bin/a/tool".into(), "link/b/tool".into(), "top".into()],
            ..Default::default()
        };
        let base = RootPath::root().join("src").unwrap();
        let mut plan = Plan { symlinks: vec![("src/link".into(), "bin".into())], ..Plan::default() };
        plan.add_output_parents(&base, &command).unwrap();
        assert_eq!(plan.directories, [PathBuf::from("src"), "src/bin/a".into()].into());
    }

    #[test]
    fn the_command_is_printed_with_its_own_variables_only() {
        let command = reapi::Command {
            arguments: vec!["cc".into(), "-DA=b c".into()],
            environment_variables: vec![reapi::command::EnvironmentVariable {
                name: "PATH".into(),
                value: "/usr/bin".into(),
            }],
            working_directory: "src".into(),
            ..Default::default()
        };
        assert_eq!(
            reproduce(&command, Path::new("/tmp/x y")),
            "(cd '/tmp/x y/src' && env -i PATH=/usr/bin cc '-DA=b c')"
        );
        let command = reapi::Command { working_directory: String::new(), ..command };
        assert!(reproduce(&command, Path::new("/tmp/x")).starts_with("(cd /tmp/x && "));
    }

    #[test]
    fn only_an_empty_directory_is_filled() {
        let directory = tempfile::tempdir().unwrap();
        assert!(prepare(&directory.path().join("new/deep")).is_ok());
        assert!(prepare(directory.path()).is_err());
    }

    #[test]
    fn functions_by_text() {
        assert_eq!(function_of("blake3/aa/1"), DigestFunction::Blake3);
        assert_eq!(function_of("aa/1"), DigestFunction::Sha256);
    }
}
