//! What is told of an action line by line: the tabs Summary, Command and Cache.
//!
//! A fact is a label and a value; some can be followed, all can be copied.

use std::time::Duration;

use farmhand_proto::control::{Difference, Miss, difference, miss};
use farmhand_proto::time::std_duration;

use super::{Loaded, Subject, Tab};
use crate::model::machines::{milliseconds, round_trip};
use crate::model::op::{Op, Status};
use crate::model::{Model, Stamp};
use crate::theme::Role;
use crate::{format, sanitize, shell};

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fact {
    /// What it is of; empty where it goes on from the line above.
    pub(crate) label: String,
    /// What it is. Harmless.
    pub(crate) value: String,
    /// How it looks.
    pub(crate) role: Role,
    /// The action it leads to.
    pub(crate) opens: Option<Subject>,
}

/// Lines being collected.
#[derive(Default)]
struct Facts(Vec<Fact>);

/// The operation that is shown, as it is now: that of the stream, else that of the answer.
pub(crate) fn op(model: &Model) -> Option<&Op> {
    let of_answer = model.action.loaded.as_ref().and_then(|loaded| loaded.op.as_ref());
    let wanted = || model.action.shown.as_ref().map(|subject| &*subject.key);
    let name = of_answer.map(|op| &*op.name).or_else(wanted)?;
    let ops = &model.farm().ops;
    ops.key_of(name).and_then(|key| ops.get(key)).or(of_answer)
}

/// The lines of the tab that is shown; none of tabs that show something else.
pub(crate) fn of(model: &Model) -> Vec<Fact> {
    let mut facts = Facts::default();
    match model.action.tab {
        Tab::Summary => facts.summary(model),
        Tab::Command => facts.command(model),
        Tab::Cache => facts.cache(model),
        _ => {}
    }
    facts.0
}

/// What became of an action after machines were lost with it.
pub(crate) fn ran_again(op: &Op) -> Option<String> {
    if op.losses.is_empty() {
        return None;
    }
    let machine = &op.machine;
    Some(match op.status {
        Status::Queued => "waits for another machine".to_owned(),
        Status::Running => format!("runs again on {machine}"),
        Status::Error => "was given up".to_owned(),
        _ => format!("ran again on {machine}"),
    })
}

/// What a miss of that kind means, for nodes that do not say it in a sentence.
pub(crate) fn miss_words(kind: miss::Kind) -> &'static str {
    match kind {
        miss::Kind::Unspecified => "not known",
        miss::Kind::Hit => "it was no miss: the action cache had its result",
        miss::Kind::First => "no action of that target, mnemonic and first output was seen before",
        miss::Kind::Changed => "it differs from the nearest earlier action",
        miss::Kind::Evicted => "the same action ran before, and its result was evicted",
        miss::Kind::FailedBefore => "the same action ran before and failed: there was nothing to keep",
        miss::Kind::DoNotCache => "the action says that its result must not be kept (do_not_cache)",
        miss::Kind::Skipped => "the client did not want a cached result (skip_cache_lookup)",
        miss::Kind::OtherInstance => "the same action ran before, in another instance",
        miss::Kind::Damaged => {
            "the same action ran before, and its result was damaged on the disk and dropped"
        }
        miss::Kind::Forgotten => {
            "an earlier action is known, but what it consisted of is not stored any more"
        }
    }
}

// === impl Fact ===

impl Fact {
    /// Whether it is a title over those that follow.
    pub(crate) fn is_title(&self) -> bool {
        self.role == Role::Title
    }
}

// === impl Facts ===

impl Facts {
    fn add(&mut self, label: &str, value: impl Into<String>) {
        self.with(label, value, Role::Text);
    }

    fn with(&mut self, label: &str, value: impl Into<String>, role: Role) {
        self.0.push(Fact { label: label.to_owned(), value: value.into(), role, opens: None });
    }

