//! The signs the dashboard draws with: one set in Unicode, one in ASCII for terminals and fonts
//! without it. Every sign is one cell wide in both.
//!
//! Status has a shape of its own, so that it reads without colour.

/// A set of signs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Glyphs {
    /// Runs.
    pub(crate) running: &'static str,
    /// Waits.
    pub(crate) queued: &'static str,
    /// Ended well.
    pub(crate) ok: &'static str,
    /// Ended badly.
    pub(crate) failed: &'static str,
    /// Could not be run, or was cancelled.
    pub(crate) error: &'static str,
    /// Was given to a machine more than once.
    pub(crate) retried: &'static str,
    /// Rests.
    pub(crate) paused: &'static str,
    /// Out of the cache.
    pub(crate) hit: &'static str,
    /// Put into the cache by a client.
    pub(crate) upload: &'static str,
    /// Does not answer.
    pub(crate) lost: &'static str,
    /// Finishes what it has.
    pub(crate) draining: &'static str,
    /// Gives way to a person.
    pub(crate) yielding: &'static str,
    /// Kept from eviction.
    pub(crate) pinned: &'static str,
    /// An alarm.
    pub(crate) alarm: &'static str,
    /// A piece of advice.
    pub(crate) advice: &'static str,
    /// Text was cut here.
    pub(crate) ellipsis: &'static str,
    /// Stands for what must not be shown.
    pub(crate) replacement: char,
    /// The row that is chosen.
    pub(crate) cursor: &'static str,
    /// Sorted upwards.
    pub(crate) ascending: &'static str,
    /// Sorted downwards.
    pub(crate) descending: &'static str,
    /// Between crumbs, and from old to new.
    pub(crate) arrow: &'static str,
    /// Up and down, of transfers.
    pub(crate) up: &'static str,
    /// Down.
    pub(crate) down: &'static str,
    /// A closed branch of a tree.
    pub(crate) closed: &'static str,
    /// An open branch of a tree.
    pub(crate) open: &'static str,
    /// Stands for a sender where there are colours.
    pub(crate) sender: &'static str,
    /// Separates small things on a line.
    pub(crate) dot: &'static str,
    /// A full piece of a bar.
    pub(crate) bar_full: &'static str,
    /// An empty piece of a bar.
    pub(crate) bar_empty: &'static str,
    /// A bar's last piece, from one eighth to seven; in ASCII all but full is empty.
    pub(crate) bar_parts: [&'static str; 7],
    /// Columns of a graph, from nothing to full.
    pub(crate) columns: [&'static str; 9],
    /// A line across, and down.
    pub(crate) horizontal: &'static str,
    /// A line down.
    pub(crate) vertical: &'static str,
    /// Corners: top left, top right, bottom left, bottom right.
    pub(crate) corners: [&'static str; 4],
    /// Whether graphs may use braille patterns.
    pub(crate) braille: bool,
}

/// For terminals that show Unicode.
pub(crate) static UNICODE: Glyphs = Glyphs {
    running: "▶",
    queued: "·",
    ok: "✓",
    failed: "✗",
    error: "!",
    retried: "⟳",
    paused: "⏸",
    hit: "◆",
    upload: "◇",
    lost: "?",
    draining: "▽",
    yielding: "◐",
    pinned: "●",
    alarm: "▲",
    advice: "»",
    ellipsis: "…",
    replacement: '\u{fffd}',
    cursor: "▌",
    ascending: "▴",
    descending: "▾",
    arrow: "→",
    up: "↑",
    down: "↓",
    closed: "▸",
    open: "▾",
    sender: "■",
    dot: "·",
    bar_full: "█",
    bar_empty: "░",
    bar_parts: ["▏", "▎", "▍", "▌", "▋", "▊", "▉"],
    columns: [" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"],
    horizontal: "─",
    vertical: "│",
    corners: ["╭", "╮", "╰", "╯"],
    braille: true,
};

/// For all others.
pub(crate) static ASCII: Glyphs = Glyphs {
    running: ">",
    queued: ".",
    ok: "+",
    failed: "x",
    error: "!",
    retried: "@",
    paused: "=",
    hit: "*",
    upload: "o",
    lost: "?",
    draining: "v",
    yielding: "%",
    pinned: "^",
    alarm: "!",
    advice: ">",
    ellipsis: "~",
    replacement: '?',
    cursor: ">",
    ascending: "^",
    descending: "v",
    arrow: ">",
    up: "^",
    down: "v",
    closed: "+",
    open: "-",
    sender: "#",
    dot: "-",
    bar_full: "#",
    bar_empty: ".",
    bar_parts: ["."; 7],
    columns: [" ", ".", ".", ":", ":", "|", "|", "#", "#"],
    horizontal: "-",
    vertical: "|",
    corners: ["+", "+", "+", "+"],
    braille: false,
};

// === impl Glyphs ===

impl Glyphs {
    /// The set for ASCII, or the other.
    pub(crate) fn of(ascii: bool) -> &'static Self {
        if ascii { &ASCII } else { &UNICODE }
    }

    #[cfg(test)]
    fn all(&self) -> Vec<&'static str> {
        let mut all = vec![
            self.running,
            self.queued,
            self.ok,
            self.failed,
            self.error,
            self.retried,
            self.paused,
            self.hit,
            self.upload,
            self.lost,
            self.draining,
            self.yielding,
            self.pinned,
            self.alarm,
            self.advice,
            self.ellipsis,
            self.cursor,
            self.ascending,
            self.descending,
            self.arrow,
            self.up,
            self.down,
            self.closed,
            self.open,
            self.sender,
            self.dot,
            self.bar_full,
            self.bar_empty,
            self.horizontal,
            self.vertical,
        ];
        all.extend(self.bar_parts);
        all.extend(self.columns);
        all.extend(self.corners);
        all
    }
}

#[cfg(test)]
mod tests {
    use unicode_width::UnicodeWidthStr;

    use super::*;

    #[test]
    fn every_sign_is_one_cell() {
        for set in [&UNICODE, &ASCII] {
            assert!(set.all().iter().all(|sign| sign.width() == 1), "{set:?}");
        }
        assert!(ASCII.all().iter().all(|sign| sign.is_ascii()) && ASCII.replacement.is_ascii());
    }

    #[test]
    fn states_have_shapes_of_their_own() {
        for set in [&UNICODE, &ASCII] {
            let mut signs = vec![
                set.running,
                set.queued,
                set.ok,
                set.failed,
                set.error,
                set.retried,
                set.paused,
                set.hit,
                set.upload,
                set.lost,
                set.draining,
                set.yielding,
            ];
            let all = signs.len();
            signs.sort_unstable();
            signs.dedup();
            assert_eq!(signs.len(), all, "{set:?}");
        }
    }
}
