//! What stands in the boxes of the overview.

use std::time::Duration;

use farmhand_proto::control::Machine;
use farmhand_proto::control::machine::State;
use farmhand_proto::time::std_duration;
use ratatui::layout::Rect;
use ratatui::style::Style;

use crate::canvas::Canvas;
use crate::format;
use crate::model::copies::{self, Leave};
use crate::model::farm::{BuildRow, Event, Farm, Use, is_up, machine_glyph};
use crate::model::machines::state_words;
use crate::model::op::Status;
use crate::model::overview::Pane;
use crate::model::{ListId, Model, Op};
use crate::options::ColourDepth;
use crate::sanitize;
use crate::theme::Role;

use super::super::machines::state_role;
use super::super::{bars, graph, table};

/// Paints rows of a list, and the cursor in the box that has the keys.
fn rows(
    model: &Model,
    canvas: &mut Canvas<'_>,
    area: Rect,
    pane: Pane,
    len: usize,
    mut paint: impl FnMut(&mut Canvas<'_>, Rect, usize),
) {
    let state = &model.lists[pane.list()];
    let seen = canvas.window(pane.list(), state, area, len, 0);
    for (line, row) in seen.enumerate() {
        let line = Rect { y: area.y + line as u16, height: 1, ..area };
        paint(canvas, Rect { x: line.x + 1, width: line.width.saturating_sub(1), ..line }, row);
        if model.overview.pane == pane && row == state.selected {
            table::cursor(canvas, line);
        }
    }
}

/// Machines, with a piece for each slot in the colour of whom it works for.
pub(super) fn machines(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    let farm = model.farm();
    let names = farm.machines.iter().map(|machine| sanitize::width(&machine.name)).max().unwrap_or(0);
    let name_cells = (names as u16).clamp(4, (area.width / 4).max(4));
    rows(model, canvas, area, Pane::Machines, farm.machines.len(), |canvas, line, row| {
        machine(model, canvas, line, &farm.machines[row], name_cells);
    });
}

fn machine(model: &Model, canvas: &mut Canvas<'_>, line: Rect, machine: &Machine, name_cells: u16) {
    let state = machine.state();
    let role = state_role(state);
    let sign = machine_glyph(state, canvas.glyphs);
    canvas.text(line.x, line.y, 1, sign, role);
    let name_role = if state == State::Lost { Role::Dim } else { Role::Text };
    canvas.text(line.x + 2, line.y, name_cells, &machine.name, name_role);
    let x = line.x + 2 + name_cells + 1;
    let word = state_word(model.farm(), machine);
    let cpu = machine.load.as_ref().map(|load| format::share(load.cpu));
    let tail = match (word, cpu) {
        (Some(word), _) => word,
        (None, Some(cpu)) => format!("{:>4}", cpu),
        (None, None) => String::new(),
    };
    let counts =
        if machine.slots > 0 { format!("{}/{}", machine.busy, machine.slots) } else { String::new() };
    let room = line.right().saturating_sub(x);
    let tail_cells = (sanitize::width(&tail) as u16).max(4);
    let bar_cells = room.saturating_sub(tail_cells + 7);
    let bar = Rect { x, width: bar_cells, ..line };
    slots(model, canvas, bar, machine);
    let at = x + bar_cells + 1;
    canvas.text(at, line.y, line.right().saturating_sub(at), &format!("{counts:>5}"), Role::Text);
    canvas.text_right(line, &tail, if state == State::Active { Role::Dim } else { role });
}

/// Cells of one slot at most, the gap to the next included.
const SLOT: u16 = 10;

/// Slots side by side. Where there is room, each is a bar that fills up to the time its action is
/// expected to take.
fn slots(model: &Model, canvas: &mut Canvas<'_>, area: Rect, machine: &Machine) {
    if !is_up(machine) {
        // Nobody knows what it does; that is not nothing.
        let unknown = (canvas.glyphs.lost.to_owned(), canvas.theme.style(Role::Dim));
        let all = machine.slots as usize;
        bars::pieces(canvas, area, all, std::iter::repeat_n(unknown, all));
        return;
    }
    let farm = model.farm();
    let uses = farm.uses(machine);
    let all = uses.len().max(machine.slots as usize).max(1);
    let each = (usize::from(area.width) / all).min(usize::from(SLOT)) as u16;
    if each < 3 {
        return slots_in_brief(model, canvas, area, all, &uses);
    }
    for at in 0..all {
        let place = Rect { x: area.x + at as u16 * each, width: each - 1, ..area };
        match uses.get(at) {
            Some(Use::Own(op)) => slot(canvas, place, done(model, op), farm.sender(op)),
            Some(Use::Guest(sender)) => slot(canvas, place, 1.0, *sender),
            Some(Use::Unknown) => drop(canvas.text(place.x, place.y, place.width, "?", Role::Running)),
            None => bars::share(canvas, place, 0.0, Role::Empty),
        }
    }
}

/// How much of its time an operation has taken; all of it where that is not known.
fn done(model: &Model, op: &Op) -> f64 {
    let expected = op.elapsed(model.node_now()).zip(op.expected.filter(|expected| !expected.is_zero()));
    expected.map_or(1.0, |(took, expected)| took.as_secs_f64() / expected.as_secs_f64())
}

/// One slot in use: as much of it in the sender's sign as it has taken of its time.
fn slot(canvas: &mut Canvas<'_>, area: Rect, share: f64, sender: usize) {
    let filled = ((share * f64::from(area.width)).round() as u16).clamp(1, area.width);
    let (sign, style) = slot_sign(canvas, sender);
    let empty = canvas.glyphs.bar_empty;
    for x in 0..area.width {
        canvas.styled(area.x + x, area.y, 1, if x < filled { &sign } else { empty }, style);
    }
}

/// A cell a slot; what does not fit is told as a number.
fn slots_in_brief(model: &Model, canvas: &mut Canvas<'_>, area: Rect, all: usize, uses: &[Use<'_>]) {
    let unknown = ("?".to_owned(), canvas.theme.style(Role::Running));
    let free = (canvas.glyphs.bar_empty.to_owned(), canvas.theme.style(Role::Empty));
    let pieces: Vec<_> = (0..all.min(usize::from(area.width)))
        .map(|at| match uses.get(at) {
            Some(Use::Own(op)) => slot_sign(canvas, model.farm().sender(op)),
            Some(Use::Guest(sender)) => slot_sign(canvas, *sender),
            Some(Use::Unknown) => unknown.clone(),
            None => free.clone(),
        })
        .collect();
    bars::pieces(canvas, area, all, pieces.into_iter());
}

