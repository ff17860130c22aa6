//! How the model changes: one message at a time, without I/O and without looking at a clock.
//!
//! Keys are looked up in the table ([`crate::keymap`]) and become acts. What is the same in all
//! views is done here and in the children named for it; the rest goes to the child named after the
//! view, by the functions each of them has:
//!
//! - `enter` and `leave`: the view comes to be shown, or ceases to be;
//! - `changed`: the farm changed while the view is shown;
//! - `act`: a person did something; `false` when the view has no use for it;
//! - `answer`: the node answered a call of the view.

mod action;
mod actions;
mod acts;
mod builds;
mod cache;
mod complete;
mod deeds;
mod entrance;
mod feed;
mod filters;
mod logs;
mod machines;
mod modals;
mod mouse;
mod on_action;
mod overview;
mod timeline;

use std::time::Duration;

use crossterm::event::{KeyEvent, KeyEventKind};

use crate::advice::{self, Facts};
use crate::keymap::{self, Act, Key};
use crate::message::{Answer, CallId, Message, Slot, Todo};
use crate::model::{ListId, Model};
use crate::options::View;

pub(crate) use acts::list_of;
pub(crate) use complete::candidates;
pub(crate) use deeds::{confirm, perform};
pub(crate) use filters::text as filter_text;

/// Applies a message at `now` of the program.
pub(crate) fn update(model: &mut Model, message: Message, now: Duration) -> Todo {
    let mut todo = Todo::default();
    model.now = model.now.max(now);
    match message {
        Message::Key(event) => key(model, event, &mut todo),
        Message::Mouse(event) => mouse::mouse(model, event, &mut todo),
        Message::Paste(text) => modals::paste(model, &text, &mut todo),
        Message::Resize(columns, rows) => {
            model.size = (columns, rows);
            todo.redraw = true;
        }
        Message::Feed(event) => feed::feed(model, event, &mut todo),
        Message::Answer(id, reply) => answer(model, id, reply, &mut todo),
        Message::Fetched(result) => deeds::fetched(model, result, &mut todo),
        Message::Written(result) => deeds::written(model, result, &mut todo),
        Message::Tick => tick(model, &mut todo),
    }
    todo
}

/// The view comes to be shown.
pub(crate) fn enter(model: &mut Model, todo: &mut Todo) {
    match model.view() {
        View::Overview => overview::enter(model, todo),
        View::Builds => builds::enter(model, todo),
        View::Actions => actions::enter(model, todo),
        View::Action => action::enter(model, todo),
        View::Timeline => timeline::enter(model, todo),
        View::Machines => machines::enter(model, todo),
        View::Cache => cache::enter(model, todo),
        View::Logs => logs::enter(model, todo),
    }
    todo.redraw = true;
}

/// The view ceases to be shown.
fn leave(model: &mut Model, todo: &mut Todo) {
    match model.view() {
        View::Overview => overview::leave(model, todo),
        View::Builds => builds::leave(model, todo),
        View::Actions => actions::leave(model, todo),
        View::Action => action::leave(model, todo),
        View::Timeline => timeline::leave(model, todo),
        View::Machines => machines::leave(model, todo),
        View::Cache => cache::leave(model, todo),
        View::Logs => logs::leave(model, todo),
    }
}

/// What is shown of the farm may have changed.
fn changed(model: &mut Model, todo: &mut Todo) {
    match model.view() {
        View::Overview => overview::changed(model, todo),
        View::Builds => builds::changed(model, todo),
        View::Actions => actions::changed(model, todo),
        View::Action => action::changed(model, todo),
        View::Timeline => timeline::changed(model, todo),
        View::Machines => machines::changed(model, todo),
        View::Cache => cache::changed(model, todo),
        View::Logs => logs::changed(model, todo),
    }
    todo.redraw = true;
}

/// Goes to another view as one looks around.
pub(crate) fn jump(model: &mut Model, view: View, todo: &mut Todo) {
    if model.view() != view {
        leave(model, todo);
    }
    model.navigation.jump(view);
    enter(model, todo);
}

/// Goes deeper, so that one can come back.
pub(crate) fn go(model: &mut Model, view: View, todo: &mut Todo) {
    if model.view() != view {
        leave(model, todo);
    }
    model.navigation.enter(view);
    enter(model, todo);
}

/// What is shown was made anew: another build, another filter, paused or not.
fn renewed(model: &mut Model, todo: &mut Todo) {
    model.actions.forget_rows();
    changed(model, todo);
}

