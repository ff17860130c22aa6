//! How the machines view looks: a row a machine, and one of them in full.

use farmhand_proto::control::{Load, Machine, machine};
use farmhand_proto::time::std_duration;
use ratatui::layout::Rect;

use super::bars;
use super::table::{self, Column, Row};
use crate::canvas::Canvas;
use crate::format;
use crate::model::farm::{is_up, machine_glyph};
use crate::model::machines::{self, disk, memory, pressure};
use crate::model::{ListId, Model, Stamp};
use crate::theme::Role;

/// The columns.
const COLUMNS: &[Column] = &[
    Column::text("Name", 10).grow(2).sort(0),
    Column::text("State", 10).sort(1),
    Column::number("Slots", 6).sort(2),
    Column::text("", 8).from(70).grow(1),
    Column::number("CPU", 5).sort(3),
    Column::number("Memory", 6).from(56).sort(4),
    Column::number("Press", 5).from(64).sort(5),
    Column::number("Net", 11).from(100).sort(6),
    Column::number("Disk", 5).from(48).sort(7),
    Column::text("System", 14).from(110),
    Column::text("Version", 8).from(124),
    Column::number("Heard", 6).from(40).sort(8),
];

/// Cells from which the chosen machine is shown at the side; else below.
const SIDE_FROM: u16 = 150;

/// Cells and lines of it.
const SIDE: u16 = 56;
const BELOW: u16 = 10;

/// Cells of the name of a gauge.
const GAUGE: u16 = 11;

/// Age from which a measurement is told as old.
const OLD: std::time::Duration = std::time::Duration::from_secs(5);

/// Paints it.
pub(super) fn draw(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    if area.is_empty() {
        return;
    }
    let (list, detail) = divide(area, model.machines.rows.len() as u16 + 1);
    let state = model.lists[ListId::Machines];
    let rows = &model.machines.rows;
    table::draw(canvas, list, ListId::Machines, &state, COLUMNS, rows.len(), |number, row| {
        if let Some(machine) = model.farm().machine(&rows[number]) {
            machine_row(model, machine, row);
        }
    });
    if rows.is_empty() && list.height > 1 {
        let words = match (model.farm().machines.is_empty(), model.farm().complete) {
            (true, false) => "nothing was heard of the farm yet",
            (true, true) => "the node tells of no machine",
            (false, _) => "no machine fits the filter",
        };
        canvas.text(list.x + 1, list.y + 1, list.width.saturating_sub(1), words, Role::Dim);
    }
    let chosen = model.machines.chosen.as_ref().and_then(|name| model.farm().machine(name));
    if let (Some(machine), false) = (chosen, detail.is_empty()) {
        in_full(model, canvas, detail, machine);
    }
}

/// The table, and the chosen machine beside or below it.
fn divide(area: Rect, wanted: u16) -> (Rect, Rect) {
    if area.width >= SIDE_FROM {
        let list = Rect { width: area.width - SIDE - 1, ..area };
        return (list, Rect { x: list.right() + 1, width: SIDE, ..area });
    }
    if area.height < BELOW + 4 {
        return (area, Rect { height: 0, ..area });
    }
    let height = wanted.clamp(4, area.height - BELOW);
    let list = Rect { height, ..area };
    (list, Rect { y: list.bottom(), height: area.height - height, ..area })
}

fn machine_row(model: &Model, machine: &Machine, row: &mut Row<'_, '_>) {
    let glyphs = row.canvas().glyphs;
    let role = state_role(machine.state());
    let mark = if machine.is_self { " (this)" } else { "" };
    row.cell(0, &format!("{}{mark}", machine.name), Role::Strong);
    row.cell(
        1,
        &format!("{} {}", machine_glyph(machine.state(), glyphs), machines::state_words(machine)),
        role,
    );
    row.cell(2, &format!("{}/{}", machine.busy, machine.slots), Role::Text);
    if let Some(place) = row.place(3) {
        running(model, row.canvas(), place, machine);
    }
    // What a machine did before it was lost says nothing of what it does.
    if is_up(machine) {
        measured(machine, row);
    }
    row.cell(9, &format!("{} {}", machine.os, machine.arch), Role::Dim);
    row.cell(10, &machine.version, Role::Dim);
    let heard = machine.last_heard.as_ref().and_then(std_duration);
    let role = if heard.is_some_and(|age| age >= OLD) { Role::Warn } else { Role::Dim };
    row.cell(11, &heard.map_or("self".to_owned(), format::age), role);
}

