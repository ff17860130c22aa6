//! Bars: a share of a whole, and pieces in several looks side by side.

use ratatui::layout::Rect;
use ratatui::style::Style;

use crate::canvas::Canvas;
use crate::theme::Role;

/// A bar over the first line of `area`, filled to `share` (0 to 1).
pub(super) fn share(canvas: &mut Canvas<'_>, area: Rect, share: f64, role: Role) {
    let glyphs = canvas.glyphs;
    let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
    let eighths = (share * f64::from(area.width) * 8.0).round() as u32;
    // Something is never shown as nothing, and all is shown only when it is.
    let eighths = match eighths {
        0 if share > 0.0 => 1,
        full if full == u32::from(area.width) * 8 && share < 1.0 => full - 1,
        other => other,
    };
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

/// Pieces of one cell each, side by side over the first line of `area`: sign and style. What does
/// not fit is told as `+n`. The cells it took.
pub(super) fn pieces<'a>(
    canvas: &mut Canvas<'_>,
    area: Rect,
    count: usize,
    pieces: impl Iterator<Item = (&'a str, Style)>,
) -> u16 {
    let room = usize::from(area.width);
    let (shown, rest) = match count {
        all if all <= room => (all, String::new()),
        all => {
            let digits = all.to_string().len() + 1;
            let shown = room.saturating_sub(digits);
            (shown, format!("+{}", all - shown))
        }
    };
    let mut x = area.x;
    for (sign, style) in pieces.take(shown) {
        x += canvas.styled(x, area.y, 1, sign, style);
    }
    x += canvas.text(x, area.y, area.right().saturating_sub(x), &rest, Role::Dim);
    x - area.x
}
