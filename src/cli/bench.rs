//! `farmhand bench`: what a node does, beside what the machine can do at most.
//!
//! Every figure stands beside a limit that was measured in the same run on the same machine, so
//! that it means something on any of them. [`limits`] measures those, [`probes`] drive the node
//! over REAPI as a client would, [`private_node`] starts one where none is named.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::error::{CliError, Explain};
use super::output::{Paint, bytes, count, print, print_json};
use super::remote;
use crate::instance::InstanceName;

mod limits;
mod private_node;
mod probes;

use limits::Limits;
use private_node::PrivateNode;
use probes::Bench;

/// Time each figure is measured for.
const TIME: Duration = Duration::from_secs(1);

/// Measure a node beside the limits of this machine
///
/// Without --connect a node of its own is started, in temporary directories and with default
/// settings, and ended afterwards. Another server that speaks REAPI can be measured too.
///
/// Benchmarks: actions, actions-parallel, batch-write, batch-read, stream-write, stream-read,
/// find-missing, cache-hits.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  farmhand bench\n  farmhand bench --connect 127.0.0.1:8980 stream actions"
)]
pub(super) struct BenchArgs {
    /// REAPI of the server to measure: IP:PORT or unix:PATH
    #[arg(long, value_name = "ADDR")]
    connect: Option<String>,
    /// Instance to use there
    #[arg(long, value_name = "NAME", default_value = "")]
    #[arg(value_parser = |name: &str| InstanceName::parse(name))]
    instance: InstanceName,
    /// Print JSON: a list of objects with name, value, unit, limit_name, limit and share
    #[arg(long)]
    json: bool,
    /// Run only the benchmarks whose names contain one of these
    #[arg(value_name = "FILTER")]
    filter: Vec<String>,
}

/// Unit of a figure; more is better, but for [`Unit::Latency`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Unit {
    /// Seconds, the median.
    #[serde(rename = "s")]
    Latency,
    /// Things a second.
    #[serde(rename = "1/s")]
    Rate,
    /// Bytes a second.
    #[serde(rename = "B/s")]
    Throughput,
}

/// One measured figure and its limit, in the same unit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Figure {
    name: &'static str,
    value: f64,
    unit: Unit,
    limit_name: &'static str,
    limit: f64,
    /// Part of the limit that is reached, 0 to 1 (above 1 where the limit was measured too low).
    share: f64,
}

/// A benchmark by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    Actions,
    ActionsParallel,
    BatchWrite,
    BatchRead,
    StreamWrite,
    StreamRead,
    FindMissing,
    CacheHits,
}

/// Measures and prints.
pub(super) async fn run(args: BenchArgs) -> Result<(), CliError> {
    let probes: Vec<Probe> = Probe::ALL.into_iter().filter(|probe| probe.matches(&args.filter)).collect();
    if probes.is_empty() {
        let names = Probe::ALL.map(Probe::name).join(", ");
        return Err(CliError::new("no benchmark has such a name").hint(format!("the names are {names}")));
    }
    let (private, address) = match args.connect {
        Some(address) => (None, address),
        None => {
            let node = PrivateNode::start()?;
            let address = node.address().to_owned();
            (Some(node), address)
        }
    };
    let channel = remote::connect(&address).await.explain("cannot reach the server")?;
    let limits = Limits::default();
    let mut bench = Bench::new(channel, args.instance.as_str());
    let measured = async {
        let mut figures = Vec::new();
        for probe in probes {
            eprintln!("measuring {} …", probe.name());
            figures.push(probe.measure(&mut bench, &limits).await?);
        }
        Ok::<_, CliError>(figures)
    };
    // So that Ctrl-C too removes what the node wrote.
    let figures = tokio::select! {
        figures = measured => figures?,
        _ = tokio::signal::ctrl_c() => return Err(CliError::new("interrupted")),
    };
    drop(private);
    if args.json { print_json(&figures) } else { print(&to_text(&figures, Paint::stdout())) }
}

// === impl Probe ===

