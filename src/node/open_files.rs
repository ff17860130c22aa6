//! How many files the node may have open: each connection, running action and large blob in use is one.
//!
//! The limit most shells and services give (1,024) is there for programs that cannot count further. This
//! one can, and takes what the system allows. What it was before is for actions.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limit on open files; `None` is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OpenFiles {
    /// As it was when the program started.
    pub(super) inherited: Option<u64>,
    /// As it is now.
    pub(super) now: Option<u64>,
}

/// Raises the limit as far as this user may.
pub(super) fn raise() -> OpenFiles {
    let Rlimit { current: inherited, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    OpenFiles { inherited, now: if raised { maximum } else { inherited } }
}
