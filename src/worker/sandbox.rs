//! Starting the processes of actions, fast and without leaving any behind.
//!
//! The daemon never forks. It starts a *spawner* for each slot ahead of time (`pool`): the same
//! program again, small and single-threaded, that takes one command after the other over a socket
//! (`wire`, `channel`). In [`Mode::Sandbox`] the parts are, from the outside in:
//!
//! - `job`: what a spawner is told by its command line;
//! - `guardian`: the process that the daemon started; makes the namespaces and outlives the
//!   spawner, so that its end means that nothing is left;
//! - `spawner`: the first process of the pid namespace; starts commands, watches time and the
//!   daemon, kills what a command leaves behind;
//! - `template` and `etc`: the root directory that all actions share, built once;
//! - `enter`: what is the action's own: its overlay, its directories in memory, its network
//!   (`network`), its ids; then it has no capability left;
//! - `parts`: the input root of a command that is kept, exchanged for each request;
//! - `cgroup`: what bounds the memory of all actions together, where the kernel lets us;
//! - `processes` and `condition`: what else has to be right between actions;
//! - `memory`: where actions that write little do so;
//! - `launch`: limits, streams, exec. Also the whole of a command in [`Mode::Plain`], where
//!   [`plain`](super::plain) finds what to kill.
//!
//! [`probe()`] finds out beforehand whether the kernel allows it. All `unsafe` is in `sys`.
//!
//! When a run has returned, no process of the action is left, but the kernel may take some
//! milliseconds more to take its overlay apart. The layers may be read, changed and removed
//! meanwhile; a new overlay needs new upper and work directories anyway.
//!
//! Where the daemon runs as root, its actions run as the host's uid 0: without any capability, with
//! the kernel's settings read-only, and seeing nothing but what is listed above. As an ordinary user
//! the daemon gives away less.

use std::process::ExitCode;

mod cgroup;
mod channel;
mod condition;
mod enter;
mod etc;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod guardian;
mod job;
mod launch;
mod memory;
mod network;
mod parts;
mod pool;
mod probe;
mod processes;
mod spawner;
mod sys;
mod template;
mod wire;

pub use self::cgroup::{ActionGroup, GroupError};
pub use self::memory::{Memory, Used};
pub use self::pool::{Mode, SpawnerConfig, SpawnerPool};
pub use self::probe::{SandboxSupport, probe};

/// Runs the spawner if this process was started as one; `None` for an ordinary start. To be called
/// first thing in `main`, before there is any thread.
pub fn spawner_main() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? == job::WORD { Some(guardian::main(arguments)) } else { None }
}
