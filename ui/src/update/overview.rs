//! What happens in the overview.

use crate::keymap::Act;
use crate::message::Todo;
use crate::model::action::Subject;
use crate::model::overview::Pane;
use crate::model::{ListId, Model};
use crate::options::View;

/// The view comes to be shown.
pub(super) fn enter(_model: &mut Model, _todo: &mut Todo) {}

/// The view ceases to be shown.
pub(super) fn leave(_model: &mut Model, _todo: &mut Todo) {}

/// The farm changed.
pub(super) fn changed(_model: &mut Model, _todo: &mut Todo) {}

/// A person did something.
pub(super) fn act(model: &mut Model, act: Act, argument: Option<&str>, todo: &mut Todo) -> bool {
    match act {
        Act::NextTab => model.overview.pane = model.overview.pane.step(1),
        Act::PreviousTab => model.overview.pane = model.overview.pane.step(-1),
        Act::Open => open(model, todo),
        // What one looks for here is an action.
        Act::Filter => {
            super::go(model, View::Actions, todo);
            super::act(model, act, argument, todo);
        }
        _ => return false,
    }
    true
}

fn open(model: &mut Model, todo: &mut Todo) {
    let selected = model.lists[model.overview.pane.list()].selected;
    match model.overview.pane {
        Pane::Machines => {
            model.machines.chosen =
                model.farm().machines.get(selected).map(|machine| machine.name.as_str().into());
            model.lists[ListId::Machines].selected = selected;
            super::go(model, View::Machines, todo);
        }
        Pane::Builds => {
            let now = model.node_now();
            let chosen = model.farm().builds.active(now).get(selected).map(|build| build.invocation.clone());
            if let Some(invocation) = chosen {
                model.build = Some(invocation);
                super::go(model, View::Actions, todo);
            }
        }
        Pane::Queue => {
            let ops = &model.farm().ops;
            let chosen = ops.running().chain(ops.queued()).nth(selected).map(|(_, op)| op);
            let subject = chosen.map(|op| Subject { key: op.name.clone(), instance: op.instance.clone() });
            if let Some(subject) = subject {
                model.action.subject = Some(subject);
                super::go(model, View::Action, todo);
            }
        }
        Pane::Events => {
            let events = &model.farm().events;
            let event = events.len().checked_sub(selected + 1).and_then(|at| events.get(at));
            if let Some(invocation) = event.and_then(|event| event.invocation.clone()) {
                model.build = Some(invocation);
                super::go(model, View::Actions, todo);
            }
        }
    }
}
