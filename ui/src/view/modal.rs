//! How what lies over a view looks.

mod entrance;

use ratatui::layout::Rect;

use crate::canvas::{Canvas, Hit};
use crate::keymap::{self, Act, Place};
use crate::model::modal::{Ask, Confirm, Input, Modal, Pick};
use crate::model::{ListId, Model};
use crate::theme::Role;
use crate::{sanitize, update};

/// Candidates shown above the `:` line.
const CANDIDATES: usize = 8;

/// Paints it over `area`, the whole screen.
pub(super) fn draw(model: &Model, modal: &Modal, canvas: &mut Canvas<'_>, area: Rect) {
    match modal {
        Modal::Help => help(model, canvas, area),
        Modal::Palette(input) => palette(model, input, canvas, area),
        Modal::Filter(input, _) => bottom_line("/", input, canvas, area),
        Modal::Confirm(confirm) => question(confirm, canvas, area),
        Modal::Ask(ask) => self::ask(ask, canvas, area),
        Modal::Pick(pick) => choices(model, pick, canvas, area),
        Modal::Invitation => entrance::invitation(model, canvas, area),
        Modal::Newcomer(newcomer) => entrance::newcomer(model, newcomer, canvas, area),
        Modal::Joining => entrance::joining(model, canvas, area),
        Modal::Text(text) => {
            let width = text.lines.iter().map(|line| sanitize::width(line)).max().unwrap_or(0);
            let inner = frame(canvas, area, width, text.lines.len(), &text.title);
            let rows = canvas.window(ListId::Modal, &model.lists[ListId::Modal], inner, text.lines.len(), 0);
            for (line, row) in rows.enumerate() {
                canvas.text(inner.x, inner.y + line as u16, inner.width, &text.lines[row], Role::Text);
            }
        }
    }
}

/// An empty box in the middle of `area` for so many cells and lines; its inside.
fn frame(canvas: &mut Canvas<'_>, area: Rect, width: usize, height: usize, title: &str) -> Rect {
    let width = (width.max(sanitize::width(title) + 2) + 4).min(usize::from(area.width)) as u16;
    let height = (height + 2).min(usize::from(area.height)) as u16;
    let outer =
        Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    canvas.fill(outer, Role::Text);
    canvas.hit(outer, Hit::Nothing);
    border(canvas, outer);
    canvas.text(outer.x + 2, outer.y, outer.width.saturating_sub(4), &format!(" {title} "), Role::Title);
    Rect {
        x: outer.x + 2,
        y: outer.y + 1,
        width: outer.width.saturating_sub(4),
        height: outer.height.saturating_sub(2),
    }
}

fn border(canvas: &mut Canvas<'_>, area: Rect) {
    if area.width < 2 || area.height < 2 {
        return;
    }
    let glyphs = canvas.glyphs;
    let (right, bottom) = (area.right() - 1, area.bottom() - 1);
    for x in area.x..=right {
        canvas.text(x, area.y, 1, glyphs.horizontal, Role::Focus);
        canvas.text(x, bottom, 1, glyphs.horizontal, Role::Focus);
    }
    for y in area.y..=bottom {
        canvas.text(area.x, y, 1, glyphs.vertical, Role::Focus);
        canvas.text(right, y, 1, glyphs.vertical, Role::Focus);
    }
    let corners = [(area.x, area.y), (right, area.y), (area.x, bottom), (right, bottom)];
    for ((x, y), sign) in corners.into_iter().zip(glyphs.corners) {
        canvas.text(x, y, 1, sign, Role::Focus);
    }
}

fn help(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    let lines = help_lines(model);
    let longest = lines.iter().map(|(keys, _)| keys.len()).max().unwrap_or(0);
    let keys_cells = longest.min(usize::from(area.width) / 3) as u16;
    let width = lines.iter().map(|(_, text)| usize::from(keys_cells) + 2 + text.len()).max();
    let inner = frame(canvas, area, width.unwrap_or(0), lines.len(), "Help");
    let text_cells = inner.width.saturating_sub(keys_cells + 2);
    let rows = canvas.window(ListId::Modal, &model.lists[ListId::Modal], inner, lines.len(), 0);
    for (line, row) in rows.enumerate() {
        let (keys, text) = &lines[row];
        let y = inner.y + line as u16;
        if keys.is_empty() {
            canvas.text(inner.x, y, inner.width, text, Role::Title);
            continue;
        }
        canvas.text(inner.x, y, keys_cells, keys, Role::Key);
        canvas.text(inner.x + keys_cells + 2, y, text_cells, text, Role::Text);
    }
}

/// Keys and what they do; a line without keys is a title.
fn help_lines(model: &Model) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    let sections = [
        (Place::In(model.view()), model.view().title()),
        (Place::List, "Lists and texts"),
        (Place::Anywhere, "Everywhere"),
    ];
    for (place, title) in sections {
        lines.push((String::new(), title.to_owned()));
        for binding in keymap::in_place(place) {
            let mut ways: Vec<String> = binding.keys.iter().map(ToString::to_string).collect();
            if !binding.name.is_empty() {
                ways.push(format!(":{}", binding.name));
            }
            let off = if binding.changes && model.rights.read_only { " (read-only: off)" } else { "" };
            lines.push((ways.join(" "), format!("{}{off}", binding.help)));
        }
    }
    lines
}

