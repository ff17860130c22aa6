//! What happens in the timeline view.

use crossterm::event::{MouseButton, MouseEvent, MouseEventKind};
use ratatui::layout::Rect;

use super::on_action::{self, Target};
use crate::canvas::Hit;
use crate::keymap::Act;
use crate::lanes::Micros;
use crate::message::{Command, Todo};
use crate::model::action::Subject;
use crate::model::{ListId, Model, Stamp};
use crate::options::View;
use crate::trace;

/// By how much one step of zooming changes what is seen.
const ZOOM: f64 = 0.6;

/// The view comes to be shown.
pub(super) fn enter(model: &mut Model, todo: &mut Todo) {
    changed(model, todo);
}

/// The view ceases to be shown.
pub(super) fn leave(model: &mut Model, _todo: &mut Todo) {
    model.timeline.held = None;
}

/// The farm changed.
pub(super) fn changed(model: &mut Model, _todo: &mut Todo) {
    let farm = model.frozen.as_ref().map_or(&model.live, |frozen| &frozen.farm);
    model.timeline.refresh(farm, &mut model.lists[ListId::Timeline]);
}

/// A person did something.
pub(super) fn act(model: &mut Model, act: Act, argument: Option<&str>, todo: &mut Todo) -> bool {
    let now = model.node_now().unwrap_or_default();
    let row = model.lists[ListId::Timeline].selected;
    match act {
        Act::Up | Act::Down | Act::PageUp | Act::PageDown | Act::Top | Act::Bottom => {
            move_row(model, act, now)
        }
        Act::Left | Act::Right => {
            model.timeline.step(row, act == Act::Right, now);
            model.timeline.reveal(now);
        }
        Act::ZoomIn => model.timeline.zoom(ZOOM, None, now),
        Act::ZoomOut => model.timeline.zoom(1.0 / ZOOM, None, now),
        Act::PanEarlier => pan(model, -1, now),
        Act::PanLater => pan(model, 1, now),
        Act::Now => model.timeline.follow(),
        Act::Lanes => {
            model.timeline.tells = model.timeline.tells.next();
            model.tell(format!("coloured by {}", model.timeline.tells.word()));
        }
        Act::Export => export(model, now, todo),
        Act::Open => {
            let subject =
                model.chosen_bar().map(|op| Subject { key: op.name.clone(), instance: op.instance.clone() });
            match subject {
                Some(subject) => {
                    model.action.subject = Some(subject);
                    super::go(model, View::Action, todo);
                }
                None => model.complain("no bar is chosen: left and right choose one"),
            }
        }
        _ => {
            let target = model.chosen_bar().map(Target::from);
            return on_action::act(model, target, act, argument, todo);
        }
    }
    true
}

/// The mouse was used over the lanes.
pub(super) fn mouse(model: &mut Model, event: MouseEvent, todo: &mut Todo) {
    let now = model.node_now().unwrap_or_default();
    let (x, y) = (event.column, event.row);
    match event.kind {
        MouseEventKind::Down(MouseButton::Left) => press(model, (x, y), now, todo),
        MouseEventKind::Drag(MouseButton::Left) => drag(model, x, now),
        MouseEventKind::Up(_) => model.timeline.held = None,
        MouseEventKind::ScrollUp => wheel(model, x, ZOOM, now),
        MouseEventKind::ScrollDown => wheel(model, x, 1.0 / ZOOM, now),
        MouseEventKind::ScrollLeft => pan(model, -1, now),
        MouseEventKind::ScrollRight => pan(model, 1, now),
        _ => return,
    }
    todo.redraw = true;
}

/// Takes hold of the lanes, and chooses the bar that lies there; a press on the chosen one opens it.
fn press(model: &mut Model, (x, y): (u16, u16), now: Stamp, todo: &mut Todo) {
    model.timeline.held = Some((x, model.timeline.window(now).end()));
    let (Some((lanes, _)), Some(at)) = (lanes(model), time_at(model, x)) else { return };
    let row = model.lists[ListId::Timeline].offset + usize::from(y.saturating_sub(lanes.y));
    model.lists[ListId::Timeline].select(row);
    let before = model.timeline.chosen;
    model.timeline.choose_at(row, at);
    if before.is_some() && model.timeline.chosen == before {
        act(model, Act::Open, None, todo);
    }
}

fn drag(model: &mut Model, x: u16, now: Stamp) {
    let (Some((from, end)), Some((lanes, _))) = (model.timeline.held, lanes(model)) else { return };
    let window = model.timeline.window(now);
    let cells = i64::from(from) - i64::from(x);
    let by = window.span() / i64::from(lanes.width.max(1)) * cells;
    model.timeline.show(window.panned(end.saturating_sub(window.end()).saturating_add(by)), now);
}

fn wheel(model: &mut Model, x: u16, factor: f64, now: Stamp) {
    let at = time_at(model, x).filter(|_| !model.timeline.follows());
    model.timeline.zoom(factor, at, now);
}

fn move_row(model: &mut Model, act: Act, now: Stamp) {
    let list = &mut model.lists[ListId::Timeline];
    match act {
        Act::Up => list.step(-1),
        Act::Down => list.step(1),
        Act::PageUp => list.page(-1),
        Act::PageDown => list.page(1),
        Act::Top => list.select(0),
        _ => list.select(usize::MAX),
    }
    let row = list.selected;
    let at = model.timeline.place().map(|place| place.start);
    let at = at.unwrap_or_else(|| model.timeline.window(now).end());
    model.timeline.choose_near(row, at);
}

fn pan(model: &mut Model, direction: i64, now: Stamp) {
    let window = model.timeline.window(now);
    model.timeline.show(window.panned(direction * window.span() / 3), now);
}

/// Writes what is seen as a trace.
fn export(model: &mut Model, now: Stamp, todo: &mut Todo) {
    let farm = model.farm();
    let window = model.timeline.window(now);
    let text = trace::json(farm.ops.all(), &farm.samples, &model.timeline.lanes, window, now.0);
    todo.push(Command::WriteFile { name: "farmhand-trace.json".to_owned(), text });
}

/// Where the lanes are on the screen.
fn lanes(model: &Model) -> Option<(Rect, Hit)> {
    model.drawn.hits.iter().rev().find(|(_, hit)| *hit == Hit::Lanes).copied()
}

/// The time at a column.
fn time_at(model: &Model, x: u16) -> Option<Micros> {
    let (lanes, _) = lanes(model)?;
    let now = model.node_now()?;
    Some(model.timeline.window(now).time_at(x.saturating_sub(lanes.x), lanes.width))
}
