//! Frames as bytes: what must be written so that the screen becomes another.
//!
//! The sixteen colours are written in the way every terminal with colours understands, the others
//! by number or value. A frame is bracketed as a synchronized update, which terminals that know it
//! show at once, and others ignore.

use std::fmt::Write as _;

use ratatui::buffer::{Buffer, Cell};
use ratatui::style::{Color, Modifier};

/// Begins and ends a synchronized update.
const BEGIN: &str = "\x1b[?2026h";
const END: &str = "\x1b[?2026l";

/// What is written for each modifier.
const MODIFIERS: [(Modifier, &str); 6] = [
    (Modifier::BOLD, "1"),
    (Modifier::DIM, "2"),
    (Modifier::ITALIC, "3"),
    (Modifier::UNDERLINED, "4"),
    (Modifier::REVERSED, "7"),
    (Modifier::CROSSED_OUT, "9"),
];

/// The look of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    fg: Color,
    bg: Color,
    modifier: Modifier,
}

/// The bytes that make `next` out of `shown`; `anew` wipes the screen first. Empty when nothing
/// differs.
pub(crate) fn frame(shown: &Buffer, next: &Buffer, anew: bool) -> Vec<u8> {
    let cells = shown.diff(next);
    if cells.is_empty() && !anew {
        return Vec::new();
    }
    let mut out = String::with_capacity(64 + cells.len() * 4);
    out.push_str(BEGIN);
    if anew {
        out.push_str("\x1b[0m\x1b[2J");
    }
    let mut look = None;
    let mut at = None;
    for (x, y, cell) in cells {
        if at != Some((x, y)) {
            let _ = write!(out, "\x1b[{};{}H", y + 1, x + 1);
        }
        let wanted = Look::of(cell);
        if look != Some(wanted) {
            wanted.write(&mut out);
            look = Some(wanted);
        }
        out.push_str(cell.symbol());
        // A terminal may think another width of a letter; the next one is placed by hand then.
        at = cell.symbol().is_ascii().then_some((x + 1, y));
    }
    out.push_str("\x1b[0m");
    out.push_str(END);
    out.into_bytes()
}

// === impl Look ===

impl Look {
    fn of(cell: &Cell) -> Self {
        Self { fg: cell.fg, bg: cell.bg, modifier: cell.modifier }
    }

    fn write(self, out: &mut String) {
        out.push_str("\x1b[0");
        for (modifier, code) in MODIFIERS {
            if self.modifier.contains(modifier) {
                out.push(';');
                out.push_str(code);
            }
        }
        colour(out, self.fg, 30);
        colour(out, self.bg, 40);
        out.push('m');
    }
}

/// Writes a colour; `base` is 30 for that of letters, 40 for what lies behind.
fn colour(out: &mut String, colour: Color, base: u8) {
    let number = match colour {
        Color::Reset => return,
        Color::Indexed(number) => {
            let _ = write!(out, ";{};5;{number}", base + 8);
            return;
        }
        Color::Rgb(red, green, blue) => {
            let _ = write!(out, ";{};2;{red};{green};{blue}", base + 8);
            return;
        }
        Color::Black => 0,
        Color::Red => 1,
        Color::Green => 2,
        Color::Yellow => 3,
        Color::Blue => 4,
        Color::Magenta => 5,
        Color::Cyan => 6,
        Color::Gray => 7,
        Color::DarkGray => 60,
        Color::LightRed => 61,
        Color::LightGreen => 62,
        Color::LightYellow => 63,
        Color::LightBlue => 64,
        Color::LightMagenta => 65,
        Color::LightCyan => 66,
        Color::White => 67,
    };
    let _ = write!(out, ";{}", base + number);
}

#[cfg(test)]
mod tests {
    use ratatui::layout::Rect;
    use ratatui::style::Style;

    use super::*;

    fn screen(text: &str, style: Style) -> Buffer {
        let mut buffer = Buffer::empty(Rect::new(0, 0, 6, 2));
        buffer.set_string(0, 1, text, style);
        buffer
    }

    #[test]
    fn only_differences_are_written() {
        let (before, after) = (screen("abc", Style::new()), screen("axc", Style::new().fg(Color::LightRed)));
        assert!(frame(&before, &before, false).is_empty());
        let bytes =
            String::from_utf8(frame(&screen("abc", Style::new()), &screen("axc", Style::new()), false));
        assert_eq!(bytes.unwrap(), format!("{BEGIN}\x1b[2;2H\x1b[0mx\x1b[0m{END}"));
        let bytes = String::from_utf8(frame(&before, &after, true)).unwrap();
        assert!(bytes.contains("\x1b[2J") && bytes.contains("\x1b[2;1H\x1b[0;91maxc"), "{bytes:?}");
    }

    #[test]
    fn colours_are_written_by_name_number_or_value() {
        let style = Style::new().fg(Color::Indexed(208)).bg(Color::Rgb(1, 2, 3)).add_modifier(Modifier::BOLD);
        let bytes = String::from_utf8(frame(&screen("", Style::new()), &screen("a", style), false)).unwrap();
        assert!(bytes.contains("\x1b[0;1;38;5;208;48;2;1;2;3ma"), "{bytes:?}");
    }

    #[test]
    fn after_a_letter_of_doubtful_width_the_cursor_is_placed() {
        let bytes = frame(&screen("", Style::new()), &screen("木b", Style::new()), false);
        let bytes = String::from_utf8(bytes).unwrap();
        assert!(bytes.contains("木\x1b[2;3Hb"), "{bytes:?}");
    }
}
