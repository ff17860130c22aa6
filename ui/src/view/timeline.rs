//! How the timeline view looks: lanes of machines and slots over time, the depth of the queue below
//! them, and the bar that is chosen in words.

mod bar;

use ratatui::layout::Rect;

use super::{graph, table};
use crate::canvas::{Canvas, Hit};
use crate::format;
use crate::lanes::{self, Micros, Window};
use crate::model::farm::is_up;
use crate::model::timeline::LaneRow;
use crate::model::{ListId, Model, Op, Stamp};
use crate::stages;
use crate::theme::Role;

/// Cells of the names at the left.
const NAME: u16 = 14;

/// Cells between two marks of the axis.
const MARK: u16 = 14;

/// Paints it.
pub(super) fn draw(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    let Some(now) = model.node_now().filter(|_| !area.is_empty()) else {
        canvas.text(area.x, area.y, area.width, "nothing was heard of the farm yet", Role::Dim);
        return;
    };
    let window = model.timeline.window(now);
    let name = NAME.min(area.width / 3);
    let [top, axis, body, strip, detail] = divide(area);
    let right = |line: Rect| Rect { x: line.x + name, width: line.width - name, ..line };
    words(model, canvas, top, window);
    marks(canvas, right(axis), window);
    lane_rows(model, canvas, body, name, (window, now.0));
    if !strip.is_empty() {
        queue(model, canvas, strip, name, window);
    }
    if !detail.is_empty() {
        chosen(model, canvas, detail, now);
    }
}

/// Words, axis, lanes, queue, detail; what does not fit goes from the bottom.
fn divide(area: Rect) -> [Rect; 5] {
    let strip = if area.height >= 12 { 2 } else { 0 };
    let detail = if area.height >= 8 { 3 } else { 0 };
    let axis = u16::from(area.height > 1);
    let lanes = area.height - area.height.min(1 + axis + strip + detail);
    let mut y = area.y;
    [1, axis, lanes, strip, detail].map(|height| {
        let part = Rect { y, height, ..area };
        y += height;
        part
    })
}

fn words(model: &Model, canvas: &mut Canvas<'_>, area: Rect, window: Window) {
    let timeline = &model.timeline;
    let follows = match (timeline.follows(), model.frozen.is_some()) {
        (_, true) => "paused".to_owned(),
        (true, false) => "following".to_owned(),
        (false, false) => format!("up to {} UTC, 0 goes back to now", Stamp(window.end()).clock()),
    };
    let span = format::duration(std::time::Duration::from_micros(window.span().unsigned_abs()));
    let text = format!("{span} seen, {follows}");
    let right = canvas.text_right(Rect { width: area.width.saturating_sub(1), ..area }, &text, Role::Dim);
    let room = area.width.saturating_sub(right + 3);
    let taken = canvas.text(area.x + 1, area.y, room, &format!("by {}", timeline.tells.word()), Role::Title);
    let legend = Rect { x: area.x + 3 + taken, width: room.saturating_sub(taken + 2), ..area };
    bar::legend(model, canvas, legend);
}

/// The axis: a mark at every round time.
fn marks(canvas: &mut Canvas<'_>, area: Rect, window: Window) {
    if area.is_empty() {
        return;
    }
    let step = window.step((area.width / MARK).max(1));
    let mut at = window.start().div_euclid(step) * step + step;
    while at < window.end() {
        if let Some(cell) = window.cell_of(at, area.width) {
            let room = area.width - cell;
            let taken = canvas.text(area.x + cell, area.y, 1, canvas.glyphs.vertical, Role::Border);
            let text = mark(at, step);
            if room > text.len() as u16 {
                canvas.text(area.x + cell + taken, area.y, room - taken, &text, Role::Dim);
            }
        }
        at = at.saturating_add(step);
    }
}

/// The clock; for short steps seconds and milliseconds of it.
fn mark(at: Micros, step: Micros) -> String {
    if step >= 1_000_000 {
        return Stamp(at).clock();
    }
    let millis = at.rem_euclid(60_000_000) / 1000;
    format!("{:02}.{:03}s", millis / 1000, millis % 1000)
}

fn lane_rows(model: &Model, canvas: &mut Canvas<'_>, area: Rect, name: u16, time: (Window, Micros)) {
    let (timeline, state) = (&model.timeline, model.lists[ListId::Timeline]);
    if area.is_empty() {
        return;
    }
    if timeline.rows.is_empty() {
        let text = "no machine has run anything yet";
        canvas.text(area.x + 1, area.y, area.width - 1, text, Role::Dim);
        return;
    }
    let rows = canvas.window(ListId::Timeline, &state, area, timeline.rows.len(), 0);
    let first = rows.start;
    for (y, number) in (area.y..area.bottom()).zip(rows) {
        let row = &timeline.rows[number];
        let line = Rect { y, height: 1, ..area };
        lane_name(model, canvas, Rect { width: name, ..line }, row, number == first || row.lane == 0);
        let lane = Rect { x: area.x + name, width: area.width - name, ..line };
        one_lane(model, canvas, lane, row, time);
        if number == state.selected {
            table::cursor(canvas, Rect { width: name.saturating_sub(1), ..line });
        }
    }
    canvas.hit(Rect { x: area.x + name, width: area.width - name, ..area }, Hit::Lanes);
}

fn lane_name(model: &Model, canvas: &mut Canvas<'_>, area: Rect, row: &LaneRow, named: bool) {
    let is_lost = is_lost(model, row);
    let role = if is_lost { Role::Bad } else { Role::Text };
    if named {
        let mark = if is_lost { canvas.glyphs.lost } else { "" };
        let text = format!("{mark}{}", row.machine);
        canvas.text(area.x + 1, area.y, area.width.saturating_sub(5), &text, role);
    }
    let number = (row.lane + 1).to_string();
    let role = if row.is_slot { Role::Dim } else { Role::Warn };
    canvas.text_right(Rect { width: area.width.saturating_sub(1), ..area }, &number, role);
}

