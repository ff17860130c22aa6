//! How the copies on other machines look: in words, over time, and machine by machine.

use farmhand_proto::control::{Machine, Replication};
use ratatui::layout::Rect;

use super::{LABEL, graph_of};
use crate::canvas::Canvas;
use crate::model::copies::{self, compared, told};
use crate::model::farm::is_up;
use crate::model::machines::disk;
use crate::model::{ListId, Model};
use crate::theme::Role;
use crate::view::bars;
use crate::view::modal::wrapped;
use crate::view::table::{self, Column, Row};
use crate::{format, sanitize};

/// The columns.
const COLUMNS: &[Column] = &[
    Column::text("Machine", 10).grow(1).sort(0),
    Column::text("Copies", 12).grow(3).sort(1),
    Column::text("Disk", 8).grow(1).sort(2),
    Column::number("", 4).from(60),
    Column::number("Stored", 14).from(96),
    Column::number("Full", 6).from(50).sort(3),
    Column::number("Owed", 9).from(42).sort(4),
    Column::number("Only there", 10).sort(5),
    Column::number("of these", 9).from(110),
];

/// Cells from which on graphs are beside the words.
const WIDE: u16 = 76;

/// Lines that the table of machines has at least, where there are as many.
const LEAST: u16 = 5;

/// One line of the words.
enum Line {
    /// Label, text and look.
    Words(&'static str, String, Role),
    /// Label, and how much of it is done.
    Bar(&'static str, f64),
}

/// Paints it.
pub(super) fn draw(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    let is_wide = area.width >= WIDE;
    let width = if is_wide { area.width / 2 + 6 } else { area.width };
    let lines = lines(model, usize::from(width.saturating_sub(LABEL + 2)));
    let rows = model.cache.machines.len().min(40) as u16 + 1;
    let least = rows.min(LEAST).min(area.height);
    let upper = (lines.len() as u16 + 1).min(area.height - least);
    let left = Rect { width, height: upper, ..area };
    paint(canvas, left, &lines);
    if is_wide && told(model.farm()).is_some() {
        // A line stays free above the table.
        let height = upper.saturating_sub(1);
        let right = Rect { x: left.right() + 1, width: area.width - width - 1, height, ..area };
        graphs(model, canvas, right);
    }
    machines(model, canvas, Rect { y: area.y + upper, height: area.height - upper, ..area });
}

/// Machines with what they have, below something else.
pub(in crate::view) fn summary(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    let rule = canvas.glyphs.horizontal.repeat(area.width.into());
    canvas.text(area.x, area.y, area.width, &rule, Role::Border);
    let title = match told(model.farm()) {
        Some(told) => format!(" Copies {} ", copies::count_words(told).0),
        None => " Copies ".to_owned(),
    };
    canvas.text(area.x + 1, area.y, area.width.saturating_sub(2), &title, Role::Title);
    let body = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
    let machines = &model.farm().machines;
    table::draw_plain(canvas, body, COLUMNS, machines.len(), |number, row| {
        machine_row(model, &machines[number], row);
    });
}

fn machines(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    let state = model.lists[ListId::Copies];
    let rows = &model.cache.machines;
    table::draw(canvas, area, ListId::Copies, &state, COLUMNS, rows.len(), |number, row| {
        if let Some(machine) = model.farm().machine(&rows[number]) {
            machine_row(model, machine, row);
        }
    });
    if rows.is_empty() && area.height > 1 {
        let words = match model.cache.filter {
            Some(_) => "no machine fits the filter",
            None => "the node tells of no machine",
        };
        canvas.text(area.x + 1, area.y + 1, area.width.saturating_sub(1), words, Role::Dim);
    }
}

fn machine_row(model: &Model, machine: &Machine, row: &mut Row<'_, '_>) {
    row.cell(0, &machine.name, if is_up(machine) { Role::Strong } else { Role::Dim });
    let (text, role) = copies::role_words(model.farm(), machine);
    row.cell(1, &text, role);
    if machine.budget_bytes > 0 {
        let share = disk(machine).unwrap_or(0.0);
        let role = if share >= 0.95 { Role::Warn } else { Role::Graph };
        if let Some(place) = row.place(2) {
            bars::share(row.canvas(), place, share, if is_up(machine) { role } else { Role::Dim });
        }
        row.cell(3, &format::share(share), Role::Text);
        row.cell(4, &format::bytes_of(machine.used_bytes, machine.budget_bytes), Role::Dim);
    }
    let (text, role) = copies::filling_word(copies::filling(model.farm(), machine));
    row.cell(5, &text, role);
    if !copies::tells(machine) {
        return;
    }
    let number = |bytes: u64, none: bool| if none { "-".to_owned() } else { format::bytes(bytes) };
    let is_owing = machine.owed_copies > 0 || machine.owed_bytes > 0;
    row.cell(6, &number(machine.owed_bytes, !is_owing), if is_owing { Role::Text } else { Role::Dim });
    let is_sole = machine.sole_entries > 0;
    row.cell(7, &number(machine.sole_bytes, !is_sole), if is_sole { Role::Warn } else { Role::Dim });
    row.cell(8, &if is_sole { format::count(machine.sole_entries) } else { String::new() }, Role::Dim);
}

fn lines(model: &Model, cells: usize) -> Vec<Line> {
    let farm = model.farm();
    let Some(told) = told(farm) else {
        let text = match farm.machines.len() {
            0 | 1 => "one machine keeps one copy: if it leaves, you lose everything it holds",
            _ => "this node does not tell of copies on other machines",
        };
        return wrapped(text, cells).into_iter().map(|text| Line::Words("", text, Role::Dim)).collect();
    };
    let mut lines = Vec::new();
    let mut add = |label: &'static str, (text, role): (String, Role)| {
        for (number, text) in wrapped(&text, cells).into_iter().enumerate() {
            lines.push(Line::Words(if number == 0 { label } else { "" }, text, role));
        }
    };
    add("copies", copies::count_words(told));
    add("owed", copies::behind_words(told));
    add("at risk", copies::sole_words(farm, told));
    if let Some(text) = copies::away_words(farm) {
        add("away", (text, Role::Warn));
    }
    if told.refused_copies > 0 {
        let text = format!("no machine has room for {}", format::count(told.refused_copies));
        add("refused", (text, Role::Bad));
    }
    add("here", (here(told, cells), Role::Text));
    add("moved", (moved(told, cells), Role::Text));
    add("healed", healed(model, told));
    if let Some(share) = compared(told) {
        lines.insert(2, Line::Bar("compared", share));
    }
    if told.repair_copies > 0 {
        let speed = match told.bytes_per_second {
            0 => String::new(),
            speed => format!(" at {}", format::rate(speed)),
        };
        let text = fitting([copies::repair_words(told) + &speed, copies::repair_words(told)], cells);
        lines.insert(2, Line::Words("repair", text, Role::Warn));
        lines.insert(3, Line::Bar("", farm.copies.repaired(told)));
    }
    lines
}

/// The first of these that has room, else the last.
fn fitting(texts: [String; 2], cells: usize) -> String {
    let [long, short] = texts;
    if sanitize::width(&long) <= cells { long } else { short }
}

/// What this machine has of the copies.
fn here(told: &Replication, cells: usize) -> String {
    let (counted, spare) = (format::bytes(told.counted_bytes), format::bytes(told.spare_bytes));
    let numbers = (format::count(told.counted_entries), format::count(told.spare_entries));
    let long = format!("{counted} in {} that count, {spare} in {} beyond", numbers.0, numbers.1);
    fitting([long, format!("{counted} that count, {spare} beyond")], cells)
}

/// What went to and fro.
fn moved(told: &Replication, cells: usize) -> String {
    let (sent, fetched) = (format::bytes(told.sent_bytes), format::bytes(told.fetched_bytes));
    let numbers = (format::count(told.sent_copies), format::count(told.fetched_entries));
    let long = format!("{sent} sent in {}, {fetched} fetched in {}", numbers.0, numbers.1);
    fitting([long, format!("{sent} sent, {fetched} fetched")], cells)
}

fn healed(model: &Model, told: &Replication) -> (String, Role) {
    match (told.healed, model.farm().storage.damaged) {
        (0, 0) => ("nothing was damaged".to_owned(), Role::Text),
        (healed, damaged) => {
            let role = if healed < damaged { Role::Warn } else { Role::Text };
            (format!("{} of {} damaged", format::count(healed), format::count(damaged.max(healed))), role)
        }
    }
}

fn paint(canvas: &mut Canvas<'_>, area: Rect, lines: &[Line]) {
    for (y, line) in (area.y..area.bottom()).zip(lines) {
        let x = (area.x + 1 + LABEL).min(area.right());
        let place = Rect { x, y, width: area.right().saturating_sub(x + 1), height: 1 };
        match line {
            Line::Words(label, text, role) => {
                canvas.text(area.x + 1, y, LABEL.min(area.width), label, Role::Dim);
                canvas.text(place.x, y, place.width, text, *role);
            }
            Line::Bar(label, share) => {
                canvas.text(area.x + 1, y, LABEL.min(area.width), label, Role::Dim);
                let text = format!("{:>5}", format!("~{}", format::share(*share)));
                let bar = Rect { width: place.width.saturating_sub(6).min(40), ..place };
                bars::share(canvas, bar, *share, Role::Graph);
                canvas.text(
                    bar.right() + 1,
                    y,
                    place.right().saturating_sub(bar.right() + 1),
                    &text,
                    Role::Dim,
                );
            }
        }
    }
}

/// What was owed, and how old the oldest write with too few copies was.
fn graphs(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    let points = &model.farm().copies.points;
    let half = area.height / 2;
    let upper = Rect { height: half, ..area };
    let lower = Rect { y: area.y + half, height: area.height - half, ..area };
    let owed: Vec<_> = points.iter().map(|point| Some(point.owed as f64)).collect();
    let most = points.iter().map(|point| point.owed).max().unwrap_or(0);
    let title = format!("owed, {} at most", format::bytes(most));
    graph_of(canvas, upper, &title, "", &owed, (most as f64).max(1.0), Role::Graph);
    let lag: Vec<_> = points.iter().map(|point| Some(point.lag.as_secs_f64())).collect();
    let most = points.iter().map(|point| point.lag).max().unwrap_or_default();
    let title = format!("behind, {} at most", format::age(most));
    graph_of(canvas, lower, &title, "", &lag, most.as_secs_f64().max(1.0), Role::Graph2);
}
