//! Whether this machine can run the sandbox, found out by doing it in a process of its own.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::Path;
use std::process::{ExitCode, Stdio};

use rustix::io::Errno;
use rustix::thread::UnshareFlags;

use super::job::{PROBE, WORD};
use super::template::Template;
use super::wire::Failure;
use super::{enter, sys};
use crate::worker::{InputRoot, Overlay};

/// What the kernel lets an ordinary process of this user do. Errors are for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxSupport {
    /// A user namespace, with a user id mapped.
    pub user_namespaces: Result<(), String>,
    /// Mount, pid, IPC and UTS namespaces in it.
    pub namespaces: Result<(), String>,
    /// A network namespace with loopback up.
    pub network: Result<(), String>,
    /// A root directory of its own, with `/proc` and `/dev`.
    pub root: Result<(), String>,
    /// An overlay with its upper layer in the directory probed.
    pub overlay: Result<(), String>,
    /// What may help, most likely first.
    pub remedies: Vec<String>,
}

/// Names of the steps as the child tells them, in their order.
const STEPS: [&str; 5] = ["user namespaces", "namespaces", "network", "root", "overlay"];

/// Why a step has no outcome.
const NOT_TRIED: &str = "not tried: a step before it failed";

/// Settings of the kernel that forbid the sandbox: file, content that forbids, what to do.
const SWITCHES: [(&str, &str, &str); 3] = [
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "AppArmor keeps unprivileged programs from using user namespaces: give farmhand a profile with \
         `userns,` in /etc/apparmor.d, or run `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`",
    ),
    (
        "/proc/sys/kernel/unprivileged_userns_clone",
        "0",
        "user namespaces are switched off: run `sysctl -w kernel.unprivileged_userns_clone=1`",
    ),
    (
        "/proc/sys/user/max_user_namespaces",
        "0",
        "user namespaces are limited to none: run `sysctl -w user.max_user_namespaces=10000`",
    ),
];

/// Tries the sandbox, step by step, in a child started from `executable` (this program). `scratch` is
/// the directory that actions' writes will be in; it must exist.
///
/// # Errors
/// If the child cannot be started.
pub async fn probe(executable: &Path, scratch: &Path) -> io::Result<SandboxSupport> {
    let output = tokio::process::Command::new(executable)
        .args([OsStr::new(WORD), OsStr::new(PROBE), scratch.as_os_str()])
        .env_clear()
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .await?;
    let mut support = SandboxSupport::parse(&String::from_utf8_lossy(&output.stdout));
    if !support.is_complete() {
        support.remedies = remedies();
    }
    Ok(support)
}

// === impl SandboxSupport ===

impl SandboxSupport {
    /// Whether the sandbox works.
    pub fn is_complete(&self) -> bool {
        self.steps().into_iter().all(|(_, result)| result.is_ok())
    }

