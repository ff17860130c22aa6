//! Network namespaces with nothing but loopback, made ahead of need.
//!
//! A new namespace costs the kernel more than all else an action needs, so one is kept ready, and
//! used again when it is proven empty: no process is left (the caller knows), no socket is left, no
//! connection waits for its end. Interfaces, routes and settings cannot have changed: actions have
//! no capability over them.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::LinkNameSpaceType;

use super::sys::{self, ChildStack};
use super::wire::Failure;

/// A network namespace with loopback up.
pub(super) struct Loopback {
    namespace: OwnedFd,
    /// `/proc/net/sockstat` of the namespace.
    sockets: OwnedFd,
}

// === impl Loopback ===

impl Loopback {
    /// Makes a new one.
    pub(super) fn new(stack: &mut ChildStack) -> Result<Self, Failure> {
        let mut made = Err(Errno::CHILD);
        // The child shares our descriptors, so what it opens stays open here.
        let flags = libc::CLONE_NEWNET | libc::CLONE_FILES;
        let child = sys::spawn_sharing(stack, flags, &mut || made = Self::in_namespace())
            .map_err(Failure::step("make a network namespace"))?;
        while sys::wait_any(true)
            .map_err(Failure::step("make a network namespace"))?
            .is_some_and(|c| c.pid != child)
        {}
        made.map_err(Failure::step("set up a network namespace"))
    }

    fn in_namespace() -> Result<Self, Errno> {
        sys::loopback_up()?;
        let open = |path| rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        Ok(Self { namespace: open("/proc/self/ns/net")?, sockets: open("/proc/self/net/sockstat")? })
    }

    /// Moves the calling process in.
    pub(super) fn enter(&self) -> Result<(), Errno> {
        rustix::thread::move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&self.namespace),
            Some(LinkNameSpaceType::Network),
        )
    }

    /// Whether no socket and no dying connection is left.
    pub(super) fn is_empty(&self) -> bool {
        let mut buffer = [0; 1024];
        match rustix::io::pread(&self.sockets, &mut buffer, 0) {
            Ok(length) => std::str::from_utf8(&buffer[..length]).is_ok_and(shows_no_socket),
            Err(_) => false,
        }
    }
}

/// Whether a `sockstat` counts nothing that belongs to its namespace. `orphan`, `alloc` and `mem`
/// are counted for the whole machine and say nothing here.
fn shows_no_socket(sockstat: &str) -> bool {
    let mut families = 0;
    for line in sockstat.lines() {
        let Some((_, counts)) = line.split_once(": ") else { return false };
        let mut words = counts.split(' ');
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            if matches!(name, "used" | "inuse" | "tw" | "memory") && value != "0" {
                return false;
            }
        }
        families += 1;
    }
    families > 1
}

#[cfg(test)]
mod tests {
    use super::shows_no_socket;

    const EMPTY: &str = "sockets: used 0\nTCP: inuse 0 orphan 3 tw 0 alloc 41 mem 7\nUDP: inuse 0 mem 5\n\
                         UDPLITE: inuse 0\nRAW: inuse 0\nFRAG: inuse 0 memory 0\n";

    #[test]
    fn counts_of_the_whole_machine_do_not_matter() {
        assert!(shows_no_socket(EMPTY));
    }

    #[test]
    fn anything_left_is_seen() {
        for (from, to) in [("used 0", "used 1"), ("tw 0", "tw 2"), ("RAW: inuse 0", "RAW: inuse 1")] {
            assert!(!shows_no_socket(&EMPTY.replace(from, to)), "{to}");
        }
    }

    #[test]
    fn what_cannot_be_read_proves_nothing() {
        assert!(!shows_no_socket(""));
        assert!(!shows_no_socket("sockets: used 0\n"));
        assert!(!shows_no_socket("what is this\n\n"));
    }
}
