//! `/etc` inside the sandbox: what toolchains need from the host, and a few files of our own that
//! make all machines look alike.
//!
//! Directories of the host are bound, read-only. Files are copied, because package managers replace
//! files by new ones, and a bound old one would go on showing what was true at the start;
//! [`Etc::refresh`] copies them again when the host's `/etc` has changed. Nothing is shown that is
//! not readable by everybody.

use std::ffi::{CStr, OsStr};
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, statat};
use rustix::io::Errno;

use super::template::{bind_read_only, make_directory, mount_tmpfs, open_in, seal};
use super::wire::Failure;

/// Entries of the host's `/etc` that are shown if they exist; `*` at the end stands for anything.
const SHOWN: &[&str] = &[
    "alternatives",
    "ant*",
    "bash.bashrc",
    "bindresvport.blacklist",
    "ca-certificates*",
    "clang*",
    "crypto-policies",
    "debian_version",
    "dpkg",
    "ethertypes",
    "fedora-release",
    "fonts",
    "gai.conf",
    "gcrypt",
    "ghc*",
    "glvnd",
    "groff",
    "host.conf",
    "inputrc",
    "java*",
    ".java",
    "jvm*",
    "ld.so.cache",
    "ld.so.conf*",
    "libnl*",
    "libpaper.d",
    "locale.alias",
    "locale.conf",
    "localtime",
    "login.defs",
    "lsb-release",
    "magic*",
    "mailcap",
    "manpath.config",
    "maven*",
    "mime.types",
    "mke2fs.conf",
    "mono",
    "networks",
    "nsswitch.conf",
    "ocl-icd",
    "opencl",
    "OpenCL",
    "openmpi*",
    "os-release",
    "papersize",
    "perl*",
    "php*",
    "pki",
    "profile",
    "profile.d",
    "protocols",
    "python*",
    "redhat-release",
    "rpc",
    "rpm",
    "ruby*",
    "services",
    "sgml",
    "ssl",
    "static",
    "system-release",
    "terminfo",
    "texmf*",
    "timezone",
    "vulkan",
    "xdg",
    "xml",
];

/// Directories below the shown ones that hold private keys; empty in the sandbox.
const HIDDEN: &[&str] = &["ssl/private", "pki/tls/private", "pki/CA/private", "pki/rpm-gpg/private"];

