//! What happens in the machines view.

use farmhand_proto::control::{self, Machine, machine};

use crate::keymap::Act;
use crate::message::{Answer, Call, Slot, Todo};
use crate::model::modal::{Ask, Deed, Input, Modal};
use crate::model::{ListId, Model};
use crate::options::View;
use crate::sanitize;

/// The view comes to be shown.
pub(super) fn enter(model: &mut Model, todo: &mut Todo) {
    model.calls.ask(Slot::Settings, Call::Settings(control::GetSettingsRequest {}), todo);
    changed(model, todo);
}

/// The view ceases to be shown.
pub(super) fn leave(model: &mut Model, todo: &mut Todo) {
    model.calls.cancel(Slot::Settings, todo);
}

/// The farm changed.
pub(super) fn changed(model: &mut Model, _todo: &mut Todo) {
    let farm = model.frozen.as_ref().map_or(&model.live, |frozen| &frozen.farm);
    model.machines.refresh(farm, &mut model.lists[ListId::Machines]);
}

/// A row was chosen.
pub(super) fn chose(model: &mut Model) {
    model.machines.choose(model.lists[ListId::Machines].selected);
}

/// A person did something.
pub(super) fn act(model: &mut Model, act: Act, argument: Option<&str>, todo: &mut Todo) -> bool {
    if matches!(act, Act::Invite | Act::Answer | Act::Join) {
        super::entrance::act(model, act, argument, todo);
        return true;
    }
    let state = match act {
        Act::Drain => Some(machine::State::Draining),
        Act::Rest => Some(machine::State::Paused),
        Act::Resume => Some(machine::State::Active),
        Act::Slots | Act::MoreSlots | Act::FewerSlots | Act::Open => None,
        _ => return false,
    };
    // The argument of the first three names a machine, that of `slots` a number.
    let name = argument.filter(|name| state.is_some() && !name.is_empty());
    let Some(machine) = wanted(model, name) else {
        model.complain(match name {
            Some(name) => format!("there is no machine {}", sanitize::line(name)),
            None => "no machine is chosen".to_owned(),
        });
        return true;
    };
    if act != Act::Open && !machine.is_self {
        model.complain(format!("{0} is steered on {0} alone: do it there", machine.name));
        return true;
    }
    match act {
        Act::Slots => slots(model, &machine, argument, todo),
        Act::MoreSlots => set(model, &machine, None, Some(machine.slots.saturating_add(1)), todo),
        Act::FewerSlots if machine.slots > 1 => set(model, &machine, None, Some(machine.slots - 1), todo),
        Act::FewerSlots => model.complain("one slot is the least; P pauses the machine"),
        Act::Open => {
            model.actions.machine = Some(machine.name.as_str().into());
            super::go(model, View::Actions, todo);
        }
        _ => set(model, &machine, state, None, todo),
    }
    true
}

/// The node answered with its settings.
pub(super) fn answer(model: &mut Model, answer: Answer, _todo: &mut Todo) {
    if let Answer::Settings(settings) = answer {
        model.machines.take(settings.settings);
    }
}

/// The machine of that name, else the one that is chosen.
fn wanted(model: &Model, name: Option<&str>) -> Option<Machine> {
    let name = name.or(model.machines.chosen.as_deref())?;
    model.farm().machine(name).cloned()
}

fn slots(model: &mut Model, machine: &Machine, argument: Option<&str>, todo: &mut Todo) {
    match argument.map(|text| text.trim().parse::<u32>()) {
        Some(Ok(slots @ 1..)) => set(model, machine, None, Some(slots), todo),
        Some(_) => model.complain("a number of at least 1 is wanted"),
        None => super::acts::open(
            model,
            Modal::Ask(Ask {
                title: format!("Slots of {}", machine.name),
                text: format!(
                    "How many actions shall it run at once, until its node ends? It has {} CPUs.",
                    machine.cpus
                ),
                input: Input::of(&machine.slots.to_string()),
                deed: deed(machine, None, None),
            }),
        ),
    }
}

fn set(
    model: &mut Model,
    machine: &Machine,
    state: Option<machine::State>,
    slots: Option<u32>,
    todo: &mut Todo,
) {
    super::perform(model, deed(machine, state, slots), todo);
}

fn deed(machine: &Machine, state: Option<machine::State>, slots: Option<u32>) -> Deed {
    Deed::Machine { name: machine.name.as_str().into(), state, slots }
}
