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
use super::top::{self, LookArgs, Screen};
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

/// The first builds: cold, again, and with a change.
const BUILDS: usize = 3;

/// How long one may look at a build before the next begins.
const PAUSE: Duration = Duration::from_secs(4);

/// The same for the second sender, which comes more rarely.
const RARE: Duration = Duration::from_secs(25);

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
    /// Sort lists of words even if there is a C compiler
    #[arg(long)]
    words: bool,
    #[command(flatten)]
    look: LookArgs,
}

/// Something to build, for a task.
type BoxedProject = Box<dyn Project + Send>;

/// One sender: what builds, what it builds, and what came of it.
struct Sender {
    builder: Builder,
    project: BoxedProject,
    report: Arc<Report>,
    progress: Progress,
    /// Builds so far.
    built: usize,
}

/// Runs the demo until its end, or until the person leaves.
pub(super) fn run(args: DemoArgs) -> Result<(), CliError> {
    let runtime = tasks::runtime().explain("cannot start the runtime")?;
    runtime.block_on(demonstrate(args))
}

async fn demonstrate(args: DemoArgs) -> Result<(), CliError> {
    let has_screen = !args.no_dashboard && Screen::detect() == Screen::Fit;
    let mut signals = Signals::of_terminal().explain("cannot wait for signals")?;
    let node = PrivateNode::start("demo", NodeLog::File, &["--name", "demo"])?;
    let report = Arc::new(Report::default());
    let progress = if has_screen { Progress::hidden() } else { Progress::shown() };
    let (mut first, second) = senders(&node, args.words, &report, progress).await?;
    let outcome = if has_screen {
        watched(first, second, &node, &args.look).await
    } else {
        tokio::select! {
            outcome = first.build(BUILDS, Duration::ZERO) => outcome,
            () = signals.next() => Err(CliError::new("interrupted")),
        }
    };
    drop(node);
    print(&report.table(Paint::stdout()))?;
    outcome
}

/// Who builds on the node: a person, and where there is a compiler somebody else beside him.
async fn senders(
    node: &PrivateNode,
    words: bool,
    report: &Arc<Report>,
    progress: Progress,
) -> Result<(Sender, Option<Sender>), CliError> {
    let channel = remote::connect(node.address()).await.explain("cannot reach the node of the demo")?;
    let sender = |tool, project: BoxedProject, progress| Sender {
        builder: Builder::new(Client::new(channel.clone(), ""), tool, JOBS_PER_SLOT * cores()),
        project,
        report: Arc::clone(report),
        progress,
        built: 0,
    };
    let (first, second) = projects(node, words);
    eprintln!("building {}", first.describe());
    let first = sender("farmhand-demo", first, progress);
    let second = second.map(|project| sender("farmhand-demo-nightly", project, Progress::hidden()));
    Ok((first, second))
}

/// What the two of them build; the second only where there is a compiler.
fn projects(node: &PrivateNode, words: bool) -> (BoxedProject, Option<BoxedProject>) {
    if words {
        return (Box::new(Words::default()), None);
    }
    match Compiler::find(node.directory()) {
        Ok(compiler) => {
            let second = Program::new(compiler.clone(), "-O1");
            (Box::new(Program::new(compiler, "-O2")), Some(Box::new(second)))
        }
        Err(why) => {
            eprintln!("{why}; words are sorted in place of compiling");
            (Box::new(Words::default()), None)
        }
    }
}

/// Builds again and again while the dashboard is open. A build that fails ends the building, not the
/// dashboard.
async fn watched(
    mut first: Sender,
    second: Option<Sender>,
    node: &PrivateNode,
    look: &LookArgs,
) -> Result<(), CliError> {
    let building = Tasks::default().spawn("demo", async move {
        first.build(BUILDS, PAUSE).await?;
        let beside = async {
            match second {
                Some(mut second) => second.build(usize::MAX, RARE).await,
                None => Ok(()),
            }
        };
        tokio::try_join!(first.build(usize::MAX, PAUSE), beside).map(drop)
    });
    let shown = top::show(top::options(node.control_socket(), look)).await;
    building.abort();
    match building.await {
        Ok(built) => shown.map(drop).and(built),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => shown.map(drop),
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get)
}

// === impl Sender ===

impl Sender {
    /// Builds so many times, with a pause after each: cold, unchanged, then with one change after the other.
    async fn build(&mut self, times: usize, pause: Duration) -> Result<(), CliError> {
        for _ in 0..times {
            let what = match self.built {
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
            self.built += 1;
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }
}
