//! [`Toolchain`]: which compilers, interpreters and libraries of the host actions see.
//!
//! Actions that use them may give other results on a machine that has others. So each machine sums up what
//! its tools say of themselves in a short text, the *fingerprint*: equal texts mean equal tools. What a tool says is
//! remembered with its path, size and time of change, so that tools are run once, and again only when
//! they were replaced.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::timeout;

use super::{Requirements, architecture};
use crate::config::ToolchainRule;
use crate::digest::{Digest, DigestFunction};

/// Where actions find tools unless they say otherwise.
pub const PATHS: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/bin"];

/// Name of the file in the data directory where what was found is remembered.
pub const FILE: &str = "toolchain.json";

/// Tools, and how each is asked for its version. `ldd` is part of the C library and tells that of it.
const TOOLS: [(&str, &str); 12] = [
    ("ldd", "--version"),
    ("cc", "--version"),
    ("c++", "--version"),
    ("gcc", "--version"),
    ("g++", "--version"),
    ("clang", "--version"),
    ("clang++", "--version"),
    ("ld", "--version"),
    ("as", "--version"),
    ("python3", "--version"),
    ("java", "-version"),
    ("bash", "--version"),
];

/// How long a tool may take to say its version, and how often it is asked.
const PATIENCE: Duration = Duration::from_secs(2);
const TRIES: u32 = 3;

/// Bytes of what a tool says that are looked at.
const MOST: u64 = 4096;

/// Hexadecimal digits of a fingerprint.
const DIGITS: usize = 12;

/// What actions see.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Toolchain {
    /// By name.
    tools: Vec<Tool>,
}

/// A tool, as it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Tool {
    name: String,
    #[serde(flatten)]
    file: FileIdentity,
    /// The first line of what it says.
    version: String,
}

/// What changes when a file is replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FileIdentity {
    path: PathBuf,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
}

/// The toolchain of this machine, and what others are to actions that use it. Clones follow the same.
#[derive(Clone, Debug)]
pub struct OwnToolchain {
    /// What becomes of such actions.
    pub rule: ToolchainRule,
    /// What it is recognised by; empty until that is known.
    pub fingerprint: watch::Receiver<Arc<str>>,
}

// === impl OwnToolchain ===

impl OwnToolchain {
    /// Whether a machine whose toolchain is recognised by `there` has another. What is unknown equals nothing.
    pub fn differs(&self, there: &str) -> bool {
        let here = self.fingerprint.borrow();
        here.is_empty() || **here != *there
    }

    /// Why such a machine never runs an action with these requirements; `None` if it may.
    pub fn mismatch(&self, there: &str, requirements: &Requirements) -> Option<String> {
        let is_ruled_out =
            self.rule == ToolchainRule::Strict && requirements.uses_host() && self.differs(there);
        is_ruled_out.then(|| {
            let name =
                |fingerprint: &str| if fingerprint.is_empty() { "unknown" } else { fingerprint }.to_owned();
            let (there, here) = (name(there), name(&self.fingerprint.borrow()));
            format!("its toolchain ({there}) is not that of this machine ({here})")
        })
    }
}

// === impl Toolchain ===

impl Toolchain {
    /// Looks at the tools in `path`. Those that are as they were `before` are not asked. Tools that say
    /// nothing count as absent.
    pub async fn look(path: &[impl AsRef<Path>], before: &Self) -> Self {
        let found =
            TOOLS.iter().filter_map(|(name, ask)| Some((*name, *ask, FileIdentity::find(path, name)?)));
        let tools = join_all(found.map(async |(name, ask, file)| {
            let known = before.tools.iter().find(|tool| tool.name == name && tool.file == file);
            let version = match known {
                Some(known) => known.version.clone(),
                None => ask_version(&file.path, ask).await?,
            };
            Some(Tool { name: name.to_owned(), file, version })
        }))
        .await;
        Self { tools: tools.into_iter().flatten().collect() }
    }

    /// A short text that is equal where all tools are.
    pub fn fingerprint(&self) -> String {
        let lines = self.tools.iter().map(|tool| format!("{}: {}\n", tool.name, tool.version));
        let text: String = std::iter::once(format!("{}\n", architecture())).chain(lines).collect();
        let mut digits = Digest::of(DigestFunction::Sha256, text.as_bytes()).hash_hex();
        digits.truncate(DIGITS);
        digits
    }

    /// Names and versions of the tools.
    pub fn versions(&self) -> impl Iterator<Item = (&str, &str)> {
        self.tools.iter().map(|tool| (tool.name.as_str(), tool.version.as_str()))
    }