    /// Every step by name, in the order tried.
    pub fn steps(&self) -> [(&'static str, &Result<(), String>); 5] {
        let results = [&self.user_namespaces, &self.namespaces, &self.network, &self.root, &self.overlay];
        std::array::from_fn(|index| (STEPS[index], results[index]))
    }

    /// The step that failed, and why.
    pub fn failure(&self) -> Option<String> {
        let failed =
            || self.steps().into_iter().filter_map(|(step, result)| Some((step, result.as_ref().err()?)));
        let (step, reason) = failed().find(|(_, reason)| *reason != NOT_TRIED).or_else(|| failed().next())?;
        Some(format!("{step}: {reason}"))
    }

    /// Reads what the child told: a line for each step it tried, the name and, if it failed, why.
    fn parse(told: &str) -> Self {
        let result = |step: &str| {
            let line = told.lines().find_map(|line| line.strip_prefix(step)?.strip_prefix('\t'));
            match line {
                Some("") => Ok(()),
                Some(reason) => Err(reason.to_owned()),
                None => Err(NOT_TRIED.to_owned()),
            }
        };
        let [user_namespaces, namespaces, network, root, overlay] = STEPS.map(result);
        Self { user_namespaces, namespaces, network, root, overlay, remedies: Vec::new() }
    }
}

fn remedies() -> Vec<String> {
    let mut found: Vec<String> = SWITCHES
        .iter()
        .filter(|(file, forbids, _)| std::fs::read_to_string(file).is_ok_and(|text| text.trim() == *forbids))
        .map(|(_, _, remedy)| (*remedy).to_owned())
        .collect();
    if ["/.dockerenv", "/run/.containerenv"].iter().any(|path| Path::new(path).exists()) {
        found.push(
            "this is a container: start it with `--security-opt seccomp=unconfined --security-opt \
             apparmor=unconfined --security-opt systempaths=unconfined`"
                .to_owned(),
        );
    }
    found.push("the sandbox needs Linux 5.12 or newer, with overlayfs".to_owned());
    found
}

// === the child ===

/// In a process of its own: tries every step and tells on stdout how it went.
pub(super) fn child(scratch: &Path) -> ExitCode {
    let layers = scratch.join(format!("probe-{}", std::process::id()));
    let made =
        ["lower", "upper", "work"].iter().try_for_each(|name| std::fs::create_dir_all(layers.join(name)));
    if let Err(error) = made {
        tell("overlay", &Err(format!("{}: {error}", layers.display())));
        return ExitCode::FAILURE;
    }
    if try_namespaces() {
        match sys::fork() {
            Ok(None) => return try_mounts(&layers),
            Ok(Some(_)) => drop(sys::wait_any(true)),
            Err(errno) => tell("root", &Err(words(errno))),
        }
    }
    if let Err(error) = std::fs::remove_dir_all(&layers) {
        eprintln!("cannot remove {}: {error}", layers.display());
    }
    ExitCode::SUCCESS
}

/// Whether the steps after these can be tried.
fn try_namespaces() -> bool {
    let user = enter::map_ids((0, 0));
    tell("user namespaces", &user.map_err(words));
    if user.is_err() {
        return false;
    }
    let kinds = [
        ("mount", UnshareFlags::NEWNS),
        ("pid", UnshareFlags::NEWPID),
        ("IPC", UnshareFlags::NEWIPC),
        ("UTS", UnshareFlags::NEWUTS),
    ];
    let kinds = kinds.into_iter().try_for_each(|(name, kind)| {
        sys::unshare(kind).map_err(|errno| format!("{name} namespace: {}", words(errno)))
    });
    tell("namespaces", &kinds);
    let network = sys::unshare(UnshareFlags::NEWNET).and_then(|()| sys::loopback_up());
    tell("network", &network.map_err(words));
    kinds.is_ok()
}

fn try_mounts(layers: &Path) -> ExitCode {
    // A namespace apart: the change of the root would take the waiting process along.
    let root = sys::unshare(UnshareFlags::NEWNS).map_err(Failure::step("make a mount namespace"));
    let root = root.and_then(|()| Template::build(&[], None)).map_err(explain);
    tell("root", &root.as_ref().map(drop).map_err(Clone::clone));
    if root.is_ok() {
        let overlay = Overlay {
            lower: vec![layers.join("lower")],
            upper: layers.join("upper"),
            work: layers.join("work"),
            read_only: Vec::new(),
            writable: Vec::new(),
        };
        let root = InputRoot::Mounted { at: "/probe".into(), overlay };
        tell("overlay", &enter::make_root(&root).map(drop).map_err(explain));
    }
    ExitCode::SUCCESS
}

fn tell(step: &str, result: &Result<(), String>) {
    let reason = result.as_ref().err().map_or("", String::as_str);
    // Nobody reads any more: nobody misses it.
    let _ = writeln!(io::stdout(), "{step}\t{}", reason.replace('\n', " "));
}

fn words(errno: Errno) -> String {
    io::Error::from(errno).to_string()
}

fn explain(failure: Failure) -> String {
    match failure {
        Failure::MemoryFull => "memory is full".to_owned(),
        Failure::Setup { step, errno } => format!("{step}: {}", words(errno)),
        Failure::Program(errno) | Failure::WorkingDirectory(errno) => words(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_told_all_is_complete() {
        let support =
            SandboxSupport::parse("user namespaces\t\nnamespaces\t\nnetwork\t\nroot\t\noverlay\t\n");
        assert!(support.is_complete());
    }

    #[test]
    fn the_step_that_failed_is_named_and_later_ones_were_not_tried() {
        let support = SandboxSupport::parse("user namespaces\t\nnamespaces\tpid namespace: not permitted\n");
        assert!(!support.is_complete());
        assert_eq!(support.failure().as_deref(), Some("namespaces: pid namespace: not permitted"));
        assert_eq!(support.user_namespaces, Ok(()));
        assert_eq!(support.namespaces, Err("pid namespace: not permitted".into()));
        assert!(support.overlay.unwrap_err().contains("not tried"));
    }

    #[test]
    fn a_child_that_told_nothing_supports_nothing() {
        assert_eq!(SandboxSupport::parse("").failure(), Some(format!("user namespaces: {NOT_TRIED}")));
        let unwritable = SandboxSupport::parse("overlay\t/d: read-only\n");
        assert_eq!(unwritable.failure().as_deref(), Some("overlay: /d: read-only"));
        assert!(SandboxSupport::parse("").steps().into_iter().all(|(_, result)| result.is_err()));
    }
}
