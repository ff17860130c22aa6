//! Commands run by spawner processes and nothing else: what an action costs before there is a cache,
//! a queue or a network.

use std::cell::Cell;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::error::{CliError, Explain};
use super::super::scratch::Scratch;
use super::figure::cores;
use super::load::{Samples, round_rate, time_all};
use crate::worker::sandbox::{Mode, SpawnerConfig, SpawnerPool, probe};
use crate::worker::{Exit, InputRoot, Limits, Network, Outcome, Overlay, PreparedCommand, Runner};

/// Commands prepared at once.
const ROUND: usize = 100;

/// Spawners of this program, sandboxed where the kernel allows it, as a node would have them.
pub(super) struct Spawners {
    pool: SpawnerPool,
    mode: Mode,
    scratch: Scratch,
    made: Cell<u32>,
}

/// A command and the directories it runs in.
struct Prepared {
    command: PreparedCommand,
    directory: PathBuf,
}

// === impl Spawners ===

impl Spawners {
    /// One for each core.
    pub(super) async fn start() -> Result<Self, CliError> {
        // A node has what actions write in memory first, too.
        let scratch = Scratch::in_memory("bench")?;
        let program = Path::new("/proc/self/exe");
        let support = probe(program, scratch.path()).await.explain("cannot try the sandbox")?;
        let mode = if support.is_complete() { Mode::Sandbox } else { Mode::Plain };
        fs::create_dir(scratch.path().join("lower")).explain("cannot make a directory")?;
        let pool = SpawnerPool::start(SpawnerConfig::this_program(cores(), mode)).await;
        Ok(Self { pool: pool.explain("cannot start spawners")?, mode, scratch, made: Cell::new(0) })
    }

    /// Times of `true`, one after the other.
    pub(super) async fn latencies(&self, time: std::time::Duration) -> Result<Samples, CliError> {
        let mut samples = Samples::default();
        round_rate(time, async || {
            let before = samples.sum();
            for prepared in self.prepare(ROUND)? {
                let begin = Instant::now();
                let exit = self.pool.run(prepared.command, CancellationToken::new()).await;
                samples.add(begin.elapsed());
                check(exit.explain("a spawner failed")?)?;
                remove(&prepared.directory);
            }
            Ok((ROUND, std::time::Duration::from_secs_f64(samples.sum() - before)))
        })
        .await?;
        Ok(samples)
    }

    /// Runs of `true` a second, `in_flight` at once.
    pub(super) async fn rate(&self, in_flight: usize, time: std::time::Duration) -> Result<f64, CliError> {
        round_rate(time, async || {
            let (commands, directories): (Vec<_>, Vec<_>) = self
                .prepare(ROUND)?
                .into_iter()
                .map(|prepared| (prepared.command, prepared.directory))
                .unzip();
            let run = async |command| {
                let exit = self.pool.run(command, CancellationToken::new()).await;
                check(exit.explain("a spawner failed")?)
            };
            let took = time_all(in_flight, commands.into_iter().map(run)).await?;
            directories.iter().for_each(|directory| remove(directory));
            Ok((ROUND, took))
        })
        .await
    }

    /// Ends the processes.
    pub(super) async fn stop(self) {
        self.pool.stop().await;
    }

    fn prepare(&self, number: usize) -> Result<Vec<Prepared>, CliError> {
        (0..number).map(|_| self.prepare_one().explain("cannot prepare a command")).collect()
    }

    fn prepare_one(&self) -> std::io::Result<Prepared> {
        self.made.set(self.made.get() + 1);
        let directory = self.scratch.path().join(self.made.get().to_string());
        fs::create_dir(&directory)?;
        let (upper, work) = (directory.join("upper"), directory.join("work"));
        fs::create_dir(&upper)?;
        fs::create_dir(&work)?;
        let root = match self.mode {
            Mode::Sandbox => {
                let lower = vec![self.scratch.path().join("lower")];
                let overlay = Overlay { lower, upper, work, read_only: Vec::new(), writable: Vec::new() };
                InputRoot::Mounted { at: "/build".into(), overlay }
            }
            Mode::Plain => InputRoot::Plain { directory: upper },
        };
        let command = PreparedCommand {
            arguments: vec!["true".into()],
            environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
            root,
            working_directory: PathBuf::new(),
            stdin: None,
            stdout: File::create(directory.join("stdout"))?,
            stderr: File::create(directory.join("stderr"))?,
            limits: Limits::default(),
            network: Network::Loopback,
            ids: (1000, 1000),
            door: None,
            guest: None,
        };
        Ok(Prepared { command, directory })
    }
}

fn check(exit: Exit) -> Result<(), CliError> {
    match exit.outcome {
        Outcome::Exited(0) => Ok(()),
        other => Err(CliError::new(format!("`true` ended with {other:?}"))),
    }
}

/// Removes the directories of a command that has ended.
fn remove(directory: &Path) {
    // Overlays leave a directory there that nobody may read.
    let _ = fs::set_permissions(directory.join("work/work"), Permissions::from_mode(0o700));
    let _ = fs::remove_dir_all(directory);
}
