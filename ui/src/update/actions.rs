//! What happens in the actions view.

use std::sync::Arc;

use farmhand_proto::control;
use farmhand_proto::control::action_filter::Outcome;

use super::on_action::{self, Target};
use crate::keymap::Act;
use crate::message::{Answer, Call, Slot, Todo};
use crate::model::action::Subject;
use crate::model::actions::{Older, Section};
use crate::model::operations::Changes;
use crate::model::{ListId, Model, Op};
use crate::options::View;

/// Operations asked for at a time.
const PAGE: u32 = 500;

/// Rows before the end at which more are asked for.
const AHEAD: usize = 50;

/// The view comes to be shown.
pub(super) fn enter(model: &mut Model, todo: &mut Todo) {
    model.actions.forget_rows();
    changed(model, todo);
}

/// The view ceases to be shown: what was loaded from far back is let go.
pub(super) fn leave(model: &mut Model, todo: &mut Todo) {
    model.calls.cancel(Slot::History, todo);
    model.live.ops.keep_loaded(false);
    model.actions.older = Older::Unasked;
}

/// The farm changed: the rows are brought up to date.
pub(super) fn changed(model: &mut Model, _todo: &mut Todo) {
    let (farm, changes) = match &model.frozen {
        Some(frozen) => (&frozen.farm, Changes::Some(Vec::new())),
        None => {
            let changes = model.live.ops.take_changes();
            (&model.live, changes)
        }
    };
    let list = &mut model.lists[ListId::Actions];
    model.actions.refresh(farm, changes, model.build.as_ref(), list);
}

/// A row was chosen; near the end of the history more of it is asked for.
pub(super) fn chose(model: &mut Model, todo: &mut Todo) {
    let selected = model.lists[ListId::Actions].selected;
    model.actions.choose(selected);
    if model.frozen.is_none() && model.actions.section.is_history() && selected + AHEAD >= model.actions.len()
    {
        load(model, todo);
    }
}

/// A person did something.
pub(super) fn act(model: &mut Model, act: Act, argument: Option<&str>, todo: &mut Todo) -> bool {
    match act {
        Act::NextTab => section(model, 1, todo),
        Act::PreviousTab => section(model, -1, todo),
        Act::Tab => {
            if let Some(number) = super::tab_named(model, &Section::ALL.map(Section::title), argument) {
                tab(model, number, todo);
            }
        }
        Act::Open => {
            if let Some(op) = chosen(model) {
                model.action.subject = Some(Subject { key: op.name.clone(), instance: op.instance.clone() });
                super::go(model, View::Action, todo);
            }
        }
        _ => {
            let target = chosen(model).map(Target::from);
            return on_action::act(model, target, act, argument, todo);
        }
    }
    true
}

/// The node answered with a page of the history.
pub(super) fn answer(model: &mut Model, answer: Answer, todo: &mut Todo) {
    match answer {
        Answer::Actions(page) => {
            model.live.load(&page.operations);
            let more = !page.next_page_token.is_empty() && model.live.ops.has_room();
            model.actions.older = if more { Older::From(page.next_page_token) } else { Older::End };
            changed(model, todo);
        }
        Answer::Failed(failure) => {
            model.actions.older = Older::End;
            model.complain(failure.text);
        }
        _ => {}
    }
}

/// The operation that is chosen.
pub(super) fn chosen(model: &Model) -> Option<&Op> {
    model.farm().ops.get(model.actions.chosen?)
}

/// A tab was pressed.
pub(super) fn tab(model: &mut Model, tab: usize, todo: &mut Todo) {
    if let Some(section) = Section::ALL.get(tab) {
        model.actions.section = *section;
        model.lists[ListId::Actions].selected = 0;
        // Another part of the history is asked for with another filter.
        model.calls.cancel(Slot::History, todo);
        model.actions.older = Older::Unasked;
        changed(model, todo);
    }
}

fn section(model: &mut Model, steps: isize, todo: &mut Todo) {
    let section = model.actions.section.step(steps);
    tab(model, section as usize, todo);
}

fn load(model: &mut Model, todo: &mut Todo) {
    let token = match std::mem::replace(&mut model.actions.older, Older::Loading) {
        Older::Unasked => String::new(),
        Older::From(token) => token,
        as_it_was => {
            model.actions.older = as_it_was;
            return;
        }
    };
    model.live.ops.keep_loaded(true);
    let filter = Some(wanted(model));
    let request = control::ListActionsRequest { limit: PAGE, filter, page_token: token };
    model.calls.ask(Slot::History, Call::Actions(request), todo);
}

/// What of the history is to be loaded: no more than what is shown.
fn wanted(model: &Model) -> control::ActionFilter {
    let outcomes: &[Outcome] = match model.actions.section {
        Section::Failed => &[Outcome::Failed, Outcome::Error],
        Section::Missed | Section::Slow => &[Outcome::Succeeded, Outcome::Failed],
        _ => &[Outcome::Succeeded, Outcome::Failed, Outcome::Error, Outcome::Cached],
    };
    let text = |text: &Option<Arc<str>>| text.as_ref().map(ToString::to_string).unwrap_or_default();
    control::ActionFilter {
        invocation: text(&model.build),
        machine: text(&model.actions.machine),
        outcomes: outcomes.iter().map(|outcome| (*outcome).into()).collect(),
        ..Default::default()
    }
}
