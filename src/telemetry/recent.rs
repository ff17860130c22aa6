//! [`Recent`]: the last lines of the log, for those who ask a running node for them.
//!
//! A ring in memory, filled by a layer of `tracing`, of bounded lines and bytes. It keeps what is
//! informative or worse, whatever the filter of the log says, and what that asks for besides. Who
//! reads too slowly for the ring misses lines, and sees it by their numbers.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Lines kept at most, and bytes of all their texts.
const MOST_LINES: usize = 2000;
const MOST_BYTES: usize = 1 << 20;

/// Bytes of the text of one line.
const LONGEST: usize = 8 << 10;

/// Beginning of the names of fields that say where a line of the `log` crate comes from.
const FROM_LOG: &str = "log.";

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Counts from 1 since the start of the process.
    pub sequence: u64,
    /// When.
    pub at: SystemTime,
    /// How urgent it is.
    pub level: Level,
    /// The module that speaks.
    pub module: Cow<'static, str>,
    /// The message, then each field as ` name=value`.
    pub text: String,
}

/// The last lines.
#[derive(Debug)]
pub struct Recent {
    ring: Mutex<Ring>,
    /// Number of the last line.
    last: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<Arc<Line>>,
    bytes: usize,
    last: u64,
}

/// Fills a [`Recent`].
pub(super) struct RecentLayer(pub(super) Arc<Recent>);

// === impl Recent ===

impl Default for Recent {
    fn default() -> Self {
        Self { ring: Mutex::default(), last: watch::Sender::new(0) }
    }
}

impl Recent {
    /// Up to `most` lines after the line `after` which are at least as urgent as `level`, and the number to
    /// go on after. A number that no line has had yet is one of an earlier process: all lines count then.
    pub fn after(&self, after: u64, level: Level, most: usize) -> (Vec<Arc<Line>>, u64) {
        let ring = self.ring();
        let after = if after > ring.last { 0 } else { after };
        let from = ring.lines.partition_point(|line| line.sequence <= after);
        let mut lines = Vec::new();
        for line in ring.lines.range(from..) {
            if lines.len() == most {
                return (lines, line.sequence - 1);
            }
            if line.level <= level {
                lines.push(Arc::clone(line));
            }
        }
        (lines, ring.last)
    }

    /// Tells the number of the last line whenever there is a new one.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }

    fn push(&self, level: Level, module: Cow<'static, str>, text: String) {
        let at = SystemTime::now();
        let last = self.ring().push(|sequence| Line { sequence, at, level, module, text });
        self.last.send_if_modified(|known| {
            let is_later = last > *known;
            *known = last.max(*known);
            is_later
        });
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Ring ===

impl Ring {
    /// Takes in a line; its number.
    fn push(&mut self, line: impl FnOnce(u64) -> Line) -> u64 {
        self.last += 1;
        let line = line(self.last);
        self.bytes += line.text.len();
        self.lines.push_back(Arc::new(line));
        while self.lines.len() > MOST_LINES || self.bytes > MOST_BYTES {
            self.bytes -= self.lines.pop_front().map_or(0, |line| line.text.len());
        }
        self.last
    }
}

// === impl RecentLayer ===

impl<S: Subscriber> Layer<S> for RecentLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = LineText::default();
        event.record(&mut text);
        let metadata = event.metadata();
        let module = text.module.take().map_or(Cow::Borrowed(metadata.target()), Cow::Owned);
        self.0.push(*metadata.level(), module, text.finish());
    }
}

/// Puts the text of a line together.
#[derive(Default)]
struct LineText {
    message: String,
    fields: String,
    /// Where a line of the `log` crate comes from.
    module: Option<String>,
}

impl LineText {
    fn finish(mut self) -> String {
        self.message.push_str(&self.fields);
        if self.message.len() > LONGEST {
            let end = (0..=LONGEST).rev().find(|at| self.message.is_char_boundary(*at)).unwrap_or(0);
            self.message.truncate(end);
            self.message.push('…');
        }
        self.message
    }
}

impl Visit for LineText {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "log.target" => self.module = Some(value.to_owned()),
            "message" => self.message.push_str(value),
            _ => self.record_debug(field, &value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a text cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name if name.starts_with(FROM_LOG) => Ok(()),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    fn texts(recent: &Recent, after: u64, level: Level) -> Vec<String> {
        recent.after(after, level, usize::MAX).0.iter().map(|line| line.text.clone()).collect()
    }

    fn push(recent: &Recent, level: Level, text: impl Into<String>) {
        recent.push(level, "test".into(), text.into());
    }

    #[test]
    fn a_line_has_the_message_and_its_fields() {
        let recent = Arc::new(Recent::default());
        let subscriber = tracing_subscriber::registry().with(RecentLayer(Arc::clone(&recent)));
        tracing::subscriber::with_default(subscriber, || {
            let name = "a\x1b[31m";
            tracing::warn!(count = 3, name, error = %"broken", "it {}", "happened");
        });
        let (lines, next) = recent.after(0, Level::TRACE, 10);
        assert_eq!((lines.len(), next, lines[0].level), (1, 1, Level::WARN));
        assert_eq!(lines[0].text, r#"it happened count=3 name="a\u{1b}[31m" error=broken"#);
        assert!(lines[0].module.ends_with("telemetry::recent::tests"), "{}", lines[0].module);
    }

    #[test]
    fn lines_are_told_by_level_and_number_in_pages() {
        let recent = Recent::default();
        for (level, text) in
            [(Level::INFO, "1"), (Level::DEBUG, "2"), (Level::ERROR, "3"), (Level::INFO, "4")]
        {
            push(&recent, level, text);
        }
        assert_eq!(texts(&recent, 0, Level::TRACE), ["1", "2", "3", "4"]);
        assert_eq!(texts(&recent, 1, Level::INFO), ["3", "4"]);
        assert_eq!(texts(&recent, 4, Level::TRACE), [""; 0]);
        assert_eq!(texts(&recent, 400, Level::WARN), ["3"], "numbers of an earlier process");
        let (page, next) = recent.after(0, Level::INFO, 1);
        assert_eq!((page[0].text.as_str(), next), ("1", 1));
        let (page, next) = recent.after(next, Level::INFO, 1);
        assert_eq!((page[0].text.as_str(), next), ("3", 3));
    }

    #[test]
    fn lines_and_bytes_are_bounded() {
        let recent = Recent::default();
        for number in 0..MOST_LINES + 10 {
            push(&recent, Level::INFO, number.to_string());
        }
        assert_eq!(texts(&recent, 0, Level::INFO).len(), MOST_LINES);
        for _ in 0..MOST_BYTES / LONGEST + 10 {
            push(&recent, Level::INFO, "x".repeat(LONGEST));
        }
        let ring = recent.ring();
        assert!(ring.bytes <= MOST_BYTES && ring.lines.len() == MOST_BYTES / LONGEST);
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let text = LineText { message: format!("x{}", "é".repeat(LONGEST)), ..Default::default() }.finish();
        assert!(text.ends_with("é…") && text.len() <= LONGEST + '…'.len_utf8());
    }

    #[tokio::test]
    async fn who_follows_is_woken() {
        let recent = Recent::default();
        let mut last = recent.subscribe();
        push(&recent, Level::INFO, "1");
        last.changed().await.unwrap();
        assert_eq!(*last.borrow_and_update(), 1);
    }
}
