//! A painted screen as an SVG picture, for pages that show the real program.
//!
//! Cells keep to a grid whatever font the reader has: text is stretched to its cells, and what must
//! meet its neighbours - lines, blocks, dots of graphs - is drawn as shapes.

use std::fmt::Write as _;

use ratatui::buffer::{Buffer, Cell};
use ratatui::style::{Color, Modifier};

mod shapes;

/// Size of a cell.
const WIDTH: f32 = 8.4;
const HEIGHT: f32 = 18.0;

/// From the top of a cell to the line the letters stand on.
const BASELINE: f32 = 13.5;

/// Space around the screen.
const MARGIN: f32 = 12.0;

/// Colours of the terminal that is made believe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Palette {
    /// Behind everything.
    pub(crate) background: &'static str,
    /// Of ordinary text.
    pub(crate) text: &'static str,
    sixteen: [&'static str; 16],
}

/// A dark terminal.
pub(crate) const DARK: Palette = Palette {
    background: "#16191f",
    text: "#d5d9e0",
    sixteen: [
        "#16191f", "#e06c75", "#98c379", "#e5c07b", "#61afef", "#c678dd", "#56b6c2", "#abb2bf", "#5c6370",
        "#ff7b86", "#a9d98b", "#ffd68a", "#7cc0ff", "#d99bf0", "#6fd0dc", "#ffffff",
    ],
};

/// A light terminal.
pub(crate) const LIGHT: Palette = Palette {
    background: "#ffffff",
    text: "#24292f",
    sixteen: [
        "#24292f", "#b3261e", "#1f7a1f", "#8a5a00", "#0b5cad", "#8a2be2", "#00727a", "#d0d4da", "#6a6f78",
        "#d0392f", "#2e9a2e", "#a87000", "#2474c8", "#a349ef", "#008a94", "#ffffff",
    ],
};

/// How one cell looks, with everything resolved.
#[derive(Clone, PartialEq)]
struct Look {
    text: String,
    behind: Option<String>,
    modifier: Modifier,
}

