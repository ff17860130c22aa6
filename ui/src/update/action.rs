//! What happens in the action view.
//!
//! Everything but the action itself is asked for when its tab is shown, and streams are given up
//! when the view is left.

use farmhand_proto::control;
use farmhand_proto::control::directory_entry::Kind;
use farmhand_proto::control::read_output_request::Stream;

use super::on_action::{self, Target};
use crate::keymap::Act;
use crate::logtext::Size;
use crate::message::{Answer, Call, Slot, Todo};
use crate::model::action::facts::{self, Fact};
use crate::model::action::tree::{NodeId, Progress, TreeRow};
use crate::model::action::{Action, File, Subject, Tab, Tree};
use crate::model::modal::Deed;
use crate::model::op::Status;
use crate::model::pager::Pager;
use crate::model::{ListId, ListState, Model};
use crate::sanitize;

/// Bytes of a file that are shown.
const FILE_BYTES: u64 = 1 << 20;

/// How often the reasons why an action waits are asked for anew, in seconds.
const WAITING_EVERY: u64 = 3;

/// gRPC status code of what is not there.
const NOT_FOUND: i32 = 5;

/// The view comes to be shown.
pub(super) fn enter(model: &mut Model, todo: &mut Todo) {
    if model.action.subject.is_none() {
        let chosen = super::actions::chosen(model);
        model.action.subject =
            chosen.map(|op| Subject { key: op.name.clone(), instance: op.instance.clone() });
    }
    if model.action.subject != model.action.shown {
        stop(model, todo);
        model.action.clear();
        model.lists[ListId::Action] = ListState::default();
    }
    ask(model, todo);
    need(model, todo);
}

/// The view ceases to be shown.
pub(super) fn leave(model: &mut Model, todo: &mut Todo) {
    stop(model, todo);
}

/// The farm changed: what was told of an action that waits or runs may be old.
pub(super) fn changed(model: &mut Model, todo: &mut Todo) {
    let Some(loaded) = model.action.loaded.as_ref() else { return };
    let was = loaded.op.as_ref().map(|op| op.status);
    let is = facts::op(model).map(|op| op.status);
    let age = model.now.saturating_sub(model.action.asked_at).as_secs();
    let waits = is == Some(Status::Queued) && age >= WAITING_EVERY;
    if (was != is || waits) && !model.calls.is_waiting(Slot::Action) {
        ask(model, todo);
    }
}

/// A person did something.
pub(super) fn act(model: &mut Model, act: Act, argument: Option<&str>, todo: &mut Todo) -> bool {
    match act {
        Act::NextTab => show_tab(model, model.action.tab.step(1), todo),
        Act::PreviousTab => show_tab(model, model.action.tab.step(-1), todo),
        Act::Tab => {
            if let Some(number) = super::tab_named(model, &Tab::ALL.map(Tab::title), argument) {
                tab(model, number, todo);
            }
        }
        Act::Back => return back(model, todo),
        _ if moved_text(model, act) => {}
        Act::Open => open(model, todo),
        Act::Left => return close(model),
        Act::Right => return open_directory(model, todo),
        Act::Copy => copy(model, todo),
        _ => {
            let target = target(model);
            return on_action::act(model, target, act, argument, todo);
        }
    }
    true
}

/// The node answered.
pub(super) fn answer(model: &mut Model, slot: Slot, answer: Answer, todo: &mut Todo) {
    let action = &mut model.action;
    match (slot, answer) {
        (Slot::Action, Answer::Action(response)) => {
            action.take(*response);
            need(model, todo);
        }
        (Slot::Action, Answer::Failed(failure)) => action.failure = Some(failure.text),
        (Slot::Miss, Answer::Miss(miss)) => action.take_miss(miss),
        (Slot::Miss, Answer::Failed(failure)) => action.miss = Some(Err(failure.text)),
        (Slot::Directory, Answer::Directory(page)) => listed(model, Ok(page), todo),
        (Slot::Directory, Answer::Failed(failure)) => listed(model, Err(failure.text), todo),
        (Slot::Blob, answer) => file_answer(action, answer),
        (Slot::Stdout | Slot::Stderr, answer) => output_answer(action, slot, answer),
        _ => {}
    }
}

