//! How the dialogs of inviting, letting in and joining look.

use std::time::Duration;

use farmhand_proto::control::Newcomer;
use ratatui::layout::Rect;

use super::{buttons, frame, wrapped};
use crate::canvas::Canvas;
use crate::keymap::Act;
use crate::model::Model;
use crate::model::entrance::{Ending, Inviting, Joining, clock, left};
use crate::sanitize;
use crate::theme::Role;
use crate::view::bars;

/// How long an invitation is open, for the bar of the time that is left.
const LIFETIME: Duration = Duration::from_secs(300);

/// Cells of lines that are broken.
const CELLS: u16 = 66;

/// What stands on a line.
enum Line {
    Words(String, Role),
    /// A share of a whole, and words behind it.
    Bar(f64, String),
}

/// The invitation that was opened from here.
pub(super) fn invitation(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    let Some(inviting) = &model.entrance.inviting else { return };
    let cells = usize::from(area.width.saturating_sub(8).min(CELLS));
    let lines = match &inviting.end {
        Some(end) => ended(end, cells),
        None if inviting.code.is_empty() => words("asking the node for a code", Role::Dim, cells),
        None => open(model, inviting, cells),
    };
    let keys: &[_] = match (&inviting.end, inviting.code.is_empty()) {
        (Some(_), _) | (None, true) => &[("esc", " close", Act::Refuse)],
        (None, false) => &[
            ("y", " copy the command", Act::Copy),
            ("x", " withdraw", Act::Withdraw),
            ("esc", " close, leave it open", Act::Refuse),
        ],
    };
    dialog(canvas, area, "Invite a machine", &lines, keys);
}

/// A machine that asks to come in.
pub(super) fn newcomer(model: &Model, newcomer: &Newcomer, canvas: &mut Canvas<'_>, area: Rect) {
    let cells = usize::from(area.width.saturating_sub(8).min(CELLS));
    let mut lines = words(
        &format!("{} asks to come into the farm {}.", newcomer.name, model.live.name()),
        Role::Text,
        cells,
    );
    lines.push(line("", Role::Text));
    lines.push(line(format!("check words   {}", newcomer.check_words), Role::Strong));
    lines.push(line(format!("machine       {}", first(&newcomer.machine_id)), Role::Dim));
    lines.push(line("", Role::Text));
    lines.extend(words(
        "Its screen shows the same words, unless somebody sits in between.",
        Role::Dim,
        cells,
    ));
    let keys = [
        ("a", " let it in", Act::LetIn),
        ("r", " turn it away", Act::TurnAway),
        ("esc", " later", Act::Refuse),
    ];
    dialog(canvas, area, "A machine asks to come in", &lines, &keys);
}

/// The farm that is joined from here.
pub(super) fn joining(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    let Some(joining) = &model.entrance.joining else { return };
    let cells = usize::from(area.width.saturating_sub(8).min(CELLS));
    let mut lines = course(joining);
    let close = match &joining.end {
        Some(end) => {
            lines.extend(ended(end, cells));
            " close"
        }
        None => " give up",
    };
    dialog(canvas, area, "Join another farm", &lines, &[("esc", close, Act::Refuse)]);
}

fn open(model: &Model, inviting: &Inviting, cells: usize) -> Vec<Line> {
    let mut lines =
        words(&format!("Into the farm {}, for one machine. Type there:", inviting.farm), Role::Text, cells);
    lines.push(line("", Role::Text));
    lines.push(line(format!("  {}", inviting.command()), Role::Key));
    if let Some(command) = inviting.command_with_address() {
        lines.push(line("or, if it finds nothing:", Role::Dim));
        lines.push(line(format!("  {command}"), Role::Text));
    }
    if let Some(others @ [_, ..]) = inviting.addresses.get(1..) {
        lines.push(line(format!("  (this machine is also {})", others.join(", ")), Role::Dim));
    }
    lines.push(line("", Role::Text));
    let left = left(inviting.expires, model.live_now()).unwrap_or_default();
    let share = left.as_secs_f64() / LIFETIME.as_secs_f64();
    lines.push(Line::Bar(share, format!("{} left", clock(left))));
    match &inviting.wrong {
        Some((from, tries)) => {
            lines.push(line(format!("a wrong code came from {from}; tries left: {tries}"), Role::Warn))
        }
        None => lines.push(line("nobody has tried a wrong code", Role::Dim)),
    }
    lines
}

/// How far it is.
fn course(joining: &Joining) -> Vec<Line> {
    let mut lines = Vec::new();
    match joining.trying.as_str() {
        "" if joining.end.is_none() => lines.push(line("looking for the invitation", Role::Dim)),
        "" => {}
        address => lines.push(line(format!("asking        {address}"), Role::Dim)),
    }
    if !joining.check_words.is_empty() {
        lines.push(line(format!("check words   {}", joining.check_words), Role::Strong));
        lines.push(line("              the other screen shows the same", Role::Dim));
    }
    if joining.is_pending && joining.end.is_none() {
        lines.push(line("waiting until somebody over there lets this machine in", Role::Warn));
    }
    lines
}

fn ended(end: &Ending, cells: usize) -> Vec<Line> {
    let mut lines = words(&end.text, if end.is_good { Role::Good } else { Role::Bad }, cells);
    if !end.remedy.is_empty() {
        lines.extend(words(end.remedy, Role::Text, cells));
    }
    lines
}

fn line(text: impl Into<String>, role: Role) -> Line {
    Line::Words(text.into(), role)
}

fn words(text: &str, role: Role, cells: usize) -> Vec<Line> {
    wrapped(text, cells).into_iter().map(|text| line(text, role)).collect()
}

/// The beginning of an id, as other places show it.
fn first(id: &str) -> &str {
    id.get(..16).unwrap_or(id)
}

/// A box with lines, and buttons in its last line.
fn dialog(canvas: &mut Canvas<'_>, area: Rect, title: &str, lines: &[Line], keys: &[(&str, &str, Act)]) {
    let width = |line: &Line| match line {
        Line::Words(text, _) => sanitize::width(text),
        Line::Bar(..) => 40,
    };
    let buttons_width: usize = keys.iter().map(|(key, text, _)| key.len() + text.len() + 3).sum();
    let widest = lines.iter().map(width).max().unwrap_or(0).max(buttons_width);
    let inner = frame(canvas, area, widest, lines.len() + 2, title);
    for (y, line) in (inner.y..inner.bottom().saturating_sub(1)).zip(lines) {
        match line {
            Line::Words(text, role) => {
                canvas.text(inner.x, y, inner.width, text, *role);
            }
            Line::Bar(share, text) => {
                let bar = Rect { y, width: inner.width.min(24), height: 1, ..inner };
                bars::share(canvas, bar, *share, if *share < 0.2 { Role::Warn } else { Role::Graph });
                let x = bar.right() + 1;
                canvas.text(x, y, inner.right().saturating_sub(x), text, Role::Text);
            }
        }
    }
    let y = inner.bottom().saturating_sub(1);
    if inner.height > 0 {
        buttons(canvas, Rect { y, height: 1, ..inner }, keys);
    }
}
