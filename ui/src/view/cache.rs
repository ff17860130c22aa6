//! How the cache view looks.

use ratatui::layout::Rect;

use crate::canvas::Canvas;
use crate::model::Model;

/// Paints it.
pub(super) fn draw(_model: &Model, _canvas: &mut Canvas<'_>, _area: Rect) {}
