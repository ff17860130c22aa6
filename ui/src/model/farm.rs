//! The farm as the node tells it: node, machines, builds, operations, store, and what happened.
//!
//! [`Farm::apply`] takes the messages of the stream in their order. All text in them is made
//! harmless here, on its way in; views may draw what they find.

mod builds;
mod events;
mod wire;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use farmhand_proto::control;

use builds::person_at;
pub(crate) use builds::{BuildRow, BuildTable};
pub(crate) use events::{Event, EventKind, is_up, machine_glyph};

use super::copies::History;
use super::op::{Op, OpKey};
use super::operations::Operations;
use super::senders::{Colouring, Senders};
use super::time::{NodeClock, Stamp};

/// Seconds of samples that are kept.
pub(crate) const SAMPLES: usize = 900;

/// Events that are kept.
const EVENTS: usize = 500;

/// Machines that are kept.
const MACHINES: usize = 1000;

/// Kinds of actions that are kept.
const MNEMONICS: usize = 1000;

/// Warnings that are kept.
const WARNINGS: usize = 50;

/// Slots of a machine that are looked at one by one.
const SLOTS: u32 = 4096;

/// What a busy slot is used for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Use<'a> {
    /// An operation of the node that answers.
    Own(&'a Op),
    /// An action of another machine, by the number of its sender.
    Guest(usize),
    /// Something, as far as was told.
    Unknown,
}

/// The farm.
#[derive(Clone, Debug, Default)]
pub(crate) struct Farm {
    /// The node that answers; `None` before the first message.
    pub(crate) node: Option<control::Node>,
    /// The machines, the answering one first.
    pub(crate) machines: Vec<control::Machine>,
    /// What the node did.
    pub(crate) execution: control::Execution,
    /// Its store.
    pub(crate) storage: control::Storage,
    /// What was seen of its copies on other machines.
    pub(crate) copies: History,
    /// Who may come in by the node.
    pub(crate) entrance: control::Entrance,
    /// What a person should know.
    pub(crate) warnings: Vec<control::Warning>,
    /// The operations.
    pub(crate) ops: Operations,
    /// The builds.
    pub(crate) builds: BuildTable,
    /// Kinds of actions, by name.
    pub(crate) mnemonics: BTreeMap<String, control::Mnemonic>,
    /// The last seconds, the newest last.
    pub(crate) samples: VecDeque<control::Sample>,
    /// What happened, the newest last.
    pub(crate) events: VecDeque<Event>,
    /// Who sent what.
    pub(crate) senders: Senders,
    /// Numbers of those who use a machine, in the order of its tenancies.
    tenants: HashMap<String, Vec<usize>>,
    /// The clock of the node.
    pub(crate) clock: NodeClock,
    /// Where the stream may be resumed.
    pub(crate) position: Option<control::WatchPosition>,
    /// Whether everything was told once: before that, nothing may be said to be empty.
    pub(crate) complete: bool,
    /// Grows with every message.
    pub(crate) version: u64,
}

// === impl Farm ===

impl Farm {
    /// Takes a message of the stream, heard at `now` in time of the program.
    pub(crate) fn apply(&mut self, message: control::WatchResponse, now: Duration) {
        self.version += 1;
        if message.snapshot {
            self.begin_anew();
        }
        if let Some(stamp) = Stamp::of(message.now.as_ref()) {
            self.clock.hear(stamp, now);
        }
        self.take_node(message.node);
        self.take_machines(message.machines);
        self.take_entrance(message.entrance);
        self.take_warnings(message.has_warnings, message.warnings);
        self.execution = message.execution.unwrap_or(self.execution);
        self.take_storage(message.storage);
        for build in message.builds {
            self.take_build(build);
        }
        for op in &message.operations {
            self.take_op(op);
        }
        for mnemonic in message.mnemonics {
            self.take_mnemonic(mnemonic);
        }
        self.take_samples(message.samples);
        self.position = message.position.or(self.position);
        if message.complete {
            self.complete = true;
            self.ops.complete();
            self.builds.complete();
        }
        self.tell_of_ends();
    }

    /// Takes a page of the history.
    pub(crate) fn load(&mut self, operations: &[control::Operation]) {
        self.version += 1;
        for op in operations {
            self.ops.put(op);
        }
    }

    /// The name of the farm, or of the machine when it is on its own.
    pub(crate) fn name(&self) -> &str {
        match &self.node {
            Some(node) if !node.farm.is_empty() => &node.farm,
            Some(node) => &node.name,
            None => "",
        }
    }

