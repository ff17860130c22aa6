//! Colours and weights an action gave to its text, as far as they are safe to keep.

use ratatui::style::{Color, Modifier, Style};

use crate::options::ColourDepth;

/// How a piece of text looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ink {
    colour: Option<Color>,
    behind: Option<Color>,
    modifier: Modifier,
    is_raw: bool,
}

// === impl Ink ===

impl Ink {
    /// As the terminal writes by itself.
    pub(crate) const PLAIN: Self =
        Self { colour: None, behind: None, modifier: Modifier::empty(), is_raw: false };

    /// Of bytes that are no text and were written out.
    pub(crate) const RAW: Self = Self { is_raw: true, ..Self::PLAIN };

    /// Whether it marks bytes that were written out.
    pub(crate) fn is_raw(self) -> bool {
        self.is_raw
    }

    /// The style of it on a terminal of `depth`; colours it does not have are left out.
    pub(crate) fn style(self, depth: ColourDepth) -> Style {
        let shown = |colour: &Color| match colour {
            Color::Rgb(..) => depth == ColourDepth::True,
            Color::Indexed(_) => depth >= ColourDepth::Ansi256,
            _ => depth >= ColourDepth::Ansi16,
        };
        let style = Style::new().add_modifier(self.modifier);
        Style { fg: self.colour.filter(shown), bg: self.behind.filter(shown), ..style }
    }

    #[cfg(test)]
    pub(super) fn colour(self) -> Option<Color> {
        self.colour
    }

    /// Applies the parameters of `ESC [ … m`. What is unknown, and what hides text, is left out.
    pub(super) fn apply(&mut self, parameters: &str) {
        let mut numbers = parameters.split([';', ':']).map(|number| match number {
            "" => Some(0),
            number => number.parse::<u16>().ok(),
        });
        while let Some(number) = numbers.next() {
            match number {
                Some(0) => *self = Self::PLAIN,
                Some(38) => self.colour = extended(&mut numbers),
                Some(48) => self.behind = extended(&mut numbers),
                Some(39) => self.colour = None,
                Some(49) => self.behind = None,
                Some(number) => self.apply_one(number),
                None => {}
            }
        }
    }

    fn apply_one(&mut self, number: u16) {
        match number {
            1 => self.modifier.insert(Modifier::BOLD),
            2 => self.modifier.insert(Modifier::DIM),
            3 => self.modifier.insert(Modifier::ITALIC),
            4 => self.modifier.insert(Modifier::UNDERLINED),
            7 => self.modifier.insert(Modifier::REVERSED),
            22 => self.modifier.remove(Modifier::BOLD | Modifier::DIM),
            23 => self.modifier.remove(Modifier::ITALIC),
            24 => self.modifier.remove(Modifier::UNDERLINED),
            27 => self.modifier.remove(Modifier::REVERSED),
            30..=37 => self.colour = Some(SIXTEEN[usize::from(number - 30)]),
            40..=47 => self.behind = Some(SIXTEEN[usize::from(number - 40)]),
            90..=97 => self.colour = Some(SIXTEEN[usize::from(number - 90 + 8)]),
            100..=107 => self.behind = Some(SIXTEEN[usize::from(number - 100 + 8)]),
            _ => {}
        }
    }
}

impl Default for Ink {
    fn default() -> Self {
        Self::PLAIN
    }
}

/// The sixteen in the order of their numbers.
const SIXTEEN: [Color; 16] = [
    Color::Black,
    Color::Red,
    Color::Green,
    Color::Yellow,
    Color::Blue,
    Color::Magenta,
    Color::Cyan,
    Color::Gray,
    Color::DarkGray,
    Color::LightRed,
    Color::LightGreen,
    Color::LightYellow,
    Color::LightBlue,
    Color::LightMagenta,
    Color::LightCyan,
    Color::White,
];

/// What follows 38 or 48: `5;N`, or `2;R;G;B`.
fn extended(numbers: &mut impl Iterator<Item = Option<u16>>) -> Option<Color> {
    let mut byte = || u8::try_from(numbers.next()??).ok();
    match byte()? {
        5 => match byte()? {
            index @ 0..16 => Some(SIXTEEN[usize::from(index)]),
            index => Some(Color::Indexed(index)),
        },
        2 => Some(Color::Rgb(byte()?, byte()?, byte()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ink(parameters: &[&str]) -> Ink {
        let mut ink = Ink::PLAIN;
        parameters.iter().for_each(|parameters| ink.apply(parameters));
        ink
    }

    #[test]
    fn the_usual_codes() {
        let red = ink(&["1;31"]);
        assert_eq!(red.style(ColourDepth::True), Style::new().fg(Color::Red).add_modifier(Modifier::BOLD));
        assert_eq!(red.style(ColourDepth::None), Style::new().add_modifier(Modifier::BOLD));
        assert_eq!(ink(&["1;31", ""]), Ink::PLAIN);
        assert_eq!(ink(&["1;4", "22;24"]), Ink::PLAIN);
        assert_eq!(ink(&["97"]).colour, Some(Color::White));
        assert_eq!(ink(&["38;5;9;1"]).style(ColourDepth::Ansi16).fg, Some(Color::LightRed));
        assert_eq!(ink(&["38;2;1;2;3"]).colour, Some(Color::Rgb(1, 2, 3)));
        assert_eq!(ink(&["38;2;1;2;3"]).style(ColourDepth::Ansi256).fg, None);
        assert_eq!(ink(&["48:5:200"]).style(ColourDepth::Ansi256).bg, Some(Color::Indexed(200)));
    }

    #[test]
    fn nonsense_is_left_out() {
        assert_eq!(ink(&["8;5;6;99999999;x;38;7;1", "38;2;300"]), ink(&["1"]));
        assert_eq!(ink(&["38", "48;2;1"]), Ink::PLAIN);
    }
}
