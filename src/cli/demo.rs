//! `farmhand demo`: a node of its own with something to do.
//!
//! A real job is built on it over REAPI: first cold, then again out of the cache, then with one change after
//! the other. In a terminal the dashboard is open on it, until the person leaves; else there is a table in
//! the end. The node is private and nothing of it stays.
//!
//! [`program`] is the job, [`words`] what stands in for it where there is no C compiler; [`build`] runs
//! either.

use std::sync::Arc;
use std::time::Duration;

use super::error::{CliError, Explain};
use super::output::{Paint, print};
use super::private_node::{NodeLog, PrivateNode};
use super::remote::{self, Client};
use super::signals::Signals;
use super::top::{self, LookArgs};
use crate::tasks::{self, Tasks};

mod build;
mod compiler;
mod job;
mod program;
mod report;
mod roots;
mod words;

use build::Builder;
use compiler::Compiler;
use job::Project;
use program::Program;
use report::{Progress, Report};
use words::Words;

/// `PATH` of actions, and where programs for them are looked for.
const SEARCH_PATH: &str = "/usr/bin:/bin:/usr/local/bin";

/// Actions in flight for each slot: enough that some wait.
const JOBS_PER_SLOT: usize = 4;

/// How long a person may look at a build before the next begins.
const PAUSE: Duration = Duration::from_secs(3);

/// Builds without a dashboard: cold, again, and with a change.
const BUILDS: usize = 3;

/// Show a node at work
///
/// Starts a node of its own on a free port, in a temporary directory, and builds a program of many small C
/// files on it: cold, again out of the cache, then with one change after the other until you leave. In a
/// terminal the dashboard is open on it. Your own node and its store are not touched, nothing is left behind.
///
/// Needs a C compiler. Without one, lists of words are sorted instead.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  farmhand demo\n  farmhand demo --no-dashboard")]
pub(super) struct DemoArgs {
    /// Print a table in place of the dashboard: three builds, and what the cache saved
    #[arg(long)]
    no_dashboard: bool,
    #[command(flatten)]
    look: LookArgs,
}

/// What builds, what it builds, and what came of it.
struct Session {
    builder: Builder,
    project: Box<dyn Project + Send>,
    report: Arc<Report>,
    progress: Progress,
}

/// Runs the demo until its end, or until the person leaves.
pub(super) fn run(args: DemoArgs) -> Result<(), CliError> {
    let runtime = tasks::runtime().explain("cannot start the runtime")?;
    runtime.block_on(demonstrate(args))
}

async fn demonstrate(args: DemoArgs) -> Result<(), CliError> {
    let screen = if args.no_dashboard { Err("--no-dashboard was given") } else { top::has_screen() };
    let mut signals = Signals::of_terminal().explain("cannot wait for signals")?;
    let node = PrivateNode::start("demo", NodeLog::File, &["--name", "demo"])?;
    let project = project(&node);
    eprintln!("building {}", project.describe());
    let channel = remote::connect(node.address()).await.explain("cannot reach the node of the demo")?;
    let report = Arc::new(Report::default());
    let session = Session {
        builder: Builder::new(Client::new(channel, ""), JOBS_PER_SLOT * cores()),
        project,
        report: Arc::clone(&report),
        progress: if screen.is_ok() { Progress::hidden() } else { Progress::shown() },
    };
    let outcome = match screen {
        Ok(()) => watched(session, &node, &args.look).await,
        Err(_) => tokio::select! {
            outcome = session.build(BUILDS, Duration::ZERO) => outcome,
            () = signals.next() => Err(CliError::new("interrupted")),
        },
    };
    drop(node);
    print(&report.table(Paint::stdout()))?;
    outcome
}

/// Builds again and again while the dashboard is open. A build that fails ends the building, not the
/// dashboard.
async fn watched(session: Session, node: &PrivateNode, look: &LookArgs) -> Result<(), CliError> {
    let building = Tasks::default().spawn("demo", session.build(usize::MAX, PAUSE));
    let shown = top::show(top::options(node.control_socket(), look)).await;
    building.abort();
    match building.await {
        Ok(built) => shown.map(drop).and(built),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => shown.map(drop),
    }
}

/// What can be built on this machine.
fn project(node: &PrivateNode) -> Box<dyn Project + Send> {
    match Compiler::find(node.directory()) {
        Ok(compiler) => Box::new(Program::new(compiler)),
        Err(why) => {
            eprintln!("{why}; sorting words instead of compiling (on Debian: apt install gcc libc6-dev)");
            Box::new(Words::default())
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get)
}

// === impl Session ===

impl Session {
    /// Builds so many times, with a pause between: cold, unchanged, then with one change after the other.
    async fn build(mut self, times: usize, pause: Duration) -> Result<(), CliError> {
        for number in 0..times {
            let what = match number {
                0 => "cold".to_owned(),
                1 => "again, nothing changed".to_owned(),
                _ => self.project.change(),
            };
            let job = self.project.job();
            self.progress.begin(&what, job.steps.len());
            let tell = |step: &job::Step, ended| self.progress.step(&step.target, ended);
            let summary = self.builder.build(&job, &tell).await?;
            self.progress.end(&what, &summary);
            self.report.add(what, summary);
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }
}
