//! `farmhand bench`: what a node does, beside what the machine can do at most.
//!
//! Every figure stands beside a limit that was measured in the same run on the same machine, so
//! that it means something on any of them. [`limits`] and [`spawner`] measure those, [`probes`]
//! drive the node over REAPI as a client would.
//! [`drive`] puts load of other kinds on a node, for the tests that watch it from outside.

use std::time::Duration;

use super::error::{CliError, Explain};
use super::output::{Paint, print, print_json};
use super::private_node::{NodeLog, PrivateNode};
use super::remote::{self, Client};
use super::signals::Signals;
use crate::instance::InstanceName;

mod blobs;
pub(super) mod drive;
mod figure;
mod limits;
mod load;
mod probes;
mod spawner;

use blobs::Maker;
use figure::{Failure, Report};
use limits::Limits;
use probes::{Need, Probe};

/// Measure a node beside the limits of this machine
///
/// Without --connect a node of its own is started, in temporary directories and with default
/// settings, and ended afterwards. Another server that speaks REAPI can be measured too. Data of the
/// run is made and uploaded before the clock starts.
///
/// Benchmarks:
///   action               no-op actions never seen before, one in flight, 10 small inputs: median and
///                        99th percentile
///   parallel-actions     the same, 8 in flight
///   root                 an action on 5,000 files of 39 MiB in 275 directories: never seen before,
///                        again with another command, with one file changed
///   stream-write, stream-read
///                        64 MiB by ByteStream, 2 in flight
///   unix-stream-write, unix-stream-read
///                        the same over the Unix socket
///   small-stream-write, small-stream-read
///                        4 KiB by ByteStream, 8 in flight
///   batch-write, batch-read
///                        4 KiB blobs, 100 a call, 16 in flight
///   find-missing         1,000 digests a call, 8 in flight
///   cache-hits, execute-hits
///                        complete results by GetActionResult and by Execute, 8 in flight
///   watched              parallel-actions while two dashboards watch, in turns with the same while
///                        nobody does
///   scheduler            a farm of 64 machines with 16 slots, simulated in this process: what deciding
///                        and waiting cost for each of 100,000 actions (fewer with less --time), and how
///                        long slots are idle
#[derive(Debug, clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:\n  farmhand bench\n  farmhand bench --time 5 action root\n  farmhand bench --connect 127.0.0.1:8980 --json stream"
)]
pub(super) struct BenchArgs {
    /// REAPI of the server to measure: IP:PORT or unix:PATH
    #[arg(long, value_name = "ADDR")]
    connect: Option<String>,
    /// Unix socket of the same server; without it the benchmarks of the socket are left out
    #[arg(long, value_name = "PATH", requires = "connect")]
    unix: Option<String>,
    /// Control socket of the same server; without it the benchmark of being watched is left out
    #[arg(long, value_name = "PATH", requires = "connect")]
    control: Option<String>,
    /// Instance to use there
    #[arg(long, value_name = "NAME", default_value = "")]
    #[arg(value_parser = |name: &str| InstanceName::parse(name))]
    instance: InstanceName,
    /// How long each figure is measured
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = parse_time)]
    time: Duration,
    /// Print JSON
    ///
    /// An object with `schema`, `server`, `cores`, `load` (of the last minute), `seconds` (as in
    /// --time), `figures` and `failed`. A figure has `name`, `value`, `unit` ("s", "1/s", "B/s" or "B") and
    /// `limits`, each with `name`, `value` (in the same unit) and `share` (the part of the limit that
    /// is reached). A failed benchmark has `name` and `reason`.
    #[arg(long)]
    json: bool,
    /// Run only the benchmarks whose names contain one of these
    #[arg(value_name = "FILTER")]
    filter: Vec<String>,
}

/// What the probes share: the server, and what is measured once.
struct Bench {
    client: Client,
    /// The same server over its Unix socket, if it has one.
    unix: Option<Client>,
    /// Address of its control API, if it is known.
    control: Option<String>,
    blobs: Maker,
    limits: Limits,
    /// How long each figure is measured.
    time: Duration,
}

/// Measures and prints.
pub(super) async fn run(args: BenchArgs) -> Result<(), CliError> {
    let probes = Probe::chosen(&args.filter);
    if probes.is_empty() {
        let names = Probe::ALL.map(Probe::name).join(", ");
        return Err(CliError::new("no benchmark has such a name").hint(format!("the names are {names}")));
    }
    let mut signals = Signals::of_terminal().explain("cannot wait for signals")?;
    let (private, address, unix, control) = match args.connect {
        Some(address) => (None, address, args.unix, args.control),
        None => {
            let node = PrivateNode::start("bench", NodeLog::Stderr, &[])?;
            let (address, unix) = (node.address().to_owned(), node.socket());
            let control = node.control_socket().display().to_string();
            (Some(node), address, Some(unix), Some(control))
        }
    };
    let connect = async |address: String| {
        let channel = remote::connect(&address).await.explain("cannot reach the server")?;
        Ok::<_, CliError>(Client::new(channel, args.instance.as_str()))
    };
    let unix = match unix {
        Some(path) => Some(connect(on_socket(&path)).await?),
        None => None,
    };
    let bench = Bench {
        client: connect(address.clone()).await?,
        unix,
        control: control.as_deref().map(on_socket),
        blobs: Maker::new(),
        limits: Limits::new(args.time),
        time: args.time,
    };
    // So that what the node wrote is removed then too.
    let report = tokio::select! {
        report = measure(&bench, &probes, address) => report,
        () = signals.next() => return Err(CliError::new("interrupted")),
    };
    drop(private);
    if args.json {
        print_json(&report)?
    } else {
        print(&report.to_text(Paint::stdout()))?
    }
    report.complete()
}

/// Runs the probes, one after the other. One that fails does not end the run.
async fn measure(bench: &Bench, probes: &[Probe], server: String) -> Report {
    let mut report = Report::new(server, bench.time);
    for probe in probes {
        let missing = match probe.need() {
            Some(Need::UnixSocket) if bench.unix.is_none() => Some("--unix"),
            Some(Need::ControlSocket) if bench.control.is_none() => Some("--control"),
            _ => None,
        };
        if let Some(option) = missing {
            eprintln!("leaving out {}: no {option} was given", probe.name());
            continue;
        }
        eprintln!("measuring {} …", probe.name());
        match probe.measure(bench).await {
            Ok(figures) => report.figures.extend(figures),
            Err(error) => report.failed.push(Failure { name: probe.name(), reason: error.to_string() }),
        }
    }
    report
}

/// The address of a Unix socket.
fn on_socket(path: &str) -> String {
    format!("unix:{}", path.trim_start_matches("unix:"))
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err("not a time".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds() {
        assert_eq!(parse_time("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["", "x", "-1", "0", "inf", "NaN"] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }
}
