//! How the action view looks: what it is, the tabs, the tab that is shown.

mod facts;
mod timing;
mod tree;

use ratatui::layout::Rect;

use super::{pager, tabs};
use crate::canvas::Canvas;
use crate::format;
use crate::message::Slot;
use crate::model::action::facts as told;
use crate::model::action::{File, Output, Tab};
use crate::model::{ListId, Model};
use crate::theme::Role;

/// Lines from which on there is room for an empty one.
const ROOMY: u16 = 28;

/// Paints it.
pub(super) fn draw(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    if area.is_empty() {
        return;
    }
    if model.action.shown.is_none() {
        return empty(canvas, area);
    }
    title(model, canvas, Rect { height: 1, ..area });
    let line = |number: u16| Rect {
        y: (area.y + number).min(area.bottom() - 1),
        height: u16::from(area.height > number),
        ..area
    };
    if area.height > 1 {
        let titles = Tab::ALL.map(Tab::title);
        let place = Rect { x: area.x + 1, width: area.width - 1, ..line(1) };
        tabs::draw(canvas, place, &titles, model.action.tab as usize);
    }
    let below = |lines: u16| {
        let lines = lines.min(area.height);
        Rect { y: area.y + lines, height: area.height - lines, ..area }
    };
    // Texts have a line of their own over them; lists begin at once where room is short.
    let (body, list) = (below(3), below(if area.height >= ROOMY { 3 } else { 2 }));
    if let Some(file) = &model.action.file {
        return file_tab(canvas, line(2), body, file);
    }
    match model.action.tab {
        Tab::Summary | Tab::Command | Tab::Cache => facts::draw(model, canvas, list),
        Tab::Inputs | Tab::Outputs => tree::draw(model, canvas, list),
        Tab::Stdout => output_tab(canvas, line(2), body, &model.action.stdout),
        Tab::Stderr => output_tab(canvas, line(2), body, &model.action.stderr),
        Tab::Timing => timing::draw(model, canvas, list),
        Tab::Raw => pager::draw(canvas, list, ListId::Action, &model.action.raw, |_| Role::Text),
    }
}

fn empty(canvas: &mut Canvas<'_>, area: Rect) {
    let lines = [
        "No action is chosen.",
        "",
        "Open one with enter in 3 Actions or 5 Timeline,",
        "or type :action and its digest.",
    ];
    for (y, text) in (area.y..area.bottom()).zip(lines) {
        canvas.text(area.x + 1, y, area.width.saturating_sub(1), text, Role::Dim);
    }
}

/// The sign of its state, what it is called, how it stands.
fn title(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    let Some(op) = told::op(model) else {
        let key = model.action.shown.as_ref().map_or("", |subject| &subject.key);
        let x = canvas.text(area.x + 1, area.y, area.width.saturating_sub(1), key, Role::Strong);
        let words = match &model.action.failure {
            Some(reason) => reason,
            None if model.calls.is_waiting(Slot::Action) => "asking the node",
            None => "",
        };
        let role = if model.action.failure.is_some() { Role::Bad } else { Role::Dim };
        let from = area.x + 1 + x + 2;
        canvas.text(from, area.y, area.right().saturating_sub(from), words, role);
        return;
    };
    let role = op.status.role();
    canvas.text(area.x + 1, area.y, 1, op.status.glyph(canvas.glyphs), role);
    let state = told::state(op);
    let machine = if op.machine.is_empty() { String::new() } else { format!(" on {}", op.machine) };
    let elapsed = op.elapsed(model.node_now()).map(|length| format!(" {}", format::duration(length)));
    let right = format!("{state}{machine}{}", elapsed.unwrap_or_default());
    let right_cells = canvas.text_right(Rect { width: area.width.saturating_sub(1), ..area }, &right, role);
    let room = area.width.saturating_sub(right_cells + 5);
    let label = crate::sanitize::cut_middle(op.label(), room.into(), canvas.glyphs.ellipsis).into_owned();
    let sender = canvas.theme.sender(model.farm().sender(op));
    let strong = canvas.theme.style(Role::Strong);
    canvas.styled(area.x + 3, area.y, room, &label, strong.patch(sender));
}

fn output_tab(canvas: &mut Canvas<'_>, line: Rect, body: Rect, output: &Output) {
    let mut words = match (&output.failure, output.ended) {
        (Some(reason), _) => reason.clone(),
        (None, false) => format!("{} so far, live", format::bytes(output.bytes())),
        (None, true) if output.pager.text().is_empty() => "the action wrote nothing to it".to_owned(),
        (None, true) => format::bytes(output.bytes()),
    };
    if output.skipped > 0 {
        words.push_str(&format!(", the first {} not read", format::bytes(output.skipped)));
    }
    let role = match (&output.failure, output.ended) {
        (Some(_), _) => Role::Warn,
        (None, false) => Role::Running,
        (None, true) => Role::Dim,
    };
    status_line(canvas, line, &words, role, &pager::position(&output.pager, body));
    pager::draw(canvas, body, ListId::Action, &output.pager, |_| Role::Text);
}

fn file_tab(canvas: &mut Canvas<'_>, line: Rect, body: Rect, file: &File) {
    let shown = if file.ended { "" } else { ", reading" };
    let words = match &file.failure {
        Some(reason) => format!("{}: {reason}", file.title),
        None => format!("{}  {}{shown}", file.title, format::bytes(file.bytes)),
    };
    let role = if file.failure.is_some() { Role::Bad } else { Role::Strong };
    status_line(canvas, line, &words, role, &pager::position(&file.pager, body));
    pager::draw(canvas, body, ListId::Action, &file.pager, |_| Role::Text);
}

fn status_line(canvas: &mut Canvas<'_>, line: Rect, words: &str, role: Role, position: &str) {
    if line.is_empty() {
        return;
    }
    let right = canvas.text_right(Rect { width: line.width.saturating_sub(1), ..line }, position, Role::Dim);
    canvas.text(line.x + 1, line.y, line.width.saturating_sub(right + 3), words, role);
}
