//! What the logs view knows besides the farm: the lines of the node, and those of them that are
//! wanted as a text.

use std::collections::VecDeque;
use std::fmt::Write as _;

use farmhand_proto::control::LogLine;
use farmhand_proto::control::log_line::Level;

use super::filter::Filter;
use super::pager::Pager;
use super::time::Stamp;
use crate::logtext::Size;
use crate::sanitize;

/// Lines that are kept.
const MOST: usize = 10_000;

/// Lines of the log that are dropped at a time, so that the text is not made anew for each.
const AT_ONCE: usize = 1000;

/// State of the logs view.
#[derive(Clone, Debug)]
pub(crate) struct Logs {
    /// Those that are wanted, as text: a line each.
    pub(crate) pager: Pager,
    /// Least level that is wanted.
    pub(crate) least: Level,
    /// Which lines are wanted.
    pub(crate) filter: Option<Filter>,
    /// Why no more come.
    pub(crate) failure: Option<String>,
    lines: VecDeque<LogLine>,
    /// The level of each line of the text.
    levels: Vec<Level>,
    /// Run of the node the lines are of.
    boot_epoch: u64,
}

// === impl Logs ===

impl Logs {
    /// The last line that is known, to go on after it.
    pub(crate) fn last(&self) -> u64 {
        self.lines.back().map_or(0, |line| line.sequence)
    }

    /// How many lines are kept, and how many of them are wanted.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.lines.len(), self.levels.len())
    }

    /// The level of a line of the text.
    pub(crate) fn level(&self, line: usize) -> Level {
        self.levels.get(line).copied().unwrap_or(Level::Unspecified)
    }

    /// Takes lines that came. Those that are known are left out.
    pub(crate) fn take(&mut self, lines: Vec<LogLine>) {
        for mut line in lines {
            if line.sequence != 0 && line.sequence <= self.last() {
                continue;
            }
            sanitize::in_place(&mut line.module);
            sanitize::in_place(&mut line.text);
            self.show(&line);
            self.lines.push_back(line);
        }
        if self.lines.len() > MOST + AT_ONCE {
            self.lines.drain(..AT_ONCE);
            self.list();
        }
    }

    /// The node is in another run, and counts its lines anew; whether that is new.
    pub(crate) fn begin(&mut self, boot_epoch: u64) -> bool {
        let is_new = self.boot_epoch != boot_epoch && self.boot_epoch != 0;
        self.boot_epoch = boot_epoch;
        if is_new {
            self.lines.clear();
            self.list();
        }
        is_new
    }

    /// Wants other levels.
    pub(crate) fn want_level(&mut self, least: Level) {
        self.least = least;
        self.list();
    }

    /// Wants other lines; what is wanted is marked in them.
    pub(crate) fn want(&mut self, filter: Option<Filter>, size: Size) {
        let needle = filter.as_ref().map(|filter| filter.text().to_owned()).unwrap_or_default();
        self.filter = filter;
        self.list();
        let follows = self.pager.scroll().follow;
        // A regular expression is no text that could be found.
        let is_plain = !needle.starts_with(['!', '/']);
        self.pager.search(if is_plain { &needle } else { "" }, size);
        if follows {
            self.pager.act(crate::keymap::Act::Bottom, size);
        }
    }

    /// Makes the text anew.
    fn list(&mut self) {
        self.pager.replace("");
        self.levels.clear();
        let lines = std::mem::take(&mut self.lines);
        lines.iter().for_each(|line| self.show(line));
        self.lines = lines;
    }

    fn show(&mut self, line: &LogLine) {
        let level = line.level();
        let is_wanted = self.filter.as_ref().is_none_or(|filter| filter.wants(&[&line.module, &line.text]));
        if (level as i32) < self.least as i32 || !is_wanted {
            return;
        }
        self.levels.push(level);
        self.pager.push(text(line).as_bytes());
    }
}

impl Default for Logs {
    fn default() -> Self {
        Self {
            pager: Pager::following(),
            least: Level::Unspecified,
            filter: None,
            failure: None,
            lines: VecDeque::new(),
            levels: Vec::new(),
            boot_epoch: 0,
        }
    }
}

/// A level in a word of five letters.
pub(crate) fn level_word(level: Level) -> &'static str {
    match level {
        Level::Unspecified => "-",
        Level::Trace => "TRACE",
        Level::Debug => "DEBUG",
        Level::Info => "INFO",
        Level::Warn => "WARN",
        Level::Error => "ERROR",
    }
}

/// The next of the levels one can choose.
pub(crate) fn next_level(level: Level) -> Level {
    match level {
        Level::Unspecified | Level::Trace | Level::Debug => Level::Info,
        Level::Info => Level::Warn,
        Level::Warn => Level::Error,
        Level::Error => Level::Unspecified,
    }
}

fn text(line: &LogLine) -> String {
    let mut text = String::new();
    if let Some(at) = Stamp::of(line.at.as_ref()) {
        let millis = at.0.rem_euclid(1_000_000) / 1000;
        let _ = write!(text, "{}.{millis:03} ", at.clock());
    }
    let _ = writeln!(text, "{:<5} {}: {}", level_word(line.level()), line.module, line.text);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(sequence: u64, level: Level, text: &str) -> LogLine {
        LogLine { sequence, level: level.into(), module: "node".into(), text: text.into(), at: None }
    }

    fn logs() -> Logs {
        let mut logs = Logs::default();
        logs.take(vec![
            line(1, Level::Info, "began"),
            line(2, Level::Warn, "odd \x1b[31m thing"),
            line(3, Level::Debug, "detail"),
        ]);
        logs
    }

    #[test]
    fn lines_are_harmless_and_known_once() {
        let mut logs = logs();
        logs.take(vec![line(3, Level::Debug, "detail"), line(4, Level::Error, "bad\nnews")]);
        assert_eq!(logs.last(), 4);
        assert_eq!(
            logs.pager.text().to_text(),
            "INFO  node: began\nWARN  node: odd \u{fffd}[31m thing\nDEBUG node: detail\nERROR node: bad news\n"
        );
        assert_eq!((logs.level(3), logs.level(9)), (Level::Error, Level::Unspecified));
    }

    #[test]
    fn levels_and_texts_are_filtered() {
        let mut logs = logs();
        logs.want_level(Level::Warn);
        assert_eq!((logs.counts(), logs.level(0)), ((3, 1), Level::Warn));
        logs.want_level(Level::Unspecified);
        logs.want(Filter::parse("detail").unwrap(), Size { width: 80, height: 10 });
        assert_eq!((logs.counts(), logs.pager.needle()), ((3, 1), "detail"));
        logs.want(Filter::parse("!/detail/").unwrap(), Size::default());
        assert_eq!((logs.counts(), logs.pager.needle()), ((3, 2), ""));
        assert!(logs.pager.scroll().follow);
    }

    #[test]
    fn a_node_that_began_anew_counts_anew() {
        let mut logs = logs();
        assert!(!logs.begin(7) && !logs.begin(7));
        assert!(logs.begin(8));
        assert_eq!((logs.last(), logs.counts()), (0, (0, 0)));
    }

    #[test]
    fn memory_is_bounded() {
        let mut logs = Logs::default();
        let many = MOST as u64 + 2 * AT_ONCE as u64;
        for sequence in 1..=many {
            logs.take(vec![line(sequence, Level::Info, "x")]);
        }
        assert!(logs.counts().0 <= MOST + AT_ONCE && logs.counts().0 == logs.counts().1);
        assert_eq!(logs.last(), many);
    }
}
