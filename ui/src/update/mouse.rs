//! The mouse.

use crossterm::event::MouseEvent;

use crate::message::Todo;
use crate::model::Model;

/// The mouse was used.
pub(super) fn mouse(_model: &mut Model, _event: MouseEvent, _todo: &mut Todo) {}
