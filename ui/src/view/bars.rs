//! Bars: a share of a whole, pieces side by side, and the sign of a sender.

use ratatui::layout::Rect;
use ratatui::style::Style;

use crate::canvas::Canvas;
use crate::model::senders::letter;
use crate::options::ColourDepth;
use crate::theme::Role;

/// The sign of a sender: a block in its colour, or its letter where there are no colours.
pub(super) fn sender(canvas: &Canvas<'_>, number: usize) -> (String, Style) {
    let style = canvas.theme.sender(number);
    match canvas.theme.depth() {
        ColourDepth::None => (letter(number).to_string(), style),
        _ => (canvas.glyphs.sender.to_owned(), style),
    }
}

/// Paints the sign of a sender; the cells it took.
pub(super) fn paint_sender(canvas: &mut Canvas<'_>, x: u16, y: u16, number: usize) -> u16 {
    let (sign, style) = sender(canvas, number);
    canvas.styled(x, y, 1, &sign, style)
}

/// A bar over the first line of `area`, filled to `share` (0 to 1).
pub(super) fn share(canvas: &mut Canvas<'_>, area: Rect, share: f64, role: Role) {
    let glyphs = canvas.glyphs;
    let eighths = eighths(share, area.width);
    for column in 0..area.width {
        let filled = eighths.saturating_sub(u32::from(column) * 8).min(8);
        let (sign, role) = match filled {
            0 => (glyphs.bar_empty, Role::Empty),
            8 => (glyphs.bar_full, role),
            part => (glyphs.bar_parts[part as usize - 1], role),
        };
        canvas.text(area.x + column, area.y, 1, sign, role);
    }
}

/// Eighths of cells of a bar. Something is never shown as nothing, and all is shown only when it is.
fn eighths(share: f64, cells: u16) -> u32 {
    let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
    let all = u32::from(cells) * 8;
    match (share * f64::from(all)).round() as u32 {
        0 if share > 0.0 && all > 0 => 1,
        full if full == all && share < 1.0 => full.saturating_sub(1),
        other => other,
    }
}

/// Pieces of one cell each, side by side over the first line of `area`: sign and style. What does
/// not fit is told as `+n`. The cells it took.
pub(super) fn pieces(
    canvas: &mut Canvas<'_>,
    area: Rect,
    count: usize,
    pieces: impl Iterator<Item = (String, Style)>,
) -> u16 {
    let room = usize::from(area.width);
    let shown = if count <= room { count } else { room.saturating_sub(count.to_string().len() + 1) };
    let mut x = area.x;
    for (sign, style) in pieces.take(shown) {
        x += canvas.styled(x, area.y, 1, &sign, style);
    }
    if shown < count {
        let rest = format!("+{}", count - shown);
        x += canvas.text(x, area.y, area.right().saturating_sub(x), &rest, Role::Dim);
    }
    x - area.x
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_do_not_lie() {
        assert_eq!([eighths(0.0, 10), eighths(1.0, 10), eighths(0.5, 10)], [0, 80, 40]);
        assert_eq!([eighths(0.001, 10), eighths(0.999, 10)], [1, 79]);
        assert_eq!([eighths(f64::NAN, 10), eighths(7.0, 10), eighths(0.5, 0)], [0, 80, 0]);
    }
}
