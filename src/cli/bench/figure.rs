//! Figures and their limits, as text and as JSON.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::super::error::CliError;
use super::super::output::{Paint, bytes, count};

/// Version of the JSON.
const SCHEMA: u32 = 1;

/// Unit of a figure; more is better, but for [`Unit::Latency`] and [`Unit::Memory`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Unit {
    /// Seconds.
    #[serde(rename = "s")]
    Latency,
    /// Things a second.
    #[serde(rename = "1/s")]
    Rate,
    /// Bytes a second.
    #[serde(rename = "B/s")]
    Throughput,
    /// Bytes.
    #[serde(rename = "B")]
    Memory,
}

/// One measured figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Figure {
    name: &'static str,
    value: f64,
    unit: Unit,
    limits: Vec<Limit>,
}

/// What the machine could do at most, in the unit of the figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Limit {
    name: &'static str,
    value: f64,
    /// Part of the limit that is reached, 0 to 1 (above 1 where the limit was measured too low).
    share: f64,
}

/// A benchmark that could not be run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Failure {
    pub(super) name: &'static str,
    pub(super) reason: String,
}

/// Everything one run measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Report {
    schema: u32,
    server: String,
    cores: usize,
    /// Load of the last minute, where the system tells it.
    load: Option<f64>,
    seconds: f64,
    pub(super) figures: Vec<Figure>,
    pub(super) failed: Vec<Failure>,
}

// === impl Figure ===

impl Figure {
    pub(super) fn latency(name: &'static str, seconds: f64) -> Self {
        Self { name, value: seconds, unit: Unit::Latency, limits: Vec::new() }
    }

    pub(super) fn rate(name: &'static str, each_second: f64) -> Self {
        Self { name, value: each_second, unit: Unit::Rate, limits: Vec::new() }
    }

    pub(super) fn throughput(name: &'static str, bytes_each_second: f64) -> Self {
        Self { name, value: bytes_each_second, unit: Unit::Throughput, limits: Vec::new() }
    }

    pub(super) fn memory(name: &'static str, bytes: f64) -> Self {
        Self { name, value: bytes, unit: Unit::Memory, limits: Vec::new() }
    }

    /// The same beside one more limit, in the same unit.
    #[must_use]
    pub(super) fn beside(mut self, name: &'static str, value: f64) -> Self {
        let is_less_better = matches!(self.unit, Unit::Latency | Unit::Memory);
        let share = if is_less_better { value / self.value } else { self.value / value };
        self.limits.push(Limit { name, value, share });
        self
    }
}

// === impl Report ===

impl Report {
    /// An empty one, of this machine as it is now.
    pub(super) fn new(server: String, time: Duration) -> Self {
        Self {
            schema: SCHEMA,
            server,
            cores: cores(),
            load: std::fs::read_to_string("/proc/loadavg").ok().and_then(|text| first_number(&text)),
            seconds: time.as_secs_f64(),
            figures: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// A failure if one of the benchmarks is.
    pub(super) fn complete(&self) -> Result<(), CliError> {
        match self.failed.as_slice() {
            [] => Ok(()),
            [first, ..] => Err(CliError::new(format!("{} was not measured: {}", first.name, first.reason))),
        }
    }

    /// A table, with a line for each limit.
    pub(super) fn to_text(&self, paint: Paint) -> String {
        let head =
            format!("{:<20}{:>14}  {:>8}  {:>14}  LIMIT IS", "BENCHMARK", "MEASURED", "SHARE", "LIMIT");
        let mut text = format!("{}\n", paint.dim(&head));
        for figure in &self.figures {
            let mut name = figure.name;
            let mut measured = shown(figure.value, figure.unit);
            for limit in &figure.limits {
                let (share, value) = (limit.share * 100.0, shown(limit.value, figure.unit));
                let _ =
                    writeln!(text, "{name:<20}{measured:>14}  {share:>6.1} %  {value:>14}  {}", limit.name);
                (name, measured) = ("", String::new());
            }
        }
        for failure in &self.failed {
            let _ = writeln!(text, "{:<20}{} {}", failure.name, paint.red("failed:"), failure.reason);
        }
        text
    }
}

/// Cores this process may use.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn first_number(text: &str) -> Option<f64> {
    text.split_whitespace().next()?.parse().ok()
}

fn shown(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Latency if value < 1e-4 => format!("{:.2} µs", value * 1e6),
        Unit::Latency => format!("{:.2} ms", value * 1e3),
        Unit::Rate => format!("{}/s", count(value as u64)),
        Unit::Throughput => format!("{}/s", bytes(value as u64)),
        Unit::Memory => bytes(value as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report { load: Some(0.5), cores: 2, ..Report::new("here".into(), Duration::from_secs(1)) }
    }

    fn words(line: &str) -> Vec<&str> {
        line.split_whitespace().collect()
    }

    #[test]
    fn a_figure_stands_beside_each_of_its_limits() {
        let figure = Figure::latency("action-p50", 0.002).beside("a", 0.001).beside("b", 0.0005);
        let text = Report { figures: vec![figure], ..report() }.to_text(Paint::plain());
        let lines: Vec<_> = text.lines().skip(1).map(words).collect();
        assert_eq!(
            lines,
            [
                vec!["action-p50", "2.00", "ms", "50.0", "%", "1.00", "ms", "a"],
                vec!["25.0", "%", "0.50", "ms", "b"]
            ]
        );
    }

    #[test]
    fn short_times_and_memory_are_readable() {
        let figures = vec![
            Figure::latency("decision", 5e-6).beside("a", 2e-5),
            Figure::memory("action", 1024.0).beside("b", 2048.0),
        ];
        let text = Report { figures, ..report() }.to_text(Paint::plain());
        assert!(text.contains("5.00 µs") && text.contains("400.0 %") && text.contains("200.0 %"), "{text}");
    }

    #[test]
    fn the_share_of_a_rate_grows_with_it() {
        let figure = Figure::rate("x", 50.0).beside("limit", 200.0);
        assert_eq!(figure.limits[0].share, 0.25);
    }

    #[test]
    fn json_says_the_unit() {
        let report = Report { figures: vec![Figure::throughput("x", 1.0).beside("y", 2.0)], ..report() };
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(
            json["figures"][0],
            serde_json::json!({
                "name": "x", "value": 1.0, "unit": "B/s",
                "limits": [{"name": "y", "value": 2.0, "share": 0.5}],
            })
        );
        assert_eq!(
            (&json["server"], &json["cores"], &json["load"]),
            (&"here".into(), &2.into(), &0.5.into())
        );
    }

    #[test]
    fn what_failed_is_shown_and_fails_the_run() {
        let failed = vec![Failure { name: "root", reason: "no Execution here".into() }];
        let report = Report { failed, ..report() };
        assert!(report.to_text(Paint::plain()).ends_with("failed: no Execution here\n"));
        assert!(report.complete().is_err());
    }

    #[test]
    fn the_load_is_the_first_number() {
        assert_eq!(first_number("0.52 1.00 2/300 17\n"), Some(0.52));
        assert_eq!(first_number(""), None);
    }
}
