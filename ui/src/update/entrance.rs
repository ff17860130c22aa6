//! Inviting, letting in and joining: how machines come into the farm from here.

use farmhand_proto::control::{self, GetFarmResponse, Newcomer};

use crate::keymap::Act;
use crate::message::{Answer, Call, Command, Slot, Todo};
use crate::model::Model;
use crate::model::entrance::{self, Inviting, Joining};
use crate::model::modal::{Ask, Confirm, Deed, Input, Modal};
use crate::sanitize;

/// A person wants to invite, to answer who waits, or to join.
pub(super) fn act(model: &mut Model, act: Act, argument: Option<&str>, todo: &mut Todo) {
    match act {
        Act::Invite => invite(model, todo),
        Act::Answer => answer_first(model),
        _ => join(model, argument, todo),
    }
}

/// A key while one of its dialogs lies over the view; `false` when it means nothing there.
pub(super) fn key(model: &mut Model, act: Act, todo: &mut Todo) -> bool {
    match (&model.modal, act) {
        (Some(Modal::Newcomer(newcomer)), Act::LetIn | Act::TurnAway) => {
            let newcomer = newcomer.clone();
            ask_whether(model, &newcomer, act == Act::LetIn);
        }
        (Some(Modal::Invitation), Act::Withdraw) => {
            model.calls.cancel(Slot::Invite, todo);
            model.entrance.inviting = None;
            model.modal = None;
            model.tell("the invitation is withdrawn");
        }
        (Some(Modal::Invitation), Act::Copy) => {
            let open = model.entrance.inviting.as_ref().filter(|inviting| !inviting.code.is_empty());
            if let Some(command) = open.map(Inviting::command) {
                todo.push(Command::Copy(command));
            }
        }
        _ => return false,
    }
    true
}

/// One of its dialogs was closed.
pub(super) fn closed(model: &mut Model, modal: &Modal, todo: &mut Todo) {
    match modal {
        Modal::Invitation if model.entrance.inviting.as_ref().is_some_and(|open| open.end.is_some()) => {
            model.entrance.inviting = None;
        }
        Modal::Invitation if model.entrance.inviting.is_some() => {
            model.tell("the invitation stays open; I shows it again");
        }
        Modal::Joining => {
            let is_over = model.entrance.joining.take().is_none_or(|joining| joining.end.is_some());
            model.calls.cancel(Slot::Join, todo);
            if !is_over {
                model.tell("given up; this machine stays in its farm");
            }
        }
        _ => {}
    }
}

/// Who waits may have changed: shows who came, and takes away who left.
pub(super) fn look(model: &mut Model, todo: &mut Todo) {
    leave_who_left(model, todo);
    let is_free = matches!(model.modal, None | Some(Modal::Invitation));
    if model.rights.read_only || !is_free {
        return;
    }
    let boot = model.live.node.as_ref().map_or(0, |node| node.boot_epoch);
    let shown = &mut model.entrance;
    let new = model.live.entrance.waiting.iter().find(|newcomer| shown.is_new(boot, newcomer.number));
    if let Some(newcomer) = new.cloned() {
        super::acts::open(model, Modal::Newcomer(newcomer));
        todo.redraw = true;
    }
}

/// Does what a person decided.
pub(super) fn perform(model: &mut Model, deed: Deed, todo: &mut Todo) {
    match deed {
        Deed::AskCode { leave, typed } => match typed {
            Some(typed) => begin(model, &typed, leave, todo),
            None => ask_code(model, leave),
        },
        Deed::Join { typed, leave } => begin(model, &typed, leave, todo),
        _ => {}
    }
}

/// The node tells of the invitation, or of how joining goes.
pub(super) fn answer(model: &mut Model, slot: Slot, answer: Answer, todo: &mut Todo) {
    match (slot, answer) {
        (Slot::Invite, Answer::Invite(response)) => {
            model.entrance.inviting.get_or_insert_default().take(*response);
            tell_end(model, todo);
        }
        (Slot::Invite, Answer::Failed(failure)) => {
            model.entrance.inviting.get_or_insert_default().failed(&failure);
            tell_end(model, todo);
        }
        (Slot::Invite, Answer::Ended) => {
            model.entrance.inviting.get_or_insert_default().over();
            tell_end(model, todo);
        }
        (Slot::Join, Answer::Farm(farm)) => may_join(model, &farm, todo),
        (Slot::Join, Answer::Join(response)) => {
            model.entrance.joining.get_or_insert_default().take(*response)
        }
        (Slot::Join, Answer::Ended) => {
            if let Some(joining) = &mut model.entrance.joining {
                joining.over();
            }
        }
        (Slot::Join, Answer::Failed(failure)) => match &mut model.entrance.joining {
            Some(joining) => joining.failed(&failure),
            None => model.complain(failure.text),
        },
        _ => {}
    }
}

