//! What a person can do to an action, wherever one is chosen: in the list, on the timeline, in its
//! own view.

use std::sync::Arc;

use crate::keymap::Act;
use crate::message::Todo;
use crate::model::action::{Subject, Tab};
use crate::model::modal::{Ask, Deed, Input, Modal, Pick};
use crate::model::op::Status;
use crate::model::{Model, Op};
use crate::options::{FetchRequest, View};
use crate::sanitize;

/// How often an action is run again when nothing else is said.
const TIMES: u32 = 3;

/// The action something is done to.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// The operation; empty when only the digest is known.
    pub(super) name: Arc<str>,
    /// Digest of the action.
    pub(super) digest: Arc<str>,
    /// Its instance.
    pub(super) instance: Arc<str>,
    /// What a person calls it.
    pub(super) label: String,
    /// Where it is, or how it ended.
    pub(super) status: Status,
    /// Whether its result is pinned.
    pub(super) pinned: bool,
    /// Who else waits for it.
    pub(super) callers: u32,
}

// === impl Target ===

impl From<&Op> for Target {
    fn from(op: &Op) -> Self {
        Self {
            name: op.name.clone(),
            digest: op.digest.clone(),
            instance: op.instance.clone(),
            label: op.label().to_owned(),
            status: op.status,
            pinned: op.pinned,
            callers: op.callers,
        }
    }
}

impl Target {
    fn subject(&self) -> Subject {
        let key = if self.name.is_empty() { &self.digest } else { &self.name };
        Subject { key: key.clone(), instance: self.instance.clone() }
    }

    fn rerun(&self, times: u32, machine: &str) -> Deed {
        Deed::Rerun {
            digest: self.digest.clone(),
            instance: self.instance.clone(),
            times,
            machine: machine.into(),
        }
    }
}

/// Does it to `target`; `false` when it is nothing one does to an action.
pub(super) fn act(
    model: &mut Model,
    target: Option<Target>,
    act: Act,
    argument: Option<&str>,
    todo: &mut Todo,
) -> bool {
    let is_mine = matches!(
        act,
        Act::Kill
            | Act::Retry
            | Act::Rerun
            | Act::RunOn
            | Act::Fetch
            | Act::Copy
            | Act::CopyAll
            | Act::Pin
            | Act::Why
    );
    match target {
        Some(target) if is_mine => perform(model, &target, act, argument, todo),
        None if is_mine => model.complain("no action is chosen"),
        _ => {}
    }
    is_mine
}

fn perform(model: &mut Model, target: &Target, act: Act, argument: Option<&str>, todo: &mut Todo) {
    match act {
        Act::Kill => kill(model, target),
        Act::Retry => super::perform(model, target.rerun(1, ""), todo),
        Act::Rerun => rerun(model, target, argument, todo),
        Act::RunOn => run_on(model, target, argument, todo),
        Act::Fetch => fetch(model, target, todo),
        Act::Copy => super::perform(model, Deed::CopyCommand(target.subject()), todo),
        Act::CopyAll => super::perform(model, Deed::Copy(target.digest.to_string()), todo),
        Act::Pin => {
            let (digest, instance) = (target.digest.clone(), target.instance.clone());
            super::perform(model, Deed::Pin { digest, instance, unpin: target.pinned }, todo);
        }
        Act::Why => why(model, target, todo),
        _ => {}
    }
}

fn kill(model: &mut Model, target: &Target) {
    if target.status.is_over() || target.name.is_empty() {
        return model.complain("it is over: there is nothing to end");
    }
    let who = match target.callers {
        0 | 1 => "who waits for it gets".to_owned(),
        callers => format!("all {callers} callers who wait for it get"),
    };
    let text = format!("{} ends, and {who} CANCELLED. What it wrote so far is kept.", target.label);
    super::confirm(model, "End this action?", text, Deed::Kill(target.name.clone()));
}

fn rerun(model: &mut Model, target: &Target, argument: Option<&str>, todo: &mut Todo) {
    match argument.map(|text| text.trim().parse::<u32>()) {
        Some(Ok(times @ 1..=100)) => super::perform(model, target.rerun(times, ""), todo),
        Some(_) => model.complain("a number from 1 to 100 is wanted"),
        None => super::acts::open(
            model,
            Modal::Ask(Ask {
                title: "Run again".to_owned(),
                text: "How often? What comes of the runs is compared.".to_owned(),
                input: Input::of(&TIMES.to_string()),
                deed: target.rerun(TIMES, ""),
            }),
        ),
    }
}

fn run_on(model: &mut Model, target: &Target, argument: Option<&str>, todo: &mut Todo) {
    if let Some(name) = argument.filter(|name| !name.is_empty()) {
        return match model.farm().machine(name).is_some() {
            true => super::perform(model, target.rerun(1, name), todo),
            false => model.complain(format!("there is no machine {}", sanitize::line(name))),
        };
    }
    let machines = model.farm().machines.iter();
    let choices: Vec<_> =
        machines.map(|machine| (machine.name.clone(), target.rerun(1, &machine.name))).collect();
    super::acts::open(model, Modal::Pick(Pick { title: "Run it again on".to_owned(), choices }));
}

fn fetch(model: &mut Model, target: &Target, todo: &mut Todo) {
    if !model.rights.can_fetch {
        return model.complain(format!("farmhand action {} fetch DIR does it from a shell", target.digest));
    }
    let request = FetchRequest { digest: target.digest.to_string(), instance: target.instance.to_string() };
    super::perform(model, Deed::Fetch(request), todo);
}

/// Shows why it missed the cache, or why it waits.
fn why(model: &mut Model, target: &Target, todo: &mut Todo) {
    let subject = target.subject();
    if model.action.shown.as_ref() != Some(&subject) {
        model.action.subject = Some(subject);
    }
    let tab = if target.status == Status::Queued { Tab::Summary } else { Tab::Cache };
    super::action::show_tab(model, tab, todo);
    super::go(model, View::Action, todo);
}
