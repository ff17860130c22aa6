//! Lines of label and value, and in full below them the one that is chosen.

use ratatui::layout::Rect;

use crate::canvas::Canvas;
use crate::model::action::facts::{self as told, Fact};
use crate::model::{ListId, Model};
use crate::theme::Role;
use crate::view::table;
use crate::{logtext, sanitize};

/// Most cells a label takes.
const LABEL: usize = 16;

/// Most lines the chosen value takes below the list.
const WHOLE: u16 = 5;

/// Paints the facts of the tab that is shown.
pub(super) fn draw(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    let facts = told::of(model);
    let state = model.lists[ListId::Action];
    let widest = facts.iter().filter(|fact| !fact.is_title()).map(|fact| sanitize::width(&fact.label)).max();
    let label = widest.unwrap_or(0).min(LABEL) as u16;
    let indent = label + 3;
    let chosen = facts.get(state.selected.min(facts.len().saturating_sub(1)));
    let room = area.width.saturating_sub(indent + 1);
    let whole = chosen.map_or(0, |fact| lines_beyond(&fact.value, room, area));
    let list = Rect { height: area.height - whole, ..area };
    let rows = canvas.window(ListId::Action, &state, list, facts.len(), 0);
    for (y, number) in (list.y..list.bottom()).zip(rows) {
        let line = Rect { y, height: 1, ..area };
        row(canvas, line, &facts[number], label);
        if number == state.selected {
            table::cursor(canvas, line);
        }
    }
    if let (Some(fact), true) = (chosen, whole > 0) {
        let below = Rect { y: list.bottom(), height: whole, ..area };
        in_full(canvas, below, &fact.value);
    }
}

fn row(canvas: &mut Canvas<'_>, area: Rect, fact: &Fact, label: u16) {
    let x = area.x + 1;
    let room = area.width.saturating_sub(2);
    if fact.is_title() {
        canvas.text(x, area.y, room, &fact.label, Role::Title);
        return;
    }
    canvas.text(x, area.y, label.min(room), &fact.label, Role::Dim);
    let at = x + label + 2;
    let room = area.right().saturating_sub(at + 1);
    let taken = canvas.text(at, area.y, room, &fact.value, fact.role);
    if fact.opens.is_some() {
        let rest = room.saturating_sub(taken + 2);
        canvas.text(at + taken + 2, area.y, rest, canvas.glyphs.arrow, Role::Key);
    }
}

/// Lines to spend on the whole of a value that does not fit its row; never more than a third.
fn lines_beyond(value: &str, room: u16, area: Rect) -> u16 {
    let width = sanitize::width(value);
    if width <= usize::from(room) || area.width < 4 {
        return 0;
    }
    let lines = width.div_ceil(usize::from(area.width - 2)) as u16 + 1;
    lines.min(WHOLE).min(area.height / 3)
}

fn in_full(canvas: &mut Canvas<'_>, area: Rect, value: &str) {
    let rule = canvas.glyphs.horizontal.repeat(area.width.into());
    canvas.text(area.x, area.y, area.width, &rule, Role::Border);
    let mut rest = value;
    for y in area.y + 1..area.bottom() {
        let taken = logtext::first_cells(rest, usize::from(area.width.saturating_sub(2)));
        canvas.text(area.x + 1, y, area.width.saturating_sub(2), &rest[..taken], Role::Text);
        rest = &rest[taken..];
    }
}