fn invite(model: &mut Model, todo: &mut Todo) {
    let is_open = model.calls.is_waiting(Slot::Invite);
    if !is_open && model.live.entrance.invitation.is_some() {
        return model.complain("an invitation is open already; who opened it sees its code");
    }
    if !is_open {
        model.entrance.inviting = Some(Inviting::default());
        model.calls.ask(Slot::Invite, Call::Invite(control::InviteRequest { ask: true }), todo);
    }
    super::acts::open(model, Modal::Invitation);
}

fn answer_first(model: &mut Model) {
    match model.live.entrance.waiting.first().cloned() {
        Some(newcomer) => super::acts::open(model, Modal::Newcomer(newcomer)),
        None => model.complain("no machine asks to come in"),
    }
}

fn ask_whether(model: &mut Model, newcomer: &Newcomer, accept: bool) {
    let (name, words) = (&newcomer.name, &newcomer.check_words);
    let farm = model.live.name();
    let (title, text) = match accept {
        true => (
            "Let it in?",
            format!(
                "{name} gets the key of the farm {farm}, for good. Its screen must show the words {words}: \
                 if they are others, somebody sits in between."
            ),
        ),
        false => ("Turn it away?", format!("{name} is told so, and the invitation ends.")),
    };
    let deed = Deed::Answer { number: newcomer.number, accept };
    model.modal = Some(Modal::Confirm(Confirm { title: title.to_owned(), text, deed }));
}

/// An answer to one who is not there any more is no answer.
fn leave_who_left(model: &mut Model, todo: &mut Todo) {
    let number = match &model.modal {
        Some(Modal::Newcomer(newcomer)) => newcomer.number,
        Some(Modal::Confirm(Confirm { deed: Deed::Answer { number, .. }, .. })) => *number,
        _ => return,
    };
    if !model.live.entrance.waiting.iter().any(|newcomer| newcomer.number == number) {
        model.modal = None;
        model.tell("the newcomer does not wait any more");
        todo.redraw = true;
    }
}

/// How the invitation ended is told where nobody looks at it.
fn tell_end(model: &mut Model, todo: &mut Todo) {
    let Some(end) = model.entrance.inviting.as_ref().and_then(|inviting| inviting.end.clone()) else {
        return;
    };
    model.calls.cancel(Slot::Invite, todo);
    if model.modal == Some(Modal::Invitation) {
        return;
    }
    model.entrance.inviting = None;
    match (end.is_good, end.remedy) {
        (true, _) => model.tell(end.text),
        (false, "") => model.complain(end.text),
        (false, remedy) => model.complain(format!("{} {remedy}", end.text)),
    }
}

// === joining ===

/// Asks the node first whether it can join at all.
fn join(model: &mut Model, argument: Option<&str>, todo: &mut Todo) {
    if model.entrance.joining.is_some() {
        return super::acts::open(model, Modal::Joining);
    }
    model.entrance.typed = argument.map(str::trim).filter(|typed| !typed.is_empty()).map(str::to_owned);
    model.calls.ask(Slot::Join, Call::Farm(control::GetFarmRequest {}), todo);
}

fn may_join(model: &mut Model, farm: &GetFarmResponse, todo: &mut Todo) {
    let typed = model.entrance.typed.take();
    if !farm.key_file.is_empty() {
        let file = sanitize::line(&farm.key_file);
        return model.complain(format!("the farm of this machine is set by the key in {file}: change that"));
    }
    if !farm.is_shared {
        return perform(model, Deed::AskCode { leave: false, typed }, todo);
    }
    let names: Vec<_> = farm.members.iter().take(4).map(|member| sanitize::line(&member.name)).collect();
    let others = if names.is_empty() { "others".to_owned() } else { names.join(", ") };
    let text = format!(
        "This machine is in the farm {} with {others}. It leaves them when it joins another. \
         To bring the other machine here instead, invite it.",
        sanitize::line(&farm.name)
    );
    super::confirm(model, "Leave this farm?", text, Deed::AskCode { leave: true, typed });
}

fn ask_code(model: &mut Model, leave: bool) {
    let ask = Ask {
        title: "Join another farm".to_owned(),
        text: "Type the code that the other machine shows (farmhand invite, or I in its dashboard). Where \
               machines do not find each other, type its address after it."
            .to_owned(),
        input: Input::default(),
        deed: Deed::Join { typed: String::new(), leave },
    };
    super::acts::open(model, Modal::Ask(ask));
}

fn begin(model: &mut Model, typed: &str, leave: bool, todo: &mut Todo) {
    let (code, from) = entrance::code_and_address(typed);
    if code.is_empty() {
        return model.complain("a code is wanted: three digits and two words");
    }
    model.entrance.joining = Some(Joining { has_address: !from.is_empty(), ..Joining::default() });
    model.calls.ask(Slot::Join, Call::Join(control::JoinRequest { code, from, leave }), todo);
    super::acts::open(model, Modal::Joining);
}
