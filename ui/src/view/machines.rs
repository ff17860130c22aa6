//! How the machines view looks: a row a machine, who wants to come in, and one of the machines in full.

mod detail;

use farmhand_proto::control::{Machine, machine};
use farmhand_proto::time::std_duration;
use ratatui::layout::Rect;

use super::bars;
use super::table::{self, Column, Row};
use crate::canvas::{Canvas, Hit};
use crate::format;
use crate::keymap::Act;
use crate::model::copies;
use crate::model::entrance::{clock, left};
use crate::model::farm::{Use, is_up, machine_glyph};
use crate::model::machines::{self, disk, memory, pressure, round_trip};
use crate::model::{ListId, Model, Stamp};
use crate::theme::Role;

/// The columns.
const COLUMNS: &[Column] = &[
    Column::text("Name", 10).grow(2).sort(0),
    Column::text("State", 10).sort(1),
    Column::number("Slots", 6).sort(2),
    Column::text("", 8).from(70).grow(1),
    Column::number("Guests", 6).from(60).sort(3),
    Column::number("CPU", 5).sort(4),
    Column::number("Memory", 6).from(56).sort(5),
    Column::number("Press", 5).from(86).sort(6),
    Column::number("Net", 11).from(108).sort(7),
    Column::number("Disk", 5).from(48).sort(8),
    Column::text("Copies", 6).from(100).sort(11),
    Column::number("Owed", 9).from(148).sort(12),
    Column::number("RTT", 7).from(90).sort(9),
    Column::text("System", 14).from(122),
    Column::text("Version", 8).from(138),
    Column::number("Heard", 6).from(40).sort(10),
];

/// Cells from which the chosen machine is shown at the side; else below.
const SIDE_FROM: u16 = 150;

/// Cells and lines of it.
const SIDE: u16 = 56;
const BELOW: u16 = 10;

/// Lines of who wants to come in.
const ENTRANCE: u16 = 3;

/// Round trip from which a machine counts as far.
const SLOW: std::time::Duration = std::time::Duration::from_millis(20);

/// Age from which a measurement is told as old.
const OLD: std::time::Duration = std::time::Duration::from_secs(5);

/// Paints it.
pub(super) fn draw(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    if area.is_empty() {
        return;
    }
    let area = entrance(model, canvas, area);
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
        detail::draw(model, canvas, detail, machine);
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
        &format!(
            "{} {}",
            machine_glyph(machine.state(), glyphs),
            machines::state_words(model.farm(), machine)
        ),
        role,
    );
    let slots =
        if machine.slots > 0 { format!("{}/{}", machine.busy, machine.slots) } else { "-".to_owned() };
    row.cell(2, &slots, Role::Text);
    if let Some(place) = row.place(3).filter(|_| is_up(machine)) {
        running(model, row.canvas(), place, machine);
    }
    // What a machine did before it was lost says nothing of what it does.
    if is_up(machine) {
        row.cell(4, &guests(machine), Role::Text);
        measured(machine, row);
    }
    let (word, role) = copies::role_word(model.farm(), machine);
    row.cell(10, word, role);
    row.cell(13, format!("{} {}", machine.os, machine.arch).trim(), Role::Dim);
    row.cell(14, &machine.version, Role::Dim);
    let heard = machine.last_heard.as_ref().and_then(std_duration);
    let role = if heard.is_some_and(|age| age >= OLD) { Role::Warn } else { Role::Dim };
    let never = if machine.is_self { "self" } else { "never" };
    row.cell(15, &heard.map_or(never.to_owned(), format::age), role);
}

/// Actions of others that run there, and how many may.
fn guests(machine: &Machine) -> String {
    match (machine.guests, machine.guest_slots) {
        (Some(guests), Some(slots)) => format!("{guests}/{slots}"),
        (Some(guests), None) => guests.to_string(),
        (None, Some(slots)) => format!("?/{slots}"),
        (None, None) => "-".to_owned(),
    }
}

