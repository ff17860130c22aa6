//! Colours as terminals can show them: what a theme asks for, brought down to what there is.

use ratatui::style::Color;

use crate::options::ColourDepth;

/// The usual values of the sixteen colours, in the order of their numbers.
const ANSI: [(Color, [u8; 3]); 16] = [
    (Color::Black, [0, 0, 0]),
    (Color::Red, [205, 0, 0]),
    (Color::Green, [0, 205, 0]),
    (Color::Yellow, [205, 205, 0]),
    (Color::Blue, [0, 0, 238]),
    (Color::Magenta, [205, 0, 205]),
    (Color::Cyan, [0, 205, 205]),
    (Color::Gray, [229, 229, 229]),
    (Color::DarkGray, [127, 127, 127]),
    (Color::LightRed, [255, 0, 0]),
    (Color::LightGreen, [0, 255, 0]),
    (Color::LightYellow, [255, 255, 0]),
    (Color::LightBlue, [92, 92, 255]),
    (Color::LightMagenta, [255, 0, 255]),
    (Color::LightCyan, [0, 255, 255]),
    (Color::White, [255, 255, 255]),
];

/// The steps of the colour cube among the 256.
const CUBE: [u8; 6] = [0, 95, 135, 175, 215, 255];

/// A colour of a theme: its own value, and what to show in its place on sixteen colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Colour {
    own: Color,
    of_sixteen: Option<Color>,
}

// === impl Colour ===

impl Colour {
    /// `#rrggbb`, the name of one of the sixteen, `default`, or `#rrggbb/name` to choose the one of
    /// the sixteen by hand.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (own, of_sixteen) = match text.split_once('/') {
            Some((own, other)) => (own, Some(named(other)?)),
            None => (text, None),
        };
        let own = if own.starts_with('#') { hex(own)? } else { named(own)? };
        Some(Self { own, of_sixteen })
    }

    /// What to show of it.
    pub(crate) fn at(self, depth: ColourDepth) -> Option<Color> {
        let rgb = match self.own {
            Color::Rgb(red, green, blue) => [red, green, blue],
            other => return (depth != ColourDepth::None).then_some(other),
        };
        match depth {
            ColourDepth::None => None,
            ColourDepth::Ansi16 => Some(self.of_sixteen.unwrap_or_else(|| nearest_of_sixteen(rgb))),
            ColourDepth::Ansi256 => Some(Color::Indexed(nearest_of_256(rgb))),
            ColourDepth::True => Some(self.own),
        }
    }
}

fn hex(text: &str) -> Option<Color> {
    let digits = text.strip_prefix('#').filter(|digits| digits.len() == 6)?;
    let value = u32::from_str_radix(digits, 16).ok()?;
    let [_, red, green, blue] = value.to_be_bytes();
    Some(Color::Rgb(red, green, blue))
}

fn named(text: &str) -> Option<Color> {
    let colour = match text {
        "default" => Color::Reset,
        "black" => Color::Black,
        "red" => Color::Red,
        "green" => Color::Green,
        "yellow" => Color::Yellow,
        "blue" => Color::Blue,
        "magenta" => Color::Magenta,
        "cyan" => Color::Cyan,
        "gray" => Color::Gray,
        "dark-gray" => Color::DarkGray,
        "light-red" => Color::LightRed,
        "light-green" => Color::LightGreen,
        "light-yellow" => Color::LightYellow,
        "light-blue" => Color::LightBlue,
        "light-magenta" => Color::LightMagenta,
        "light-cyan" => Color::LightCyan,
        "white" => Color::White,
        _ => return None,
    };
    Some(colour)
}

fn nearest_of_sixteen(rgb: [u8; 3]) -> Color {
    let nearest = ANSI.iter().min_by_key(|(_, value)| distance(rgb, *value));
    nearest.map_or(Color::Reset, |(colour, _)| *colour)
}

fn nearest_of_256(rgb: [u8; 3]) -> u8 {
    let step = |part: u8| {
        let nearest = (0..6_u8).min_by_key(|&step| CUBE[usize::from(step)].abs_diff(part));
        nearest.unwrap_or_default()
    };
    let [red, green, blue] = rgb.map(step);
    let cube = [red, green, blue].map(|step| CUBE[usize::from(step)]);
    let average = rgb.iter().map(|&part| u16::from(part)).sum::<u16>() / 3;
    let grey_step = (average.saturating_sub(3) / 10).min(23) as u8;
    if distance(rgb, [8 + 10 * grey_step; 3]) < distance(rgb, cube) {
        return 232 + grey_step;
    }
    16 + 36 * red + 6 * green + blue
}

/// How different two colours look, roughly: the eye minds green most.
fn distance(a: [u8; 3], b: [u8; 3]) -> u32 {
    let square = |i: usize| u32::from(a[i].abs_diff(b[i])).pow(2);
    3 * square(0) + 6 * square(1) + square(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depths() {
        let orange = Colour::parse("#ff8700/yellow").unwrap();
        assert_eq!(orange.at(ColourDepth::True), Some(Color::Rgb(255, 135, 0)));
        assert_eq!(orange.at(ColourDepth::Ansi256), Some(Color::Indexed(208)));
        assert_eq!(orange.at(ColourDepth::Ansi16), Some(Color::Yellow));
        assert_eq!(orange.at(ColourDepth::None), None);
        assert_eq!(Colour::parse("#808080").unwrap().at(ColourDepth::Ansi256), Some(Color::Indexed(244)));
        assert_eq!(Colour::parse("#ee0000").unwrap().at(ColourDepth::Ansi16), Some(Color::LightRed));
        assert_eq!(Colour::parse("red").unwrap().at(ColourDepth::True), Some(Color::Red));
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(
            ["", "#12345", "#gggggg", "mauve", "#123456/mauve"]
                .iter()
                .all(|text| Colour::parse(text).is_none())
        );
    }
}
