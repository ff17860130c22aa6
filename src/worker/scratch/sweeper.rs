//! [`Sweeper`]: removes what is no longer needed, beside the work.
//!
//! A large tree takes a slow disk many seconds. The end of the node does not wait for that: what is
//! still there then is removed by the next start.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::remove_tree;
use crate::tasks::Tasks;

/// Trees that may wait for their removal. Beyond it each gets a thread, in competition with the
/// work, so that a disk that cannot keep up slows the work down instead of filling.
const MAX_WAITING: usize = 256;

/// Removes trees on a thread of its own, in order. Clones share the queue.
#[derive(Clone, Debug)]
pub(in crate::worker) struct Sweeper {
    tasks: Tasks,
    queue: Arc<Mutex<Queue>>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<PathBuf>,
    sweeping: bool,
}

impl Sweeper {
    /// A sweeper whose removals are tasks of `tasks`.
    pub(in crate::worker) fn new(tasks: Tasks) -> Self {
        Self { tasks, queue: Arc::default() }
    }

    /// Removes the tree at `path`, soon. Failures are logged: the next start removes what is left.
    pub(in crate::worker) fn remove(&self, path: PathBuf) {
        if tokio::runtime::Handle::try_current().is_err() {
            self.sweep(&path);
            return;
        }
        let Some(path) = self.enqueue(path) else { return };
        let this = self.clone();
        self.tasks.spawn_blocking(move || this.sweep(&path));
    }

    /// Removes the tree at `path`, which is in `place`, beside the work; `place` lives as long as that takes.
    pub(in crate::worker) fn remove_within<T: Send + 'static>(&self, path: PathBuf, place: T) {
        let this = self.clone();
        self.tasks.spawn_blocking(move || {
            this.sweep(&path);
            drop(place);
        });
    }

    /// Puts `path` into the queue, and sees to it that somebody drains it. A full queue gives the
    /// path back.
    fn enqueue(&self, path: PathBuf) -> Option<PathBuf> {
        let mut queue = self.queue();
        if queue.waiting.len() >= MAX_WAITING {
            return Some(path);
        }
        queue.waiting.push_back(path);
        let idle = !std::mem::replace(&mut queue.sweeping, true);
        drop(queue);
        if idle {
            let this = self.clone();
            self.tasks.spawn_blocking(move || this.drain());
        }
        None
    }

    fn drain(&self) {
        while let Some(path) = self.next() {
            self.sweep(&path);
        }
    }

    fn sweep(&self, path: &Path) {
        if let Err(error) = remove_tree(path, || !self.tasks.token().is_cancelled()) {
            tracing::warn!(path = %path.display(), %error, "cannot remove a scratch directory");
        }
    }

    fn next(&self) -> Option<PathBuf> {
        let mut queue = self.queue();
        let path = queue.waiting.pop_front();
        queue.sweeping = path.is_some();
        path
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn removes_everything() {
        let dir = tempfile::tempdir().unwrap();
        let tasks = Tasks::default();
        let sweeper = Sweeper::new(tasks.clone());
        for i in 0..MAX_WAITING * 2 {
            let path = dir.path().join(i.to_string());
            std::fs::create_dir_all(path.join("a/b")).unwrap();
            sweeper.remove(path);
        }
        tasks.idle().await;
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn leaves_the_rest_to_the_next_start_when_the_node_ends() {
        let dir = tempfile::tempdir().unwrap();
        let tasks = Tasks::default();
        let sweeper = Sweeper::new(tasks.clone());
        tasks.token().cancel();
        let path = dir.path().join("tree");
        std::fs::create_dir_all(path.join("a")).unwrap();
        sweeper.remove(path.clone());
        tasks.stop().await;
        assert!(path.exists());
    }

    #[test]
    fn works_without_a_runtime() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::create_dir(&path).unwrap();
        Sweeper::new(Tasks::default()).remove(path.clone());
        assert!(!path.exists());
    }
}
