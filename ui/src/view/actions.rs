//! How the actions view looks: parts as tabs, and a row an operation.

use ratatui::layout::Rect;

use crate::canvas::{Canvas, Hit};
use crate::format;
use crate::model::actions::{Older, Section};
use crate::model::op::Status;
use crate::model::{ListId, Model, Op};
use crate::theme::Role;

use super::bars;
use super::table::{self, Column, Row};

/// Columns from which on there is room for details of the chosen operation.
const DETAIL_ROWS: u16 = 14;

const COLUMNS: [Column; 11] = [
    Column::text("", 1),
    Column::text("", 1),
    Column::text("State", 7).sort(0),
    Column::text("Target", 12).grow(4).sort(1),
    Column::text("Mnemonic", 11).grow(1).sort(2).from(60),
    Column::text("Machine", 8).grow(1).sort(3),
    Column::number("Time", 7).sort(4),
    Column::number("~Exp", 7).sort(5).from(70),
    Column::number("Waited", 6).sort(6).from(90),
    Column::number("CPU", 6).sort(7).from(110),
    Column::number("Memory", 9).sort(8).from(110),
];

/// Paints it.
pub(super) fn draw(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    let tabs = Rect { height: 1.min(area.height), ..area };
    sections(model, canvas, tabs);
    let below = Rect { y: area.y + tabs.height, height: area.height - tabs.height, ..area };
    let detail = if below.height >= DETAIL_ROWS { 2 } else { 0 };
    let body = Rect { height: below.height - detail, ..below };
    let state = &model.lists[ListId::Actions];
    let len = model.actions.len();
    table::draw(canvas, body, ListId::Actions, state, &COLUMNS, len, |number, row| {
        let op = model.actions.row(number).and_then(|key| model.farm().ops.get(key));
        if let Some(op) = op {
            operation(model, op, row);
        }
    });
    if len == 0 && body.height > 1 {
        let text = nothing(model);
        canvas.text(body.x + 1, body.y + 1, body.width.saturating_sub(1), &text, Role::Dim);
    }
    if detail > 0 {
        let line = Rect { y: body.bottom(), height: detail, ..below };
        chosen(model, canvas, line);
    }
}

/// The parts, with how much is in those that are cheap to count.
fn sections(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    let (queued, running, _) = model.farm().ops.counts();
    let narrow = area.width < 76;
    let mut x = area.x + 1;
    for (number, section) in Section::ALL.into_iter().enumerate() {
        let here = section == model.actions.section;
        let count = match section {
            Section::Queue => format!(" {}", format::count(queued as u64)),
            Section::Running => format!(" {}", format::count(running as u64)),
            _ => String::new(),
        };
        let title = if narrow && !here { &section.title()[..3] } else { section.title() };
        let text = format!("{title}{count}");
        let cells = area.right().saturating_sub(x);
        let taken = canvas.text(x, area.y, cells, &text, if here { Role::Key } else { Role::Dim });
        let place = Rect { x, width: taken, ..area };
        if here {
            canvas.tint(place, Role::Selected);
        }
        canvas.hit(place, Hit::Tab(number));
        x += taken + 2;
    }
    if let Some(machine) = &model.actions.machine {
        let rest = Rect { x: x.min(area.right()), width: area.right().saturating_sub(x + 1), ..area };
        canvas.text_right(rest, &format!("on {machine}"), Role::Warn);
    }
}

fn operation(model: &Model, op: &Op, row: &mut Row<'_, '_>) {
    let now = model.node_now();
    let sender = model.farm().sender(op);
    let (sign, style) = bars::sender(row.canvas(), sender);
    row.styled(0, &sign, style);
    let glyphs = row.canvas().glyphs;
    let retried = op.attempts > 1 && !op.status.is_over();
    let status = if retried { glyphs.retried } else { op.status.glyph(glyphs) };
    row.cell(1, status, if retried { Role::Warn } else { op.status.role() });
    row.cell(2, state_word(op), op.status.role());
    let weight = if op.status.is_over() { Role::Dim } else { Role::Text };
    row.path(3, op.label(), if op.status == Status::Failed { Role::Text } else { weight });
    if let Some(filter) = &model.actions.filter {
        row.mark(3, op.label(), filter);
    }
    row.cell(4, &op.mnemonic, Role::Dim);
    row.cell(5, &op.machine, weight);
    let late = op.status == Status::Running
        && op.elapsed(now).zip(op.expected).is_some_and(|(took, expected)| took > expected * 2);
    row.cell(6, &length(op.elapsed(now)), if late { Role::Warn } else { weight });
    let expected = op.expected.map(|expected| format!("~{}", format::duration(expected)));
    row.cell(7, &expected.unwrap_or_default(), Role::Dim);
    row.cell(8, &length(op.waited(now)), Role::Dim);
    row.cell(9, &length(op.cpu_time), Role::Dim);
    if op.peak_memory > 0 && row.has(10) {
        row.cell(10, &format::bytes(op.peak_memory), Role::Dim);
    }
}

