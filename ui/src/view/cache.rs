//! How the cache view looks: the store in words, hit rate and size over time, rates by kind and by
//! build; and the copies on other machines.

pub(super) mod copies;

use farmhand_proto::control::Storage;
use farmhand_proto::time::std_duration;
use ratatui::layout::Rect;

use super::table::{self, Column, Row};
use super::{bars, graph, tabs};
use crate::canvas::Canvas;
use crate::format;
use crate::model::cache::{self, Forecast, Part, Rate};
use crate::model::copies::{self as copies_of, told};
use crate::model::{ListId, Model};
use crate::theme::Role;

/// The columns.
const COLUMNS: &[Column] = &[
    Column::text("Name", 14).grow(2).sort(0),
    Column::number("Look-ups", 8).sort(1),
    Column::number("Hits", 6).sort(2),
    Column::number("Rate", 5).sort(3),
    Column::text("", 6).grow(1).from(60),
    Column::number("Ran", 6).sort(4),
    Column::number("Failed", 6).sort(5).from(50),
    Column::number("Saved", 7).sort(6).from(66),
    Column::number("Time", 7).sort(7).from(74),
];

/// Lines of the upper half.
const UPPER: u16 = 11;

/// Lines of the lower half from which on machines and their copies are below the rates.
const TALL: u16 = 20;

/// A label of the words at the left.
const LABEL: u16 = 9;