/// A full cell in the colour of a sender, or its letter where there are no colours.
fn slot_sign(canvas: &Canvas<'_>, sender: usize) -> (String, Style) {
    match canvas.theme.depth() {
        ColourDepth::None => bars::sender(canvas, sender),
        _ => (canvas.glyphs.bar_full.to_owned(), canvas.theme.sender(sender)),
    }
}

/// The state of a machine that is not as it should be, with the age of what is known of a lost one.
fn state_word(farm: &Farm, machine: &Machine) -> Option<String> {
    let word = state_words(farm, machine);
    let is_left = copies::leave(farm, machine) == Some(Leave::Brings) && machine.sole_bytes > 0;
    match machine.state() {
        State::Active => None,
        State::Lost => {
            let heard = machine.last_heard.as_ref().and_then(std_duration).unwrap_or_default();
            Some(format!("{word} {}", format::age(heard)))
        }
        State::Draining if is_left => Some(format!("{word} {}", format::bytes(machine.sole_bytes))),
        _ => Some(word.to_owned()),
    }
}

/// The builds under way.
pub(super) fn builds(model: &Model, canvas: &mut Canvas<'_>, area: Rect, builds: &[&BuildRow]) {
    if builds.is_empty() && model.farm().complete {
        canvas.text(area.x + 1, area.y, area.width.saturating_sub(1), "no build is under way", Role::Dim);
    }
    rows(model, canvas, area, Pane::Builds, builds.len(), |canvas, line, row| {
        build(model, canvas, line, builds[row]);
    });
}

fn build(model: &Model, canvas: &mut Canvas<'_>, line: Rect, build: &BuildRow) {
    let wire = &build.wire;
    let glyphs = canvas.glyphs;
    bars::paint_sender(canvas, line.x, line.y, build.sender);
    let mut facts = vec![
        (format!("{}{}", glyphs.running, format::count(wire.running)), Role::Running),
        (format!("{}{}", glyphs.queued, format::count(wire.queued)), Role::Queued),
        (format!("{}{}", glyphs.ok, format::count(wire.executed.saturating_sub(wire.failed))), Role::Good),
        (format!("{}{}", glyphs.hit, format::percent(wire.hits, wire.lookups)), Role::Hit),
    ];
    if wire.failed > 0 {
        facts.push((format!("{}{}", glyphs.failed, format::count(wire.failed)), Role::Bad));
    }
    if let Some(eta) = build.remaining(model.node_now()) {
        facts.push((format!("~{}", format::age(eta)), Role::Dim));
    }
    let label = build.label();
    let facts_cells: usize = facts.iter().map(|(text, _)| sanitize::width(text) + 1).sum();
    let room = usize::from(line.width.saturating_sub(2));
    let label_cells = room.saturating_sub(facts_cells).max(room / 3).min(room);
    canvas.text(line.x + 2, line.y, label_cells as u16, &label, Role::Text);
    let mut x = line.x + 2 + label_cells as u16;
    for (text, role) in facts {
        x += canvas.text(x, line.y, line.right().saturating_sub(x), &text, role) + 1;
    }
}

