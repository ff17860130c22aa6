//! Keys while something lies over the view.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::keymap::{self, Act};
use crate::message::Todo;
use crate::model::list::ListState;
use crate::model::modal::{Ask, Deed, Input, Modal};
use crate::model::{ListId, Model};

/// `:` commands that are remembered.
const TYPED: usize = 50;

/// A key, and what the table makes of it.
pub(super) fn key(model: &mut Model, event: KeyEvent, act: Option<Act>, todo: &mut Todo) {
    todo.redraw = true;
    match act {
        Some(Act::Refuse) => refuse(model, todo),
        Some(Act::Accept) => accept(model, todo),
        Some(Act::Up | Act::Down | Act::PageUp | Act::PageDown | Act::Top | Act::Bottom) => {
            scroll(&mut model.lists[ListId::Modal], act.unwrap_or(Act::Up));
        }
        Some(Act::Complete) => complete(model),
        Some(Act::Earlier) => recall(model, 1),
        Some(Act::Later) => recall(model, -1),
        Some(act) => drop(super::entrance::key(model, act, todo)),
        None => {
            edit(model, event, todo);
        }
    }
}

/// Text is pasted into the line of input, if there is one.
pub(super) fn paste(model: &mut Model, text: &str, todo: &mut Todo) {
    if let Some(input) = model.modal.as_mut().and_then(Modal::input) {
        input.insert(text);
        todo.redraw = true;
        typed(model, todo);
    }
}

fn scroll(state: &mut ListState, act: Act) {
    match act {
        Act::Up => state.step(-1),
        Act::Down => state.step(1),
        Act::PageUp => state.page(-1),
        Act::PageDown => state.page(1),
        Act::Top => state.select(0),
        _ => state.select(usize::MAX),
    }
}

fn refuse(model: &mut Model, todo: &mut Todo) {
    match model.modal.take() {
        Some(Modal::Filter(_, before)) => super::filters::set(model, &before, todo),
        Some(modal) => super::entrance::closed(model, &modal, todo),
        None => {}
    }
}

fn accept(model: &mut Model, todo: &mut Todo) {
    match model.modal.take() {
        Some(Modal::Confirm(confirm)) => super::perform(model, confirm.deed, todo),
        Some(Modal::Palette(input)) => command(model, input.text(), todo),
        Some(Modal::Ask(ask)) => answered(model, ask, todo),
        Some(Modal::Pick(pick)) => {
            let selected = model.lists[ListId::Modal].selected;
            if let Some((_, deed)) = pick.choices.into_iter().nth(selected) {
                super::perform(model, deed, todo);
            }
        }
        _ => {}
    }
}

/// Completes what was typed after `:`.
fn complete(model: &mut Model) {
    let Some(Modal::Palette(input)) = &model.modal else { return };
    let completed = super::complete::complete(model, input.text());
    model.modal = Some(Modal::Palette(Input::of(&completed)));
}

/// Shows a `:` command from before; positive steps go further back.
fn recall(model: &mut Model, steps: isize) {
    let Some(Modal::Palette(input)) = &mut model.modal else { return };
    let at = input.earlier.map_or(-1, |at| isize::try_from(at).unwrap_or(0)) + steps;
    let earlier = usize::try_from(at).ok().filter(|at| *at < model.typed.len());
    if earlier.is_none() && steps > 0 {
        return;
    }
    let text = earlier.map_or("", |at| &model.typed[model.typed.len() - 1 - at]);
    *input = Input::of(text);
    input.earlier = earlier;
}

/// Runs a `:` command.
fn command(model: &mut Model, line: &str, todo: &mut Todo) {
    let line = line.trim();
    if !line.is_empty() && model.typed.last().is_none_or(|last| last != line) {
        model.typed.push(line.to_owned());
        let surplus = model.typed.len().saturating_sub(TYPED);
        model.typed.drain(..surplus);
    }
    let (name, argument) = match line.trim().split_once(char::is_whitespace) {
        Some((name, argument)) => (name, Some(argument.trim())),
        None => (line.trim(), None),
    };
    if name.is_empty() {
        return;
    }
    match keymap::command(&model.places(), name) {
        Some(binding) => super::act(model, binding.act, argument, todo),
        None => model.complain(format!("there is no command {name:?} here; ? tells what there is")),
    }
}

/// Puts the answer to a question into the deed.
fn answered(model: &mut Model, ask: Ask, todo: &mut Todo) {
    let number = ask.input.text().trim().parse::<u32>().ok();
    let deed = match ask.deed {
        Deed::Rerun { digest, instance, machine, .. } => {
            let Some(times @ 1..=100) = number else {
                return model.complain("a number from 1 to 100 is wanted");
            };
            Deed::Rerun { digest, instance, times, machine }
        }
        Deed::Machine { name, state, .. } => {
            let Some(slots @ 1..) = number else { return model.complain("a number of at least 1 is wanted") };
            Deed::Machine { name, state, slots: Some(slots) }
        }
        Deed::Join { leave, .. } => Deed::Join { typed: ask.input.text().to_owned(), leave },
        deed => deed,
    };
    super::perform(model, deed, todo);
}

fn edit(model: &mut Model, event: KeyEvent, todo: &mut Todo) {
    let Some(input) = model.modal.as_mut().and_then(Modal::input) else { return };
    if !edited(input, event) {
        return refuse(model, todo);
    }
    typed(model, todo);
}

/// Edits the line; `false` when something was to be deleted and nothing is there.
fn edited(input: &mut Input, event: KeyEvent) -> bool {
    let ctrl = event.modifiers.contains(KeyModifiers::CONTROL);
    match event.code {
        KeyCode::Char('w') if ctrl => input.delete_word(),
        KeyCode::Char('u') if ctrl => input.delete_start(),
        KeyCode::Char('a') if ctrl => input.home(),
        KeyCode::Char('e') if ctrl => input.end(),
        KeyCode::Char(c) if !ctrl => input.insert(c.encode_utf8(&mut [0; 4])),
        KeyCode::Backspace => return input.backspace(),
        KeyCode::Delete => input.delete(),
        KeyCode::Left => input.left(),
        KeyCode::Right => input.right(),
        KeyCode::Home => input.home(),
        KeyCode::End => input.end(),
        _ => {}
    }
    true
}

/// A filter works while it is typed.
fn typed(model: &mut Model, todo: &mut Todo) {
    if let Some(Modal::Filter(input, _)) = &model.modal {
        let text = input.text().to_owned();
        model.notice = None;
        super::filters::set(model, &text, todo);
    }
}
