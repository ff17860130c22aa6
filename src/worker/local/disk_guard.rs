//! [`DiskGuard`]: ends the action that fills the disk, before the disk is full for all.
//!
//! What actions write to their input roots is on the disk of the store. While any runs, the free
//! space is looked at every [`INTERVAL`]. When it is below the reserve, the directories of all
//! running actions are measured, and the one that wrote most is ended, if ending it helps at
//! all. The measuring walks directories, so it is done only then.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::tasks::Tasks;

/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(200);

/// Bytes an action must have written for its end to be of any help.
const GREEDY: u64 = 16 << 20;

/// Entries of one action that are measured at most: who made more has written enough.
const MEASURED_ENTRIES: usize = 1_000_000;

/// Watches the actions of one scratch directory.
#[derive(Debug)]
pub(super) struct DiskGuard {
    watched: Arc<Watched>,
}

/// A running action; no longer watched when dropped.
#[derive(Debug)]
pub(super) struct Watch {
    watched: Arc<Watched>,
    number: u64,
    stop: CancellationToken,
    excess: Arc<OnceLock<Excess>>,
}

/// Why an action was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the disk had only {} MiB left of the {} MiB to be kept free (disk-reserve), and this action had \
     written {} MiB, more than any other",
    free >> 20, reserve >> 20, written >> 20
)]
pub(super) struct Excess {
    free: u64,
    reserve: u64,
    written: u64,
}

#[derive(Debug)]
struct Watched {
    scratch: PathBuf,
    runs: Mutex<Runs>,
}

#[derive(Debug, Default)]
struct Runs {
    begun: u64,
    running: HashMap<u64, Running>,
}

#[derive(Clone, Debug)]
struct Running {
    directory: PathBuf,
    stop: CancellationToken,
    excess: Arc<OnceLock<Excess>>,
}

// === impl DiskGuard ===

impl DiskGuard {
    /// Keeps `reserve` bytes free on the disk of `scratch`; 0: does nothing.
    pub(super) fn start(scratch: &Path, reserve: u64, tasks: &Tasks) -> Self {
        let watched = Arc::new(Watched { scratch: scratch.to_owned(), runs: Mutex::default() });
        if reserve > 0 {
            let (watched, tasks_of_walks, stop) =
                (Arc::clone(&watched), tasks.clone(), tasks.token().clone());
            tasks.spawn("disk-guard", async move {
                let mut ticks = tokio::time::interval(INTERVAL);
                ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                while stop.run_until_cancelled(ticks.tick()).await.is_some() {
                    let (free, running) = (watched.free(), watched.running());
                    if free >= reserve || running.is_empty() {
                        continue;
                    }
                    let walk = tasks_of_walks.spawn_blocking(move || measure(running));
                    if let Ok(Some((greediest, written))) = walk.await {
                        watched.end(&greediest, Excess { free, reserve, written });
                    }
                }
            });
        }
        Self { watched }
    }

    /// Watches an action that runs in `directory`. It is to end when [`Watch::stop`] or `cancel` says
    /// so.
    pub(super) fn watch(&self, directory: &Path, cancel: &CancellationToken) -> Watch {
        let (stop, excess) = (cancel.child_token(), Arc::default());
        let running =
            Running { directory: directory.to_owned(), stop: stop.clone(), excess: Arc::clone(&excess) };
        let mut runs = self.watched.lock();
        let number = runs.begun;
        runs.begun += 1;
        runs.running.insert(number, running);
        drop(runs);
        Watch { watched: Arc::clone(&self.watched), number, stop, excess }
    }
}

// === impl Watch ===

impl Watch {
    /// Cancelled when the action is to end.
    pub(super) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Why it was ended, if the guard did so.
    pub(super) fn excess(&self) -> Option<Excess> {
        self.excess.get().copied()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.watched.lock().running.remove(&self.number);
    }
}

// === impl Watched ===