/// What it is at, or how it ended.
fn state_word(op: &Op) -> &'static str {
    op.phase().map_or(op.status.word(), |phase| phase.word())
}

fn length(length: Option<std::time::Duration>) -> String {
    length.map(format::duration).unwrap_or_default()
}

/// Why there is no row.
fn nothing(model: &Model) -> String {
    if !model.farm().complete {
        return String::new();
    }
    let narrowed = model.actions.filter.is_some() || model.build.is_some() || model.actions.machine.is_some();
    match (model.actions.section, narrowed) {
        (_, true) => "nothing here passes the filter; esc drops it".to_owned(),
        (Section::Queue, _) => "nothing waits".to_owned(),
        (Section::Running, _) => "nothing runs".to_owned(),
        (Section::All | Section::Finished, _) => "no action was seen yet".to_owned(),
        _ => "none".to_owned(),
    }
}

/// Two lines about the operation that is chosen: what the columns have no room for.
fn chosen(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    let glyphs = canvas.glyphs;
    let line = glyphs.horizontal.repeat(usize::from(area.width));
    canvas.text(area.x, area.y, area.width, &line, Role::Border);
    let older = match model.actions.older {
        Older::Loading => " loading ",
        Older::End => " all is loaded ",
        _ => "",
    };
    let count = format!(" {} ", format::plural(model.actions.len() as u64, "row"));
    canvas.text_right(
        Rect { width: area.width.saturating_sub(2), ..area },
        &format!("{older}{count}"),
        Role::Dim,
    );
    let Some(op) = model.actions.chosen.and_then(|key| model.farm().ops.get(key)) else { return };
    let text = about(model, op).join(&format!(" {} ", glyphs.dot));
    let role = if matches!(op.status, Status::Failed | Status::Error) { Role::Bad } else { Role::Text };
    canvas.text(area.x + 1, area.y + 1, area.width.saturating_sub(2), &text, role);
}

fn about(model: &Model, op: &Op) -> Vec<String> {
    let mut parts = Vec::new();
    match op.status {
        Status::Failed => parts.push(format!("exit code {}", op.exit_code)),
        Status::Error => parts.push(format!("status {}", op.status_code)),
        _ => {}
    }
    if !op.message.is_empty() {
        parts.push(op.message.to_string());
    }
    if let Some(build) = model.farm().builds.get(&op.invocation) {
        parts.push(build.label());
    }
    if let Some(why) = miss_word(op) {
        parts.push(why.to_owned());
    }
    if op.attempts > 1 {
        parts.push(format!("attempt {}", op.attempts));
    }
    if op.callers > 1 {
        parts.push(format!("{} wait for it", op.callers));
    }
    if op.pinned {
        parts.push("pinned".to_owned());
    }
    if op.status == Status::Queued && !op.needs.is_empty() {
        parts.push(format!("needs {}", op.needs.join(" ")));
    }
    parts.push(op.digest.to_string());
    parts
}

/// Why the cache had nothing, in short.
pub(super) fn miss_word(op: &Op) -> Option<&'static str> {
    use farmhand_proto::control::miss::Kind;
    let word = match op.miss {
        Kind::Unspecified | Kind::Hit => return None,
        Kind::First => "never seen before",
        Kind::Changed => "inputs or command changed",
        Kind::Evicted => "its result was evicted",
        Kind::FailedBefore => "failed before",
        Kind::DoNotCache => "must not be cached",
        Kind::Skipped => "the client skipped the cache",
        Kind::OtherInstance => "known in another instance",
        Kind::Damaged => "its result was damaged",
        Kind::Forgotten => "changed, but what it was is forgotten",
    };
    Some(word)
}