/// Shows a part of the view.
pub(super) fn show_tab(model: &mut Model, tab: Tab, todo: &mut Todo) {
    close_file(model, todo);
    model.action.show_tab(tab, &mut model.lists[ListId::Action]);
    if model.view() == crate::options::View::Action {
        need(model, todo);
    }
}

/// A tab was pressed.
pub(super) fn tab(model: &mut Model, tab: usize, todo: &mut Todo) {
    if let Some(tab) = Tab::ALL.get(tab) {
        show_tab(model, *tab, todo);
    }
}

/// What the view is filtered by or searched for, as it was typed.
pub(super) fn filter_text(model: &Model) -> String {
    match (model.action.pager(), model.action.tree()) {
        (Some(pager), _) => pager.needle().to_owned(),
        (None, Some(tree)) => tree.filter().map(|filter| filter.text().to_owned()).unwrap_or_default(),
        (None, None) => String::new(),
    }
}

/// Filters the tree, or searches the text.
pub(super) fn set_filter(model: &mut Model, text: &str) {
    let size = text_size(model);
    if let Some(pager) = model.action.pager_mut() {
        if !pager.search(text, size) {
            model.complain(format!("{text:?} is not in there"));
        }
        return;
    }
    match (crate::model::filter::Filter::parse(text), model.action.tree_mut()) {
        (Ok(filter), Some(tree)) => tree.set_filter(filter),
        (Err(reason), Some(_)) => model.complain(reason),
        (_, None) => model.complain("there is nothing to filter or to search here"),
    }
}

/// The wheel was turned over a text; `false` when none is shown.
pub(super) fn wheel(model: &mut Model, rows: isize) -> bool {
    let size = text_size(model);
    match model.action.pager_mut() {
        Some(pager) => pager.wheel(rows, size),
        None => return false,
    }
    true
}

/// Columns and rows of the text that was last seen.
pub(super) fn text_size(model: &Model) -> Size {
    model.drawn.text.unwrap_or_default()
}

// === asking ===

/// Asks for the action itself.
fn ask(model: &mut Model, todo: &mut Todo) {
    let Some(subject) = model.action.shown.clone() else { return };
    model.action.asked_at = model.now;
    let request = control::GetActionRequest {
        digest: subject.key.to_string(),
        instance_name: subject.instance.to_string(),
    };
    model.calls.ask(Slot::Action, Call::Action(request), todo);
}

/// Asks for what the tab that is shown lacks.
fn need(model: &mut Model, todo: &mut Todo) {
    match model.action.tab {
        Tab::Inputs => open_root(model, todo),
        Tab::Outputs => ask_directory(model, todo),
        Tab::Stdout => ask_output(model, Slot::Stdout, todo),
        Tab::Stderr => ask_output(model, Slot::Stderr, todo),
        Tab::Cache => ask_miss(model, todo),
        Tab::Summary | Tab::Command | Tab::Timing | Tab::Raw => {}
    }
}

fn open_root(model: &mut Model, todo: &mut Todo) {
    let inputs = &mut model.action.inputs;
    if let Some(&TreeRow::Node(root)) = inputs.rows().first()
        && inputs.node(root).progress == Progress::Unread
    {
        inputs.open(root);
    }
    ask_directory(model, todo);
}

/// Asks for the directory the tree wants next.
fn ask_directory(model: &mut Model, todo: &mut Todo) {
    if model.calls.is_waiting(Slot::Directory) {
        return;
    }
    let request = model.action.tree_mut().and_then(Tree::next_request);
    if let Some(request) = request {
        model.action.listing = Some(model.action.tab);
        model.calls.ask(Slot::Directory, Call::Directory(request), todo);
    }
}

