//! How the builds view looks: a row a build.

use ratatui::layout::Rect;

use crate::canvas::Canvas;
use crate::format;
use crate::model::farm::BuildRow;
use crate::model::{ListId, Model};
use crate::theme::Role;

use super::bars;
use super::table::{self, Column, Row};

const COLUMNS: [Column; 14] = [
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
];

/// Paints it.
pub(super) fn draw(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    let state = &model.lists[ListId::Builds];
    let rows = &model.builds.rows;
    table::draw(canvas, area, ListId::Builds, state, &COLUMNS, rows.len(), |number, row| {
        let build = rows.get(number).and_then(|invocation| model.farm().builds.get(invocation));
        if let Some(build) = build {
            one(model, build, row);
        }
    });
    if rows.is_empty() && area.height > 1 && model.farm().complete {
        let text = match model.builds.filter {
            Some(_) => "no build passes the filter; esc drops it",
            None => "no build was seen yet; `farmhand client bazel` prints the settings that send one here",
        };
        canvas.text(area.x + 1, area.y + 1, area.width.saturating_sub(1), text, Role::Dim);
    }
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
