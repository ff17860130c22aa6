//! How the logs view looks.

use farmhand_proto::control::log_line::Level;
use ratatui::layout::Rect;

use super::pager;
use crate::canvas::Canvas;
use crate::format;
use crate::message::Slot;
use crate::model::logs::level_word;
use crate::model::{ListId, Model};
use crate::theme::Role;

/// Paints it.
pub(super) fn draw(model: &Model, canvas: &mut Canvas<'_>, area: Rect) {
    if area.is_empty() {
        return;
    }
    let logs = &model.logs;
    let body = Rect { y: area.y + 1, height: area.height - 1, ..area };
    let position = pager::position(&logs.pager, body);
    let line = Rect { width: area.width.saturating_sub(1), height: 1, ..area };
    let right = canvas.text_right(line, &position, Role::Dim);
    let (words, role) = words(model);
    canvas.text(area.x + 1, area.y, area.width.saturating_sub(right + 3), &words, role);
    pager::draw(canvas, body, ListId::Logs, &logs.pager, |number| role_of(logs.level(number)));
}

/// What is shown of what there is.
fn words(model: &Model) -> (String, Role) {
    let logs = &model.logs;
    if let Some(reason) = &logs.failure {
        return (format!("the node does not tell its log: {reason}"), Role::Bad);
    }
    let (kept, wanted) = logs.counts();
    if kept == 0 {
        let words = if model.calls.is_waiting(Slot::Log) {
            "nothing so far; lines come by themselves"
        } else {
            "no lines"
        };
        return (words.to_owned(), Role::Dim);
    }
    let level = match logs.least {
        Level::Unspecified => "all levels".to_owned(),
        level => format!("{} and above", level_word(level)),
    };
    let count = match wanted == kept {
        true => format::plural(kept as u64, "line"),
        false => format!("{} of {}", format::count(wanted as u64), format::plural(kept as u64, "line")),
    };
    (format!("{level}, {count}"), Role::Dim)
}

fn role_of(level: Level) -> Role {
    match level {
        Level::Error => Role::Bad,
        Level::Warn => Role::Warn,
        Level::Info => Role::Text,
        Level::Unspecified | Level::Trace | Level::Debug => Role::Dim,
    }
}
