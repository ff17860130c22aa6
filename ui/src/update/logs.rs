//! What happens in the logs view.

use farmhand_proto::control;
use farmhand_proto::control::log_line::Level;

use super::action::text_size;
use crate::keymap::Act;
use crate::message::{Answer, Call, Slot, Todo};
use crate::model::Model;
use crate::model::filter::Filter;
use crate::model::logs::{level_word, next_level};

/// Levels by the names one can type.
const LEVELS: [(&str, Level); 6] = [
    ("all", Level::Unspecified),
    ("trace", Level::Trace),
    ("debug", Level::Debug),
    ("info", Level::Info),
    ("warn", Level::Warn),
    ("error", Level::Error),
];

/// The view comes to be shown.
pub(super) fn enter(model: &mut Model, todo: &mut Todo) {
    model.logs.failure = None;
    let request = control::WatchLogRequest { after: model.logs.last(), level: 0, follow: true };
    model.calls.ask(Slot::Log, Call::Log(request), todo);
}

/// The view ceases to be shown.
pub(super) fn leave(model: &mut Model, todo: &mut Todo) {
    model.calls.cancel(Slot::Log, todo);
}

/// The farm changed: a node that began anew counts its lines anew.
pub(super) fn changed(model: &mut Model, todo: &mut Todo) {
    let boot_epoch = model.live.node.as_ref().map(|node| node.boot_epoch);
    if boot_epoch.is_some_and(|boot_epoch| model.logs.begin(boot_epoch)) {
        enter(model, todo);
    }
}

/// A person did something.
pub(super) fn act(model: &mut Model, act: Act, argument: Option<&str>, _todo: &mut Todo) -> bool {
    if act == Act::Level {
        level(model, argument);
        return true;
    }
    let size = text_size(model);
    match model.logs.pager.act(act, size) {
        Some(false) => model.complain("it is not in there"),
        Some(true) => {}
        None => return false,
    }
    true
}

/// The wheel was turned over the lines.
pub(super) fn wheel(model: &mut Model, rows: isize) -> bool {
    let size = text_size(model);
    model.logs.pager.wheel(rows, size);
    true
}

/// The node answered with lines.
pub(super) fn answer(model: &mut Model, answer: Answer, _todo: &mut Todo) {
    match answer {
        Answer::Log(log) => model.logs.take(log.lines),
        Answer::Failed(failure) => model.logs.failure = Some(failure.text),
        _ => {}
    }
}

/// Shows only what is wanted.
pub(super) fn set_filter(model: &mut Model, filter: Option<Filter>) {
    let size = text_size(model);
    model.logs.want(filter, size);
}

fn level(model: &mut Model, argument: Option<&str>) {
    let wanted = match argument.filter(|name| !name.is_empty()) {
        None => next_level(model.logs.least),
        Some(name) => match LEVELS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
            Some((_, level)) => *level,
            None => return model.complain("levels: all, trace, debug, info, warn, error"),
        },
    };
    model.logs.want_level(wanted);
    match wanted {
        Level::Unspecified => model.tell("all levels"),
        level => model.tell(format!("{} and above", level_word(level))),
    }
}