fn ask_output(model: &mut Model, slot: Slot, todo: &mut Todo) {
    let Some(operation) = operation(model) else { return };
    let output = match slot {
        Slot::Stdout => &mut model.action.stdout,
        _ => &mut model.action.stderr,
    };
    if std::mem::replace(&mut output.is_asked, true) {
        return;
    }
    let stream = if slot == Slot::Stdout { Stream::Stdout } else { Stream::Stderr };
    let request = control::ReadOutputRequest {
        operation,
        stream: stream.into(),
        offset: output.offset(),
        follow: true,
    };
    model.calls.ask(slot, Call::Output(request), todo);
}

fn ask_miss(model: &mut Model, todo: &mut Todo) {
    if model.action.miss.is_some() || model.calls.is_waiting(Slot::Miss) {
        return;
    }
    let (Some(digest), Some(subject)) = (operation(model), &model.action.shown) else { return };
    let request = control::ExplainMissRequest { digest, instance_name: subject.instance.to_string() };
    model.calls.ask(Slot::Miss, Call::Miss(request), todo);
}

/// The name of the operation that is shown, else the digest of its action.
fn operation(model: &Model) -> Option<String> {
    let name = facts::op(model).map(|op| op.name.to_string());
    name.or_else(|| model.action.shown.as_ref().map(|subject| subject.key.to_string()))
}

/// Gives up what is under way.
fn stop(model: &mut Model, todo: &mut Todo) {
    for slot in [Slot::Action, Slot::Directory, Slot::Blob, Slot::Stdout, Slot::Stderr, Slot::Miss] {
        model.calls.cancel(slot, todo);
    }
    let action = &mut model.action;
    action.inputs.forget_request();
    action.outputs.forget_request();
    action.stdout.interrupt();
    action.stderr.interrupt();
}

// === answers ===

fn listed(model: &mut Model, page: Result<control::ListDirectoryResponse, String>, todo: &mut Todo) {
    match model.action.listing.take() {
        Some(Tab::Outputs) => model.action.outputs.take(page),
        _ => model.action.inputs.take(page),
    }
    ask_directory(model, todo);
}

fn file_answer(action: &mut Action, answer: Answer) {
    let Some(file) = &mut action.file else { return };
    match answer {
        Answer::Blob(piece) => file.pager.push(&piece.data),
        Answer::Ended => {
            file.pager.end();
            file.ended = true;
        }
        Answer::Failed(failure) => file.failure = Some(failure.text),
        _ => {}
    }
}

fn output_answer(action: &mut Action, slot: Slot, answer: Answer) {
    let output = if slot == Slot::Stdout { &mut action.stdout } else { &mut action.stderr };
    match answer {
        Answer::Output(piece) => output.take(&piece),
        Answer::Ended if !output.ended => output.interrupt(),
        Answer::Failed(failure) if failure.code == NOT_FOUND => {
            output.failure = Some("nothing of it was kept".to_owned());
        }
        Answer::Failed(failure) => output.failure = Some(failure.text),
        _ => {}
    }
}

// === acts ===

/// Moves the text that is shown; `false` when none is, or it has no use for the act.
fn moved_text(model: &mut Model, act: Act) -> bool {
    let size = text_size(model);
    let done = model.action.pager_mut().and_then(|pager| pager.act(act, size));
    if done == Some(false) {
        model.complain("it is not in there");
    }
    done.is_some()
}

/// Closes a file, or goes back to the action before; `false` leaves it to others.
fn back(model: &mut Model, todo: &mut Todo) -> bool {
    if close_file(model, todo) {
        return true;
    }
    if !filter_text(model).is_empty() {
        return false;
    }
    let Some(before) = model.action.before.pop() else { return false };
    model.action.subject = Some(before);
    enter(model, todo);
    true
}

fn close_file(model: &mut Model, todo: &mut Todo) -> bool {
    model.calls.cancel(Slot::Blob, todo);
    model.action.file.take().is_some()
}

/// Opens what is chosen: a directory, a file, an action.
fn open(model: &mut Model, todo: &mut Todo) {
    if model.action.tree().is_some() {
        return open_row(model, todo);
    }
    let subject = chosen_fact(model).and_then(|fact| fact.opens);
    let subject = subject.or_else(|| match model.action.tab {
        // On the tab that tells of the earlier action, any line leads to it.
        Tab::Cache => facts::of(model).into_iter().find_map(|fact| fact.opens),
        _ => None,
    });
    if let Some(subject) = subject {
        model.action.follow(subject);
        enter(model, todo);
    }
}