    /// Adds what is told only where there is something to tell.
    fn some(&mut self, label: &str, value: &str) {
        if !value.is_empty() {
            self.add(label, value);
        }
    }

    fn title(&mut self, text: impl Into<String>) {
        if !self.0.is_empty() {
            self.add("", "");
        }
        self.with(&text.into(), "", Role::Title);
    }

    // --- summary ---

    fn summary(&mut self, model: &Model) {
        let loaded = model.action.loaded.as_deref();
        if let Some(op) = op(model) {
            self.identity(model, op);
            self.progress(model, op);
        }
        if let Some(loaded) = loaded {
            self.definition(loaded);
            self.waiting(loaded);
            self.earlier(model, loaded);
        }
    }

    fn identity(&mut self, model: &Model, op: &Op) {
        self.some("target", &op.target);
        self.some("mnemonic", &op.mnemonic);
        self.some("first output", &op.first_output);
        let state = state(op);
        self.with("state", state, op.status.role());
        self.some("message", &op.message);
        self.place(model, op);
        if let Some(build) = model.farm().builds.get(&op.invocation) {
            self.add("build", build.label());
        }
        self.some("tool", &op.tool);
        if op.miss != miss::Kind::Unspecified && op.miss != miss::Kind::Hit {
            self.with("missed", miss_words(op.miss), Role::Warn);
        }
    }

    fn progress(&mut self, model: &Model, op: &Op) {
        let now = model.node_now();
        let mut when = |label: &str, stamp: Option<Stamp>| {
            let Some(stamp) = stamp else { return };
            let ago = now.map(|now| format!("  {} ago", format::age(now.since(stamp)))).unwrap_or_default();
            self.add(label, format!("{} UTC{ago}", stamp.clock()));
        };
        when("queued", op.queued);
        when("finished", op.finished);
        let mut length = |label: &str, length: Option<Duration>| {
            if let Some(length) = length {
                self.add(label, format::duration(length));
            }
        };
        length("waited", op.waited(now).filter(|_| op.started.is_some() || op.status == Status::Queued));
        length("took", op.elapsed(now).filter(|_| op.started.is_some()));
        length("CPU time", op.cpu_time);
        if let Some(expected) = op.expected {
            self.add("expected", format!("~{}, as earlier runs of its like", format::duration(expected)));
        }
        if op.peak_memory > 0 {
            self.add("peak memory", format::bytes(op.peak_memory));
        }
        self.attempts(op);
        if op.callers > 1 {
            self.add("shared by", format!("{} callers", op.callers));
        }
        if op.priority != 0 {
            self.add("priority", op.priority.to_string());
        }
        if op.pinned {
            self.add("pinned", "its result is kept from eviction");
        }
    }

    /// The machine, and whether it is another than the one the client asked.
    fn place(&mut self, model: &Model, op: &Op) {
        let machine = model.farm().machine(&op.machine);
        match machine.filter(|machine| !machine.is_self) {
            Some(machine) => {
                let far = round_trip(machine).map(|time| format!(", {} away", milliseconds(time)));
                let far = far.unwrap_or_default();
                self.add("machine", format!("{}, another machine of the farm{far}", op.machine));
            }
            None => self.some("machine", &op.machine),
        }
    }

    /// Where it was before it was where it is.
    fn attempts(&mut self, op: &Op) {
        if op.attempts > 1 {
            self.with("attempts", format!("given to a machine {} times", op.attempts), Role::Warn);
        }
        for (machine, reason) in &op.losses {
            self.with("lost", format!("on {machine}: {reason}"), Role::Warn);
        }
        if let Some(text) = ran_again(op) {
            self.with("", text, Role::Warn);
        }
    }