fn palette(model: &Model, input: &Input, canvas: &mut Canvas<'_>, area: Rect) {
    let candidates = update::candidates(model, input.text());
    let shown = candidates.len().min(CANDIDATES).min(usize::from(area.height.saturating_sub(2)));
    for (at, candidate) in candidates.iter().take(shown).enumerate() {
        let y = area.bottom() - 1 - (shown - at) as u16;
        let line = Rect { y, height: 1, ..area };
        canvas.fill(line, Role::Text);
        canvas.hit(line, Hit::Nothing);
        let taken = canvas.text(area.x + 1, y, area.width.saturating_sub(2), &candidate.text, Role::Key);
        let x = (area.x + 1 + taken + 2).max(area.x + 22);
        canvas.text(x, y, area.right().saturating_sub(x), &candidate.help, Role::Dim);
    }
    bottom_line(":", input, canvas, area);
}

fn bottom_line(prompt: &str, input: &Input, canvas: &mut Canvas<'_>, area: Rect) {
    let line = Rect { y: area.bottom() - 1, height: 1, ..area };
    canvas.fill(line, Role::Text);
    canvas.hit(line, Hit::Nothing);
    let x = line.x + canvas.text(line.x, line.y, 1, prompt, Role::Key);
    typed(canvas, Rect { x, width: line.width.saturating_sub(1), ..line }, input);
}

/// A line of input with its cursor, which is always seen.
fn typed(canvas: &mut Canvas<'_>, area: Rect, input: &Input) {
    let (before, after) = input.halves();
    let ellipsis = canvas.glyphs.ellipsis;
    let before = sanitize::cut_start(before, usize::from(area.width.saturating_sub(1)), ellipsis);
    let x = area.x + canvas.text(area.x, area.y, area.width, &before, Role::Text);
    let rest = if after.is_empty() { " " } else { after };
    canvas.text(x, area.y, area.right().saturating_sub(x), rest, Role::Text);
    canvas.tint(Rect { x, y: area.y, width: 1, height: 1 }, Role::Stale);
}

fn question(confirm: &Confirm, canvas: &mut Canvas<'_>, area: Rect) {
    let lines = wrapped(&confirm.text, usize::from(area.width.saturating_sub(8)).min(64));
    let width = lines.iter().map(|line| sanitize::width(line)).max().unwrap_or(0);
    let inner = frame(canvas, area, width.max(20), lines.len() + 2, &confirm.title);
    for (at, line) in lines.iter().enumerate().take(usize::from(inner.height)) {
        canvas.text(inner.x, inner.y + at as u16, inner.width, line, Role::Text);
    }
    let y = inner.bottom().saturating_sub(1);
    buttons(canvas, Rect { y, height: 1, ..inner }, &[("y", " yes", Act::Accept), ("n", " no", Act::Refuse)]);
}

fn ask(ask: &Ask, canvas: &mut Canvas<'_>, area: Rect) {
    let lines = wrapped(&ask.text, usize::from(area.width.saturating_sub(8)).min(64));
    let width = lines.iter().map(|line| sanitize::width(line)).max().unwrap_or(0);
    let inner = frame(canvas, area, width.max(30), lines.len() + 2, &ask.title);
    for (at, line) in lines.iter().enumerate().take(usize::from(inner.height)) {
        canvas.text(inner.x, inner.y + at as u16, inner.width, line, Role::Text);
    }
    typed(canvas, Rect { y: inner.bottom().saturating_sub(1), height: 1, ..inner }, &ask.input);
}

fn buttons(canvas: &mut Canvas<'_>, area: Rect, buttons: &[(&str, &str, Act)]) {
    let mut x = area.x;
    for (key, text, act) in buttons {
        let from = x;
        x += canvas.text(x, area.y, area.right().saturating_sub(x), key, Role::Key);
        x += canvas.text(x, area.y, area.right().saturating_sub(x), text, Role::Text);
        canvas.hit(Rect { x: from, y: area.y, width: x - from, height: 1 }, Hit::Act(*act));
        x += 3;
    }
}

fn choices(model: &Model, pick: &Pick, canvas: &mut Canvas<'_>, area: Rect) {
    let width = pick.choices.iter().map(|(text, _)| sanitize::width(text)).max().unwrap_or(0) + 2;
    let inner = frame(canvas, area, width, pick.choices.len(), &pick.title);
    let state = &model.lists[ListId::Modal];
    let rows = canvas.window(ListId::Modal, state, inner, pick.choices.len(), 0);
    for (line, row) in rows.enumerate() {
        let y = inner.y + line as u16;
        canvas.text(inner.x + 2, y, inner.width.saturating_sub(2), &pick.choices[row].0, Role::Text);
        if row == state.selected {
            super::table::cursor(canvas, Rect { y, height: 1, ..inner });
        }
    }
}

/// `text` in lines of at most `cells`, broken at spaces where that is possible.
pub(super) fn wrapped(text: &str, cells: usize) -> Vec<String> {
    let cells = cells.max(1);
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let word = sanitize::cut(word, cells, "~");
        let last = lines.last_mut().expect("invariant: it begins with a line");
        let gap = usize::from(!last.is_empty());
        if sanitize::width(last) + gap + sanitize::width(&word) > cells && !last.is_empty() {
            lines.push(word.into_owned());
        } else {
            last.push_str(if gap == 1 { " " } else { "" });
            last.push_str(&word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_broken_at_spaces() {
        assert_eq!(wrapped("one two  three", 7), ["one two", "three"]);
        assert_eq!(wrapped("onetwothree", 6), ["onetw~"]);
        assert_eq!(wrapped("", 6), [""]);
    }
}