fn measured(machine: &Machine, row: &mut Row<'_, '_>) {
    let mut share = |column, share: Option<f64>, bad: f64| {
        let role = if share.is_some_and(|share| share >= bad) { Role::Warn } else { Role::Text };
        row.cell(column, &share.map_or("-".to_owned(), format::share), role);
    };
    share(4, machine.load.as_ref().map(|load| load.cpu), 2.0);
    share(5, memory(machine), 0.9);
    share(6, pressure(machine), 0.2);
    share(8, disk(machine), 0.95);
    if let Some(load) = &machine.load {
        row.cell(7, &format::rate(load.received.saturating_add(load.sent)), Role::Text);
    }
}

/// What runs, a cell each in the colour of who sent it; then the free slots.
fn running(model: &Model, canvas: &mut Canvas<'_>, area: Rect, machine: &Machine) {
    let senders: Vec<usize> =
        model.farm().running_on(&machine.name).map(|(_, op)| model.farm().sender(op)).collect();
    let free = (machine.slots as usize).saturating_sub(senders.len());
    let busy: Vec<_> = senders.into_iter().map(|sender| bars::sender(canvas, sender)).collect();
    let empty = (canvas.glyphs.bar_empty.to_owned(), canvas.theme.style(Role::Empty));
    let all = busy.len() + free;
    let pieces = busy.into_iter().chain(std::iter::repeat_n(empty, free));
    bars::pieces(canvas, area, all, pieces);
}

fn state_role(state: machine::State) -> Role {
    match state {
        machine::State::Active => Role::Good,
        machine::State::Lost | machine::State::Refused | machine::State::Incompatible => Role::Bad,
        machine::State::Unspecified => Role::Dim,
        _ => Role::Warn,
    }
}

// === one machine in full ===

fn in_full(model: &Model, canvas: &mut Canvas<'_>, area: Rect, machine: &Machine) {
    let rule = canvas.glyphs.horizontal.repeat(area.width.into());
    canvas.text(area.x, area.y, area.width, &rule, Role::Border);
    canvas.text(
        area.x + 2,
        area.y,
        area.width.saturating_sub(4),
        &format!(" {} ", machine.name),
        Role::Title,
    );
    let inner =
        Rect { x: area.x + 1, y: area.y + 1, width: area.width.saturating_sub(2), height: area.height - 1 };
    let is_wide = inner.width >= 76;
    let left = Rect { width: if is_wide { inner.width / 2 - 1 } else { inner.width }, ..inner };
    let used = gauges(model, canvas, left, machine);
    let right = match is_wide {
        true => Rect { x: left.right() + 2, width: inner.right() - left.right() - 2, ..inner },
        false => Rect {
            y: inner.y + used.min(inner.height),
            height: inner.height - used.min(inner.height),
            ..inner
        },
    };
    words(model, canvas, right, machine);
}

/// Gauges; the lines they took.
fn gauges(model: &Model, canvas: &mut Canvas<'_>, area: Rect, machine: &Machine) -> u16 {
    let Some(load) = &machine.load else {
        canvas.text(area.x, area.y, area.width, "nothing was measured", Role::Dim);
        return 1;
    };
    let mut y = area.y;
    let age = Stamp::of(load.measured.as_ref()).and_then(|at| model.since(Some(at)));
    if let Some(age) = age.filter(|age| *age >= OLD || machine.state() == machine::State::Lost) {
        let text = format!("measured {} ago; it may be otherwise now", format::age(age));
        canvas.text(area.x, y, area.width, &text, Role::Stale);
        y += 1;
    }
    let rows = gauge_rows(machine, load);
    let widest = rows.iter().map(|(_, _, text)| text.len()).max().unwrap_or(0) as u16;
    let bar = area.width.saturating_sub(GAUGE + widest + 2).clamp(4, 16);
    for (name, share, text) in rows {
        if y >= area.bottom() {
            break;
        }
        gauge(canvas, Rect { y, height: 1, ..area }, bar, (name, share, &text));
        y += 1;
    }
    y - area.y
}

fn gauge_rows(machine: &Machine, load: &Load) -> Vec<(&'static str, Option<f64>, String)> {
    let total = load.memory_total;
    let used = total.saturating_sub(load.memory_available);
    let waits = |pressure: Option<f64>| pressure.map_or("not told".to_owned(), format::share);
    let budget = format!("{} of {}", format::bytes(machine.used_bytes), format::bytes(machine.budget_bytes));
    let free = format!("{} of {} free", format::bytes(load.disk_free), format::bytes(load.disk_total));
    let taken = (load.disk_total > 0).then(|| 1.0 - load.disk_free as f64 / load.disk_total as f64);
    vec![
        (
            "cpu",
            Some(load.cpu),
            format!("{} of {}, load {:.1}", format::share(load.cpu), machine.cpus, load.load1),
        ),
        ("memory", memory(machine), format!("{} of {}", format::bytes(used), format::bytes(total))),
        ("waits cpu", load.cpu_pressure, waits(load.cpu_pressure)),
        ("waits mem", load.memory_pressure, waits(load.memory_pressure)),
        ("waits disk", load.io_pressure, waits(load.io_pressure)),
        ("blobs", disk(machine), budget),
        ("disk", taken, free),
        ("net", None, format!("{} in, {} out", format::rate(load.received), format::rate(load.sent))),
    ]
}

