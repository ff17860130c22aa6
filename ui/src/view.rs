//! Painting the model. Nothing in here changes anything.
//!
//! [`draw`] divides the screen: a header line, the view, a line of hints. Each view is a file with
//! one function `draw(&Model, &mut Canvas, Rect)`, which paints any area, however small.

mod action;
mod actions;
mod bars;
mod builds;
mod cache;
mod chrome;
mod graph;
mod logs;
mod machines;
mod modal;
mod overview;
mod pager;
mod table;
mod tabs;
mod timeline;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use crate::canvas::Canvas;
use crate::model::Model;
use crate::options::View;
use crate::sanitize;
use crate::theme::Role;

/// The least that makes sense.
const LEAST: (u16, u16) = (40, 8);

/// Paints everything onto an empty canvas.
pub(crate) fn draw(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    canvas.tint(area, Role::Text);
    if area.width < LEAST.0 || area.height < LEAST.1 {
        return too_small(canvas, area);
    }
    let header = Rect { height: 1, ..area };
    let crumbs = Rect { y: area.y + 1, height: 1, ..area };
    let hints = Rect { y: area.bottom() - 1, height: 1, ..area };
    let body = Rect { y: area.y + 2, height: area.height - 3, ..area };
    chrome::header(model, canvas, header);
    chrome::crumbs(model, canvas, crumbs);
    let body = chrome::banner(model, canvas, body);
    view(model, canvas, body);
    chrome::hints(model, canvas, hints);
    if let Some(modal) = &model.modal {
        modal::draw(model, modal, canvas, area);
    }
}

/// Paints the view that is shown.
pub(crate) fn view(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    match model.view() {
        View::Overview => overview::draw(model, canvas, area),
        View::Builds => builds::draw(model, canvas, area),
        View::Actions => actions::draw(model, canvas, area),
        View::Action => action::draw(model, canvas, area),
        View::Timeline => timeline::draw(model, canvas, area),
        View::Machines => machines::draw(model, canvas, area),
        View::Cache => cache::draw(model, canvas, area),
        View::Logs => logs::draw(model, canvas, area),
    }
}

/// Paints what is printed once: the header, and the overview without its events.
pub(crate) fn draw_text(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    chrome::header(model, canvas, Rect { height: 1, ..area });
    let body = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
    overview::draw_text(model, canvas, body);
}

/// Lines that takes.
pub(crate) fn height_of_text(model: &Model, width: u16) -> u16 {
    1 + overview::height_of_text(model, width)
}

/// Cells as text, without spaces at the ends of lines.
pub(crate) fn text_of(buffer: &Buffer) -> String {
    let mut text = String::with_capacity(buffer.content.len());
    for line in buffer.content.chunks(usize::from(buffer.area.width).max(1)) {
        let mut covered = 0;
        let from = text.len();
        for cell in line {
            // The second cell of a wide letter holds nothing of its own.
            if covered > 0 {
                covered -= 1;
                continue;
            }
            covered = sanitize::width(cell.symbol()).saturating_sub(1);
            text.push_str(cell.symbol());
        }
        let end = from + text[from..].trim_end().len();
        text.truncate(end);
        text.push('\n');
    }
    text
}

fn too_small(canvas: &mut Canvas<'_>, area: Rect) {
    let lines = [format!("needs {}x{}", LEAST.0, LEAST.1), format!("has {}x{}", area.width, area.height)];
    let top = area.y + area.height.saturating_sub(1) / 2;
    for (y, text) in (top..area.bottom()).zip(lines) {
        canvas.text(area.x, y, area.width, &text, Role::Warn);
    }
}

#[cfg(test)]
mod pictures;
#[cfg(test)]
mod tests;