fn open_row(model: &mut Model, todo: &mut Todo) {
    let row = chosen_row(model);
    let Some(tree) = model.action.tree_mut() else { return };
    match row {
        Some(TreeRow::Node(id)) if tree.node(id).is_open => tree.close(id),
        Some(TreeRow::Node(id)) if tree.node(id).is_directory() => tree.open(id),
        Some(TreeRow::Node(id)) => return open_file(model, id, todo),
        Some(TreeRow::Rest(id)) => tree.want(id),
        None => {}
    }
    ask_directory(model, todo);
}

fn open_file(model: &mut Model, id: NodeId, todo: &mut Todo) {
    let Some(tree) = model.action.tree() else { return };
    let node = tree.node(id);
    if node.kind != Kind::File || node.digest.is_empty() {
        return;
    }
    let file =
        File { title: tree.path(id), pager: Pager::new(), bytes: node.bytes, ended: false, failure: None };
    let request = control::ReadBlobRequest { digest: node.digest.clone(), offset: 0, limit: FILE_BYTES };
    model.action.file = Some(Box::new(file));
    model.calls.ask(Slot::Blob, Call::Blob(request), todo);
}

/// Closes the directory that is chosen, or goes to the one above; `false` where there is no tree.
fn close(model: &mut Model) -> bool {
    let (row, selected) = (chosen_row(model), model.lists[ListId::Action].selected);
    let Some(tree) = model.action.tree_mut() else { return false };
    match row {
        Some(TreeRow::Node(id)) if tree.node(id).is_open => tree.close(id),
        _ => {
            if let Some(parent) = tree.parent_row(selected) {
                model.lists[ListId::Action].select(parent);
            }
        }
    }
    true
}

/// Opens the directory that is chosen, or goes into it; `false` where there is no tree.
fn open_directory(model: &mut Model, todo: &mut Todo) -> bool {
    let row = chosen_row(model);
    let Some(tree) = model.action.tree_mut() else { return false };
    match row {
        Some(TreeRow::Node(id)) if tree.node(id).is_open => model.lists[ListId::Action].step(1),
        Some(TreeRow::Node(id)) => tree.open(id),
        _ => {}
    }
    ask_directory(model, todo);
    true
}

/// Copies what is chosen, the text that is shown, or the command.
fn copy(model: &mut Model, todo: &mut Todo) {
    let text = if let Some(pager) = model.action.pager() {
        Some(pager.text().to_text())
    } else if let Some(tree) = model.action.tree() {
        match chosen_row(model) {
            Some(TreeRow::Node(id)) => Some(tree.path(id)),
            _ => None,
        }
    } else if model.action.tab == Tab::Cache {
        chosen_fact(model).map(|fact| fact.value)
    } else {
        model.action.loaded.as_ref().and_then(|loaded| loaded.shell_line())
    };
    match text.filter(|text| !text.is_empty()) {
        Some(text) => super::perform(model, Deed::Copy(text), todo),
        None => model.complain("there is nothing to copy"),
    }
}

fn chosen_row(model: &Model) -> Option<TreeRow> {
    let selected = model.lists[ListId::Action].selected;
    model.action.tree()?.rows().get(selected).copied()
}

fn chosen_fact(model: &Model) -> Option<Fact> {
    facts::of(model).into_iter().nth(model.lists[ListId::Action].selected)
}

/// The action that is shown, for what one does to actions.
fn target(model: &Model) -> Option<Target> {
    if let Some(op) = facts::op(model) {
        return Some(Target::from(op));
    }
    let loaded = model.action.loaded.as_ref()?;
    Some(Target {
        name: "".into(),
        digest: sanitize::shared(&loaded.digest),
        instance: sanitize::shared(&loaded.instance),
        label: loaded.digest.clone(),
        status: Status::Ok,
        pinned: false,
        callers: 0,
    })
}
