//! What happens in the builds view.

use crate::keymap::Act;
use crate::message::Todo;
use crate::model::{ListId, Model};
use crate::options::View;

/// The view comes to be shown.
pub(super) fn enter(model: &mut Model, todo: &mut Todo) {
    changed(model, todo);
}

/// The view ceases to be shown.
pub(super) fn leave(_model: &mut Model, _todo: &mut Todo) {}

/// The farm changed: the rows are made anew.
pub(super) fn changed(model: &mut Model, _todo: &mut Todo) {
    let now = model.node_now();
    let farm = model.frozen.as_ref().map_or(&model.live, |frozen| &frozen.farm);
    let state = &mut model.lists[ListId::Builds];
    model.builds.refresh(farm, now, state);
}

/// A person did something.
pub(super) fn act(model: &mut Model, act: Act, _argument: Option<&str>, todo: &mut Todo) -> bool {
    match act {
        Act::Open => {
            let selected = model.lists[ListId::Builds].selected;
            if let Some(invocation) = model.builds.rows.get(selected).cloned() {
                model.build = Some(invocation);
                super::go(model, View::Actions, todo);
            }
        }
        _ => return false,
    }
    true
}

/// A row was chosen.
pub(super) fn chose(model: &mut Model) {
    model.builds.chosen = model.builds.rows.get(model.lists[ListId::Builds].selected).cloned();
}