fn measured(machine: &Machine, row: &mut Row<'_, '_>) {
    let mut share = |column, share: Option<f64>, bad: f64| {
        let role = if share.is_some_and(|share| share >= bad) { Role::Warn } else { Role::Text };
        row.cell(column, &share.map_or("-".to_owned(), format::share), role);
    };
    share(5, machine.load.as_ref().map(|load| load.cpu), 2.0);
    share(6, memory(machine), 0.9);
    share(7, pressure(machine), 0.2);
    share(9, disk(machine), 0.95);
    if let Some(load) = &machine.load {
        row.cell(8, &format::rate(load.received.saturating_add(load.sent)), Role::Text);
    }
    if let Some(time) = round_trip(machine) {
        let role = if time >= SLOW { Role::Warn } else { Role::Text };
        row.cell(12, &machines::milliseconds(time), role);
    }
    if machine.owed_copies > 0 {
        row.cell(11, &format::bytes(machine.owed_bytes), Role::Text);
    }
}

/// What runs, a cell each in the colour of who sent it; then the free slots.
fn running(model: &Model, canvas: &mut Canvas<'_>, area: Rect, machine: &Machine) {
    let uses = model.farm().uses(machine);
    let free = (machine.slots as usize).saturating_sub(uses.len());
    let unknown = ("?".to_owned(), canvas.theme.style(Role::Running));
    let busy: Vec<_> = uses
        .iter()
        .map(|used| match used {
            Use::Own(op) => bars::sender(canvas, model.farm().sender(op)),
            Use::Guest(sender) => bars::sender(canvas, *sender),
            Use::Unknown => unknown.clone(),
        })
        .collect();
    let empty = (canvas.glyphs.bar_empty.to_owned(), canvas.theme.style(Role::Empty));
    let all = busy.len() + free;
    let pieces = busy.into_iter().chain(std::iter::repeat_n(empty, free));
    bars::pieces(canvas, area, all, pieces);
}

/// Who wants to come in, and by what, in the last lines of `area`; what is left of it.
fn entrance(model: &Model, canvas: &mut Canvas<'_>, area: Rect) -> Rect {
    let lines = entrance_lines(model);
    let may = !model.rights.read_only;
    let height = (lines.len() as u16).min(ENTRANCE).min(area.height.saturating_sub(4));
    let rest = Rect { height: area.height - height, ..area };
    for (y, (text, role, act)) in (rest.bottom()..area.bottom()).zip(lines) {
        let line = Rect { y, height: 1, ..area };
        let x = area.x + 1 + canvas.text(area.x + 1, y, 1, canvas.glyphs.alarm, role) + 1;
        canvas.text(x, y, area.right().saturating_sub(x), &text, role);
        if may {
            canvas.hit(line, Hit::Act(act));
        }
    }
    rest
}

fn entrance_lines(model: &Model) -> Vec<(String, Role, Act)> {
    // Who waits is told on a paused screen too: newcomers do not wait for it.
    let entrance = &model.live.entrance;
    let may = !model.rights.read_only;
    let mut lines: Vec<_> = entrance
        .waiting
        .iter()
        .map(|newcomer| {
            let hint = if may { "; a answers" } else { "" };
            let text = format!("{} asks to come in: {}{hint}", newcomer.name, newcomer.check_words);
            (text, Role::Bad, Act::Answer)
        })
        .collect();
    if let Some(open) = &entrance.invitation {
        let left = left(Stamp::of(open.expires.as_ref()), model.live_now()).unwrap_or_default();
        let own = model.entrance.inviting.as_ref().filter(|own| !own.code.is_empty() && may);
        let what = match own {
            Some(own) => format!("invitation {} is open; I shows it", own.code),
            None => "an invitation is open; who opened it sees its code".to_owned(),
        };
        let wrong = match open.wrong_codes {
            0 => String::new(),
            wrong => format!(", {} tried", format::plural(wrong.into(), "wrong code")),
        };
        lines.push((format!("{what}, {} left{wrong}", clock(left)), Role::Warn, Act::Invite));
    }
    lines
}

/// The look of a state.
pub(in crate::view) fn state_role(state: machine::State) -> Role {
    match state {
        machine::State::Active => Role::Good,
        machine::State::Lost | machine::State::Refused | machine::State::Incompatible => Role::Bad,
        machine::State::Unspecified => Role::Dim,
        _ => Role::Warn,
    }
}
