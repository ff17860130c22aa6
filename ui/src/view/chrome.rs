//! What stands around every view: the header, the views and the way here, banners, hints.

use ratatui::layout::Rect;

use farmhand_proto::control::warning::Level;

use crate::canvas::{Canvas, Hit};
use crate::keymap::{self, Act, Binding, Place};
use crate::model::copies;
use crate::model::{Link, Model, SILENCE};
use crate::options::View;
use crate::theme::Role;
use crate::{format, sanitize, update};

/// Time without a key after which advice takes the line of hints.
const CALM: std::time::Duration = std::time::Duration::from_secs(8);

/// A piece of a line: text, look, and how dear it is: the least dear go first when room is short.
struct Piece {
    text: String,
    role: Role,
    dear: u8,
}

fn piece(text: String, role: Role, dear: u8) -> Piece {
    Piece { text, role, dear }
}

/// The header line: the farm in numbers.
pub(super) fn header(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    canvas.fill(area, Role::Header);
    let mut pieces = match model.farm().node {
        Some(_) => numbers(model),
        None => vec![piece("farmhand".to_owned(), Role::Header, 9)],
    };
    let alarm = alarm(model, canvas);
    if let Some(alarm) = alarm {
        pieces.push(alarm);
    }
    let width = |pieces: &[Piece]| pieces.iter().map(|piece| sanitize::width(&piece.text) + 2).sum::<usize>();
    while pieces.len() > 1 && width(&pieces) > usize::from(area.width) {
        let least = pieces.iter().enumerate().min_by_key(|(_, piece)| piece.dear).map_or(0, |(at, _)| at);
        pieces.remove(least);
    }
    let mut x = area.x + 1;
    for piece in pieces {
        x += canvas.text(x, area.y, area.right().saturating_sub(x), &piece.text, piece.role) + 2;
    }
}

fn numbers(model: &Model) -> Vec<Piece> {
    let farm = model.farm();
    let (up, machines) = farm.up();
    let (busy, slots) = farm.slots();
    let (storage, execution) = (&farm.storage, &farm.execution);
    let lost = if up < machines { Role::Bad } else { Role::Header };
    let full = storage.used_bytes as f64 >= 0.95 * storage.budget_bytes.max(1) as f64;
    let mut pieces = vec![
        piece(farm.name().to_owned(), Role::Title, 9),
        piece(format!("{up}/{}", format::plural(machines as u64, "machine")), lost, 6),
        piece(format!("{busy}/{slots} slots"), if busy > 0 { Role::Running } else { Role::Header }, 7),
        piece(format!("{} queued", format::count(execution.queued)), Role::Header, 8),
        piece(format!("{:.1}/s", farm.rate(5)), Role::Header, 5),
        piece(
            format!("{} hits", format::percent(execution.recent_hits, execution.recent_lookups)),
            Role::Hit,
            4,
        ),
        piece(
            format::bytes_of(storage.used_bytes, storage.budget_bytes),
            if full { Role::Warn } else { Role::Header },
            2,
        ),
    ];
    pieces.extend(copies_piece(model));
    pieces
}

/// How the copies on other machines stand, in short.
fn copies_piece(model: &Model) -> Option<Piece> {
    let told = copies::told(model.farm())?;
    let (count, wanted) = (told.copies, told.copies_wanted);
    Some(match copies::trouble(model.farm()) {
        Some((_, role)) if told.refused_copies > 0 => piece("no room for copies".to_owned(), role, 5),
        Some((_, role)) if told.repair_copies > 0 || copies::is_late(told) => {
            piece(format!("{} owed", format::bytes(told.owed_bytes)), role, 5)
        }
        Some((_, role)) => piece(format!("{count}/{wanted} copies"), role, 3),
        None => piece(format!("{count}/{wanted} copies"), Role::Header, 1),
    })
}

/// What is most amiss, in short.
fn alarm(model: &Model, canvas: &Canvas<'_>) -> Option<Piece> {
    let alarms = model.farm().warnings.iter().filter(|warning| warning.level() == Level::Alarm).count();
    let glyphs = canvas.glyphs;
    match alarms {
        0 => None,
        count => {
            Some(piece(format!("{} {}", glyphs.alarm, format::plural(count as u64, "alarm")), Role::Bad, 8))
        }
    }
}

/// The line of views, and what they are narrowed to.
pub(super) fn crumbs(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    let narrowed = narrowed(model, canvas);
    let room = area.width.saturating_sub(sanitize::width(&narrowed) as u16 + 2);
    let long: u16 = View::ALL.iter().map(|view| view.title().len() as u16 + 3).sum();
    let mut x = area.x + 1;
    for view in View::ALL {
        let here = view == model.view();
        let text = if here || long <= room {
            format!("{} {}", view.number(), view.title())
        } else {
            view.number().to_string()
        };
        let cells = area.right().saturating_sub(x);
        let taken = canvas.text(x, area.y, cells, &text, if here { Role::Key } else { Role::Dim });
        let place = Rect { x, y: area.y, width: taken, height: 1 };
        if here {
            canvas.tint(place, Role::Selected);
        }
        canvas.hit(place, Hit::View(view));
        x += taken + 1;
    }
    let rest = Rect { x: x.min(area.right()), width: area.right().saturating_sub(x + 1), ..area };
    let shown = sanitize::cut(&narrowed, usize::from(rest.width), canvas.glyphs.ellipsis).into_owned();
    let taken = canvas.text_right(rest, &shown, Role::Warn);
    canvas.hit(Rect { x: rest.right() - taken, width: taken, ..rest }, Hit::Act(Act::Back));
}