fn gauge(canvas: &mut Canvas<'_>, area: Rect, bar: u16, (name, share, text): (&str, Option<f64>, &str)) {
    let label = GAUGE.min(area.width);
    canvas.text(area.x, area.y, label, name, Role::Dim);
    let rest = Rect { x: area.x + label, width: area.width - label, ..area };
    let bar = bar.min(rest.width);
    if let Some(share) = share {
        let role = if share >= 0.9 { Role::Warn } else { Role::Graph };
        bars::share(canvas, Rect { width: bar, ..rest }, share, role);
    }
    canvas.text(rest.x + bar + 1, area.y, rest.width.saturating_sub(bar + 1), text, Role::Text);
}

/// What it is, what it runs, how it is set.
fn words(model: &Model, canvas: &mut Canvas<'_>, area: Rect, machine: &Machine) {
    let mut lines: Vec<(String, Role)> = Vec::new();
    lines.push((sentence(machine), state_role(machine.state())));
    let version = if machine.version.is_empty() { "not told" } else { &machine.version };
    lines.push((
        format!("{} {}, {} CPUs, version {version}", machine.os, machine.arch, machine.cpus),
        Role::Text,
    ));
    let mut found = format!("found by {}", machine.found_by);
    if let Some(on_battery) = machine.load.as_ref().and_then(|load| load.on_battery) {
        found.push_str(if on_battery { ", on battery" } else { ", on mains" });
    }
    lines.push((found, Role::Dim));
    if let (true, Some(node)) = (machine.is_self, &model.farm().node) {
        lines.push((format!("actions are kept apart by {}", node.sandbox), Role::Dim));
        lines.push((format!("data in {}", node.data_dir), Role::Dim));
        for (name, value) in model.machines.settings.iter().flatten() {
            lines.push((format!("{name} = {value}"), Role::Dim));
        }
    }
    let mut y = area.y;
    let settings = lines.len().saturating_sub(3);
    let running = model.farm().running_on(&machine.name).count();
    // What runs is told before settings when not all of it fits.
    let cut = usize::from(area.height).saturating_sub(running.min(4) + 1);
    lines.truncate((3 + settings).min(cut.max(3)));
    for (text, role) in &lines {
        if y >= area.bottom() {
            return;
        }
        canvas.text(area.x, y, area.width, text, *role);
        y += 1;
    }
    now_running(model, canvas, Rect { y, height: area.bottom().saturating_sub(y), ..area }, machine);
}

fn now_running(model: &Model, canvas: &mut Canvas<'_>, area: Rect, machine: &Machine) {
    let now = model.node_now();
    let count = model.farm().running_on(&machine.name).count();
    for (y, (_, op)) in (area.y..area.bottom()).zip(model.farm().running_on(&machine.name)) {
        let is_last = y + 1 == area.bottom();
        let shown = usize::from(y - area.y);
        if is_last && count > shown + 1 {
            let text = format!("and {} more", count - shown);
            canvas.text(area.x, y, area.width, &text, Role::Dim);
            return;
        }
        let sender = model.theme.sender(model.farm().sender(op));
        bars::paint_sender(canvas, area.x, y, model.farm().sender(op));
        let time = op.elapsed(now).map(format::duration).unwrap_or_default();
        canvas.text(area.x + 2, y, 6, &format!("{time:>6}"), Role::Dim);
        let room = area.width.saturating_sub(9);
        let label = crate::sanitize::cut_middle(op.label(), room.into(), canvas.glyphs.ellipsis).into_owned();
        canvas.styled(area.x + 9, y, room, &label, sender);
    }
}

/// How it stands, in a sentence.
fn sentence(machine: &Machine) -> String {
    let (busy, slots) = (machine.busy, machine.slots);
    let heard = machine.last_heard.as_ref().and_then(std_duration).map(format::age).unwrap_or_default();
    match machine.state() {
        machine::State::Active => format!("takes actions: {busy} of {slots} slots in use"),
        machine::State::Yielding => format!("somebody uses it: takes nothing new, {busy} still run"),
        machine::State::Draining if busy == 0 => "drained: it may leave".to_owned(),
        machine::State::Draining => format!("draining: {busy} still run, takes nothing new"),
        machine::State::Paused => format!("told to rest: takes nothing new, {busy} still run"),
        machine::State::Lost => format!("does not answer, last heard {heard} ago: {}", machine.reason),
        machine::State::Connecting => format!("looked for at {}: {}", machine.address, machine.reason),
        machine::State::Refused | machine::State::Incompatible => machine.reason.clone(),
        machine::State::Unspecified => "its state was not told".to_owned(),
    }
}
