//! [`LiveLogs`]: where the commands that run now write stdout and stderr.
//!
//! One entry for each attempt whose command has begun, gone with its end; nobody opens a file here.
//! An attempt may start its command again, with new files: a worker does so when the first try wrote
//! more than its memory is for. Who follows is told, and reads the new files from their beginning.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::queue::AttemptId;

/// The log files of all commands that run.
#[derive(Debug, Default)]
pub struct LiveLogs {
    attempts: Mutex<HashMap<AttemptId, watch::Sender<LogFiles>>>,
}

/// The log files of one start of a command. They grow until the attempt ends, and may vanish then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFiles {
    /// The attempt.
    pub attempt: AttemptId,
    /// Counts from 1: the starts of the command in this attempt.
    pub start: u32,
    /// File that takes stdout.
    pub stdout: Arc<Path>,
    /// File that takes stderr.
    pub stderr: Arc<Path>,
}

// === impl LiveLogs ===

impl LiveLogs {
    /// The command of an attempt begins, perhaps anew.
    pub fn started(&self, attempt: AttemptId, stdout: PathBuf, stderr: PathBuf) {
        let (stdout, stderr) = (stdout.into(), stderr.into());
        let mut attempts = self.attempts();
        match attempts.get(&attempt) {
            Some(files) => files.send_modify(|files| {
                *files = LogFiles { attempt, start: files.start + 1, stdout, stderr };
            }),
            None => {
                let files = LogFiles { attempt, start: 1, stdout, stderr };
                attempts.insert(attempt, watch::Sender::new(files));
            }
        }
    }

    /// The attempt is over: who follows it is told by the end of the channel.
    pub fn ended(&self, attempt: AttemptId) {
        self.attempts().remove(&attempt);
    }

    /// The files of an attempt whose command runs, and those that take their place.
    pub fn follow(&self, attempt: AttemptId) -> Option<watch::Receiver<LogFiles>> {
        self.attempts().get(&attempt).map(watch::Sender::subscribe)
    }

    fn attempts(&self) -> MutexGuard<'_, HashMap<AttemptId, watch::Sender<LogFiles>>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execution::queue::RunId;

    #[tokio::test]
    async fn who_follows_sees_another_start_and_the_end() {
        let logs = LiveLogs::default();
        let attempt = AttemptId { run: RunId(1), number: 1 };
        assert!(logs.follow(attempt).is_none());
        logs.started(attempt, "1/out".into(), "1/err".into());
        let mut files = logs.follow(attempt).unwrap();
        assert_eq!((files.borrow().start, &*files.borrow().stdout), (1, Path::new("1/out")));
        logs.started(attempt, "2/out".into(), "2/err".into());
        files.changed().await.unwrap();
        let second = files.borrow_and_update().clone();
        assert_eq!((second.start, &*second.stderr), (2, Path::new("2/err")));
        logs.ended(attempt);
        assert!(files.changed().await.is_err());
        assert_eq!(files.borrow().start, 2, "the last ones are still told");
        assert!(logs.follow(attempt).is_none());
    }
}