/// The picture of `buffer`.
pub(crate) fn svg(buffer: &Buffer, palette: &Palette) -> String {
    let area = buffer.area;
    let (width, height) = (f32::from(area.width) * WIDTH, f32::from(area.height) * HEIGHT);
    let (outer_width, outer_height) = (width + 2.0 * MARGIN, height + 2.0 * MARGIN);
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {outer_width:.1} {outer_height:.1}" width="{outer_width:.0}" height="{outer_height:.0}" font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace" font-size="14" xml:space="preserve">"#
    );
    let _ = writeln!(svg, r#"<rect width="100%" height="100%" rx="8" fill="{}"/>"#, palette.background);
    let _ = writeln!(svg, r#"<g transform="translate({MARGIN},{MARGIN})">"#);
    for y in area.top()..area.bottom() {
        let cells: Vec<&Cell> = (area.left()..area.right()).map(|x| &buffer[(x, y)]).collect();
        row(&mut svg, &cells, f32::from(y - area.top()) * HEIGHT, palette);
    }
    svg.push_str("</g>\n</svg>\n");
    svg
}

/// One row: runs of cells of one look.
fn row(svg: &mut String, cells: &[&Cell], top: f32, palette: &Palette) {
    let looks: Vec<Look> = cells.iter().map(|cell| look(cell, palette)).collect();
    let mut start = 0;
    while start < cells.len() {
        let alike = looks[start..].iter().take_while(|look| **look == looks[start]).count();
        let run = &cells[start..start + alike];
        behind(svg, &looks[start], start, run.len(), top);
        letters(svg, &looks[start], start, run, top);
        start += alike;
    }
}

fn behind(svg: &mut String, look: &Look, start: usize, cells: usize, top: f32) {
    let Some(colour) = &look.behind else { return };
    let (x, width) = (start as f32 * WIDTH, cells as f32 * WIDTH);
    let _ = writeln!(
        svg,
        r#"<rect x="{x:.1}" y="{top:.1}" width="{width:.1}" height="{HEIGHT:.1}" fill="{colour}"/>"#
    );
}

/// Text in stretches that the font can be trusted with, and shapes between them.
fn letters(svg: &mut String, look: &Look, start: usize, run: &[&Cell], top: f32) {
    let mut text = String::new();
    let mut from = start;
    for (i, cell) in run.iter().enumerate() {
        let at = start + i;
        let symbol = cell.symbol();
        let shape = shapes::of(symbol, at as f32 * WIDTH, top, &look.text);
        let is_plain = symbol.len() == 1 && shape.is_none();
        if is_plain {
            if text.is_empty() {
                from = at;
            }
            text.push_str(symbol);
            continue;
        }
        stretch(svg, look, from, &std::mem::take(&mut text), top);
        match shape {
            Some(shape) => svg.push_str(&shape),
            None => stretch(svg, look, at, symbol, top),
        }
    }
    stretch(svg, look, from, &text, top);
}

fn stretch(svg: &mut String, look: &Look, from: usize, text: &str, top: f32) {
    let trimmed = text.trim_end_matches(' ');
    let from = from + (trimmed.len() - trimmed.trim_start_matches(' ').len());
    let text = trimmed.trim_start_matches(' ');
    if text.is_empty() {
        return;
    }
    let cells = unicode_width::UnicodeWidthStr::width(text).max(1) as f32;
    let (x, y, length) = (from as f32 * WIDTH, top + BASELINE, cells * WIDTH);
    let _ = write!(
        svg,
        r#"<text x="{x:.1}" y="{y:.1}" textLength="{length:.1}" lengthAdjust="spacingAndGlyphs" fill="{}""#,
        look.text
    );
    let attributes = [
        (Modifier::BOLD, r#" font-weight="bold""#),
        (Modifier::ITALIC, r#" font-style="italic""#),
        (Modifier::UNDERLINED, r#" text-decoration="underline""#),
        (Modifier::DIM, r#" opacity="0.6""#),
    ];
    for (modifier, attribute) in attributes {
        if look.modifier.contains(modifier) {
            svg.push_str(attribute);
        }
    }
    let _ = writeln!(svg, ">{}</text>", escaped(text));
}

fn look(cell: &Cell, palette: &Palette) -> Look {
    let text = colour(cell.fg, palette).unwrap_or_else(|| palette.text.to_owned());
    let behind = colour(cell.bg, palette);
    if cell.modifier.contains(Modifier::REVERSED) {
        let turned = behind.unwrap_or_else(|| palette.background.to_owned());
        return Look { text: turned, behind: Some(text), modifier: cell.modifier };
    }
    Look { text, behind, modifier: cell.modifier }
}

/// A colour as SVG has it; none for that of the terminal.
fn colour(colour: Color, palette: &Palette) -> Option<String> {
    let number = match colour {
        Color::Reset => return None,
        Color::Rgb(red, green, blue) => return Some(format!("#{red:02x}{green:02x}{blue:02x}")),
        Color::Indexed(number) => number,
        Color::Black => 0,
        Color::Red => 1,
        Color::Green => 2,
        Color::Yellow => 3,
        Color::Blue => 4,
        Color::Magenta => 5,
        Color::Cyan => 6,
        Color::Gray => 7,
        Color::DarkGray => 8,
        Color::LightRed => 9,
        Color::LightGreen => 10,
        Color::LightYellow => 11,
        Color::LightBlue => 12,
        Color::LightMagenta => 13,
        Color::LightCyan => 14,
        Color::White => 15,
    };
    Some(indexed(number, palette))
}

/// One of the 256: the sixteen, a cube of six steps, a ramp of greys.
fn indexed(number: u8, palette: &Palette) -> String {
    let step = |step: u8| if step == 0 { 0 } else { 55 + 40 * step };
    match number {
        0..16 => palette.sixteen[usize::from(number)].to_owned(),
        16..232 => {
            let cube = number - 16;
            let [red, green, blue] = [cube / 36, cube / 6 % 6, cube % 6].map(step);
            format!("#{red:02x}{green:02x}{blue:02x}")
        }
        232.. => {
            let grey = 8 + 10 * (number - 232);
            format!("#{grey:02x}{grey:02x}{grey:02x}")
        }
    }
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            // XML has no way to write these.
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use ratatui::layout::Rect;
    use ratatui::style::Style;

    use super::*;

    fn picture(paint: impl FnOnce(&mut Buffer)) -> String {
        let mut buffer = Buffer::empty(Rect::new(0, 0, 12, 2));
        paint(&mut buffer);
        svg(&buffer, &DARK)
    }

    #[test]
    fn text_is_escaped_and_stands_on_the_grid() {
        let picture = picture(|buffer| {
            buffer.set_string(1, 1, "<a & b>", Style::new().fg(Color::Red).add_modifier(Modifier::BOLD));
        });
        assert!(picture.contains(
            r##"<text x="8.4" y="31.5" textLength="58.8" lengthAdjust="spacingAndGlyphs" fill="#e06c75" font-weight="bold">&lt;a &amp; b&gt;</text>"##
        ), "{picture}");
        assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"));
    }

    #[test]
    fn backgrounds_and_reversal() {
        let picture = picture(|buffer| {
            buffer.set_style(Rect::new(2, 0, 3, 1), Style::new().bg(Color::Indexed(196)));
            buffer.set_string(6, 0, "x", Style::new().add_modifier(Modifier::REVERSED));
        });
        assert!(picture.contains(r##"<rect x="16.8" y="0.0" width="25.2" height="18.0" fill="#ff0000"/>"##));
        assert!(picture.contains(r##"<rect x="50.4" y="0.0" width="8.4" height="18.0" fill="#d5d9e0"/>"##));
        assert!(picture.contains(r##"fill="#16191f">x</text>"##));
    }

    #[test]
    fn signs_that_meet_are_shapes() {
        let picture = picture(|buffer| {
            buffer.set_string(0, 0, "─█⣿a✓b", Style::new());
        });
        assert_eq!(picture.matches("<text").count(), 3);
        assert_eq!(picture.matches("<circle").count(), 8);
    }

    #[test]
    fn every_colour_has_a_value() {
        for number in 0..=255 {
            let value = colour(Color::Indexed(number), &LIGHT).unwrap();
            assert!(value.len() == 7 && value.starts_with('#'), "{value}");
        }
        assert_eq!(colour(Color::Indexed(232), &DARK).unwrap(), "#080808");
    }
}