    fn definition(&mut self, loaded: &Loaded) {
        self.add("digest", &loaded.digest);
        self.some("instance", &loaded.instance);
        match loaded.in_cache {
            true => self.with("action cache", "has its result", Role::Good),
            false => self.add("action cache", "has no result for it now"),
        }
        if !loaded.missing.is_empty() {
            let count = format::plural(loaded.missing.len() as u64, "output");
            self.with("not stored", format!("{count} of its result"), Role::Bad);
        }
        for (name, value) in loaded.platform() {
            self.add("needs", clean(&format!("{name}={value}")));
        }
        if let Some(defect) = &loaded.defect {
            self.with("defect", defect, Role::Bad);
        }
    }

    fn waiting(&mut self, loaded: &Loaded) {
        if loaded.waiting.is_empty() && loaded.ahead.is_none() {
            return;
        }
        self.title("Why it waits");
        if let Some(ahead) = loaded.ahead {
            self.add("ahead of it", format!("~{}", format::plural(ahead, "action")));
        }
        for (machine, reason) in &loaded.waiting {
            self.with(machine, reason, Role::Warn);
        }
    }

    fn earlier(&mut self, model: &Model, loaded: &Loaded) {
        if loaded.earlier.is_empty() {
            return;
        }
        self.title("Earlier runs of the same action");
        let now = model.node_now();
        for op in &loaded.earlier {
            let ago = op.finished.zip(now).map(|(end, now)| format::age(now.since(end)));
            let took = op.elapsed(now).map(format::duration).unwrap_or_default();
            let value = format!("{:<14} {took:>7}  {}", state(op), op.machine);
            self.with(&ago.map(|ago| format!("{ago} ago")).unwrap_or_default(), value, op.status.role());
            self.opens(Subject { key: op.name.clone(), instance: op.instance.clone() });
        }
    }

    /// The last line leads somewhere.
    fn opens(&mut self, subject: Subject) {
        if let Some(last) = self.0.last_mut() {
            last.opens = Some(subject);
        }
    }

    // --- command ---

    fn command(&mut self, model: &Model) {
        let Some(loaded) = model.action.loaded.as_deref() else { return };
        let Some(command) = &loaded.command else {
            return self.with(
                "command",
                "not stored any more; the build tool uploads it again when it builds",
                Role::Warn,
            );
        };
        let directory = if command.working_directory.is_empty() { "." } else { &command.working_directory };
        self.add("directory", clean(directory));
        self.limits(loaded);
        self.title(format!("Arguments ({})", command.arguments.len()));
        for (at, argument) in command.arguments.iter().enumerate() {
            self.add(&at.to_string(), clean(&shell::word(argument)));
        }
        self.title(format!("Environment ({})", command.environment_variables.len()));
        for variable in &command.environment_variables {
            self.add(&clean(&variable.name), clean(&shell::word(&variable.value)));
        }
        #[expect(deprecated, reason = "commands of clients of version 2.0 have the last two")]
        let outputs = [&command.output_paths, &command.output_files, &command.output_directories];
        if outputs.iter().any(|paths| !paths.is_empty()) {
            self.title("Outputs asked for");
            outputs.into_iter().flatten().for_each(|path| self.add("", clean(path)));
        }
    }

    fn limits(&mut self, loaded: &Loaded) {
        let Some(action) = &loaded.action else { return };
        if let Some(limit) = action.timeout.as_ref().and_then(std_duration) {
            self.add("time limit", format::duration(limit));
        }
        if action.do_not_cache {
            self.with("result", "must not be kept (do_not_cache)", Role::Warn);
        }
        if !action.salt.is_empty() {
            self.add("salt", format!("{} bytes", action.salt.len()));
        }
        for (name, value) in loaded.platform() {
            self.add("platform", clean(&format!("{name}={value}")));
        }
    }

    // --- cache ---

    fn cache(&mut self, model: &Model) {
        match &model.action.miss {
            None => self.with("", "asking the node", Role::Dim),
            Some(Err(reason)) => self.with("", reason, Role::Warn),
            Some(Ok(miss)) => self.miss(model, miss),
        }
    }

