//! What happens in the cache view.

use crate::keymap::Act;
use crate::message::Todo;
use crate::model::Model;

/// The view comes to be shown.
pub(super) fn enter(_model: &mut Model, _todo: &mut Todo) {}

/// The view ceases to be shown.
pub(super) fn leave(_model: &mut Model, _todo: &mut Todo) {}

/// The farm changed.
pub(super) fn changed(_model: &mut Model, _todo: &mut Todo) {}

/// A person did something.
pub(super) fn act(_model: &mut Model, _act: Act, _argument: Option<&str>, _todo: &mut Todo) -> bool {
    false
}

/// A tab was pressed.
pub(super) fn tab(_model: &mut Model, _tab: usize, _todo: &mut Todo) {}