impl Probe {
    const ALL: [Self; 8] = [
        Self::Actions,
        Self::ActionsParallel,
        Self::BatchWrite,
        Self::BatchRead,
        Self::StreamWrite,
        Self::StreamRead,
        Self::FindMissing,
        Self::CacheHits,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Actions => "actions",
            Self::ActionsParallel => "actions-parallel",
            Self::BatchWrite => "batch-write",
            Self::BatchRead => "batch-read",
            Self::StreamWrite => "stream-write",
            Self::StreamRead => "stream-read",
            Self::FindMissing => "find-missing",
            Self::CacheHits => "cache-hits",
        }
    }

    fn matches(self, filter: &[String]) -> bool {
        filter.is_empty() || filter.iter().any(|part| self.name().contains(part.as_str()))
    }

    async fn measure(self, bench: &mut Bench, limits: &Limits) -> Result<Figure, CliError> {
        let (value, unit, limit_name, limit) = match self {
            Self::Actions => {
                (bench.action_latency().await?, Unit::Latency, "fork+exec", limits.spawn_latency()?)
            }
            Self::ActionsParallel => {
                (bench.action_rate().await?, Unit::Rate, "fork+exec, parallel", limits.spawn_rate()?)
            }
            Self::BatchWrite => {
                let limit = limits.hash_rate() / probes::SMALL_BLOB as f64;
                (bench.batch_write().await?, Unit::Rate, "SHA-256 of 1 KiB, one core", limit)
            }
            Self::BatchRead => {
                let limit = limits.socket_rate()? / probes::SMALL_BLOB as f64;
                (bench.batch_read().await?, Unit::Rate, "loopback TCP / 1 KiB", limit)
            }
            Self::StreamWrite => {
                (bench.stream_write().await?, Unit::Throughput, "SHA-256, one core", limits.hash_rate())
            }
            Self::StreamRead => {
                (bench.stream_read().await?, Unit::Throughput, "loopback TCP", limits.socket_rate()?)
            }
            Self::FindMissing => {
                let limit = limits.socket_rate()? / probes::DIGEST_BYTES;
                (bench.find_missing().await?, Unit::Rate, "loopback TCP / digest", limit)
            }
            Self::CacheHits => {
                (bench.cache_hits().await?, Unit::Rate, "loopback round trips", limits.round_trip_rate()?)
            }
        };
        let share = if unit == Unit::Latency { limit / value } else { value / limit };
        Ok(Figure { name: self.name(), value, unit, limit_name, limit, share })
    }
}

fn to_text(figures: &[Figure], paint: Paint) -> String {
    let head = format!("{:<18}{:>14}  {:>8}  {:>14}  LIMIT IS", "BENCHMARK", "MEASURED", "SHARE", "LIMIT");
    let mut text = format!("{}\n", paint.dim(&head));
    for figure in figures {
        let _ = writeln!(
            text,
            "{:<18}{:>14}  {:>6.1} %  {:>14}  {}",
            figure.name,
            shown(figure.value, figure.unit),
            figure.share * 100.0,
            shown(figure.limit, figure.unit),
            figure.limit_name
        );
    }
    text
}

fn shown(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Latency => format!("{:.2} ms", value * 1e3),
        Unit::Rate => format!("{}/s", count(value as u64)),
        Unit::Throughput => format!("{}/s", bytes(value as u64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_choose_by_part_of_a_name() {
        let chosen = |filter: &[&str]| {
            let filter: Vec<String> = filter.iter().map(ToString::to_string).collect();
            Probe::ALL.into_iter().filter(|probe| probe.matches(&filter)).count()
        };
        assert_eq!(
            [chosen(&[]), chosen(&["stream"]), chosen(&["hits", "actions"]), chosen(&["x!"])],
            [8, 2, 3, 0]
        );
    }

    #[test]
    fn a_figure_stands_beside_its_limit() {
        let figure = Figure {
            name: "actions",
            value: 0.002,
            unit: Unit::Latency,
            limit_name: "fork+exec",
            limit: 0.001,
            share: 0.5,
        };
        let text = to_text(&[figure], Paint::plain());
        let line = text.lines().nth(1).unwrap();
        assert_eq!(
            line.split_whitespace().collect::<Vec<_>>(),
            ["actions", "2.00", "ms", "50.0", "%", "1.00", "ms", "fork+exec"]
        );
    }
}
