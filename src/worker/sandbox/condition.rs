//! What an action could change about the spawner, although it cannot see it: the calls that take a
//! process id and ask for nothing but the same user.
//!
//! An action has no business doing so. One that did would change how later actions run, so the
//! spawner compares, and retires if anything differs.

use rustix::process::{Resource, Rlimit, getpriority_process, getrlimit};
use rustix::thread::{CpuSet, sched_getaffinity};

use super::sys;

/// Every limit of a process.
const RESOURCES: [Resource; 16] = [
    Resource::Cpu,
    Resource::Fsize,
    Resource::Data,
    Resource::Stack,
    Resource::Core,
    Resource::Rss,
    Resource::Nproc,
    Resource::Nofile,
    Resource::Memlock,
    Resource::As,
    Resource::Locks,
    Resource::Sigpending,
    Resource::Msgqueue,
    Resource::Nice,
    Resource::Rtprio,
    Resource::Rttime,
];

/// The settings of this process that its user's other processes can change.
#[derive(PartialEq)]
pub(super) struct Condition {
    limits: Vec<Rlimit>,
    priority: Option<i32>,
    processors: Option<CpuSet>,
    scheduling: (libc::c_int, libc::c_long),
}

impl Condition {
    /// As it is now.
    pub(super) fn now() -> Self {
        Self {
            limits: RESOURCES.into_iter().map(getrlimit).collect(),
            priority: getpriority_process(None).ok(),
            processors: sched_getaffinity(None).ok(),
            scheduling: sys::scheduling(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Condition;

    #[test]
    fn an_unchanged_process_equals_itself() {
        assert!(Condition::now() == Condition::now());
    }
}
