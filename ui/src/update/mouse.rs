//! The mouse: what lies under the pointer was told by the last painting.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};

use crate::canvas::Hit;
use crate::keymap::Act;
use crate::message::Todo;
use crate::model::overview::Pane;
use crate::model::{ListId, Model};
use crate::options::View;

/// Rows a turn of the wheel goes.
const WHEEL: isize = 3;

/// The mouse was used.
pub(super) fn mouse(model: &mut Model, event: MouseEvent, todo: &mut Todo) {
    model.touched = model.now;
    let (x, y) = (event.column, event.row);
    let under = model.drawn.at(x, y);
    let is_held = model.timeline.held.is_some()
        && matches!(event.kind, MouseEventKind::Drag(_) | MouseEventKind::Up(_));
    if (under == Some(Hit::Lanes) || is_held) && model.modal.is_none() {
        return super::timeline::mouse(model, event, todo);
    }
    match event.kind {
        MouseEventKind::Down(MouseButton::Left) => press(model, under, todo),
        MouseEventKind::ScrollUp => wheel(model, x, y, -WHEEL, todo),
        MouseEventKind::ScrollDown => wheel(model, x, y, WHEEL, todo),
        _ => {}
    }
}

fn press(model: &mut Model, under: Option<Hit>, todo: &mut Todo) {
    let Some(hit) = under else { return };
    todo.redraw = true;
    match hit {
        Hit::Nothing | Hit::List(_) | Hit::Lanes => {}
        Hit::Act(act) => perform(model, act, todo),
        _ if model.modal.is_some() && !matches!(hit, Hit::Row(ListId::Modal, _)) => {}
        Hit::View(view) => super::act(model, Act::Show(view), None, todo),
        Hit::Row(list, row) => choose(model, list, row, todo),
        Hit::Column(list, column) => {
            model.lists[list].sort_by(column);
            super::changed(model, todo);
        }
        Hit::Tab(tab) => tab_pressed(model, tab, todo),
    }
}

/// What a hint or a button stands for. Over a dialog it is the dialog that is meant.
fn perform(model: &mut Model, act: Act, todo: &mut Todo) {
    if model.modal.is_some() {
        let event = KeyEvent::new(KeyCode::Null, KeyModifiers::NONE);
        return super::modals::key(model, event, Some(act), todo);
    }
    super::act(model, act, None, todo);
}

/// A press chooses a row; a press on the chosen one opens it.
fn choose(model: &mut Model, list: ListId, row: usize, todo: &mut Todo) {
    let pane = Pane::ALL.into_iter().find(|pane| pane.list() == list);
    let was_there = pane.is_none_or(|pane| model.overview.pane == pane);
    if let Some(pane) = pane {
        model.overview.pane = pane;
    }
    let again = model.lists[list].selected == row && was_there;
    model.lists[list].select(row);
    super::chose(model, list, todo);
    if !again {
        return;
    }
    let act = if list == ListId::Modal { Act::Accept } else { Act::Open };
    if list == ListId::Modal && !matches!(model.modal, Some(crate::model::modal::Modal::Pick(_))) {
        return;
    }
    perform(model, act, todo);
}

fn tab_pressed(model: &mut Model, tab: usize, todo: &mut Todo) {
    match model.view() {
        View::Actions => super::actions::tab(model, tab, todo),
        View::Action => super::action::tab(model, tab, todo),
        View::Cache => super::cache::tab(model, tab, todo),
        _ => {}
    }
}

fn wheel(model: &mut Model, x: u16, y: u16, rows: isize, todo: &mut Todo) {
    let Some(list) = model.drawn.list_at(x, y) else { return };
    if model.modal.is_some() && list != ListId::Modal {
        return;
    }
    let is_text = match list {
        ListId::Action => super::action::wheel(model, rows),
        ListId::Logs => super::logs::wheel(model, rows),
        _ => false,
    };
    todo.redraw = true;
    if is_text {
        return;
    }
    model.lists[list].scroll(rows);
    super::chose(model, list, todo);
}
