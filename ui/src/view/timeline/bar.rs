//! Bars of the timeline: their colour, what is written into them, and what the colours mean.

use std::sync::Arc;

use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};

use crate::canvas::Canvas;
use crate::model::farm::BuildRow;
use crate::model::op::Status;
use crate::model::senders::letter;
use crate::model::timeline::Tells;
use crate::model::{Model, Op};
use crate::options::ColourDepth;
use crate::sanitize;
use crate::theme::Role;

/// A cell that is covered less than this shows how much.
const FULL: f32 = 0.85;

/// States a bar may tell.
const STATES: [Status; 4] = [Status::Running, Status::Ok, Status::Failed, Status::Error];

/// The look of an operation's bar: its colour as that of letters.
pub(super) fn style(model: &Model, op: &Op) -> Style {
    if model.build.as_ref().is_some_and(|build| *build != op.invocation) {
        return model.theme.style(Role::Empty);
    }
    match model.timeline.tells {
        Tells::Sender => model.theme.sender(model.farm().sender(op)),
        Tells::Status => model.theme.style(op.status.role()),
        Tells::Mnemonic => model.theme.sender(model.timeline.mnemonic(&op.mnemonic)),
    }
}

/// One cell of a bar: full, or as high as it is covered. Without colours a letter or a sign tells
/// what they would.
pub(super) fn cell(model: &Model, canvas: &mut Canvas<'_>, (x, y): (u16, u16), op: &Op, share: f32) {
    let style = style(model, op);
    if share < FULL {
        let step = (share * 8.0).round().clamp(1.0, 7.0) as usize;
        let sign = canvas.glyphs.columns[step];
        canvas.styled(x, y, 1, sign, style);
    } else if canvas.theme.depth() == ColourDepth::None {
        canvas.styled(x, y, 1, &sign(model, canvas, op), style);
    } else {
        canvas.styled(x, y, 1, " ", filled(style));
    }
}

fn sign(model: &Model, canvas: &Canvas<'_>, op: &Op) -> String {
    match model.timeline.tells {
        Tells::Sender => letter(model.farm().sender(op)).to_string(),
        Tells::Status => op.status.glyph(canvas.glyphs).to_owned(),
        Tells::Mnemonic => letter(model.timeline.mnemonic(&op.mnemonic)).to_string(),
    }
}

/// Writes into a bar what fits: its beginning, its sign, its name.
pub(super) fn label(
    model: &Model,
    canvas: &mut Canvas<'_>,
    bar: Rect,
    op: &Op,
    (is_begun, is_chosen): (bool, bool),
) {
    if bar.width < 2 {
        return;
    }
    let style = if canvas.theme.depth() == ColourDepth::None {
        style(model, op).add_modifier(Modifier::REVERSED)
    } else {
        filled(style(model, op))
    };
    let style = if is_chosen { style.add_modifier(Modifier::BOLD | Modifier::UNDERLINED) } else { style };
    let mut x = bar.x;
    // Where a bar begins is seen even when its neighbour has the same colour.
    if is_begun {
        let edge = if canvas.glyphs.braille { canvas.glyphs.bar_parts[0] } else { canvas.glyphs.vertical };
        x += canvas.styled(x, bar.y, 1, edge, style);
    }
    if bar.right().saturating_sub(x) < 4 {
        return;
    }
    let sign = op.status.glyph(canvas.glyphs);
    let room = bar.right() - x;
    let name = sanitize::cut(short(op.label()), usize::from(room - 2), canvas.glyphs.ellipsis).into_owned();
    // The space behind the name sets it off from the letters that stand for colours.
    canvas.styled(
        x,
        bar.y,
        room,
        &format!("{sign} {name} ").chars().take(room.into()).collect::<String>(),
        style,
    );
}

/// What the colours mean, as far as it fits.
pub(super) fn legend(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    let now = model.node_now();
    let has_colours = canvas.theme.depth() != ColourDepth::None;
    let sign = |number: usize| {
        if has_colours { canvas.glyphs.bar_full.to_owned() } else { letter(number).to_string() }
    };
    let entries: Vec<(Style, String, String)> = match model.timeline.tells {
        Tells::Sender => {
            let builds = model.farm().builds.active(now);
            let entry =
                |build: &&BuildRow| (model.theme.sender(build.sender), sign(build.sender), build.label());
            builds.iter().map(entry).collect()
        }
        Tells::Status => {
            let entry = |status: Status| {
                let sign = status.glyph(canvas.glyphs).to_owned();
                (model.theme.style(status.role()), sign, status.word().to_owned())
            };
            STATES.into_iter().map(entry).collect()
        }
        Tells::Mnemonic => {
            let entry = |(number, name): (usize, &Arc<str>)| {
                let name = if name.is_empty() { "(none)" } else { name };
                (model.theme.sender(number), sign(number), name.to_owned())
            };
            model.timeline.mnemonics().iter().enumerate().map(entry).collect()
        }
    };
    let mut x = area.x;
    for (style, sign, name) in entries {
        let width = sanitize::width(&name) as u16 + 4;
        if x + width > area.right() {
            canvas.text(x, area.y, area.right().saturating_sub(x), canvas.glyphs.ellipsis, Role::Dim);
            return;
        }
        canvas.styled(x, area.y, 1, &sign, style);
        canvas.text(x + 2, area.y, width, &name, Role::Dim);
        x += width;
    }
}

/// The last part of a target or a path.
fn short(label: &str) -> &str {
    let end = label.rsplit(['/', ':']).find(|part| !part.is_empty());
    end.unwrap_or(label)
}

/// A style of letters as one of a bar: its colour behind, letters that can be read on it.
fn filled(style: Style) -> Style {
    match style.fg {
        Some(colour) if colour != Color::Reset => {
            let letters = if is_dark(colour) { Color::White } else { Color::Black };
            Style::new().bg(colour).fg(letters)
        }
        _ => style.add_modifier(Modifier::REVERSED),
    }
}

fn is_dark(colour: Color) -> bool {
    match colour {
        Color::Rgb(red, green, blue) => {
            299 * u32::from(red) + 587 * u32::from(green) + 114 * u32::from(blue) < 128_000
        }
        Color::Indexed(number @ 16..232) => (number - 16) / 6 % 6 < 2,
        Color::Indexed(number) => (232..244).contains(&number),
        Color::Black | Color::Red | Color::Blue | Color::Magenta | Color::DarkGray => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_can_be_read_on_their_bar() {
        assert_eq!(filled(Style::new().fg(Color::Rgb(10, 20, 120))).fg, Some(Color::White));
        assert_eq!(filled(Style::new().fg(Color::Yellow)).fg, Some(Color::Black));
        assert!(filled(Style::new()).add_modifier.contains(Modifier::REVERSED));
    }

    #[test]
    fn names_are_shortened_to_their_end() {
        assert_eq!([short("//a/b:c"), short("out/x.o"), short("//:"), short("x")], ["c", "x.o", "//:", "x"]);
    }
}
