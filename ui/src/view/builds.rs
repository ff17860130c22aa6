//! How the builds view looks: a row a build.

use std::sync::Arc;

use ratatui::layout::Rect;

use crate::canvas::Canvas;
use crate::format;
use crate::model::farm::BuildRow;
use crate::model::{ListId, Model};
use crate::theme::Role;

use super::bars;
use super::table::{self, Column, Row};

const COLUMNS: [Column; 15] = [
    Column::text("", 1),
    Column::text("", 1),
    Column::text("Build", 12).grow(2).sort(0),
    Column::text("Tool", 8).grow(1).sort(1).from(64),
    Column::number("Began", 6).sort(2).from(72),
    Column::number("Done", 5).sort(3),
    Column::number("Run", 4).sort(4),
    Column::number("Wait", 5).sort(5),
    Column::number("Hits", 5).sort(6),
    Column::number("Failed", 6).sort(7),
    Column::number("Up", 9).sort(8).from(100),
    Column::number("Down", 9).sort(9).from(100),
    Column::text("Share", 7).sort(10).from(58),
    Column::number("~ETA", 6).sort(11),
    Column::text("Runs on", 16).grow(1).from(112),
];

/// Lines of the chosen build, and cells of a label there.
const BELOW: u16 = 4;
const LABEL: u16 = 10;

/// Paints it.
pub(super) fn draw(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    let (area, below) = divide(area);
    let state = &model.lists[ListId::Builds];
    let rows = &model.builds.rows;
    table::draw(canvas, area, ListId::Builds, state, &COLUMNS, rows.len(), |number, row| {
        let build = rows.get(number).and_then(|invocation| model.farm().builds.get(invocation));
        if let Some(build) = build {
            one(model, build, row);
        }
    });
    let chosen = model.builds.chosen.as_ref().and_then(|invocation| model.farm().builds.get(invocation));
    if let (Some(build), false) = (chosen, below.is_empty()) {
        in_full(model, canvas, below, build);
    }
    if rows.is_empty() && area.height > 1 && model.farm().complete {
        let text = match model.builds.filter {
            Some(_) => "no build passes the filter; esc drops it",
            None => "no build was seen yet; `farmhand client bazel` prints the settings that send one here",
        };
        canvas.text(area.x + 1, area.y + 1, area.width.saturating_sub(1), text, Role::Dim);
    }
}

/// The table, and lines for the chosen build below it where there is room.
fn divide(area: Rect) -> (Rect, Rect) {
    let below = if area.height >= BELOW + 6 { BELOW } else { 0 };
    let list = Rect { height: area.height - below, ..area };
    (list, Rect { y: list.bottom(), height: below, ..area })
}

/// The chosen build: whose it is, and where it runs.
fn in_full(model: &Model, canvas: &mut Canvas<'_>, area: Rect, build: &BuildRow) {
    let rule = canvas.glyphs.horizontal.repeat(area.width.into());
    canvas.text(area.x, area.y, area.width, &rule, Role::Border);
    let title = format!(" {} ", build.label());
    canvas.text(area.x + 2, area.y, area.width.saturating_sub(4), &title, Role::Title);
    let wire = &build.wire;
    let who = match (wire.user.as_str(), wire.machine.as_str()) {
        ("", "") => "not told".to_owned(),
        ("", machine) => format!("somebody, by {machine}"),
        (user, machine) => format!("{user}, by {machine}"),
    };
    let places = model.builds.places(&build.invocation);
    let where_to = match (places, wire.queued) {
        ([], 0) => "nothing runs now".to_owned(),
        ([], queued) => format!("nothing yet, {} wait", format::count(queued)),
        (places, _) => on(places),
    };
    let lines = [("person", who), ("runs on", where_to), ("build", build.invocation.to_string())];
    for (y, (label, value)) in (area.y + 1..area.bottom()).zip(lines) {
        canvas.text(area.x + 1, y, LABEL, label, Role::Dim);
        let x = area.x + 1 + LABEL;
        canvas.text(x, y, area.right().saturating_sub(x), &value, Role::Text);
    }
}

/// Machines with how much runs on each.
fn on(places: &[(Arc<str>, usize)]) -> String {
    places.iter().map(|(machine, count)| format!("{machine} {count}")).collect::<Vec<_>>().join(", ")
}

fn one(model: &Model, build: &BuildRow, row: &mut Row<'_, '_>) {
    let now = model.node_now();
    let active = build.is_active(now);
    let wire = &build.wire;
    let (sign, style) = bars::sender(row.canvas(), build.sender);
    row.styled(0, &sign, style);
    let glyphs = row.canvas().glyphs;
    let (state, role) = match (active, wire.running) {
        (true, 0) => (glyphs.queued, Role::Queued),
        (true, _) => (glyphs.running, Role::Running),
        (false, _) => (glyphs.ok, Role::Dim),
    };
    row.cell(1, state, role);
    let weight = if active { Role::Text } else { Role::Dim };
    let name = if build.person.is_empty() { &build.invocation } else { &build.person };
    row.cell(2, name, weight);
    row.cell(3, &wire.tool, Role::Dim);
    let began = model.since(build.began()).map(format::age);
    row.cell(4, &began.map(|age| format!("{age} ago")).unwrap_or_default().replace(" ago", ""), Role::Dim);
    row.cell(5, &format::count(build.done()), weight);
    row.cell(6, &some(wire.running), Role::Running);
    row.cell(7, &some(wire.queued), weight);
    row.cell(8, &format::percent(wire.hits, wire.lookups), Role::Hit);
    row.cell(9, &some(wire.failed), Role::Bad);
    row.cell(10, &bytes(wire.uploaded_bytes), Role::Dim);
    row.cell(11, &bytes(wire.downloaded_bytes), Role::Dim);
    share(model, build, row);
    let eta = build.remaining(now).map(|eta| format!("~{}", format::age(eta)));
    row.cell(13, &eta.unwrap_or_default(), weight);
    row.cell(14, &on(model.builds.places(&build.invocation)), Role::Text);
}

/// Its share of the slots that are in use or could be.
fn share(model: &Model, build: &BuildRow, row: &mut Row<'_, '_>) {
    let (_, slots) = model.farm().slots();
    let Some(place) = row.place(12).filter(|_| build.wire.running > 0 && slots > 0) else { return };
    let share = build.wire.running as f64 / slots as f64;
    let bar = Rect { width: place.width.saturating_sub(4), ..place };
    bars::share(row.canvas(), bar, share, Role::Running);
    let text = format::share(share.min(1.0));
    row.canvas().text_right(place, &text, Role::Dim);
}

/// Nothing for none, so that what is there stands out.
fn some(number: u64) -> String {
    if number == 0 { String::new() } else { format::count(number) }
}

fn bytes(bytes: u64) -> String {
    if bytes == 0 { String::new() } else { format::bytes(bytes) }
}
