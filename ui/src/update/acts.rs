//! What acts do that are the same in all views.

use std::sync::Arc;

use crate::keymap::Act;
use crate::message::{Command, Todo};
use crate::model::action::Subject;
use crate::model::list::ListState;
use crate::model::modal::{Deed, Input, Modal, Pick};
use crate::model::overview::Pane;
use crate::model::senders::Colouring;
use crate::model::{Frozen, ListId, Model};
use crate::options::View;
use crate::sanitize;
use crate::theme::Theme;

/// Does it.
pub(super) fn act(model: &mut Model, act: Act, argument: Option<&str>, todo: &mut Todo) {
    match act {
        Act::Quit => super::deeds::ask_to_quit(model, todo),
        Act::Suspend if model.rights.owns_node => {
            model.complain("this program is the node, and would stop with it; q leaves");
        }
        Act::Suspend => todo.push(Command::Suspend),
        Act::Repaint => todo.push(Command::Repaint),
        Act::Reconnect => todo.push(Command::Reconnect),
        Act::Snapshot => todo.push(Command::Snapshot),
        Act::Help => open(model, Modal::Help),
        Act::Palette => open(model, Modal::Palette(Input::default())),
        Act::Pause => pause(model, todo),
        Act::Theme => theme(model, argument),
        Act::Colouring => colouring(model),
        Act::Show(View::Action) if argument.is_some() => {
            show_action(model, argument.unwrap_or_default(), todo)
        }
        Act::Show(view) => {
            model.actions.machine = None;
            super::jump(model, view, todo);
        }
        Act::Back => back(model, todo),
        Act::Build => build(model, argument, todo),
        Act::Filter => super::filters::begin(model, argument, todo),
        _ => list(model, act, argument, todo),
    }
}

/// The list of the view that has the keys.
pub(crate) fn list_of(model: &Model) -> ListId {
    match model.view() {
        View::Overview => model.overview.pane.list(),
        View::Builds => ListId::Builds,
        View::Actions => ListId::Actions,
        View::Action => ListId::Action,
        View::Timeline => ListId::Timeline,
        View::Machines => ListId::Machines,
        View::Cache => model.cache.part.list(),
        View::Logs => ListId::Logs,
    }
}

/// Puts something over the view.
pub(super) fn open(model: &mut Model, modal: Modal) {
    model.lists[ListId::Modal] = ListState::default();
    model.modal = Some(modal);
}

fn list(model: &mut Model, act: Act, argument: Option<&str>, todo: &mut Todo) {
    let id = list_of(model);
    let state = &mut model.lists[id];
    match act {
        Act::Up => state.step(-1),
        Act::Down => state.step(1),
        Act::PageUp => state.page(-1),
        Act::PageDown => state.page(1),
        Act::Top => state.select(0),
        Act::Bottom => state.select(usize::MAX),
        Act::SortNext => state.sort_next(),
        Act::SortReverse => state.reverse(),
        Act::Sort => sort(model, id, argument),
        _ => return,
    }
    if matches!(act, Act::Sort | Act::SortNext | Act::SortReverse) {
        super::changed(model, todo);
    } else {
        super::chose(model, id, todo);
    }
}

fn sort(model: &mut Model, id: ListId, argument: Option<&str>) {
    let wanted = argument.unwrap_or_default();
    let titles = super::columns(id);
    match titles.iter().position(|title| title.eq_ignore_ascii_case(wanted)) {
        Some(column) => model.lists[id].sort_by(column),
        None if titles.is_empty() => model.complain("there are no columns here"),
        None => model.complain(format!("columns: {}", titles.join(", ").to_lowercase())),
    }
}

fn pause(model: &mut Model, todo: &mut Todo) {
    model.frozen = match model.frozen.take() {
        Some(_) => None,
        None => Some(Box::new(Frozen { farm: model.live.clone(), at: model.now })),
    };
    super::renewed(model, todo);
}

fn theme(model: &mut Model, argument: Option<&str>) {
    let depth = model.theme.depth();
    match argument.filter(|name| !name.is_empty()) {
        Some(name) => match Theme::load(name, depth) {
            Ok(theme) => model.theme = theme,
            Err(reason) => {
                model.complain(format!("theme {}: {}", sanitize::line(name), sanitize::line(&reason)))
            }
        },
        None => model.complain("which? tab completes the name"),
    }
}

fn colouring(model: &mut Model) {
    let (next, word) = match model.live.senders.colouring() {
        Colouring::Person => (Colouring::Build, "build"),
        Colouring::Build => (Colouring::Person, "person"),
    };
    model.live.set_colouring(next);
    if let Some(frozen) = &mut model.frozen {
        frozen.farm.set_colouring(next);
    }
    model.tell(format!("coloured by {word}"));
}

fn show_action(model: &mut Model, digest: &str, todo: &mut Todo) {
    model.action.subject = Some(Subject { key: sanitize::shared(digest), instance: "".into() });
    super::go(model, View::Action, todo);
}

/// Goes back one step: out of a filter, out of a build, out of a view.
fn back(model: &mut Model, todo: &mut Todo) {
    if super::filters::drop_filter(model, todo) {
        return;
    }
    super::leave(model, todo);
    if model.view() == View::Actions {
        model.actions.machine = None;
    }
    if !model.navigation.back() {
        if model.build.take().is_none() {
            model.overview.pane = Pane::default();
            model.navigation.jump(View::Overview);
        }
        super::renewed(model, todo);
    }
    super::enter(model, todo);
}

/// Narrows everything to a build, or drops that.
fn build(model: &mut Model, argument: Option<&str>, todo: &mut Todo) {
    if let Some(wanted) = argument.filter(|text| !text.is_empty()) {
        let found = model.farm().builds.all().find(|build| build.invocation.starts_with(wanted));
        match found.map(|build| build.invocation.clone()) {
            Some(invocation) => super::perform(model, Deed::Build(Some(invocation)), todo),
            None => model.complain("there is no build of that name"),
        }
        return;
    }
    if model.build.is_some() {
        return super::perform(model, Deed::Build(None), todo);
    }
    let now = model.node_now();
    let mut choices: Vec<(String, Deed)> = Vec::new();
    for build in model.farm().builds.active(now) {
        let invocation: Arc<str> = build.invocation.clone();
        choices.push((build.label(), Deed::Build(Some(invocation))));
    }
    if choices.is_empty() {
        return model.complain("no build is under way");
    }
    open(model, Modal::Pick(Pick { title: "Show one build only".to_owned(), choices }));
}