/// Files of our own, the same on every machine.
const OWN: &[(&str, &str)] = &[
    (
        "passwd",
        "root:x:0:0:root:/tmp:/bin/sh\n\
         farmhand:x:1000:1000:farmhand:/tmp:/bin/sh\n\
         nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    ),
    ("group", "root:x:0:\ntty:x:5:\nfarmhand:x:1000:\nnogroup:x:65534:\n"),
    (
        "hosts",
        "127.0.0.1\tlocalhost farmhand\n\
         ::1\tlocalhost ip6-localhost ip6-loopback farmhand\n",
    ),
    ("hostname", "farmhand\n"),
];

/// The largest file that is copied; larger ones are no configuration.
const MAX_COPY: u64 = 4 << 20;

/// `/etc` of a template, and the means to see that the host's has changed.
pub(super) struct Etc {
    host: OwnedFd,
    changes: OwnedFd,
    resolver: bool,
}

// === impl Etc ===

impl Etc {
    /// Fills `/etc` of the new root from the host's root directory. `host_path` is where the
    /// latter stands.
    pub(super) fn build(host: BorrowedFd<'_>, host_path: &Path) -> Result<Self, Failure> {
        let host =
            host.try_clone_to_owned().map_err(|_| Failure::step("keep the host's root")(Errno::MFILE))?;
        make_directory("/etc", 0o755)?;
        let changes = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)
            .map_err(Failure::step("watch /etc"))?;
        let watched = WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::CLOSE_WRITE;
        inotify::add_watch(&changes, host_path.join("etc"), watched).map_err(Failure::step("watch /etc"))?;
        let etc = Self { host, changes, resolver: false };
        etc.fill()?;
        Ok(etc)
    }

    /// Makes `/etc` right for the next action: up to date, and with the host's resolver settings if
    /// it sees the host's network. Returns whether mounts may have been added.
    pub(super) fn refresh(&mut self, resolver: bool) -> Result<bool, Failure> {
        let changed = self.take_changes();
        if changed {
            self.fill()?;
        }
        if resolver && (changed || !self.resolver) {
            self.copy_file(OsStr::new("resolv.conf"))?;
        } else if !resolver && self.resolver {
            remove(Path::new("/etc/resolv.conf"))?;
        }
        self.resolver = resolver;
        Ok(changed)
    }

    fn take_changes(&self) -> bool {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut changed = false;
        while rustix::io::read(&self.changes, &mut buffer).is_ok_and(|(events, _)| !events.is_empty()) {
            changed = true;
        }
        changed
    }

    fn fill(&self) -> Result<(), Failure> {
        let directory = open_in(self.host.as_fd(), Path::new("etc"), OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(Failure::step("read /etc"))?;
        let mut present = Vec::new();
        for entry in Dir::read_from(&directory).map_err(Failure::step("read /etc"))? {
            let entry = entry.map_err(Failure::step("read /etc"))?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if is_shown(name) {
                self.show(directory.as_fd(), entry.file_name())?;
                present.push(name.to_owned());
            }
        }
        remove_all_but(&present)?;
        for (name, content) in OWN {
            write(&Path::new("/etc").join(name), content.as_bytes())?;
        }
        Ok(())
    }

    fn show(&self, etc: BorrowedFd<'_>, name: &CStr) -> Result<(), Failure> {
        // An entry may vanish while we look.
        let Ok(status) = statat(etc, name, AtFlags::SYMLINK_NOFOLLOW) else { return Ok(()) };
        let name = OsStr::from_bytes(name.to_bytes());
        let target = Path::new("/etc").join(name);
        match FileType::from_raw_mode(status.st_mode) {
            FileType::Directory => self.show_directory(name, &target, status.st_mode),
            FileType::Symlink => self.show_link(etc, name, &target),
            FileType::RegularFile => self.copy_file(name),
            _ => Ok(()),
        }
    }

    fn show_directory(&self, name: &OsStr, target: &Path, mode: u32) -> Result<(), Failure> {
        if mode & 0o005 != 0o005 || target.exists() {
            return Ok(());
        }
        make_directory(target, 0o755)?;
        bind_read_only(self.host.as_fd(), &Path::new("etc").join(name), target)?;
        for hidden in HIDDEN.iter().filter(|path| Path::new(path).starts_with(name)) {
            hide(&Path::new("/etc").join(hidden))?;
        }
        Ok(())
    }

    /// Keeps a link that leads to something the sandbox shows anyway; else copies what it leads to.
    fn show_link(&self, etc: BorrowedFd<'_>, name: &OsStr, target: &Path) -> Result<(), Failure> {
        let Ok(link) = rustix::fs::readlinkat(etc, name, Vec::new()) else { return Ok(()) };
        let link = PathBuf::from(OsStr::from_bytes(link.as_bytes()));
        let shown = ["/usr", "/nix/store", "/gnu/store", "/etc/alternatives", "/etc/static"];
        let resolved = normal(&Path::new("/etc").join(&link));
        if shown.iter().any(|root| resolved.starts_with(root)) {
            remove(target)?;
            return rustix::fs::symlink(&link, target).map_err(Failure::at("link", target));
        }
        self.copy_file(name)
    }

    /// Copies a file that everybody may read; leaves it out otherwise.
    fn copy_file(&self, name: &OsStr) -> Result<(), Failure> {
        let target = Path::new("/etc").join(name);
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let Ok(source) = open_in(self.host.as_fd(), &Path::new("etc").join(name), flags) else {
            return remove(&target);
        };
        let public = rustix::fs::fstat(&source).is_ok_and(|status| {
            FileType::from_raw_mode(status.st_mode) == FileType::RegularFile && status.st_mode & 0o004 != 0
        });
        if !public {
            return remove(&target);
        }
        let mut content = Vec::new();
        match std::fs::File::from(source).take(MAX_COPY).read_to_end(&mut content) {
            Ok(_) => write(&target, &content),
            Err(_) => remove(&target),
        }
    }
}

/// Whether `name` is one of [`SHOWN`].
fn is_shown(name: &OsStr) -> bool {
    SHOWN.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(prefix) => name.as_bytes().starts_with(prefix.as_bytes()),
        None => name == *pattern,
    })
}

/// `path` without `.` and `..`, by names alone.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            std::path::Component::ParentDir => {
                normal.pop();
            }
            std::path::Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}

/// Removes files and links whose originals are gone. Directories stay: they are mount points.
fn remove_all_but(present: &[std::ffi::OsString]) -> Result<(), Failure> {
    let failed = |_| Failure::step("tidy /etc")(Errno::IO);
    for entry in std::fs::read_dir("/etc").map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let own = OWN.iter().any(|(own, _)| name == *own) || name == "resolv.conf";
        let directory = entry.file_type().map_err(failed)?.is_dir();
        if !own && !directory && !present.contains(&name) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), Failure> {
    match rustix::fs::unlink(path) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(Failure::at("remove", path)(errno)),
    }
}

fn write(path: &Path, content: &[u8]) -> Result<(), Failure> {
    remove(path)?;
    let failed = Failure::at("write", path);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o644)).map_err(&failed)?;
    std::fs::File::from(file).write_all(content).map_err(|_| failed(Errno::NOSPC))
}

/// Covers a directory, if it is there, with an empty one.
fn hide(path: &Path) -> Result<(), Failure> {
    if path.is_dir() {
        mount_tmpfs(path, c"mode=0555,size=4k")?;
        seal(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        for name in ["shadow", "gshadow", "sudoers", "sudoers.d", "ssh", "npmrc", "pip.conf", "machine-id"] {
            assert!(!is_shown(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn toolchain_settings_are_shown() {
        for name in ["ld.so.cache", "ld.so.conf.d", "java-17-openjdk", "python3.11", "alternatives", "ssl"] {
            assert!(is_shown(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn links_are_judged_by_where_they_lead() {
        assert_eq!(normal(Path::new("/etc/../usr/lib/os-release")), Path::new("/usr/lib/os-release"));
        assert_eq!(normal(Path::new("/etc/./../run/x")), Path::new("/run/x"));
    }
}
