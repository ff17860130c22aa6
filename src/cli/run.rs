//! `farmhand` without a command: in a terminal the dashboard, on the node that runs or on one started here;
//! elsewhere `serve`.
//!
//! A node started here lives and ends with the dashboard. Its log goes to a file, because the screen is
//! taken.

use std::convert::Infallible;
use std::os::unix::net::UnixStream;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use farmhand_ui::Options;
use futures_util::FutureExt;
use indicatif::ProgressDrawTarget;

use super::error::{CliError, Explain};
use super::serve::{self, LAST_THREADS, Rebuild, ServeArgs, explain_start};
use super::signals::Signals;
use super::top::{self, LookArgs, Screen};
use crate::config::Config;
use crate::node::Node;
use crate::tasks::{self, Heartbeat};
use crate::telemetry;

mod log_file;

use log_file::LogFile;

/// How often the log is looked at for its size.
const LOG_CHECK: Duration = Duration::from_secs(30);

/// After how long a person wants to know why nothing happens.
const LONG: Duration = Duration::from_secs(1);

/// Shows the dashboard, or serves.
pub(super) fn run(args: ServeArgs) -> Result<(), CliError> {
    let config = args.config()?;
    match Screen::detect() {
        Screen::Fit => {}
        Screen::Dumb => {
            eprintln!("this terminal cannot show the dashboard (TERM); serving without it");
            return serve::serve_with(config);
        }
        Screen::None => return serve::serve_with(config),
    }
    let look = LookArgs::from_variables().map_err(|error| CliError::new(error.to_string()))?;
    let socket = config.runtime_dir.join("control.sock");
    if UnixStream::connect(&socket).is_ok() {
        return super::wait(async { top::show(top::options(socket, &look)).await.map(drop) });
    }
    let options = Options { owns_node: true, ..top::options(socket, &look) };
    serve_and_show(config, options)
}

/// A node in this process, for as long as its dashboard is open.
fn serve_and_show(config: Config, options: Options) -> Result<(), CliError> {
    let log = LogFile::lead_stderr(&config.data_dir)
        .explain(format!("cannot write a log in {}", config.data_dir.display()))?;
    telemetry::init(&config.log)?;
    let runtime = tasks::runtime().explain("cannot start the runtime")?;
    let _heartbeat = Heartbeat::start(runtime.handle().clone()).explain("cannot start the runtime")?;
    let outcome = runtime.block_on(async {
        let Some(node) = start(config).await? else { return Ok(()) };
        let shown = show(options, &log).await;
        let ended = node.stopped().now_or_never().is_some();
        end(node).await;
        shown.and(if ended { Err(CliError::new("the node ended by itself")) } else { Ok(()) })
    });
    runtime.shutdown_timeout(LAST_THREADS);
    let path = log.path().to_owned();
    // From here on stderr is the terminal again.
    drop(log);
    eprintln!("the log of the node is in {}", path.display());
    outcome
}

/// The node, when it serves; `None` when a signal came first.
async fn start(config: Config) -> Result<Option<Node>, CliError> {
    let mut signals = Signals::of_terminal().explain("cannot wait for signals")?;
    let progress = Arc::new(Rebuild::new(ProgressDrawTarget::stdout(), true));
    let node = tokio::select! {
        node = Node::start(config, progress.clone()) => Some(node.map_err(explain_start)?),
        () = signals.next() => None,
    };
    progress.finish();
    Ok(node)
}

/// The dashboard, until the person leaves or it breaks. The node is to be ended well then too.
async fn show(options: Options, log: &LogFile) -> Result<(), CliError> {
    let broke = |_| CliError::new("the dashboard broke").hint("the end of the log says how");
    tokio::select! {
        shown = AssertUnwindSafe(top::show(options)).catch_unwind() => shown.map_err(broke)?.map(drop),
        never = keep_small(log) => match never {},
    }
}

async fn keep_small(log: &LogFile) -> Infallible {
    loop {
        log.keep_small();
        tokio::time::sleep(LOG_CHECK).await;
    }
}

/// Ends the node; a signal ends it at once.
async fn end(node: Node) {
    let long = async {
        tokio::time::sleep(LONG).await;
        println!("ending the node; Ctrl-C ends it at once");
        std::future::pending::<Infallible>().await
    };
    let signal = async {
        match Signals::of_terminal() {
            Ok(mut signals) => signals.next().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = node.stop() => {}
        () = signal => std::process::exit(130),
        never = long => match never {},
    }
}
