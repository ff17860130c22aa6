//! How a text that is read looks: rows, what was found, and a line that tells where one is.

use ratatui::layout::Rect;

use crate::canvas::{Canvas, Hit};
use crate::logtext::{Line, Row, Size};
use crate::model::ListId;
use crate::model::pager::Pager;
use crate::theme::Role;
use crate::{format, sanitize};

/// Paints the text into `area`; `role` is the look of a line of that number, and
/// `list` stands for the text where the wheel is turned.
pub(super) fn draw(
    canvas: &mut Canvas<'_>,
    area: Rect,
    list: ListId,
    pager: &Pager,
    role: impl Fn(usize) -> Role,
) {
    let size = Size { width: area.width.into(), height: area.height.into() };
    canvas.drawn.text = Some(size);
    canvas.hit(area, Hit::List(list));
    let needle = pager.needle().to_lowercase();
    for (y, row) in (area.y..area.bottom()).zip(pager.scroll().rows(pager.text(), size)) {
        let Some(line) = pager.text().line(row.number) else { continue };
        let place = Rect { y, height: 1, ..area };
        paint_row(canvas, place, line, &row, role(row.number));
        matches(canvas, place, &line.text()[row.bytes.clone()], &needle);
    }
}

/// Where one is in a text, in a few words.
pub(super) fn position(pager: &Pager, area: Rect) -> String {
    let size = Size { width: area.width.into(), height: area.height.into() };
    let text = pager.text();
    let rows = pager.scroll().rows(text, size);
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return String::new() };
    let mut words = format!(
        "{}-{} of {}",
        first.number + 1,
        last.number + 1,
        format::plural(text.end_number() as u64, "line")
    );
    if text.first() > 0 {
        words.push_str(&format!(", the first {} not kept", format::count(text.first() as u64)));
    }
    if let Some(found) = pager.found() {
        words.push_str(&format!(", found in {}", found + 1));
    }
    if pager.scroll().follow {
        words.push_str(", following");
    }
    if !pager.scroll().wrap {
        words.push_str(", cut");
    }
    words
}

fn paint_row(canvas: &mut Canvas<'_>, area: Rect, line: &Line, row: &Row, role: Role) {
    let base = canvas.theme.style(role);
    let raw = canvas.theme.style(Role::Warn);
    let (mut x, mut at) = (area.x, 0);
    for (piece, ink) in line.pieces() {
        let (start, end) = (at, at + piece.len());
        at = end;
        let (from, to) = (row.bytes.start.max(start), row.bytes.end.min(end));
        if from >= to {
            continue;
        }
        let style = if ink.is_raw() { raw } else { base.patch(ink.style(canvas.theme.depth())) };
        let text = &piece[from - start..to - start];
        x += canvas.styled(x, area.y, area.right().saturating_sub(x), text, style);
    }
}

/// Marks what is searched for.
fn matches(canvas: &mut Canvas<'_>, area: Rect, text: &str, needle: &str) {
    let lower = text.to_lowercase();
    // Letters that change their length with their case would shift all that follow.
    if needle.is_empty() || lower.len() != text.len() {
        return;
    }
    for (at, found) in lower.match_indices(needle) {
        let (Some(before), Some(found)) = (text.get(..at), text.get(at..at + found.len())) else { continue };
        let x = area.x.saturating_add(sanitize::width(before) as u16).min(area.right());
        let width = (sanitize::width(found) as u16).min(area.right() - x);
        canvas.tint(Rect { x, width, ..area }, Role::Match);
    }
}