/// The way here when it is longer than a step, and the filters that hold.
fn narrowed(model: &Model, canvas: &Canvas<'_>) -> String {
    let mut parts = Vec::new();
    let crumbs = model.navigation.crumbs();
    if crumbs.len() > 1 {
        let arrow = format!(" {} ", canvas.glyphs.arrow);
        parts.push(crumbs.iter().map(|view| view.title()).collect::<Vec<_>>().join(&arrow));
    }
    if let Some(build) = &model.build {
        let label = model.farm().builds.get(build).map_or_else(|| build.to_string(), |build| build.label());
        parts.push(format!("build {label}"));
    }
    let filter = update::filter_text(model);
    if !filter.is_empty() {
        parts.push(format!("/{filter}"));
    }
    parts.join(&format!(" {} ", canvas.glyphs.dot))
}

/// Says so when what is shown is old, paused or not there yet; what is left of `area`.
pub(super) fn banner(model: &Model, canvas: &mut Canvas<'_>, area: Rect) -> Rect {
    let Some(text) = banner_text(model) else { return area };
    let line = Rect { height: 1, ..area };
    canvas.fill(line, Role::Stale);
    canvas.text(line.x + 1, line.y, line.width.saturating_sub(2), &text, Role::Stale);
    Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area }
}

fn banner_text(model: &Model) -> Option<String> {
    if let Some(frozen) = &model.frozen {
        let age = format::age(model.now.saturating_sub(frozen.at));
        return Some(format!("PAUSED {age} ago; space goes on"));
    }
    let age = model.live.clock.heard().map(|heard| model.now.saturating_sub(heard));
    let old = match age {
        Some(age) => format!("; what you see is {} old", format::age(age)),
        None => String::new(),
    };
    match &model.link {
        Link::Down { reason, retry_at } => {
            let wait = retry_at.saturating_sub(model.now);
            let next = if wait.is_zero() {
                "trying again".to_owned()
            } else {
                format!("next try in {}", format::age(wait))
            };
            Some(format!("NO NODE: {reason}; {next}{old}"))
        }
        Link::Connecting => (model.now >= SILENCE).then(|| "connecting to the node".to_owned()),
        Link::Up => match model.stale() {
            Some(age) => Some(format!("STALE: the node has said nothing for {}", format::age(age))),
            None if !model.live.complete && model.live.node.is_some() => {
                Some("learning what there is".to_owned())
            }
            None => None,
        },
    }
}

/// The last line: news, else advice when nobody does anything, else keys that work here.
pub(super) fn hints(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    canvas.fill(area, Role::Hint);
    let text_area = Rect { x: area.x + 1, width: area.width.saturating_sub(2), ..area };
    if let Some(notice) = &model.notice {
        let role = if notice.is_bad { Role::Bad } else { Role::Good };
        canvas.text(text_area.x, area.y, text_area.width, &notice.text, role);
        return;
    }
    let calm = model.now.saturating_sub(model.touched) >= CALM;
    match model.advice.as_ref().filter(|_| calm && model.modal.is_none()) {
        Some(advice) => {
            let sign = canvas.glyphs.advice;
            let x = text_area.x + canvas.text(text_area.x, area.y, 2, &format!("{sign} "), Role::Warn);
            canvas.text(x, area.y, text_area.right().saturating_sub(x), advice, Role::Warn);
        }
        None => keys(model, canvas, text_area),
    }
}

fn keys(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    let mut x = area.x;
    for binding in hinted(model) {
        let key = binding.keys.first().map(ToString::to_string).unwrap_or_default();
        let cells = (sanitize::width(&key) + 1 + sanitize::width(binding.hint)) as u16;
        if x + cells > area.right() {
            break;
        }
        let from = x;
        x += canvas.text(x, area.y, cells, &key, Role::Key) + 1;
        x += canvas.text(x, area.y, cells, binding.hint, Role::Hint);
        canvas.hit(Rect { x: from, y: area.y, width: x - from, height: 1 }, Hit::Act(binding.act));
        x += 2;
    }
}

/// Other machines are told what to do by their own nodes.
fn own_is_chosen(model: &Model) -> bool {
    let chosen = model.machines.chosen.as_ref().and_then(|name| model.farm().machine(name));
    chosen.is_some_and(|machine| machine.is_self)
}

/// What to hint at here, the innermost place first; what leads on everywhere comes last.
fn hinted(model: &Model) -> Vec<&'static Binding> {
    let sortable = model.lists[update::list_of(model)].columns > 0;
    let allowed = |binding: &&Binding| {
        let possible = match binding.act {
            Act::Fetch => model.rights.can_fetch,
            Act::SortNext => sortable,
            Act::Drain | Act::Rest | Act::Resume => own_is_chosen(model),
            Act::Answer => !model.live.entrance.waiting.is_empty(),
            _ => true,
        };
        !binding.hint.is_empty() && possible && !(binding.changes && model.rights.read_only)
    };
    let places = match &model.modal {
        Some(modal) => vec![modal.place()],
        None => vec![Place::In(model.view()), Place::Anywhere, Place::List],
    };
    places.into_iter().flat_map(keymap::in_place).filter(allowed).collect()
}
