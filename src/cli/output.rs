//! Words and colours: how sizes, times and states look everywhere on the command line.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use super::error::CliError;
use crate::peer::link::words::is_unseen;
use crate::telemetry::colours;

/// Colours, or none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paint {
    on: bool,
}

// === impl Paint ===

impl Paint {
    /// For a stream that is a terminal or not; `NO_COLOR` is respected.
    pub(super) fn for_stream(is_terminal: bool) -> Self {
        Self { on: colours(is_terminal) }
    }

    /// For stdout.
    pub(super) fn stdout() -> Self {
        Self::for_stream(io::stdout().is_terminal())
    }

    /// Never any.
    #[cfg(test)]
    pub(super) fn plain() -> Self {
        Self { on: false }
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    pub(super) fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    pub(super) fn red(self, text: &str) -> String {
        self.wrap("1;31", text)
    }

    pub(super) fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }

    pub(super) fn yellow(self, text: &str) -> String {
        self.wrap("33", text)
    }

    pub(super) fn cyan(self, text: &str) -> String {
        self.wrap("36", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Writes `text` to stdout. A reader that went away (`| head`) is no failure.
pub(super) fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CliError::new(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes `value` to stdout as JSON.
pub(super) fn print_json(value: &impl serde::Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| CliError::new(format!("cannot write JSON: {error}")))?;
    print(&format!("{text}\n"))
}

/// `1.5 GiB`.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `1,234,567`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `850 µs`, `12.3 ms`, `4.56 s`, `3m 7s`, `2h 5m`, `3d 4h`.
pub(super) fn duration(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0 if length.as_micros() < 1000 => format!("{} µs", length.as_micros()),
        0 => format!("{:.1} ms", length.as_secs_f64() * 1e3),
        1..60 => format!("{:.2} s", length.as_secs_f64()),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// `one two` with the second word in plural unless there is one.
pub(super) fn plural(number: u64, word: &str) -> String {
    format!("{} {word}{}", count(number), if number == 1 { "" } else { "s" })
}

/// Foreign text on a line of its own: what would end the line or steer a terminal becomes a space.
pub(super) fn one_line(text: &str) -> String {
    text.split(is_foul).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

/// `text` without anything that a terminal would obey, or that nobody would see: it may come from whoever
/// sends actions.
pub(super) fn visible(text: &str) -> String {
    text.chars().map(|c| if is_foul(c) { '\u{fffd}' } else { c }).collect()
}

fn is_foul(c: char) -> bool {
    c.is_control() || is_unseen(c)
}

/// A word of a shell line: quoted where the shell would take it apart.
pub(super) fn shell_word(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_counts_and_times() {
        assert_eq!([bytes(0), bytes(1023), bytes(1536)], ["0 B", "1023 B", "1.5 KiB"]);
        assert_eq!(bytes((1 << 20) - 1), "1.0 MiB");
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
        assert_eq!([count(0), count(999), count(1_234_567)], ["0", "999", "1,234,567"]);
        let times =
            [850, 12_300, 4_560_000, 187_000_000, 7_500_000_000, 273_600_000_000].map(Duration::from_micros);
        assert_eq!(times.map(duration), ["850 µs", "12.3 ms", "4.56 s", "3m 7s", "2h 5m", "3d 4h"]);
        assert_eq!([plural(1, "blob"), plural(0, "blob")], ["1 blob", "0 blobs"]);
    }

    #[test]
    fn foreign_text_neither_ends_a_line_nor_steers_a_terminal() {
        assert_eq!(one_line("a\n\x1b[31mb\r\n\u{9b}c"), "a [31mb c");
        assert_eq!(one_line("plain ü"), "plain ü");
        assert_eq!(one_line("a\u{2028}b\u{202e}c"), "a b c");
    }

    #[test]
    fn a_terminal_is_told_nothing_by_texts_of_others() {
        assert_eq!(visible("a\u{1b}[31m\r\n\u{9b}b"), "a\u{fffd}[31m\u{fffd}\u{fffd}\u{fffd}b");
        assert_eq!(
            visible("a\u{202e}\u{200b}\u{2028}\u{2067}\u{feff}ü木"),
            "a\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}ü木"
        );
    }

    #[test]
    fn no_colour_means_no_escape() {
        assert_eq!(Paint::plain().red("x"), "x");
        assert_eq!(Paint { on: true }.green("x"), "\x1b[32mx\x1b[0m");
    }

    proptest! {
        #[test]
        fn a_shell_reads_back_what_was_quoted(word in "[ -~äé]{0,12}") {
            let line = format!("printf %s {}", shell_word(&word));
            let output = std::process::Command::new("sh").args(["-c", &line]).output().unwrap();
            prop_assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
    }
}