    fn miss(&mut self, model: &Model, miss: &Miss) {
        let role = if miss.kind() == miss::Kind::Hit { Role::Good } else { Role::Warn };
        let words = if miss.summary.is_empty() { miss_words(miss.kind()) } else { &miss.summary };
        self.with("why", words, role);
        if !miss.earlier_digest.is_empty() {
            self.with("earlier", clean(&miss.earlier_digest), Role::Key);
            let instance = model.action.loaded.as_ref().map_or("", |loaded| &loaded.instance);
            self.opens(Subject { key: sanitize::shared(&miss.earlier_digest), instance: instance.into() });
            if let Some(at) = Stamp::of(miss.earlier_finished.as_ref()) {
                let ago = model.since(Some(at)).map(format::age).unwrap_or_default();
                self.add("which ended", format!("{} UTC  {ago} ago", at.clock()));
            }
        }
        if miss.differences.is_empty() {
            return;
        }
        let (told, total) = (miss.differences.len(), u64::from(miss.total_differences));
        match total > told as u64 {
            true => self.title(format!("Differences: the first {told} of {total}")),
            false => self.title(format!("Differences ({told})")),
        }
        miss.differences.iter().for_each(|difference| self.difference(difference));
    }

    fn difference(&mut self, difference: &Difference) {
        self.with(difference_word(difference.kind()), &difference.name, Role::Strong);
        for (label, value, role) in
            [("  was", &difference.old, Role::Old), ("  is", &difference.new, Role::New)]
        {
            let value = if value.is_empty() { "not there" } else { value };
            self.with(label, value, role);
        }
    }
}

/// What a difference is in.
fn difference_word(kind: difference::Kind) -> &'static str {
    match kind {
        difference::Kind::Input => "input",
        difference::Kind::Argument => "argument",
        difference::Kind::Variable => "variable",
        difference::Kind::Platform => "platform",
        difference::Kind::Output => "output",
        difference::Kind::WorkingDirectory => "directory",
        difference::Kind::Timeout => "time limit",
        difference::Kind::Salt => "salt",
        difference::Kind::DoNotCache => "do_not_cache",
        difference::Kind::Other | difference::Kind::Unspecified => "other",
    }
}

/// How an operation stands, in a few words.
pub(crate) fn state(op: &Op) -> String {
    match op.status {
        Status::Running => op.phase().map_or("running", |phase| phase.words()).to_owned(),
        Status::Queued => "queued".to_owned(),
        Status::Failed => format!("failed, exit code {}", op.exit_code),
        Status::Error => format!("error {}", code_name(op.status_code)),
        Status::Ok => "ok".to_owned(),
        Status::Hit if op.exit_code != 0 => format!("from the cache, exit code {}", op.exit_code),
        Status::Hit => "from the cache".to_owned(),
        Status::Upload => "uploaded by its client".to_owned(),
    }
}

/// A gRPC status code by name.
fn code_name(code: i32) -> String {
    let words = tonic::Code::from_i32(code).description();
    format!("{code}: {}", words.to_lowercase())
}

fn clean(text: &str) -> String {
    sanitize::line(text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_miss_has_words() {
        for number in 0..=10 {
            let kind = miss::Kind::try_from(number).unwrap();
            assert!(!miss_words(kind).ends_with('.') && !miss_words(kind).is_empty());
        }
    }

    #[test]
    fn states_in_words() {
        let op = |status, exit_code, status_code| Op {
            status,
            exit_code,
            status_code,
            ..Op::of(&Default::default(), &mut |text| text.into())
        };
        assert_eq!(state(&op(Status::Failed, 3, 0)), "failed, exit code 3");
        assert!(state(&op(Status::Error, 0, 1)).starts_with("error 1: "));
        assert_eq!(state(&op(Status::Running, 0, 0)), "inputs are staged");
    }
}