/// What runs and waits, in numbers.
pub(super) fn queue_title(model: &Model) -> String {
    let farm = model.farm();
    let (queued, running, _) = farm.ops.counts();
    let waited = farm.ops.queued().next().and_then(|(_, op)| op.waited(model.node_now()));
    let oldest = waited.map(|waited| format!(" for {}", format::age(waited))).unwrap_or_default();
    format!("Run {}, wait {}{oldest}", format::count(running as u64), format::count(queued as u64))
}

/// What runs, the longest first, then what waits.
pub(super) fn queue(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    let ops = &model.farm().ops;
    let (queued, running, _) = ops.counts();
    if queued + running == 0 && model.farm().complete {
        canvas.text(
            area.x + 1,
            area.y,
            area.width.saturating_sub(1),
            "nothing runs, nothing waits",
            Role::Dim,
        );
    }
    let state = &model.lists[ListId::OverviewQueue];
    let first = state.window(usize::from(area.height), queued + running).start;
    let mut seen = ops.running().chain(ops.queued()).skip(first).map(|(_, op)| op);
    rows(model, canvas, area, Pane::Queue, queued + running, |canvas, line, _| {
        if let Some(op) = seen.next() {
            operation(model, canvas, line, op);
        }
    });
}

fn operation(model: &Model, canvas: &mut Canvas<'_>, line: Rect, op: &Op) {
    bars::paint_sender(canvas, line.x, line.y, model.farm().sender(op));
    let sign = op.status.glyph(canvas.glyphs);
    canvas.text(line.x + 1, line.y, 1, sign, op.status.role());
    let took = op.elapsed(model.node_now()).map(format::duration).unwrap_or_default();
    let time = match op.expected {
        Some(expected) if op.status == Status::Running => format!("{took}/~{}", format::duration(expected)),
        _ => took,
    };
    let ellipsis = canvas.glyphs.ellipsis;
    let cells = usize::from(line.width).saturating_sub(4 + sanitize::width(&time));
    let label = sanitize::cut_middle(op.label(), cells, ellipsis);
    canvas.text(line.x + 3, line.y, cells as u16, &label, Role::Text);
    canvas.text_right(line, &time, Role::Dim);
}

/// Throughput now, and the most of all that is drawn.
pub(super) fn graph_title(model: &Model, width: u16) -> String {
    let most = most(&rates(model), width);
    format!("Actions {:.1}/s, top of graph {most:.0}/s", model.farm().rate(5))
}

/// Actions answered in each second.
fn rates(model: &Model) -> Vec<Option<f64>> {
    let samples = model.farm().samples.iter();
    samples.map(|sample| Some(f64::from(sample.executed) + f64::from(sample.hits))).collect()
}

fn most(rates: &[Option<f64>], width: u16) -> f64 {
    rates.iter().rev().take(usize::from(width) * 2).flatten().fold(1.0, |most, rate| rate.max(most))
}

/// Actions a second above, the hit rate below.
pub(super) fn graphs(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    let samples = &model.farm().samples;
    let upper = Rect { height: area.height.saturating_sub(1).div_ceil(2), ..area };
    let title = Rect { y: upper.bottom(), height: area.height.saturating_sub(upper.height).min(1), ..area };
    let lower = Rect { y: title.bottom(), height: area.bottom().saturating_sub(title.bottom()), ..area };
    let throughput = rates(model);
    graph::draw(canvas, upper, &throughput, most(&throughput, area.width), Role::Graph);
    if title.is_empty() {
        return;
    }
    let execution = &model.farm().execution;
    let hits = format::percent(execution.recent_hits, execution.recent_lookups);
    canvas.text(title.x, title.y, title.width, &format!("Hit rate {hits}"), Role::Title);
    let rate = |sample: &farmhand_proto::control::Sample| {
        (sample.lookups > 0).then(|| f64::from(sample.hits) / f64::from(sample.lookups))
    };
    let rates: Vec<_> = samples.iter().map(rate).collect();
    graph::draw(canvas, lower, &rates, 1.0, Role::Graph2);
}

/// What happened, the newest first.
pub(super) fn events(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    let events = &model.farm().events;
    if events.is_empty() && model.farm().complete {
        canvas.text(
            area.x + 1,
            area.y,
            area.width.saturating_sub(1),
            "nothing out of the ordinary yet",
            Role::Dim,
        );
    }
    rows(model, canvas, area, Pane::Events, events.len(), |canvas, line, row| {
        if let Some(event) = events.get(events.len() - 1 - row) {
            self::event(model, canvas, line, event);
        }
    });
}

fn event(model: &Model, canvas: &mut Canvas<'_>, line: Rect, event: &Event) {
    let age: Duration = model.since(event.at).unwrap_or_default();
    canvas.text(line.x, line.y, 4, &format!("{:>4}", format::age(age)), Role::Dim);
    let sign = event.kind.glyph(canvas.glyphs);
    canvas.text(line.x + 5, line.y, 1, sign, event.kind.role());
    let (before, after) = event.kind.words();
    let words = [before, &event.subject, after, &event.text];
    let text = words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    canvas.text(line.x + 7, line.y, line.width.saturating_sub(7), &text, Role::Text);
}