    /// The machine of that name.
    pub(crate) fn machine(&self, name: &str) -> Option<&control::Machine> {
        self.machines.iter().find(|machine| machine.name == name)
    }

    /// What runs on a machine, the longest first.
    pub(crate) fn running_on<'a>(&'a self, machine: &'a str) -> impl Iterator<Item = (OpKey, &'a Op)> {
        self.ops.running().filter(move |(_, op)| &*op.machine == machine)
    }

    /// What each busy slot of a machine is used for: first what is known one by one.
    pub(crate) fn uses<'a>(&'a self, machine: &'a control::Machine) -> Vec<Use<'a>> {
        let mut uses: Vec<_> = self.running_on(&machine.name).map(|(_, op)| Use::Own(op)).collect();
        for (tenancy, sender) in self.tenancies(machine).filter(|(tenancy, _)| !tenancy.owner.is_empty()) {
            let running = tenancy.running.min(machine.busy) as usize;
            uses.extend(std::iter::repeat_n(Use::Guest(sender), running));
        }
        let unknown = (machine.busy.min(SLOTS) as usize).saturating_sub(uses.len());
        uses.extend(std::iter::repeat_n(Use::Unknown, unknown));
        uses
    }

    /// Who uses a machine, with the number of each.
    pub(crate) fn tenancies<'a>(
        &'a self,
        machine: &'a control::Machine,
    ) -> impl Iterator<Item = (&'a control::Tenancy, usize)> {
        let numbers = self.tenants.get(&machine.name).map_or(&[][..], Vec::as_slice);
        machine.tenancies.iter().zip(numbers.iter().copied())
    }

    /// The number of who sent an operation, for [`Theme::sender`](crate::theme::Theme::sender).
    pub(crate) fn sender(&self, op: &Op) -> usize {
        self.builds.get(&op.invocation).map_or(0, |build| build.sender)
    }

    /// Machines that answer, and all.
    pub(crate) fn up(&self) -> (usize, usize) {
        (self.machines.iter().filter(|machine| is_up(machine)).count(), self.machines.len())
    }

    /// Slots in use and all, of machines that answer.
    pub(crate) fn slots(&self) -> (u64, u64) {
        let up = self.machines.iter().filter(|machine| is_up(machine));
        up.fold((0, 0), |(busy, all), machine| {
            (busy + u64::from(machine.busy), all + u64::from(machine.slots))
        })
    }

    /// Actions that were answered or run a second, over the last `seconds` of samples.
    pub(crate) fn rate(&self, seconds: usize) -> f64 {
        let last = self.samples.iter().rev().take(seconds);
        let (count, sum) = last.fold((0_u32, 0_u64), |(count, sum), sample| {
            (count + 1, sum + u64::from(sample.executed) + u64::from(sample.hits))
        });
        if count == 0 { 0.0 } else { sum as f64 / f64::from(count) }
    }

    /// Colours by person or by build.
    pub(crate) fn set_colouring(&mut self, colouring: Colouring) {
        self.senders.set_colouring(colouring);
        self.builds.number_anew(&mut self.senders);
        self.number_tenants();
    }

    fn begin_anew(&mut self) {
        self.ops.begin_anew();
        self.builds.begin_anew();
        self.mnemonics.clear();
    }

    fn take_node(&mut self, node: Option<control::Node>) {
        let Some(mut node) = node else { return };
        wire::clean_node(&mut node);
        let restarted = self.node.as_ref().is_some_and(|old| old.boot_epoch != node.boot_epoch);
        if restarted {
            self.tell(EventKind::NodeRestarted, "", "");
        }
        self.node = Some(node);
    }

    fn take_machines(&mut self, mut machines: Vec<control::Machine>) {
        if machines.is_empty() {
            return;
        }
        machines.truncate(MACHINES);
        machines.iter_mut().for_each(wire::clean_machine);
        for event in events::of_machines(&self.machines, &machines) {
            self.tell(event.0, &event.1, "");
        }
        self.machines = machines;
        if let Some(at) = self.time() {
            self.copies.take_disks(at, &self.machines);
        }
        self.number_tenants();
    }

    fn take_entrance(&mut self, entrance: Option<control::Entrance>) {
        let Some(mut entrance) = entrance else { return };
        wire::clean_entrance(&mut entrance);
        for newcomer in &entrance.waiting {
            if !self.entrance.waiting.iter().any(|known| known.number == newcomer.number) {
                self.push_event(EventKind::NewcomerAsks, &newcomer.name, &newcomer.check_words, None);
            }
        }
        self.entrance = entrance;
    }

    /// Numbers those who use machines, so that they have the colour of their builds.
    fn number_tenants(&mut self) {
        self.tenants.clear();
        for machine in self.machines.iter().filter(|machine| !machine.tenancies.is_empty()) {
            let senders = &mut self.senders;
            let numbers = machine.tenancies.iter().map(|tenancy| {
                let person: Arc<str> = person_at(&tenancy.person, tenant(tenancy, machine)).into();
                senders.number(&person, &person)
            });
            self.tenants.insert(machine.name.clone(), numbers.collect());
        }
    }

    fn take_warnings(&mut self, told: bool, mut warnings: Vec<control::Warning>) {
        if !told {
            return;
        }
        warnings.truncate(WARNINGS);
        warnings.iter_mut().for_each(wire::clean_warning);
        for warning in &warnings {
            if !self.warnings.iter().any(|old| old.text == warning.text) {
                self.push_event(EventKind::Warning(warning.level()), "", &warning.text, None);
            }
        }
        self.warnings = warnings;
    }

    fn take_storage(&mut self, storage: Option<control::Storage>) {
        let Some(storage) = storage else { return };
        if storage.damaged > self.storage.damaged && self.complete {
            let found = storage.damaged - self.storage.damaged;
            self.tell(EventKind::Damaged, &found.to_string(), "");
        }
        let before = std::mem::replace(&mut self.storage, storage).replication;
        let Some(told) = self.storage.replication else { return };
        if let Some(at) = self.time() {
            self.copies.take(at, &told);
        }
        for (kind, subject) in events::of_copies(before.as_ref(), &told) {
            self.tell(kind, &subject, "");
        }
    }

    fn take_build(&mut self, mut build: control::Build) {
        wire::clean_build(&mut build);
        let begun = self.builds.put(build, &mut self.senders, self.clock).filter(|_| self.complete);
        if let Some((invocation, label)) = begun {
            self.push_event(EventKind::BuildBegan, &label, "", Some(invocation));
        }
    }

    /// A build has no end of its own: it is over when nothing was heard of it for a while.
    fn tell_of_ends(&mut self) {
        let now = self.time();
        for (invocation, label, summary) in self.builds.ended(now) {
            self.push_event(EventKind::BuildEnded, &label, &summary, Some(invocation));
        }
    }

    fn take_op(&mut self, wire: &control::Operation) {
        let (key, before) = self.ops.put(wire);
        let Some(op) = self.ops.get(key) else { return };
        let invocation = op.invocation.clone();
        let event = events::of_op(before.as_ref(), op).filter(|_| self.complete);
        if let Some((kind, subject, text)) = event {
            self.push_event(kind, &subject, &text, Some(invocation.clone()));
        }
        self.builds.mention(&invocation, &mut self.senders, self.ops.get(key));
    }

    fn take_mnemonic(&mut self, mut mnemonic: control::Mnemonic) {
        crate::sanitize::in_place(&mut mnemonic.name);
        if self.mnemonics.len() < MNEMONICS || self.mnemonics.contains_key(&mnemonic.name) {
            self.mnemonics.insert(mnemonic.name.clone(), mnemonic);
        }
    }

    /// Samples may be told twice, when a stream resumes or begins anew.
    fn take_samples(&mut self, samples: Vec<control::Sample>) {
        for sample in samples {
            let at = Stamp::of(sample.at.as_ref());
            let newest = self.samples.back().and_then(|last| Stamp::of(last.at.as_ref()));
            if at > newest {
                self.samples.push_back(sample);
            } else if let Some(known) = self.samples.iter_mut().find(|known| known.at == sample.at) {
                *known = sample;
            }
        }
        while self.samples.len() > SAMPLES {
            self.samples.pop_front();
        }
    }

    /// The time on the clock of the node when it was heard last.
    fn time(&self) -> Option<Stamp> {
        self.clock.heard().and_then(|heard| self.clock.at(heard))
    }

    fn tell(&mut self, kind: EventKind, subject: &str, text: &str) {
        self.push_event(kind, subject, text, None);
    }

    fn push_event(&mut self, kind: EventKind, subject: &str, text: &str, invocation: Option<Arc<str>>) {
        let at = self.time();
        self.events.push_back(Event { at, kind, subject: subject.into(), text: text.into(), invocation });
        while self.events.len() > EVENTS {
            self.events.pop_front();
        }
    }
}

/// The machine of a tenancy: its own where none is named.
pub(crate) fn tenant<'a>(tenancy: &'a control::Tenancy, machine: &'a control::Machine) -> &'a str {
    if tenancy.owner.is_empty() { &machine.name } else { &tenancy.owner }
}

#[cfg(test)]
mod tests;
