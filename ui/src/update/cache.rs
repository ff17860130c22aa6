//! What happens in the cache view.

use crate::keymap::Act;
use crate::message::Todo;
use crate::model::cache::Part;
use crate::model::{ListId, Model};
use crate::options::View;

/// The view comes to be shown.
pub(super) fn enter(model: &mut Model, todo: &mut Todo) {
    changed(model, todo);
}

/// The view ceases to be shown.
pub(super) fn leave(_model: &mut Model, _todo: &mut Todo) {}

/// The farm changed.
pub(super) fn changed(model: &mut Model, _todo: &mut Todo) {
    let farm = model.frozen.as_ref().map_or(&model.live, |frozen| &frozen.farm);
    model.cache.refresh(farm, &mut model.lists[model.cache.part.list()]);
}

/// A person did something.
pub(super) fn act(model: &mut Model, act: Act, argument: Option<&str>, todo: &mut Todo) -> bool {
    match act {
        Act::NextTab => show_part(model, model.cache.part.step(1), todo),
        Act::PreviousTab => show_part(model, model.cache.part.step(-1), todo),
        Act::Open if model.cache.part == Part::Copies => open(model, todo),
        Act::Tab => {
            if let Some(number) = super::tab_named(model, &Part::ALL.map(Part::title), argument) {
                tab(model, number, todo);
            }
        }
        _ => return false,
    }
    true
}

/// Shows rows of something else.
fn show_part(model: &mut Model, part: Part, todo: &mut Todo) {
    model.cache.part = part;
    model.lists[part.list()].selected = 0;
    changed(model, todo);
}

/// Shows the chosen machine in full.
fn open(model: &mut Model, todo: &mut Todo) {
    let chosen = model.cache.machines.get(model.lists[ListId::Copies].selected).cloned();
    if chosen.is_some() {
        model.machines.chosen = chosen;
        super::go(model, View::Machines, todo);
    }
}

/// A tab was pressed.
pub(super) fn tab(model: &mut Model, tab: usize, todo: &mut Todo) {
    if let Some(part) = Part::ALL.get(tab) {
        show_part(model, *part, todo);
    }
}
