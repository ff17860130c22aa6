//! [`Process`]: a persistent worker that runs, and one request to it.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::protocol::{Answer, AnswerError, WorkResponse};
use crate::platform::WorkerProtocol;
use crate::worker::{Exit, Kept, Outcome, Overlay, PreparedCommand, RunError, Seat, Usage, differs};

/// Bytes of its log that are kept: the latest.
const LOG: usize = 8 << 10;

/// Bytes read at once.
const PIECE: usize = 64 << 10;

/// How long one that closed its stdout may take to end by itself, so that its exit code can be told.
const LAST_BREATH: Duration = Duration::from_secs(1);

/// A worker that waits for a request, or works.
pub(in crate::worker) struct Process {
    kept: Box<dyn Kept>,
    stdin: Sender,
    stdout: Receiver,
    /// Its stderr: a log for people, which is no part of any result.
    stderr: Receiver,
    log: Log,
    /// What it had used after the last request.
    used: Usage,
    /// Requests it has answered.
    pub(in crate::worker) answered: u64,
}

/// The latest of what it wrote to stderr.
#[derive(Debug, Default)]
struct Log {
    bytes: VecDeque<u8>,
    is_closed: bool,
}

/// The ends of its streams that the process gets.
struct Streams {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

/// Under which a request is made.
pub(in crate::worker) struct Terms<'a> {
    /// How long it may take, without the time in which it has to stand still.
    pub(in crate::worker) timeout: Duration,
    /// Fires when nobody wants the answer any more.
    pub(in crate::worker) cancel: &'a CancellationToken,
    /// Whether it is to stand still.
    pub(in crate::worker) guest: Option<watch::Receiver<bool>>,
}

/// How a request ended.
#[derive(Debug)]
pub(in crate::worker) enum Ending {
    /// With an answer, after this time.
    Answered(WorkResponse, Duration),
    /// Its time is over.
    TimedOut,
    /// Nobody wants it any more.
    Cancelled,
    /// The process broke down, or says what is no answer.
    Broken(Breakage),
}

/// Why a process is good for nothing any more.
#[derive(Debug)]
pub(in crate::worker) enum Breakage {
    /// It does not speak the protocol.
    Answer(AnswerError),
    /// It ended, or closed its stdout, before it had answered.
    Ended,
    /// A pipe or its spawner failed.
    Lost(String),
}

/// What went through a pipe.
enum Heard {
    /// So many bytes came out of its stdout.
    Said(usize),
    /// So many bytes went into its stdin.
    Took(usize),
    /// Nothing that counts.
    Nothing,
}

/// The time a request has, which stands still with the process.
struct Clock {
    timeout: Duration,
    /// The time that has passed before `since`; `None` while it stands still.
    passed: Duration,
    since: Option<Instant>,
}

// === impl Process ===

impl Process {
    /// Starts one in `seat`. What `command` says of its streams has no effect.
    pub(in crate::worker) async fn start(
        seat: Box<dyn Seat>,
        command: PreparedCommand,
    ) -> Result<Self, RunError> {
        let pipes = |source| RunError::Setup { step: "make pipes".into(), source };
        let (theirs, [stdin, stdout, stderr]) = Streams::make().map_err(pipes)?;
        let stdin = Sender::from_owned_fd(stdin).map_err(pipes)?;
        let stdout = Receiver::from_owned_fd(stdout).map_err(pipes)?;
        let stderr = Receiver::from_owned_fd(stderr).map_err(pipes)?;
        let command = PreparedCommand {
            stdin: Some(File::from(theirs.stdin)),
            stdout: File::from(theirs.stdout),
            stderr: File::from(theirs.stderr),
            ..command
        };
        let kept = seat.keep(command).await?;
        let (log, used) = (Log::default(), Usage::default());
        Ok(Self { kept, stdin, stdout, stderr, log, used, answered: 0 })
    }

    /// Whether it may still answer, as far as is known.
    pub(in crate::worker) fn is_alive(&self) -> bool {
        self.kept.is_alive()
    }

    /// Has it go on, with these layers.
    pub(in crate::worker) async fn change(&mut self, overlay: Overlay) -> Result<(), RunError> {
        self.kept.change(overlay).await
    }

    /// Has it stand still. What it used since the last time, and the memory it has. `None`: it is good for
    /// no further request.
    pub(in crate::worker) async fn rest(&mut self) -> Option<Usage> {
        let now = self.kept.rest().await.ok()?;
        // Whatever it said besides its answer would be taken for the next one.
        if rustix::io::ioctl_fionread(&self.stdout).ok()? > 0 {
            return None;
        }
        let since = Usage {
            user: now.user.saturating_sub(self.used.user),
            system: now.system.saturating_sub(self.used.system),
            max_rss: now.max_rss,
        };
        self.used = now;
        Some(since)
    }

