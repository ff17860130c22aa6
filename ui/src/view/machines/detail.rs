//! One machine in full: gauges of what it does, and in words how it stands, who uses it and what it runs.

use farmhand_proto::control::{Load, Machine, Tenancy, machine};
use farmhand_proto::time::std_duration;
use ratatui::layout::Rect;

use super::{OLD, state_role};
use crate::canvas::Canvas;
use crate::format;
use crate::model::copies::{self, Leave};
use crate::model::farm::{Farm, tenant};
use crate::model::machines::{self, disk, memory, round_trip};
use crate::model::{Model, Stamp};
use crate::theme::Role;
use crate::view::bars;
use crate::view::modal::wrapped;

/// Cells of the name of a gauge.
const GAUGE: u16 = 11;

/// Who uses a machine is told one by one up to so many.
const TENANTS: usize = 5;

/// A line of words, with the sign of a sender before it where it is about one.
struct Line {
    text: String,
    role: Role,
    sender: Option<usize>,
}

// === impl Line ===

impl Line {
    fn of(text: String, role: Role) -> Self {
        Self { text, role, sender: None }
    }
}

/// Paints it.
pub(super) fn draw(model: &Model, canvas: &mut Canvas<'_>, area: Rect, machine: &Machine) {
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
    if machine.load.is_none() {
        return words(model, canvas, inner, machine);
    }
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
    let Some(load) = &machine.load else { return 0 };
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

/// How it stands, what it is, who uses it, how it is set, what it runs.
fn words(model: &Model, canvas: &mut Canvas<'_>, area: Rect, machine: &Machine) {
    let mut lines = facts(model.farm(), machine, usize::from(area.width));
    lines.extend(users(model, machine));
    let running = model.farm().running_on(&machine.name).count();
    // What runs is told before settings when not all of it fits.
    let room = usize::from(area.height).saturating_sub(lines.len() + running.min(4));
    lines.extend(settings(model, machine).take(room).map(|text| Line::of(text, Role::Dim)));
    let mut y = area.y;
    for line in lines.iter().take(area.height.into()) {
        let mut x = area.x;
        if let Some(sender) = line.sender {
            x += bars::paint_sender(canvas, x, y, sender) + 1;
        }
        canvas.text(x, y, area.right().saturating_sub(x), &line.text, line.role);
        y += 1;
    }
    now_running(model, canvas, Rect { y, height: area.bottom().saturating_sub(y), ..area }, machine);
}

/// What it says of itself, and how it is reached.
fn facts(farm: &Farm, machine: &Machine, cells: usize) -> Vec<Line> {
    let role = state_role(machine.state());
    let mut lines: Vec<_> =
        wrapped(&sentence(farm, machine), cells).into_iter().map(|text| Line::of(text, role)).collect();
    let mut what = Vec::new();
    let system = format!("{} {}", machine.os, machine.arch);
    what.extend(Some(system.trim().to_owned()).filter(|system| !system.is_empty()));
    what.extend((machine.cpus > 0).then(|| format!("{} CPUs", machine.cpus)));
    what.push(match machine.version.as_str() {
        "" => "version not told".to_owned(),
        version => format!("version {version}"),
    });
    match machine.load.as_ref().and_then(|load| load.on_battery) {
        Some(true) => what.push("on battery".to_owned()),
        Some(false) => what.push("on mains".to_owned()),
        None => {}
    }
    lines.push(Line::of(what.join(", "), Role::Text));
    lines.extend(
        kept(farm, machine)
            .into_iter()
            .flat_map(|(text, role)| wrapped(&text, cells).into_iter().map(move |text| Line::of(text, role))),
    );
    if machine.warm_workers > 0 {
        let memory = format::bytes(machine.warm_worker_bytes);
        lines.push(Line::of(
            format!("warm persistent workers: {} with {memory}", machine.warm_workers),
            Role::Text,
        ));
    }
    if let Some(text) = link(machine) {
        lines.push(Line::of(text, Role::Text));
    }
    let at = if machine.address.is_empty() { String::new() } else { format!(" at {}", machine.address) };
    let way = match machine.found_by.as_str() {
        "self" => format!("this machine{at}"),
        "" => format!("found{at}"),
        "called" => format!("it called first{at}"),
        "configured" => format!("named by the settings{at}"),
        "remembered" => format!("remembered{at}"),
        how => format!("found by {how}{at}"),
    };
    let id = if machine.id.is_empty() { String::new() } else { format!(", id {}", machine.id) };
    lines.push(Line::of(format!("{way}{id}"), Role::Dim));
    lines
}

/// What it has of the copies, and what it owes; of one that tells nothing, nothing.
fn kept(farm: &Farm, machine: &Machine) -> Vec<(String, Role)> {
    if !copies::tells(machine) {
        return Vec::new();
    }
    let mut parts = vec![match (machine.keeps_copies, machine.caches_because.as_str()) {
        (true, _) => "keeps copies".to_owned(),
        (false, "") => "caches only".to_owned(),
        (false, because) => format!("caches only: {because}"),
    }];
    if machine.owed_copies > 0 {
        parts.push(format!("{} to make", copies::owed(machine.owed_copies, machine.owed_bytes)));
    }
    let mut lines = vec![(parts.join("; "), Role::Text)];
    // Of one that leaves, that stands in the first line.
    if machine.sole_entries > 0 && copies::leave(farm, machine).is_none() {
        let what = copies::entries(machine.sole_entries, machine.sole_bytes);
        lines.push((format!("only there: {what}"), Role::Warn));
    }
    lines
}

/// The link to it: how far it is, and how far its clock is off.
fn link(machine: &Machine) -> Option<String> {
    let mut parts = Vec::new();
    parts.extend(round_trip(machine).map(|time| format!("round trip {}", machines::milliseconds(time))));
    parts.extend(machines::clock_ahead(machine).map(machines::clock_words));
    if machine.linked && !machine.links_back {
        parts.push("it has no link to this machine".to_owned());
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Who uses it: of this machine everybody, of others this machine.
fn users(model: &Model, machine: &Machine) -> Vec<Line> {
    let tenancies: Vec<_> = model.farm().tenancies(machine).collect();
    let mut lines: Vec<_> = tenancies
        .iter()
        .take(TENANTS)
        .map(|(tenancy, sender)| Line {
            text: tenant_words(tenancy, machine),
            role: Role::Text,
            sender: Some(*sender),
        })
        .collect();
    if tenancies.len() > TENANTS {
        lines.push(Line::of(format!("and {} more who use it", tenancies.len() - TENANTS), Role::Dim));
    }
    if machine.linked && !machine.is_self {
        let running = model.farm().running_on(&machine.name).count();
        let text = match running {
            0 => "nothing of this machine runs there".to_owned(),
            running => format!("{} of this machine there", format::plural(running as u64, "action")),
        };
        lines.push(Line::of(text, Role::Text));
    }
    lines
}

fn tenant_words(tenancy: &Tenancy, machine: &Machine) -> String {
    let owner = tenant(tenancy, machine);
    let person = if tenancy.person.is_empty() || tenancy.person == owner {
        owner.to_owned()
    } else {
        format!("{}@{owner}", tenancy.person)
    };
    let mut text = format!("{person} {} of {}", tenancy.running, tenancy.granted);
    if tenancy.ahead > 0 {
        text.push_str(&format!(", {} ahead", tenancy.ahead));
    }
    if tenancy.waiting > 0 {
        text.push_str(&format!(", {} wait", format::count(tenancy.waiting.into())));
    }
    text
}

/// What is known of the node that answers besides.
fn settings(model: &Model, machine: &Machine) -> impl Iterator<Item = String> {
    let node = model.farm().node.as_ref().filter(|_| machine.is_self);
    let of_node = node.map(|node| {
        [format!("actions are kept apart by {}", node.sandbox), format!("data in {}", node.data_dir)]
    });
    let set = model.machines.settings.iter().flatten().filter(move |_| machine.is_self);
    let set = set.map(|(name, value)| format!("{name} = {value}"));
    of_node.into_iter().flatten().chain(set)
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
fn sentence(farm: &Farm, machine: &Machine) -> String {
    let (busy, slots, reason) = (machine.busy, machine.slots, machine.reason.as_str());
    let because = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
    let heard = machine.last_heard.as_ref().and_then(std_duration).map(format::age).unwrap_or_default();
    match machine.state() {
        machine::State::Active => format!("takes actions: {busy} of {slots} slots in use{because}"),
        machine::State::Yielding => {
            let why = if reason.is_empty() { "lends fewer slots for now" } else { reason };
            format!("{why}; {busy} of {slots} slots in use")
        }
        machine::State::Draining => {
            match (copies::leave(farm, machine), copies::leave_words(farm, machine)) {
                (Some(Leave::Safe), _) => format!("drained: safe to leave, others have all it has{because}"),
                (_, Some((left, _))) if busy == 0 => format!("drained, but {left}{because}"),
                (_, Some((left, _))) => format!("draining: {busy} still run; {left}{because}"),
                (_, None) if busy == 0 => format!("drained: it may leave{because}"),
                (_, None) => format!("draining: {busy} still run, takes nothing new{because}"),
            }
        }
        machine::State::Paused => format!("told to rest: takes nothing new, {busy} still run{because}"),
        machine::State::Lost => format!("lost: last heard {heard} ago: {reason}"),
        machine::State::Connecting => {
            let way = if machine.address.is_empty() { "nowhere" } else { &machine.address };
            let tried = if reason.is_empty() { "not tried yet" } else { reason };
            format!("looked for at {way}: {tried}")
        }
        machine::State::Refused => format!("refused: {reason}"),
        machine::State::Incompatible => format!("does not fit: {reason}"),
        machine::State::Unspecified => "its state was not told".to_owned(),
    }
}
