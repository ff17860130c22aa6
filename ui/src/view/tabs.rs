//! A line of tabs. One can click them, and the one that is shown is always seen.

use ratatui::layout::Rect;

use crate::canvas::{Canvas, Hit};
use crate::sanitize;
use crate::theme::Role;

/// Cells between two tabs.
const GAP: u16 = 2;

/// Paints `titles` into the first line of `area`; the cells that were taken.
pub(super) fn draw(canvas: &mut Canvas<'_>, area: Rect, titles: &[&str], shown: usize) -> u16 {
    let width = |title: &str| sanitize::width(title) as u16 + GAP;
    let mut first = 0;
    let up_to_shown = |first: usize| {
        titles[first..=shown.min(titles.len() - 1)].iter().map(|title| width(title)).sum::<u16>()
    };
    while !titles.is_empty() && first < shown && up_to_shown(first) > area.width {
        first += 1;
    }
    let mut x = area.x;
    for (number, title) in titles.iter().enumerate().skip(first) {
        let room = area.right().saturating_sub(x);
        if room == 0 {
            break;
        }
        let role = if number == shown { Role::Focus } else { Role::Dim };
        let taken = canvas.text(x, area.y, room, title, role);
        let tab = Rect { x, width: taken, height: 1, ..area };
        if number == shown {
            canvas.tint(tab, Role::Selected);
        }
        canvas.hit(tab, Hit::Tab(number));
        x = (x + taken + GAP).min(area.right());
    }
    x - area.x
}