    /// Sends `request` and waits for the answer. Unless there is one, the process has to end.
    pub(in crate::worker) async fn exchange(
        &mut self,
        request: &[u8],
        protocol: WorkerProtocol,
        mut terms: Terms<'_>,
    ) -> Ending {
        let (mut unsent, mut answer) = (request, Answer::new(protocol));
        let (mut clock, mut is_still) = (Clock::start(terms.timeout), false);
        let mut buffer = vec![0; PIECE];
        loop {
            let heard = tokio::select! {
                biased;
                () = terms.cancel.cancelled() => return Ending::Cancelled,
                () = clock.over() => return Ending::TimedOut,
                () = differs(&mut terms.guest, is_still) => {
                    is_still = !is_still;
                    clock.stand_still(is_still);
                    self.kept.stand_still(is_still).await.map(|()| Heard::Nothing).map_err(lost)
                }
                heard = self.hear(unsent, &mut buffer) => heard,
            };
            let told = heard.and_then(|heard| match heard {
                Heard::Said(length) => answer.feed(&buffer[..length]).map_err(Breakage::Answer),
                Heard::Took(length) => {
                    unsent = &unsent[length..];
                    Ok(None)
                }
                Heard::Nothing => Ok(None),
            });
            match told {
                Ok(None) => {}
                Ok(Some(response)) => {
                    self.answered += 1;
                    return Ending::Answered(response, clock.passed());
                }
                Err(breakage) => return Ending::Broken(breakage),
            }
        }
    }

    /// Waits until something goes through one of the pipes.
    async fn hear(&mut self, unsent: &[u8], buffer: &mut [u8]) -> Result<Heard, Breakage> {
        tokio::select! {
            biased;
            ready = self.stdout.readable() => match ready.and_then(|()| self.stdout.try_read(buffer)) {
                Ok(0) => {
                    let _ = tokio::time::timeout(LAST_BREATH, self.kept.stirs()).await;
                    Err(Breakage::Ended)
                }
                Ok(length) => Ok(Heard::Said(length)),
                Err(error) => of_pipe(error),
            },
            ready = self.stderr.readable(), if !self.log.is_closed => {
                match ready.and_then(|()| self.stderr.try_read(buffer)) {
                    Ok(length) => {
                        self.log.add(&buffer[..length]);
                        Ok(Heard::Nothing)
                    }
                    Err(error) => of_pipe(error),
                }
            }
            ready = self.stdin.writable(), if !unsent.is_empty() => {
                match ready.and_then(|()| self.stdin.try_write(unsent)) {
                    Ok(length) => Ok(Heard::Took(length)),
                    // It reads no more. What it says all the same decides.
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Heard::Took(unsent.len())),
                    Err(error) => of_pipe(error),
                }
            }
            () = self.kept.stirs() => Err(Breakage::Ended),
        }
    }

    /// Ends it; no process of it is left then. How it ended, and the end of its log.
    pub(in crate::worker) async fn end(mut self) -> (Option<Exit>, String) {
        let exit = self.kept.end().await;
        let mut buffer = vec![0; PIECE];
        // What it wrote is in the pipe still.
        while let Ok(length @ 1..) = rustix::io::read(&self.stderr, &mut *buffer) {
            self.log.add(&buffer[..length]);
        }
        (exit, self.log.text())
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("answered", &self.answered).finish_non_exhaustive()
    }
}

// === impl Streams ===

impl Streams {
    /// Three pipes: the ends of the process, and the others.
    fn make() -> io::Result<(Self, [OwnedFd; 3])> {
        let pipe = || pipe_with(PipeFlags::CLOEXEC);
        let ((stdin, our_stdin), (our_stdout, stdout), (our_stderr, stderr)) = (pipe()?, pipe()?, pipe()?);
        Ok((Self { stdin, stdout, stderr }, [our_stdin, our_stdout, our_stderr]))
    }
}

// === impl Breakage ===

impl Breakage {
    /// In words for people, with how the process ended.
    pub(in crate::worker) fn describe(&self, exit: Option<&Exit>, log: &str) -> String {
        let what = match (self, exit.map(|exit| exit.outcome)) {
            (Self::Answer(error), _) => error.to_string(),
            (Self::Ended, Some(Outcome::Exited(code))) => {
                format!("it ended with exit code {code} instead of an answer")
            }
            (Self::Ended, Some(Outcome::Signaled(signal))) => {
                format!("signal {signal} ended it before it had answered")
            }
            (Self::Ended, _) => "it closed its stdout before it had answered".to_owned(),
            (Self::Lost(reason), _) => reason.clone(),
        };
        if log.trim().is_empty() { what } else { format!("{what}; its log ends with:\n{}", log.trim_end()) }
    }
}

// === impl Log ===

impl Log {
    fn add(&mut self, bytes: &[u8]) {
        self.is_closed |= bytes.is_empty();
        self.bytes.extend(bytes);
        let surplus = self.bytes.len().saturating_sub(LOG);
        self.bytes.drain(..surplus);
    }

    fn text(mut self) -> String {
        String::from_utf8_lossy(self.bytes.make_contiguous()).into_owned()
    }
}

// === impl Clock ===

impl Clock {
    fn start(timeout: Duration) -> Self {
        Self { timeout, passed: Duration::ZERO, since: Some(Instant::now()) }
    }

    fn stand_still(&mut self, still: bool) {
        self.passed = self.passed();
        self.since = (!still).then(Instant::now);
    }

    fn passed(&self) -> Duration {
        self.passed + self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Waits until the time is over.
    async fn over(&self) {
        match self.since {
            Some(_) => tokio::time::sleep(self.timeout.saturating_sub(self.passed())).await,
            None => std::future::pending().await,
        }
    }
}

fn of_pipe(error: io::Error) -> Result<Heard, Breakage> {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(Heard::Nothing),
        _ => Err(Breakage::Lost(error.to_string())),
    }
}

fn lost(error: RunError) -> Breakage {
    Breakage::Lost(error.to_string())
}
