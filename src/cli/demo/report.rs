//! What the demo tells: how far it is, and in the end a table.

use std::io::{self, IsTerminal};
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::super::output::{Paint, count, duration, plural};
use super::build::Summary;

/// Builds that the table shows.
const SHOWN: usize = 3;

/// The builds that were done.
#[derive(Debug, Default)]
pub(super) struct Report {
    builds: Mutex<Vec<(String, Summary)>>,
}

/// A bar on a terminal, else a line for each build; or nothing, when the screen is not free.
pub(super) struct Progress {
    bar: ProgressBar,
    lines: bool,
}

// === impl Report ===

impl Report {
    /// Adds a build, with what was changed before it.
    pub(super) fn add(&self, what: String, summary: Summary) {
        self.builds.lock().expect("invariant: no holder panics").push((what, summary));
    }

    /// The table; empty when no build came to its end.
    pub(super) fn table(&self, paint: Paint) -> String {
        let builds = self.builds.lock().expect("invariant: no holder panics");
        let mut text = String::new();
        for (number, (what, summary)) in builds.iter().take(SHOWN).enumerate() {
            if number == 0 {
                let head = format!(
                    "{:32} {:>8} {:>8} {:>12} {:>10}\n",
                    "build", "actions", "run", "from cache", "time"
                );
                text.push_str(&paint.bold(&head));
            }
            text.push_str(&row(what, summary));
        }
        if let Some(rest) = builds.len().checked_sub(SHOWN).filter(|rest| *rest > 0) {
            let actions = builds[SHOWN..].iter().map(|(_, summary)| summary.actions() as u64).sum();
            let line =
                format!("and {} since, of {}\n", plural(rest as u64, "build"), plural(actions, "action"));
            text.push_str(&line);
        }
        if let [(_, cold), (_, again), ..] = builds.as_slice() {
            text.push_str(&format!("\n{}\n", paint.green(&speed_up(cold, again))));
        }
        text
    }
}

fn row(what: &str, summary: &Summary) -> String {
    format!(
        "{what:32} {:>8} {:>8} {:>12} {:>10}\n",
        count(summary.actions() as u64),
        count(summary.executed as u64),
        count(summary.cached as u64),
        duration(summary.took)
    )
}

/// How much faster the second of two equal builds was.
fn speed_up(cold: &Summary, again: &Summary) -> String {
    let factor = cold.took.as_secs_f64() / again.took.max(Duration::from_micros(1)).as_secs_f64();
    format!(
        "cold {} in {}, again in {}: {factor:.0} times faster",
        plural(cold.actions() as u64, "action"),
        duration(cold.took),
        duration(again.took)
    )
}

// === impl Progress ===

impl Progress {
    /// On stderr.
    pub(super) fn shown() -> Self {
        let is_terminal = io::stderr().is_terminal();
        let bar = if is_terminal { ProgressBar::new(0) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("{prefix:32} {bar:24} {pos}/{len} {msg}")
            .expect("invariant: the template is constant");
        Self { bar: bar.with_style(style), lines: !is_terminal }
    }

    /// None.
    pub(super) fn hidden() -> Self {
        Self { bar: ProgressBar::hidden(), lines: false }
    }

    /// A build of so many actions begins.
    pub(super) fn begin(&self, what: &str, actions: usize) {
        self.bar.reset();
        self.bar.set_length(actions as u64);
        self.bar.set_prefix(what.to_owned());
    }

    /// One more of them ended.
    pub(super) fn step(&self, target: &str, ended: usize) {
        self.bar.set_position(ended as u64);
        self.bar.set_message(target.to_owned());
    }

    /// The build is over.
    pub(super) fn end(&self, what: &str, summary: &Summary) {
        self.bar.set_message("");
        if self.lines {
            eprintln!("{what}: {} in {}", plural(summary.actions() as u64, "action"), duration(summary.took));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(executed: usize, cached: usize, millis: u64) -> Summary {
        Summary { executed, cached, failed: 0, took: Duration::from_millis(millis) }
    }

    #[test]
    fn the_table_shows_the_first_builds_and_how_much_the_cache_saved() {
        let report = Report::default();
        assert_eq!(report.table(Paint::plain()), "");
        report.add("cold".into(), summary(100, 0, 5000));
        assert!(!report.table(Paint::plain()).contains("faster"));
        report.add("again".into(), summary(0, 100, 50));
        report.add("a header changed".into(), summary(40, 60, 2000));
        report.add("nothing changed".into(), summary(0, 100, 50));
        let table = report.table(Paint::plain());
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[1].split_whitespace().collect::<Vec<_>>(), ["cold", "100", "100", "0", "5.00", "s"]);
        assert_eq!(lines[4], "and 1 build since, of 100 actions");
        assert_eq!(lines[6], "cold 100 actions in 5.00 s, again in 50.0 ms: 100 times faster");
    }
}