    /// What was found before, as the file at `path` says. One that is absent or damaged says nothing.
    pub fn remembered(path: &Path) -> Self {
        fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    /// Writes it to the file at `path`.
    ///
    /// # Errors
    /// Those of the system.
    pub fn remember(&self, path: &Path) -> io::Result<()> {
        let fresh = path.with_extension("new");
        fs::write(&fresh, serde_json::to_vec(self)?)?;
        fs::rename(fresh, path)
    }
}

// === impl FileIdentity ===

impl FileIdentity {
    /// The first program of that name, as it is found by those who run it.
    fn find(path: &[impl AsRef<Path>], name: &str) -> Option<Self> {
        path.iter().find_map(|directory| {
            let path = directory.as_ref().join(name);
            let file = fs::metadata(&path).ok().filter(|file| file.is_file() && file.mode() & 0o111 != 0)?;
            Some(Self { path, size: file.len(), modified: (file.mtime(), file.mtime_nsec()) })
        })
    }
}

/// The first line a tool says of its version; `None` if it says none, however often it is asked. A machine
/// that is busy may be slow to answer.
async fn ask_version(program: &Path, ask: &str) -> Option<String> {
    for _ in 0..TRIES {
        match timeout(PATIENCE, run(program, ask)).await {
            Ok(Ok(version)) if !version.is_empty() => return Some(version),
            Ok(Ok(_)) => break,
            Ok(Err(error)) => {
                tracing::debug!(program = %program.display(), %error, "a tool cannot be asked for its version");
                break;
            }
            Err(_) => {}
        }
    }
    None
}

async fn run(program: &Path, ask: &str) -> io::Result<String> {
    let mut child = Command::new(program)
        .arg(ask)
        .env_clear()
        .env("PATH", PATHS.join(":"))
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let (stdout, stderr) = tokio::join!(beginning(child.stdout.take()), beginning(child.stderr.take()));
    child.wait().await?;
    let said = [stdout, stderr].concat();
    let text = String::from_utf8_lossy(&said);
    Ok(text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().to_owned())
}

/// What is said at first; the rest is read and dropped, so that nobody waits for a reader.
async fn beginning(stream: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut said = Vec::new();
    if let Some(mut stream) = stream {
        // What cannot be read was not said.
        let _ = (&mut stream).take(MOST).read_to_end(&mut said).await;
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    }
    said
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::InputRootPlace;
    use super::*;

    /// A directory of tools.
    struct Tools(tempfile::TempDir);

    impl Tools {
        fn new(tools: &[(&str, &str)]) -> Self {
            let directory = Self(tempfile::tempdir().unwrap());
            tools.iter().for_each(|(name, script)| directory.put(name, script));
            directory
        }

        fn put(&self, name: &str, script: &str) {
            let path = self.0.path().join(name);
            // Not written in place: another test's child may have the file open.
            let fresh = self.0.path().join(format!("{name}.new"));
            fs::write(&fresh, format!("#!/bin/sh\necho x >>{}.runs\n{script}\n", path.display())).unwrap();
            fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).unwrap();
            fs::rename(fresh, path).unwrap();
        }

        async fn look(&self) -> Toolchain {
            let file = self.0.path().join("remembered");
            let toolchain = Toolchain::look(&[self.0.path()], &Toolchain::remembered(&file)).await;
            toolchain.remember(&file).unwrap();
            assert_eq!(Toolchain::remembered(&file), toolchain);
            toolchain
        }

        /// How often a tool was asked.
        fn runs(&self, name: &str) -> usize {
            fs::read_to_string(self.0.path().join(format!("{name}.runs"))).unwrap_or_default().lines().count()
        }
    }

    #[test]
    fn a_strict_rule_keeps_actions_on_equal_machines() {
        let host = Requirements::default();
        let own = Requirements { input_root: InputRootPlace::Filesystem, ..Requirements::default() };
        let toolchain = |rule, here: &str| OwnToolchain { rule, fingerprint: watch::channel(here.into()).1 };
        let strict = toolchain(ToolchainRule::Strict, "a");
        assert_eq!(strict.mismatch("a", &host), None);
        assert!(strict.mismatch("b", &host).unwrap().contains("(b)"));
        assert_eq!(strict.mismatch("b", &own), None, "it brings its own");
        let unknown = toolchain(ToolchainRule::Strict, "");
        assert!(unknown.mismatch("", &host).is_some(), "what is unknown is not equal");
        let warning = toolchain(ToolchainRule::Warn, "a");
        assert_eq!(warning.mismatch("b", &host), None);
        assert!(warning.differs("b") && !warning.differs("a"));
    }

    #[tokio::test]
    async fn equal_tools_have_equal_fingerprints_wherever_they_are() {
        let tools = [("cc", "echo; echo 'cc 14.2'; echo more"), ("java", "echo 'openjdk 21' >&2")];
        let (one, two) = (Tools::new(&tools), Tools::new(&tools));
        let toolchain = one.look().await;
        let versions: Vec<_> = toolchain.versions().collect();
        assert_eq!(versions, [("cc", "cc 14.2"), ("java", "openjdk 21")]);
        assert_eq!(toolchain.fingerprint(), two.look().await.fingerprint());
        assert_eq!(toolchain.fingerprint().len(), DIGITS);
        two.put("cc", "echo 'cc 14.3'");
        assert_ne!(toolchain.fingerprint(), two.look().await.fingerprint());
    }

    #[tokio::test]
    async fn tools_are_asked_again_only_when_they_were_replaced() {
        let tools = Tools::new(&[("cc", "echo one"), ("ld", "echo two")]);
        let first = tools.look().await;
        assert_eq!(tools.look().await, first);
        assert_eq!([tools.runs("cc"), tools.runs("ld")], [1, 1]);
        tools.put("ld", "echo three");
        assert_ne!(tools.look().await, first);
        assert_eq!([tools.runs("cc"), tools.runs("ld")], [1, 2]);
        fs::write(tools.0.path().join("remembered"), "what?").unwrap();
        tools.look().await;
        assert_eq!([tools.runs("cc"), tools.runs("ld")], [2, 3]);
    }

    #[tokio::test]
    async fn what_says_nothing_is_as_if_it_were_not_there() {
        let tools = Tools::new(&[("cc", "exit 1"), ("bash", "exec head -c 100000 /dev/zero")]);
        fs::write(tools.0.path().join("gcc"), "no program").unwrap();
        let toolchain = tools.look().await;
        assert!(toolchain.versions().all(|(name, _)| name == "bash"), "{toolchain:?}");
        assert_eq!(Tools::new(&[]).look().await.fingerprint().len(), DIGITS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_tool_that_hangs_is_given_up() {
        assert_eq!(Tools::new(&[("cc", "exec sleep 3600")]).look().await, Toolchain::default());
    }
}