/// A row of a list was chosen.
fn chose(model: &mut Model, list: ListId, todo: &mut Todo) {
    match list {
        ListId::Actions => actions::chose(model, todo),
        ListId::Builds => builds::chose(model),
        ListId::Machines => machines::chose(model),
        _ => {}
    }
    todo.redraw = true;
}

/// Titles of the columns of a list one can sort by.
pub(crate) fn columns(list: ListId) -> &'static [&'static str] {
    match list {
        ListId::Actions => crate::model::actions::COLUMNS,
        ListId::Builds => crate::model::builds::COLUMNS,
        ListId::Machines => crate::model::machines::COLUMNS,
        ListId::Cache => crate::model::cache::COLUMNS,
        ListId::Copies => crate::model::copies::COLUMNS,
        _ => &[],
    }
}

/// A person did something, by a key, a command or the mouse. `argument` is that of a `:` command. Where one
/// may only read, nothing is changed.
pub(crate) fn act(model: &mut Model, act: Act, argument: Option<&str>, todo: &mut Todo) {
    todo.redraw = true;
    if model.rights.read_only && keymap::changes(&model.places(), act) {
        return model.complain("read-only: nothing is changed from here");
    }
    let done = match model.view() {
        View::Overview => overview::act(model, act, argument, todo),
        View::Builds => builds::act(model, act, argument, todo),
        View::Actions => actions::act(model, act, argument, todo),
        View::Action => action::act(model, act, argument, todo),
        View::Timeline => timeline::act(model, act, argument, todo),
        View::Machines => machines::act(model, act, argument, todo),
        View::Cache => cache::act(model, act, argument, todo),
        View::Logs => logs::act(model, act, argument, todo),
    };
    if !done {
        acts::act(model, act, argument, todo);
    }
}

fn key(model: &mut Model, event: KeyEvent, todo: &mut Todo) {
    if event.kind == KeyEventKind::Release {
        return;
    }
    model.touched = model.now;
    let key = Key::from(event);
    let binding = keymap::find(&model.places(), key);
    if model.modal.is_some() {
        return modals::key(model, event, binding.map(|binding| binding.act), todo);
    }
    if let Some(binding) = binding {
        act(model, binding.act, None, todo);
    }
}

fn answer(model: &mut Model, id: CallId, answer: Answer, todo: &mut Todo) {
    if !model.calls.is_open(id) {
        return;
    }
    let goes_on = matches!(
        answer,
        Answer::Blob(_)
            | Answer::Output(_)
            | Answer::Log(_)
            | Answer::Rerun(_)
            | Answer::Invite(_)
            | Answer::Join(_)
    );
    if !goes_on {
        model.calls.close(id);
    }
    todo.redraw = true;
    match id.slot {
        Slot::Action | Slot::Directory | Slot::Blob | Slot::Stdout | Slot::Stderr | Slot::Miss => {
            action::answer(model, id.slot, answer, todo);
        }
        Slot::History => actions::answer(model, answer, todo),
        Slot::Log => logs::answer(model, answer, todo),
        Slot::Settings => machines::answer(model, answer, todo),
        Slot::Invite | Slot::Join => entrance::answer(model, id.slot, answer, todo),
        Slot::Deed(_) => deeds::answer(model, answer, todo),
    }
}

/// A second passed: ages grow, notices go.
fn tick(model: &mut Model, todo: &mut Todo) {
    if model.notice.as_ref().is_some_and(|notice| notice.until <= model.now) {
        model.notice = None;
    }
    model.advice = advise(model);
    entrance::look(model, todo);
    if model.frozen.is_none() {
        changed(model, todo);
    }
    todo.redraw = true;
}

/// The number of the tab a person named; complains when there is none.
fn tab_named(model: &mut Model, titles: &[&str], name: Option<&str>) -> Option<usize> {
    let name = name.unwrap_or_default().trim().to_lowercase();
    let found = titles.iter().position(|title| !name.is_empty() && title.to_lowercase().starts_with(&name));
    if found.is_none() {
        model.complain(format!("tabs: {}", titles.join(", ").to_lowercase()));
    }
    found
}

/// The most urgent thing the node advises, else what can be seen from here.
fn advise(model: &Model) -> Option<String> {
    let Some(warning) = model.farm().warnings.iter().max_by_key(|warning| warning.level) else {
        let lease = model.machines.lease().unwrap_or(advice::LEASE);
        let (farm, now) = (model.farm(), model.node_now());
        return advice::best(Facts { farm, now, lease, repair_after: model.machines.repair_after() });
    };
    Some(match warning.remedy.as_str() {
        "" => warning.text.clone(),
        remedy => format!("{}: {remedy}", warning.text),
    })
}

#[cfg(test)]
mod tests;
