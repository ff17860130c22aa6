//! What the kernel allows: namespaces, overlay mounts, control groups.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Check, Facts};
use crate::config::SandboxMode;
use crate::worker::sandbox::{self, ActionGroup, SandboxSupport};

/// First kernel that has all the sandbox needs.
const SANDBOX_KERNEL: (u32, u32) = (5, 12);

/// Version of the kernel.
pub(super) fn release(_: &Facts) -> Check {
    const NAME: &str = "kernel";
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    match version(&release) {
        Some(version) if version >= SANDBOX_KERNEL => Check::ok(NAME, format!("Linux {release}")),
        _ => Check::degraded(
            NAME,
            format!("Linux {release}; the sandbox needs 5.12"),
            "actions run without a sandbox, on copies of their inputs",
        ),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Whether a process may make namespaces of its own, with a network and a root directory in them.
pub(super) fn namespaces(facts: &Facts) -> Check {
    const NAME: &str = "namespaces";
    let steps = facts.sandbox.steps();
    let failed = steps[..4].iter().find_map(|(step, result)| Some((step, result.as_ref().err()?)));
    match failed {
        None => Check::ok(NAME, "actions get user, mount, pid, ipc, uts and network namespaces"),
        Some((step, reason)) => without_sandbox(facts, NAME, &format!("{step}: {reason}")),
    }
}

/// Whether an overlay can be mounted on the disk of the data directory.
pub(super) fn overlay(facts: &Facts) -> Check {
    const NAME: &str = "overlay";
    match &facts.sandbox.overlay {
        Ok(()) => Check::ok(NAME, "inputs are a read-only layer, staged once and shared by all actions"),
        Err(reason) => without_sandbox(facts, NAME, reason),
    }
}

/// A missing piece of the sandbox: fatal where the sandbox is required.
fn without_sandbox(facts: &Facts, name: &'static str, reason: &str) -> Check {
    const MEANWHILE: &str = "actions run without a sandbox, on copies of their inputs";
    let remedy = facts.sandbox.remedies.first().map_or("see the kernel's log", String::as_str);
    match facts.config.sandbox {
        SandboxMode::Require => {
            Check::failed(name, reason, format!("sandbox = \"require\" is set; {remedy}"))
        }
        SandboxMode::Auto => Check::degraded(name, reason, format!("{MEANWHILE}; {remedy}")),
        SandboxMode::Off => Check::degraded(name, reason, format!("{MEANWHILE}, as sandbox = \"off\" asks")),
    }
}

/// Tries the sandbox in a child of this program, on the disk of the store.
pub(super) async fn try_sandbox(disk: &Path) -> SandboxSupport {
    let tried = async {
        let scratch = Scratch::new(disk)?;
        sandbox::probe(&std::env::current_exe()?, &scratch.0).await
    };
    tried.await.unwrap_or_else(|error: io::Error| unknown(&error.to_string()))
}

/// What is known where the sandbox could not even be tried.
pub(super) fn unknown(reason: &str) -> SandboxSupport {
    let untried = || Err(format!("not tried: {reason}"));
    SandboxSupport {
        user_namespaces: untried(),
        namespaces: untried(),
        network: untried(),
        root: untried(),
        overlay: untried(),
        remedies: vec!["see data-dir below".to_owned()],
    }
}

/// Whether the memory of all actions together can be bounded.
pub(super) fn cgroups(_: &Facts) -> Check {
    const NAME: &str = "cgroups";
    const INSTEAD: &str =
        "when memory runs out, the kernel ends actions first, but nothing keeps them from using all of it";
    match ActionGroup::describe() {
        Ok(found) => Check::ok(NAME, found),
        Err(error) => Check::degraded(NAME, error.to_string(), INSTEAD),
    }
}

/// A directory on the disk of the store, removed at the end.
pub(super) struct Scratch(PathBuf);

// === impl Scratch ===

impl Scratch {
    /// Makes one on `disk`.
    pub(super) fn new(disk: &Path) -> io::Result<Self> {
        let path = disk.join(format!(".farmhand-doctor-{}", uuid::Uuid::new_v4()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    /// A path in it.
    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_versions() {
        assert_eq!(version("6.1.0-13-amd64"), Some((6, 1)));
        assert_eq!(version("5.15"), Some((5, 15)));
        assert_eq!(version("unknown"), None);
        assert!(version("5.9.0").unwrap() < SANDBOX_KERNEL);
    }
}