/// One line of words: label, text, look, and the share of a bar.
type Line = (&'static str, String, Role);

/// Paints it.
pub(super) fn draw(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    if area.is_empty() {
        return;
    }
    let titles = Part::ALL.map(Part::title);
    let shown = Part::ALL.iter().position(|part| *part == model.cache.part).unwrap_or(0);
    let line = Rect { x: area.x + 1, width: area.width.saturating_sub(1), height: 1, ..area };
    tabs::draw(canvas, line, &titles, shown);
    let area = Rect { y: area.y + 1, height: area.height - 1, ..area };
    if model.cache.part == Part::Copies {
        return copies::draw(model, canvas, area);
    }
    let upper = if area.height >= UPPER + 5 { UPPER } else { 0 };
    let above = Rect { height: upper, ..area };
    if upper > 0 {
        let is_wide = area.width >= 76;
        let left = Rect { width: if is_wide { area.width / 2 + 6 } else { area.width }, ..above };
        words(model, canvas, left);
        if is_wide {
            graphs(model, canvas, Rect { x: left.right() + 1, width: area.width - left.width - 1, ..above });
        }
    }
    let below = Rect { y: above.bottom(), height: area.height - upper, ..area };
    let machines = model.farm().machines.len();
    let is_shown = below.height >= TALL && machines > 1 && told(model.farm()).is_some();
    let wanted = if is_shown { machines.min(40) as u16 + 3 } else { 0 };
    let kept = (model.cache.rows.len() as u16).saturating_add(2).clamp(7, (below.height / 2).max(7));
    let height = wanted.min(below.height.saturating_sub(kept));
    rates(model, canvas, Rect { height: below.height - height, ..below });
    if height > 0 {
        let y = below.bottom() - height;
        copies::summary(model, canvas, Rect { y, height, ..below });
    }
}

fn words(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    let storage = &model.farm().storage;
    let share = storage.used_bytes as f64 / storage.budget_bytes.max(1) as f64;
    let place =
        Rect { x: area.x + 1 + LABEL, width: area.width.saturating_sub(LABEL + 3), height: 1, ..area };
    canvas.text(area.x + 1, area.y, LABEL, "stored", Role::Dim);
    let role = if share >= 0.95 { Role::Warn } else { Role::Graph };
    bars::share(canvas, place, share, role);
    let mut lines: Vec<Line> = vec![("", used(storage, share), Role::Text)];
    lines.extend(contents(model, storage));
    lines.extend(safety(model, storage));
    lines.extend(copies(model, place.width));
    lines.truncate(usize::from(area.height).saturating_sub(1));
    for (y, (label, text, role)) in (area.y + 1..area.bottom()).zip(lines) {
        canvas.text(area.x + 1, y, LABEL, label, Role::Dim);
        canvas.text(place.x, y, place.width, &text, role);
    }
}

fn used(storage: &Storage, share: f64) -> String {
    let (used, budget) = (format::bytes(storage.used_bytes), format::bytes(storage.budget_bytes));
    format!("{used} of {budget}, {}", format::share(share))
}

fn contents(model: &Model, storage: &Storage) -> Vec<Line> {
    let results = format::plural(storage.action_results, "result");
    let pinned = if storage.pinned > 0 {
        format!(", {} pinned", format::count(storage.pinned))
    } else {
        String::new()
    };
    let leased = format::bytes(storage.leased_bytes);
    let execution = &model.farm().execution;
    let rate = format::percent(execution.recent_hits, execution.recent_lookups);
    let all = format::percent(execution.hits, execution.lookups);
    let saved = format::duration(cache::saved(model.farm()));
    vec![
        ("hits", format!("{rate} now, {all} in all, {saved} saved"), Role::Hit),
        ("holds", format!("{results}{pinned}, {} blobs", format::count(storage.blobs)), Role::Text),
        ("leased", format!("{leased} must not go now"), Role::Text),
    ]
}

fn safety(model: &Model, storage: &Storage) -> Vec<Line> {
    let youngest = storage.youngest_victim.as_ref().and_then(std_duration);
    let evicted = match youngest {
        None => "nothing since the start".to_owned(),
        Some(age) => {
            let count = format::count(storage.evictions);
            format!("{count} in all, youngest {} old", format::duration(age))
        }
    };
    let progress = format::share(storage.scrub_progress.clamp(0.0, 1.0));
    let checked = format!("{progress} of pass {}", format::count(storage.scrub_passes.saturating_add(1)));
    let damage = match storage.damaged {
        0 => (", no damage".to_owned(), Role::Text),
        damaged => (format!(", {} damaged dropped", format::count(damaged)), Role::Bad),
    };
    let (forecast, forecast_role) = forecast_words(cache::forecast(model.farm()));
    vec![
        ("evicted", evicted, Role::Text),
        ("fills", forecast, forecast_role),
        ("checked", format!("{checked}{}", damage.0), damage.1),
    ]
}

fn forecast_words(forecast: Forecast) -> (String, Role) {
    match forecast {
        Forecast::Unknown => ("not known yet".to_owned(), Role::Dim),
        Forecast::Steady => ("it does not grow".to_owned(), Role::Text),
        Forecast::Evicting(rate) => {
            (format!("full: ~{} evicted a minute", format::count(rate.ceil() as u64)), Role::Warn)
        }
        Forecast::Full(rate, after) => {
            let role = if after.as_secs() < 3600 { Role::Warn } else { Role::Text };
            (format!("in ~{} at {}", format::age(after), format::rate(rate as u64)), role)
        }
    }
}

/// How many copies there are of what is stored.
fn copies(model: &Model, width: u16) -> Vec<Line> {
    const ONE: [&str; 2] = ["1: if this machine leaves", "you lose everything it holds"];
    match (model.farm().machines.len(), usize::from(width) > ONE[0].len() + ONE[1].len()) {
        (0 | 1, true) => vec![("copies", ONE.join(" "), Role::Warn)],
        (0 | 1, false) => vec![("copies", ONE[0].into(), Role::Warn), ("", ONE[1].into(), Role::Warn)],
        (_, _) => match told(model.farm()) {
            Some(told) => {
                let (count, role) = copies_of::count_words(told);
                let (behind, late) = copies_of::behind_words(told);
                vec![("copies", count, role), ("owed", behind, late)]
            }
            None => vec![("copies", "not told by this node".to_owned(), Role::Dim)],
        },
    }
}

fn graphs(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    let samples = &model.farm().samples;
    let half = area.height / 2;
    let rate = Rect { height: half, ..area };
    let stored = Rect { y: area.y + half, height: area.height - half, ..area };
    let hits: Vec<Option<f64>> = samples
        .iter()
        .map(|sample| (sample.lookups > 0).then(|| f64::from(sample.hits) / f64::from(sample.lookups)))
        .collect();
    graph_of(canvas, rate, "hit rate, a second each", "100%", &hits, 1.0, Role::Hit);
    let used: Vec<Option<f64>> = samples.iter().map(|sample| Some(sample.used_bytes as f64)).collect();
    // From the least on, so that a change can be seen beside what was there long before.
    let least = samples.iter().map(|sample| sample.used_bytes).min().unwrap_or(0) as f64;
    let most = samples.iter().map(|sample| sample.used_bytes).max().unwrap_or(0) as f64;
    let grown: Vec<Option<f64>> = used.iter().map(|used| used.map(|used| used - least)).collect();
    let title = match (format::bytes(least as u64), format::bytes(most as u64)) {
        (least, most) if least == most => format!("stored, {most} all the time"),
        (least, most) => format!("stored, from {least} up to {most}"),
    };
    graph_of(canvas, stored, &title, "", &grown, (most - least).max(1.0), Role::Graph);
}

fn graph_of(
    canvas: &mut Canvas<'_>,
    area: Rect,
    title: &str,
    top: &str,
    values: &[Option<f64>],
    most: f64,
    role: Role,
) {
    if area.height < 2 || area.width < 8 {
        return;
    }
    canvas.text(area.x, area.y, area.width, title, Role::Dim);
    canvas.text_right(Rect { width: area.width - 1, ..area }, top, Role::Dim);
    let place = Rect { y: area.y + 1, height: area.height - 1, width: area.width - 1, ..area };
    graph::draw(canvas, place, values, most, role);
}

fn rates(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    if area.is_empty() {
        return;
    }
    let state = model.lists[ListId::Cache];
    let rows = &model.cache.rows;
    table::draw(canvas, area, ListId::Cache, &state, COLUMNS, rows.len(), |number, row| {
        rate_row(model, &rows[number], row);
    });
    if rows.is_empty() && area.height > 1 {
        let words = if model.cache.filter.is_some() {
            "nothing fits the filter"
        } else {
            "nothing was looked up yet"
        };
        canvas.text(area.x + 1, area.y + 1, area.width.saturating_sub(1), words, Role::Dim);
    }
}

fn rate_row(model: &Model, rate: &Rate, row: &mut Row<'_, '_>) {
    match rate.sender {
        Some(sender) => row.styled(0, &rate.name, model.theme.sender(sender)),
        None => row.cell(0, &rate.name, Role::Text),
    }
    row.cell(1, &format::count(rate.lookups), Role::Text);
    row.cell(2, &format::count(rate.hits), Role::Hit);
    row.cell(3, &format::percent(rate.hits, rate.lookups), Role::Text);
    if let (Some(place), Some(share)) = (row.place(4), rate.share()) {
        bars::share(row.canvas(), place, share, Role::Hit);
    }
    row.cell(5, &format::count(rate.ran), Role::Text);
    let role = if rate.failed > 0 { Role::Bad } else { Role::Dim };
    row.cell(6, &format::count(rate.failed), role);
    row.cell(7, &rate.saved.map_or("-".to_owned(), format::duration), Role::Text);
    row.cell(8, &rate.time.map_or("-".to_owned(), format::duration), Role::Dim);
}
