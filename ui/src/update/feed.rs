//! What comes from the node.

use crate::message::{FeedEvent, Todo};
use crate::model::{Link, Model};

/// Applies it.
pub(super) fn feed(model: &mut Model, event: FeedEvent, todo: &mut Todo) {
    match event {
        FeedEvent::Connected => {
            model.link = Link::Up;
            todo.redraw = true;
            super::enter(model, todo);
        }
        FeedEvent::Changes(changes) => {
            model.link = Link::Up;
            model.live.apply(*changes, model.now);
            super::entrance::look(model, todo);
            if model.frozen.is_none() {
                super::changed(model, todo);
            }
        }
        FeedEvent::Lost { reason, retry_in } => {
            model.link = Link::Down { reason, retry_at: model.now + retry_in };
            todo.redraw = true;
        }
    }
}
