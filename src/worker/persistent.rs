//! Persistent workers: tools that stay in memory between the actions that use them.
//!
//! A compiler on the Java virtual machine takes longer to start than to compile. Bazel
//! (`--experimental_remote_mark_tool_inputs`) says with an action which of its inputs are the tool, and names
//! the tool by the platform property `persistentWorkerKey`. Such an action is a request to a process that was
//! started from the same tool, in the same way and for the same person, and stays for the next one.
//!
//! What a worker does is a matter of speed alone. The Command says what is run, and can be run as it is: where
//! no worker can be had, where one breaks down or says what is no answer, the command runs like any other
//! one. Whoever changes this has to keep that so.
//!
//! - `arguments` parts the command line into what starts the tool and what is asked of it;
//! - `protocol` is the messages;
//! - `process` is a worker that runs, and one request to it;
//! - `shelf` decides which of them are kept. Pure.
//!
//! `local::warm` does the rest: inputs, outputs, and the result. The process itself is in a sandbox of its own,
//! like an action (`sandbox`), and stands still while nothing is asked of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::digest::{Digest, DigestFunction, Hasher};
use crate::platform::Load;
use crate::recent::Recent;
use crate::tasks::Tasks;

mod arguments;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod process;
mod protocol;
mod shelf;

pub(super) use arguments::{Parted, Step};
pub(super) use process::{Ending, Process, Terms};
pub(super) use protocol::WorkRequest;
pub use shelf::Bounds;

use shelf::{Place, Shelf};

/// How often it is looked whether somebody has been idle for too long.
const ROUND: Duration = Duration::from_secs(2);

/// The part of all memory below which what is available is short: one of so many.
const SHORT: u64 = 10;

/// Tools that are remembered because they broke down.
const BROKEN: usize = 1024;

/// Breakdowns in a row of fresh workers after which a tool has none for a while.
const PATIENCE: u32 = 3;

/// How long that is.
const PAUSE: Duration = Duration::from_secs(600);

/// What two actions have in common that one worker can serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key(Digest);

/// A [`Key`] under construction.
pub(super) struct KeyMaker(Hasher);

/// The workers of a machine.
#[derive(Clone, Debug)]
pub(super) struct PersistentWorkers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    is_on: bool,
    shelf: Mutex<Shelf<Key, Process>>,
    /// Breakdowns in a row, and when the last one was.
    broken: Mutex<Recent<Key, (u32, Instant)>>,
}

/// Room for a worker that is at work, with or without one. Free again when dropped.
#[derive(Debug)]
pub(super) struct Berth {
    workers: Arc<Shared>,
    is_taken: bool,
}

/// The workers that are idle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Warm {
    /// How many.
    pub count: usize,
    /// Bytes of memory they have.
    pub memory: u64,
}

// === impl KeyMaker ===

impl KeyMaker {
    /// Begins with a word of its own for each kind of key.
    pub(super) fn new(kind: &str) -> Self {
        Self(Hasher::new(DigestFunction::Sha256)).with(kind)
    }

    /// Adds a part. Parts do not run into each other.
    pub(super) fn with(mut self, part: impl AsRef<[u8]>) -> Self {
        let part = part.as_ref();
        self.0.update(&(part.len() as u64).to_le_bytes());
        self.0.update(part);
        self
    }

    /// Adds a list of parts.
    pub(super) fn with_all<P: AsRef<[u8]>>(self, parts: impl ExactSizeIterator<Item = P>) -> Self {
        let count = (parts.len() as u64).to_le_bytes();
        parts.fold(self.with(count), Self::with)
    }

    pub(super) fn finish(self) -> Key {
        Key(self.0.finish())
    }
}

// === impl PersistentWorkers ===

impl PersistentWorkers {
    /// Nobody yet. Those that are idle end with the node.
    pub(super) fn start(bounds: Bounds, tasks: &Tasks) -> Self {
        let shelf = Mutex::new(Shelf::new(bounds));
        let (is_on, broken) = (bounds.count > 0, Mutex::new(Recent::new(BROKEN)));
        let workers = Self(Arc::new(Shared { is_on, shelf, broken }));
        let token = tasks.token().clone();
        if !is_on {
            return workers;
        }
        let looking = workers.clone();
        tasks.spawn("persistent workers", async move {
            loop {
                tokio::select! {
                    () = token.cancelled() => break,
                    () = tokio::time::sleep(ROUND) => looking.look().await,
                }
            }
            let idle = looking.0.shelf().close();
            end_all(idle).await;
        });
        workers
    }

    /// Whether there are ever any.
    pub(super) fn is_on(&self) -> bool {
        self.0.is_on
    }

    /// A worker of that key, or room to start one. `None`: the command has to run without.
    pub(super) async fn take(&self, key: &Key) -> Option<(Berth, Option<Process>)> {
        if self.0.is_broken(key) {
            return None;
        }
        loop {
            let place = self.0.shelf().take(key);
            let berth = || Berth { workers: Arc::clone(&self.0), is_taken: true };
            match place {
                Place::Full => return None,
                Place::Warm(process) if process.is_alive() => return Some((berth(), Some(process))),
                Place::Warm(process) => {
                    let (_, log) = process.end().await;
                    tracing::info!(log, "an idle persistent worker had ended");
                    drop(berth());
                }
                Place::Free(gone) => {
                    let berth = berth();
                    end_all(gone).await;
                    return Some((berth, None));
                }
            }
        }
    }

    /// A fresh worker of that key broke down.
    pub(super) fn distrust(&self, key: Key) {
        let mut broken = self.0.broken();
        let before = broken.get(&key).map_or(0, |(times, _)| *times);
        broken.insert(key, (before + 1, Instant::now()));
    }

    /// A worker of that key did its work.
    pub(super) fn trust(&self, key: Key) {
        let mut broken = self.0.broken();
        if broken.peek(&key).is_some_and(|(times, _)| *times > 0) {
            broken.insert(key, (0, Instant::now()));
        }
    }

    /// Those that are idle.
    pub(super) fn warm(&self) -> Warm {
        let shelf = self.0.shelf();
        Warm { count: shelf.len(), memory: shelf.memory() }
    }

    /// Ends those that have been idle for long, and one more if memory is short.
    async fn look(&self) {
        let mut over = self.0.shelf().expire(Instant::now());
        if self.warm().count > 0 && is_memory_short().await {
            tracing::info!("memory is short: an idle persistent worker is ended");
            over.extend(self.0.shelf().pop());
        }
        end_all(over).await;
    }
}

// === impl Shared ===

impl Shared {
    fn is_broken(&self, key: &Key) -> bool {
        let broken = self.broken();
        broken.peek(key).is_some_and(|(times, at)| *times >= PATIENCE && at.elapsed() < PAUSE)
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf<Key, Process>> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn broken(&self) -> MutexGuard<'_, Recent<Key, (u32, Instant)>> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Berth ===

impl Berth {
    /// The worker in it has done its work, and is kept if there is room for its `memory`.
    pub(super) async fn put_back(mut self, key: Key, process: Process, memory: u64) {
        self.is_taken = false;
        let gone = self.workers.shelf().put_back(key, process, memory, Instant::now());
        end_all(gone).await;
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        if self.is_taken {
            self.workers.shelf().let_go();
        }
    }
}

async fn end_all(processes: impl IntoIterator<Item = Process>) {
    for process in processes {
        process.end().await;
    }
}

/// Whether programs can get little more memory.
async fn is_memory_short() -> bool {
    let load = tokio::task::spawn_blocking(Load::of_vitals).await.unwrap_or_default();
    load.memory_available < load.memory_total / SHORT
}