impl Watched {
    fn lock(&self) -> std::sync::MutexGuard<'_, Runs> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> Vec<Running> {
        // One whose end was asked for already is waited for, not replaced by a lesser one.
        let runs = self.lock();
        if runs.running.values().any(|running| running.excess.get().is_some()) {
            return Vec::new();
        }
        runs.running.values().cloned().collect()
    }

    /// Free bytes; if they cannot be told, as if there were enough.
    fn free(&self) -> u64 {
        rustix::fs::statvfs(&self.scratch)
            .map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    fn end(&self, greediest: &Running, excess: Excess) {
        let directory = greediest.directory.display();
        tracing::warn!(%directory, reason = %excess, "an action is ended");
        if greediest.excess.set(excess).is_ok() {
            greediest.stop.cancel();
        }
    }
}

/// The action that wrote most, and how much, if that is worth an end.
fn measure(running: Vec<Running>) -> Option<(Running, u64)> {
    let measured = running.into_iter().map(|running| {
        let mut entries = MEASURED_ENTRIES;
        let written = disk_use(&running.directory, &mut entries);
        (running, if entries == 0 { u64::MAX } else { written })
    });
    measured.max_by_key(|(_, written)| *written).filter(|(_, written)| *written >= GREEDY)
}

/// Bytes on the disk of all below `directory`, as far as it can be read.
fn disk_use(directory: &Path, entries: &mut usize) -> u64 {
    let mut total = 0;
    let mut waiting = vec![directory.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if *entries == 0 {
                return total;
            }
            *entries -= 1;
            // Not followed if it is a link; gone meanwhile is fine.
            let Ok(status) = entry.metadata() else { continue };
            total += status.blocks() * 512;
            if status.is_dir() {
                waiting.push(entry.path());
            }
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(directory: &Path) -> Running {
        let (stop, excess) = (CancellationToken::new(), Arc::default());
        Running { directory: directory.to_owned(), stop, excess }
    }

    #[test]
    fn the_greediest_is_found_and_modest_ones_are_left_alone() {
        let scratch = tempfile::tempdir().unwrap();
        let (small, large) = (scratch.path().join("small"), scratch.path().join("large"));
        fs::create_dir(&small).unwrap();
        fs::create_dir_all(large.join("deep/er")).unwrap();
        fs::write(small.join("a"), vec![1; 1 << 20]).unwrap();
        assert!(measure(vec![running(&small), running(&large)]).is_none());
        let size = usize::try_from(GREEDY).unwrap();
        fs::write(large.join("deep/er/b"), vec![1; size]).unwrap();
        // A hole takes no room.
        fs::File::create(small.join("c")).unwrap().set_len(1 << 40).unwrap();
        std::os::unix::fs::symlink(&large, small.join("link")).unwrap();
        let (found, written) = measure(vec![running(&small), running(&large)]).unwrap();
        assert_eq!(found.directory, large);
        assert!((GREEDY..2 * GREEDY).contains(&written), "{written}");
    }

    #[tokio::test]
    async fn only_one_is_ended_at_a_time() {
        let scratch = tempfile::tempdir().unwrap();
        let size = usize::try_from(GREEDY).unwrap();
        // No disk has this much free.
        let tasks = Tasks::default();
        let guard = DiskGuard::start(scratch.path(), u64::MAX, &tasks);
        let cancel = CancellationToken::new();
        let mut watches = Vec::new();
        for name in ["a", "b"] {
            let directory = scratch.path().join(name);
            fs::create_dir(&directory).unwrap();
            fs::write(directory.join("file"), vec![1; size]).unwrap();
            watches.push(guard.watch(&directory, &cancel));
        }
        let (ended, other) = tokio::select! {
            () = watches[0].stop().cancelled() => (0, 1),
            () = watches[1].stop().cancelled() => (1, 0),
        };
        assert!(watches[ended].excess().is_some_and(|excess| excess.written >= GREEDY));
        assert!(watches[other].excess().is_none());
        drop(watches.remove(ended));
        watches[0].stop().cancelled().await;
        assert!(!cancel.is_cancelled());
        tasks.stop().await;
    }
}
