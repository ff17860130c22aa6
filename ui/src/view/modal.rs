//! How what lies over a view looks.

use ratatui::layout::Rect;

use crate::canvas::Canvas;
use crate::model::Model;
use crate::model::modal::Modal;

/// Paints it.
pub(super) fn draw(_model: &Model, _modal: &Modal, _canvas: &mut Canvas<'_>, _area: Rect) {}
