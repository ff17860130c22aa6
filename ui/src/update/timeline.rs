//! What happens in the timeline view.

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
            if let Some(subject) = subject {
                model.action.subject = Some(subject);
                super::go(model, View::Action, todo);
            }
        }
        _ => {
            let target = model.chosen_bar().map(Target::from);
            return on_action::act(model, target, act, argument, todo);
        }
    }
    true
}

/// The mouse was pressed on the lanes.
pub(super) fn press(model: &mut Model, x: u16, y: u16) {
    let now = model.node_now().unwrap_or_default();
    model.timeline.held = Some((x, model.timeline.window(now).end()));
    let Some(at) = time_at(model, x) else { return };
    let row = model.drawn.hits.iter().rev().find_map(|(area, hit)| match hit {
        Hit::Row(ListId::Timeline, row) if area.contains((x, y).into()) => Some(*row),
        _ => None,
    });
    if let Some(row) = row {
        model.lists[ListId::Timeline].select(row);
        model.timeline.choose_near(row, at);
    }
}

/// The mouse was moved with its button down.
pub(super) fn drag(model: &mut Model, x: u16) {
    let (Some((from, end)), Some((_, width))) = (model.timeline.held, lanes(model)) else { return };
    let now = model.node_now().unwrap_or_default();
    let window = model.timeline.window(now);
    let cells = i64::from(from) - i64::from(x);
    let by = window.span() / i64::from(width.max(1)) * cells;
    model.timeline.show(window.panned(end - window.end() + by), now);
}

/// The wheel was turned over the lanes: `steps` away from the person is closer.
pub(super) fn wheel(model: &mut Model, x: u16, steps: i32) {
    let now = model.node_now().unwrap_or_default();
    let at = time_at(model, x).filter(|_| !model.timeline.follows());
    model.timeline.zoom(ZOOM.powi(steps), at, now);
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

/// First column of the lanes, and how many there are.
fn lanes(model: &Model) -> Option<(u16, u16)> {
    let hits = model.drawn.hits.iter().rev();
    hits.filter(|(_, hit)| *hit == Hit::Lanes).map(|(area, _)| (area.x, area.width)).next()
}

fn time_at(model: &Model, x: u16) -> Option<Micros> {
    let (left, width) = lanes(model)?;
    let now = model.node_now()?;
    Some(model.timeline.window(now).time_at(x.saturating_sub(left), width))
}
