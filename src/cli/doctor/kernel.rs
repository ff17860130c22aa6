//! What the kernel allows: namespaces, overlay mounts, control groups.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{Check, Facts};
use crate::config::SandboxMode;

/// First kernel that mounts overlays inside a user namespace.
const OVERLAY_KERNEL: (u32, u32) = (5, 11);

/// Version of the kernel.
pub(super) fn release(_: &Facts) -> Check {
    const NAME: &str = "kernel";
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    match version(&release) {
        Some(version) if version >= OVERLAY_KERNEL => Check::ok(NAME, format!("Linux {release}")),
        _ => Check::degraded(
            NAME,
            format!("Linux {release}; overlay mounts in user namespaces came with 5.11"),
            "inputs are copied for each action unless the node runs as root",
        ),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Whether a process may make namespaces of its own.
pub(super) fn user_namespaces(facts: &Facts) -> Check {
    const NAME: &str = "namespaces";
    match unshared("true", &[]) {
        Ok(()) => Check::ok(NAME, "actions get user, mount, pid, ipc, uts and network namespaces"),
        Err(reason) => without_sandbox(facts, NAME, reason, namespaces_remedy()),
    }
}

/// Whether an overlay can be mounted on the disk of the data directory.
pub(super) fn overlay(facts: &Facts) -> Check {
    const NAME: &str = "overlay";
    let Ok(scratch) = Scratch::new(facts) else {
        return Check::degraded(NAME, "not tried: the data directory cannot be written to", "see data-dir");
    };
    let script = "mkdir lower upper work merged && \
        mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work,userxattr merged";
    match unshared("sh", &["-c", &format!("cd {} && {script}", scratch.quoted())]) {
        Ok(()) => Check::ok(NAME, "inputs are a read-only layer, staged once and shared by all actions"),
        Err(reason) => without_sandbox(
            facts,
            NAME,
            reason,
            "put the data directory on ext4, xfs, btrfs or tmpfs; until then inputs are copied",
        ),
    }
}

/// A missing piece of the sandbox: fatal where the sandbox is required.
fn without_sandbox(facts: &Facts, name: &'static str, reason: String, remedy: &str) -> Check {
    match facts.config.sandbox {
        SandboxMode::Require => {
            Check::failed(name, reason, format!("sandbox = \"require\" is set; {remedy}"))
        }
        SandboxMode::Auto | SandboxMode::Off => Check::degraded(name, reason, remedy),
    }
}

fn namespaces_remedy() -> &'static str {
    let is = |path: &str, value: &str| fs::read_to_string(path).is_ok_and(|text| text.trim() == value);
    if is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        "AppArmor forbids them: sysctl kernel.apparmor_restrict_unprivileged_userns=0; until then \
         actions run without a sandbox, on copies of their inputs"
    } else if is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        "sysctl kernel.unprivileged_userns_clone=1; until then actions run without a sandbox, on \
         copies of their inputs"
    } else if is("/proc/sys/user/max_user_namespaces", "0") {
        "sysctl user.max_user_namespaces=10000; until then actions run without a sandbox, on copies \
         of their inputs"
    } else {
        "actions run without a sandbox, on copies of their inputs"
    }
}

/// Runs a program in fresh namespaces; the first line of what it complains about.
fn unshared(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--pid", "--fork", "--ipc", "--uts", "--net", "--"])
        .arg(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot be tried without the unshare program: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(complaint.lines().next().unwrap_or("refused without a word").to_owned())
}

/// Whether this process may put its children into control groups of their own.
pub(super) fn cgroups(_: &Facts) -> Check {
    const NAME: &str = "cgroups";
    const INSTEAD: &str = "CPU and memory of an action are bounded by rlimits only";
    if !PathBuf::from("/sys/fs/cgroup/cgroup.controllers").exists() {
        return Check::degraded(NAME, "no unified hierarchy (version 2)", INSTEAD);
    }
    let own = fs::read_to_string("/proc/self/cgroup").ok();
    let own = own.as_deref().and_then(|text| text.lines().find_map(|line| line.strip_prefix("0::/")));
    let directory = PathBuf::from("/sys/fs/cgroup").join(own.unwrap_or_default().trim());
    let procs = directory.join("cgroup.procs");
    if fs::OpenOptions::new().write(true).open(procs).is_ok() {
        Check::ok(NAME, format!("version 2, delegated at {}", directory.display()))
    } else {
        Check::degraded(NAME, format!("version 2, {} is not delegated", directory.display()), INSTEAD)
    }
}

/// A directory on the disk of the store, removed at the end.
pub(super) struct Scratch(PathBuf);

// === impl Scratch ===

impl Scratch {
    /// Makes one beside the data.
    pub(super) fn new(facts: &Facts) -> std::io::Result<Self> {
        let path = facts.disk.join(format!(".farmhand-doctor-{}", uuid::Uuid::new_v4()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    /// A path in it.
    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn quoted(&self) -> String {
        super::super::output::shell_word(&self.0.to_string_lossy())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A work directory of an overlay may be without rights: give them back first.
        if let Ok(entries) = fs::read_dir(self.0.join("work")) {
            for entry in entries.flatten() {
                let _ =
                    fs::set_permissions(entry.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700));
            }
        }
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
        assert!(version("5.9.0").unwrap() < OVERLAY_KERNEL);
    }
}
