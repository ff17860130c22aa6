//! What stands around every view: the header, the way here, banners, hints.

use ratatui::layout::Rect;

use crate::canvas::Canvas;
use crate::model::Model;

/// The header line: the farm in numbers.
pub(super) fn header(_model: &Model, _canvas: &mut Canvas<'_>, _area: Rect) {}

/// The line of views, and what they are narrowed to.
pub(super) fn crumbs(_model: &Model, _canvas: &mut Canvas<'_>, _area: Rect) {}

/// Says so when what is shown is old or paused; what is left of `area`.
pub(super) fn banner(_model: &Model, _canvas: &mut Canvas<'_>, area: Rect) -> Rect {
    area
}

/// The last line: keys that work here, or a piece of advice.
pub(super) fn hints(_model: &Model, _canvas: &mut Canvas<'_>, _area: Rect) {}
