//! Graphs of the last seconds: braille patterns, or columns of ASCII.

use ratatui::layout::Rect;

use crate::canvas::Canvas;
use crate::theme::Role;

/// Dots of a braille cell, from the bottom up: left column, right column.
const DOTS: [[u32; 4]; 2] = [[0x40, 0x04, 0x02, 0x01], [0x80, 0x20, 0x10, 0x08]];

/// Paints `values`, the newest last and at the right end, filled from the bottom of `area`. `most` is
/// what reaches the top; gaps are values that are not known.
pub(super) fn draw(canvas: &mut Canvas<'_>, area: Rect, values: &[Option<f64>], most: f64, role: Role) {
    let per_cell = if canvas.glyphs.braille { 2 } else { 1 };
    let steps_per_cell = if canvas.glyphs.braille { 4 } else { 8 };
    let wanted = usize::from(area.width) * per_cell;
    let values = &values[values.len().saturating_sub(wanted)..];
    let gap = wanted - values.len();
    let steps = f64::from(area.height) * f64::from(steps_per_cell);
    let height_of = |at: usize| -> Option<u32> {
        let value = (*values.get(at.checked_sub(gap)?)?)?;
        let height = (value / most.max(f64::MIN_POSITIVE) * steps).round().clamp(0.0, steps) as u32;
        // Something is never shown as nothing.
        Some(if value > 0.0 { height.max(1) } else { height })
    };
    for column in 0..area.width {
        for row in 0..area.height {
            let below = u32::from(area.height - 1 - row) * steps_per_cell as u32;
            let at = usize::from(column) * per_cell;
            let (x, y) = (area.x + column, area.y + row);
            if canvas.glyphs.braille {
                let pattern = braille([height_of(at), height_of(at + 1)], below);
                if let Some(pattern) = pattern {
                    canvas.text(x, y, 1, pattern.encode_utf8(&mut [0; 4]), role);
                }
            } else if let Some(height) = height_of(at) {
                let part = height.saturating_sub(below).min(8) as usize;
                canvas.text(x, y, 1, canvas.glyphs.columns[part], role);
            }
        }
    }
}

/// The pattern of two columns of dots, of which `below` rows lie further down.
fn braille(heights: [Option<u32>; 2], below: u32) -> Option<char> {
    let mut pattern = 0;
    for (side, height) in heights.into_iter().enumerate() {
        let filled = height.unwrap_or(0).saturating_sub(below).min(4) as usize;
        pattern |= DOTS[side][..filled].iter().sum::<u32>();
    }
    (pattern != 0).then(|| char::from_u32(0x2800 + pattern)).flatten()
}
