//! Signs drawn as shapes, because fonts leave gaps between them: lines, blocks, braille.

use std::fmt::Write as _;

use super::{HEIGHT, WIDTH};

/// The shape of `symbol` in the cell whose corner is at `x`, `y`; `None` where a font does well.
pub(super) fn of(symbol: &str, x: f32, y: f32, colour: &str) -> Option<String> {
    let mut chars = symbol.chars();
    let (c, None) = (chars.next()?, chars.next()) else { return None };
    match c {
        '▁'..='█' => {
            let eighths = (u32::from(c) - u32::from('▁') + 1) as f32;
            let height = HEIGHT * eighths / 8.0;
            Some(rectangle(x, y + HEIGHT - height, WIDTH, height, colour))
        }
        '▉'..='▏' => {
            let eighths = (u32::from('▏') - u32::from(c) + 1) as f32;
            Some(rectangle(x, y, WIDTH * eighths / 8.0, HEIGHT, colour))
        }
        '▐' => Some(rectangle(x + WIDTH / 2.0, y, WIDTH / 2.0, HEIGHT, colour)),
        '▔' => Some(rectangle(x, y, WIDTH, HEIGHT / 8.0, colour)),
        '\u{2800}'..='\u{28ff}' => Some(braille(u32::from(c) - 0x2800, x, y, colour)),
        _ => line(c, x, y, colour),
    }
}

fn rectangle(x: f32, y: f32, width: f32, height: f32, colour: &str) -> String {
    // Half a unit more than its cell: neighbours then meet without a seam.
    let (width, height) = (width + 0.3, height + 0.3);
    format!(
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>\n"
    )
}

/// Lines from edge to edge, through the middle of the cell.
fn line(c: char, x: f32, y: f32, colour: &str) -> Option<String> {
    let (right, bottom) = (x + WIDTH, y + HEIGHT);
    let (middle, centre) = (x + WIDTH / 2.0, y + HEIGHT / 2.0);
    let across = format!("M{x:.1} {centre:.1}H{right:.1}");
    let down = format!("M{middle:.1} {y:.1}V{bottom:.1}");
    let half = |vertical: f32, horizontal: f32| {
        format!("M{middle:.1} {vertical:.1}Q{middle:.1} {centre:.1} {horizontal:.1} {centre:.1}")
    };
    let path = match c {
        '─' => across,
        '│' => down,
        '╭' | '┌' => half(bottom, right),
        '╮' | '┐' => half(bottom, x),
        '╰' | '└' => half(y, right),
        '╯' | '┘' => half(y, x),
        '├' => format!("{down}M{middle:.1} {centre:.1}H{right:.1}"),
        '┤' => format!("{down}M{middle:.1} {centre:.1}H{x:.1}"),
        '┬' => format!("{across}M{middle:.1} {centre:.1}V{bottom:.1}"),
        '┴' => format!("{across}M{middle:.1} {centre:.1}V{y:.1}"),
        '┼' => format!("{across}{down}"),
        _ => return None,
    };
    Some(format!("<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\"/>\n"))
}

/// Dots of the eight places of a braille pattern.
fn braille(dots: u32, x: f32, y: f32, colour: &str) -> String {
    /// Column and row of each bit.
    const PLACES: [(f32, f32); 8] =
        [(0.0, 0.0), (0.0, 1.0), (0.0, 2.0), (1.0, 0.0), (1.0, 1.0), (1.0, 2.0), (0.0, 3.0), (1.0, 3.0)];
    let mut svg = String::new();
    for (bit, (column, row)) in PLACES.into_iter().enumerate() {
        if dots & (1 << bit) == 0 {
            continue;
        }
        let (x, y) = (x + WIDTH * (0.25 + column * 0.5), y + HEIGHT * (0.125 + row * 0.25));
        let _ = writeln!(svg, r#"<circle cx="{x:.1}" cy="{y:.1}" r="1.4" fill="{colour}"/>"#);
    }
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_fill_their_part() {
        assert_eq!(
            of("▄", 0.0, 0.0, "#fff").unwrap(),
            "<rect x=\"0.0\" y=\"9.0\" width=\"8.7\" height=\"9.3\" fill=\"#fff\"/>\n"
        );
        assert!(of("▌", 0.0, 0.0, "#fff").unwrap().contains("width=\"4.5\""));
        assert!(of("█", 0.0, 0.0, "#fff").unwrap().contains("height=\"18.3\""));
    }

    #[test]
    fn letters_are_left_to_the_font() {
        for text in ["a", "✓", "界", "", "ab", "░"] {
            assert_eq!(of(text, 0.0, 0.0, "#fff"), None, "{text}");
        }
        assert!(of("╭", 0.0, 0.0, "#fff").unwrap().contains("Q4.2 9.0 8.4 9.0"));
        assert_eq!(of("⠁", 0.0, 0.0, "#fff").unwrap().matches("circle").count(), 1);
        assert_eq!(of("\u{2800}", 0.0, 0.0, "#fff").unwrap(), "");
    }
}