fn is_lost(model: &Model, row: &LaneRow) -> bool {
    let machine = model.farm().machine(&row.machine);
    machine.is_none_or(|machine| !is_up(machine))
}

fn one_lane(
    model: &Model,
    canvas: &mut Canvas<'_>,
    area: Rect,
    row: &LaneRow,
    (window, now): (Window, Micros),
) {
    let runs = model.timeline.lanes.runs(&row.machine, row.lane, window);
    let cells = lanes::cover(&runs, window, area.width, now);
    // A machine that does not answer is not idle: nothing is known of it.
    let empty = if row.is_slot && !is_lost(model, row) { canvas.glyphs.dot } else { " " };
    for (x, cell) in (area.x..area.right()).zip(&cells) {
        let op = cell.run.and_then(|run| Some((runs[run], model.farm().ops.get(runs[run].0)?)));
        match op {
            Some(((key, _), op)) => {
                bar::cell(model, canvas, (x, area.y), op, cell.share);
                if model.timeline.chosen == Some(key) {
                    canvas.tint(Rect { x, width: 1, ..area }, Role::Selected);
                }
            }
            None => {
                canvas.text(x, area.y, 1, empty, Role::Empty);
            }
        }
    }
    for (key, place) in &runs {
        let Some(op) = model.farm().ops.get(*key) else { continue };
        let Some(taken) = window.cells_of(place.start, place.end.unwrap_or(now), area.width) else {
            continue;
        };
        let is_begun = place.start >= window.start();
        let bar = Rect { x: area.x + taken.start, width: taken.end - taken.start, ..area };
        bar::label(model, canvas, bar, op, (is_begun, model.timeline.chosen == Some(*key)));
    }
}

/// How many waited at each moment.
fn queue(model: &Model, canvas: &mut Canvas<'_>, area: Rect, name: u16, window: Window) {
    let samples = &model.farm().samples;
    let most = samples.iter().map(|sample| sample.queued).max().unwrap_or(0);
    let room = area.width.saturating_sub(name);
    canvas.text(area.x + 1, area.y, name.saturating_sub(2), "queue", Role::Title);
    if area.height > 1 {
        let text = format!("{} at most", format::count(most.into()));
        canvas.text(area.x + 1, area.y + 1, name.saturating_sub(2), &text, Role::Dim);
    }
    let points = usize::from(room) * if canvas.glyphs.braille { 2 } else { 1 };
    let value = |point: usize| -> Option<f64> {
        let at = window.time_at(u16::try_from(point).ok()?, u16::try_from(points).ok()?);
        // A sample tells of the end of its second.
        let next = samples.partition_point(|sample| Stamp::of(sample.at.as_ref()) < Some(Stamp(at)));
        let sample = samples.get(next)?;
        let gap = Stamp::of(sample.at.as_ref())?.0 - at;
        (gap <= 2_000_000).then(|| f64::from(sample.queued))
    };
    let values: Vec<_> = (0..points).map(value).collect();
    let place = Rect { x: area.x + name, width: room, ..area };
    graph::draw(canvas, place, &values, f64::from(most.max(1)), Role::Graph2);
}

/// The chosen bar in words.
fn chosen(model: &Model, canvas: &mut Canvas<'_>, area: Rect, now: Stamp) {
    let rule = canvas.glyphs.horizontal.repeat(area.width.into());
    canvas.text(area.x, area.y, area.width, &rule, Role::Border);
    let (x, width) = (area.x + 1, area.width.saturating_sub(2));
    let Some(op) = model.chosen_bar() else {
        let window = model.timeline.window(now);
        let is_seen = |row: &LaneRow| !model.timeline.lanes.runs(&row.machine, row.lane, window).is_empty();
        let text = match model.timeline.rows.iter().any(is_seen) {
            true => "arrows choose a bar, enter opens it; + - zoom, < > move, or drag and turn the wheel",
            false => "nothing ran in this time; left goes to the last run, < shows earlier, - more time",
        };
        canvas.text(x, area.y + 1, width, text, Role::Dim);
        return;
    };
    canvas.text(x, area.y + 1, 1, op.status.glyph(canvas.glyphs), op.status.role());
    let right = format!("{} {}", op.mnemonic, machine_of(model, op));
    let line = Rect { y: area.y + 1, width: area.width.saturating_sub(1), ..area };
    let taken = canvas.text_right(line, &right, Role::Dim);
    canvas.text(x + 2, area.y + 1, width.saturating_sub(taken + 4), op.label(), Role::Strong);
    canvas.text(x, area.y + 2, width, &times(op, now), Role::Text);
}

fn machine_of(model: &Model, op: &Op) -> String {
    let build = model.farm().builds.get(&op.invocation).map(|build| build.label()).unwrap_or_default();
    match build.as_str() {
        "" => format!("on {}", op.machine),
        build => format!("on {} for {build}", op.machine),
    }
}

/// State, beginning, and the length of each stage.
fn times(op: &Op, now: Stamp) -> String {
    let mut words = crate::model::action::facts::state(op);
    if let Some(start) = op.started {
        words.push_str(&format!(", from {}", start.clock()));
    }
    for span in stages::of_op(op) {
        words.push_str(&format!(", {} {}", span.stage.name(), format::duration(span.length(now.0))));
    }
    if let Some(expected) = op.expected {
        words.push_str(&format!(", expected ~{}", format::duration(expected)));
    }
    words
}
