//! The `/` line, and the filter it makes of the list that is shown.

use crate::message::Todo;
use crate::model::Model;
use crate::model::filter::Filter;
use crate::model::modal::{Input, Modal};
use crate::options::View;

/// Opens the line, or takes the argument of the command.
pub(super) fn begin(model: &mut Model, argument: Option<&str>, todo: &mut Todo) {
    if let Some(text) = argument {
        return set(model, text, todo);
    }
    let before = text(model);
    super::acts::open(model, Modal::Filter(Input::of(&before), before));
}

/// The filter of the view, as it was typed.
pub(crate) fn text(model: &Model) -> String {
    if model.view() == View::Action {
        return super::action::filter_text(model);
    }
    let filter = match model.view() {
        View::Builds => model.builds.filter.as_ref(),
        View::Actions => model.actions.filter.as_ref(),
        View::Machines => model.machines.filter.as_ref(),
        View::Cache => model.cache.filter.as_ref(),
        View::Logs => model.logs.filter.as_ref(),
        _ => None,
    };
    filter.map(|filter| filter.text().to_owned()).unwrap_or_default()
}

/// Filters the view by `text`.
pub(super) fn set(model: &mut Model, text: &str, todo: &mut Todo) {
    if model.view() == View::Action {
        return super::action::set_filter(model, text);
    }
    let filter = match Filter::parse(text) {
        Ok(filter) => filter,
        // A regular expression is no expression while it is typed.
        Err(reason) => return model.complain(reason),
    };
    match model.view() {
        View::Builds => model.builds.filter = filter,
        View::Actions => model.actions.filter = filter,
        View::Machines => model.machines.filter = filter,
        View::Cache => model.cache.filter = filter,
        View::Logs => super::logs::set_filter(model, filter),
        _ => {}
    }
    super::renewed(model, todo);
}

/// Drops the filter of the view; `false` when there is none.
pub(super) fn drop_filter(model: &mut Model, todo: &mut Todo) -> bool {
    if text(model).is_empty() {
        return false;
    }
    set(model, "", todo);
    true
}
