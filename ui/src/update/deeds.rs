//! What a person decided to do, and what came of it.

use std::path::PathBuf;

use farmhand_proto::control;

use crate::message::{Answer, Call, Command, Todo};
use crate::model::action::Loaded;
use crate::model::copies;
use crate::model::modal::{Confirm, Deed, Modal, Text};
use crate::model::{ListId, Model};
use crate::options::{Fetched, Outcome};
use crate::{format, logtext, sanitize};

/// Asks whether it shall be done.
pub(crate) fn confirm(model: &mut Model, title: &str, text: String, deed: Deed) {
    super::acts::open(model, Modal::Confirm(Confirm { title: title.to_owned(), text, deed }));
}

/// Leaves; a node that would stop with running actions is asked about.
pub(super) fn ask_to_quit(model: &mut Model, todo: &mut Todo) {
    let (queued, running, _) = model.live.ops.counts();
    let waiting = queued + running;
    if !model.rights.owns_node || waiting == 0 {
        return todo.push(Command::Quit(Outcome::Quit));
    }
    let text = format!(
        "The node runs in this program and stops with it. {} would be cancelled. \
         To leave it running, start it with `farmhand serve` and watch it with `farmhand top`.",
        format::plural(waiting as u64, "action")
    );
    confirm(model, "Stop the node?", text, Deed::Quit);
}

/// Does it.
pub(crate) fn perform(model: &mut Model, deed: Deed, todo: &mut Todo) {
    match deed {
        Deed::Quit => todo.push(Command::Quit(Outcome::Quit)),
        Deed::Copy(text) => todo.push(Command::Copy(text)),
        Deed::Fetch(request) => {
            model.tell("fetching the inputs");
            todo.push(Command::Fetch(request));
        }
        Deed::Build(build) => {
            model.build = build;
            super::renewed(model, todo);
        }
        Deed::Rerun { digest, instance, times, machine } => {
            let request = control::RerunActionRequest {
                digest: digest.to_string(),
                instance_name: instance.to_string(),
                times,
                machine: machine.to_string(),
            };
            model.tell("asked the node to run it again");
            let slot = model.calls.deed();
            model.calls.ask(slot, Call::Rerun(request), todo);
        }
        deed @ (Deed::AskCode { .. } | Deed::Join { .. }) => super::entrance::perform(model, deed, todo),
        deed => {
            if let Some(call) = call(deed) {
                let slot = model.calls.deed();
                model.calls.ask(slot, call, todo);
            }
        }
    }
}

/// The call of a deed that is one.
fn call(deed: Deed) -> Option<Call> {
    let call = match deed {
        Deed::CopyCommand(subject) => Call::Action(control::GetActionRequest {
            digest: subject.key.to_string(),
            instance_name: subject.instance.to_string(),
        }),
        Deed::Kill(operation) => Call::Kill(control::KillActionRequest { operation: operation.to_string() }),
        Deed::Pin { digest, instance, unpin } => Call::Pin(control::PinActionRequest {
            digest: digest.to_string(),
            instance_name: instance.to_string(),
            unpin,
        }),
        Deed::Machine { name, state, slots } => Call::Machine(control::SetMachineRequest {
            machine: name.to_string(),
            state: state.unwrap_or_default().into(),
            slots,
            ..Default::default()
        }),
        Deed::Answer { number, accept } => Call::Newcomer(control::AnswerNewcomerRequest { number, accept }),
        _ => return None,
    };
    Some(call)
}

/// The node answered to a deed.
pub(super) fn answer(model: &mut Model, answer: Answer, todo: &mut Todo) {
    match answer {
        Answer::Killed(done) => {
            model.tell(format!("ended {}", format::plural(done.killed.into(), "operation")))
        }
        Answer::Pinned(done) if done.pinned => model.tell(format!("pinned {}", format::bytes(done.bytes))),
        Answer::Pinned(_) => model.tell("not pinned any more"),
        Answer::Machine(done) => {
            let machine = done.machine.unwrap_or_default();
            let name = sanitize::line(&machine.name).into_owned();
            let state = machine.state().as_str_name().trim_start_matches("STATE_").to_lowercase();
            let slots = format::plural(machine.slots.into(), "slot");
            model.tell(match copies::leave_words(&model.live, &machine) {
                Some((left, _)) => format!("{name} is {state}: {left}"),
                None => format!("{name} is {state}, {slots}"),
            });
        }
        Answer::Newcomer(_) => model.tell("the newcomer was told"),
        Answer::Rerun(run) => rerun(model, &run),
        Answer::Action(action) => match Loaded::of(*action).shell_line() {
            Some(line) => todo.push(Command::Copy(line)),
            None => model.complain("its command is not stored any more"),
        },
        Answer::Failed(failure) => model.complain(failure.text),
        _ => {}
    }
}

fn rerun(model: &mut Model, response: &control::RerunActionResponse) {
    let Some(verdict) = &response.verdict else {
        return model.tell(format!("run {} is under way", response.run));
    };
    let mut lines = vec![format!("{} succeeded, {} failed.", verdict.succeeded, verdict.failed)];
    match (verdict.differences.is_empty(), verdict.compared_with_cache) {
        (true, true) => lines.push("All outputs are the same, in the cached result too.".to_owned()),
        (true, false) => lines.push("All outputs are the same.".to_owned()),
        (false, _) => lines.push("These outputs differ:".to_owned()),
    }
    for difference in &verdict.differences {
        lines.push(format!("  {}", sanitize::line(&difference.path)));
        lines.extend(difference.values.iter().map(|value| format!("    {}", sanitize::line(value))));
    }
    model.lists[ListId::Modal] = crate::model::ListState::default();
    model.modal = Some(Modal::Text(Text { title: "Run again".to_owned(), lines }));
}

/// Inputs were fetched, or not.
pub(super) fn fetched(model: &mut Model, result: Result<Fetched, String>, todo: &mut Todo) {
    todo.redraw = true;
    match result {
        Ok(fetched) => {
            let mut lines = vec![
                "The inputs are in".to_owned(),
                format!("  {}", sanitize::line(&fetched.directory.to_string_lossy())),
                String::new(),
                "To run the action there:".to_owned(),
            ];
            lines.extend(broken(&sanitize::line(&fetched.command), usize::from(model.size.0)));
            super::acts::open(model, Modal::Text(Text { title: "Fetched".to_owned(), lines }));
        }
        Err(reason) => model.complain(sanitize::line(&reason)),
    }
}

/// A long line as several, indented, for a screen of so many columns.
fn broken(line: &str, columns: usize) -> Vec<String> {
    let cells = columns.saturating_sub(8).max(20);
    let mut lines = Vec::new();
    let mut rest = line;
    while !rest.is_empty() {
        let (first, others) = rest.split_at(logtext::first_cells(rest, cells));
        lines.push(format!("  {first}"));
        rest = others;
    }
    lines
}

/// A file was written, or not.
pub(super) fn written(model: &mut Model, result: Result<PathBuf, String>, todo: &mut Todo) {
    todo.redraw = true;
    match result {
        Ok(path) => model.tell(format!("wrote {}", sanitize::line(&path.to_string_lossy()))),
        Err(reason) => model.complain(sanitize::line(&reason)),
    }
}
