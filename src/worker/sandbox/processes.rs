//! A limit on the processes of an action that holds for the host's root too.
//!
//! `RLIMIT_NPROC` does, within a user namespace of its own, what it should, but not for the host's
//! uid 0. Since Linux 6.14 a pid namespace has its own highest process id, and so at most that many
//! processes. On older kernels that setting is the whole machine's, and is left alone.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};

use super::wire::Failure;

/// The setting.
const PID_MAX: &str = "/proc/sys/kernel/pid_max";

/// The first kernel that has it for each namespace.
const SINCE: (u32, u32) = (6, 14);

/// Ids that are given out only once, at the start of a namespace.
const RESERVED: u64 = 301;

/// The setting of this process's pid namespace.
pub(super) struct ProcessLimit {
    setting: Option<OwnedFd>,
    usual: u64,
    current: u64,
}

impl ProcessLimit {
    /// Opens the setting, if this kernel has it. `/proc` must be of this namespace, and writable.
    pub(super) fn open() -> Self {
        let setting = if is_at_least(rustix::system::uname().release(), SINCE) {
            rustix::fs::open(PID_MAX, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).ok()
        } else {
            None
        };
        let usual = std::fs::read_to_string(PID_MAX).ok().and_then(|text| text.trim().parse().ok());
        let setting = setting.filter(|_| usual.is_some());
        let usual = usual.unwrap_or(0);
        Self { setting, usual, current: usual }
    }

    /// Allows this many processes from now on.
    pub(super) fn set(&mut self, processes: Option<u64>) -> Result<(), Failure> {
        let Some(setting) = &self.setting else { return Ok(()) };
        let wanted = processes.map_or(self.usual, |count| count.saturating_add(RESERVED).min(self.usual));
        if wanted != self.current {
            rustix::io::pwrite(setting, wanted.to_string().as_bytes(), 0)
                .map_err(Failure::step("limit the processes"))?;
            self.current = wanted;
        }
        Ok(())
    }
}

/// Whether a kernel's release, such as `6.14.2-generic`, is this version or a later one.
fn is_at_least(release: &CStr, version: (u32, u32)) -> bool {
    let release = release.to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse().ok());
    (numbers.next(), numbers.next()) >= (Some(version.0), Some(version.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        for (release, later) in [
            (c"6.14.0", true),
            (c"6.18.44-fc-v445", true),
            (c"10.0-rc1", true),
            (c"6.9.12", false),
            (c"5.15.0-91-generic", false),
            (c"6", false),
            (c"what", false),
        ] {
            assert_eq!(is_at_least(release, SINCE), later, "{release:?}");
        }
    }
}
