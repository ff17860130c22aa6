//! The builds: what the node told of each, who sends it, how fast it goes.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use farmhand_proto::control;

use crate::format;
use crate::model::op::Op;
use crate::model::senders::Senders;
use crate::model::time::{NodeClock, Stamp};

/// Builds that are kept.
const BUILDS: usize = 1000;

/// Points from which the speed of a build is told.
const POINTS: usize = 60;

/// Least time between two of them.
const POINT_EVERY: Duration = Duration::from_millis(500);

/// How far back the speed is measured.
const SPEED_OVER: Duration = Duration::from_secs(20);

/// Silence after which a build without work counts as over.
const QUIET: Duration = Duration::from_secs(15);

/// One build.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BuildRow {
    /// As the node told it; of one that only operations name, nothing but what they tell.
    pub(crate) wire: control::Build,
    /// Its invocation.
    pub(crate) invocation: Arc<str>,
    /// `user@machine`, as far as known; may be empty.
    pub(crate) person: Arc<str>,
    /// Number of its sender.
    pub(crate) sender: usize,
    /// Counts from 1 in the order builds were first seen.
    pub(crate) number: u64,
    points: VecDeque<(Stamp, u64)>,
    /// It was seen at work, and its end was not told yet.
    under_way: bool,
}

/// The builds.
#[derive(Clone, Debug, Default)]
pub(crate) struct BuildTable {
    rows: HashMap<Arc<str>, BuildRow>,
    doubtful: HashSet<Arc<str>>,
    next: u64,
}

// === impl BuildRow ===

impl BuildRow {
    /// What a person calls it: who and with what, and the beginning of its invocation.
    pub(crate) fn label(&self) -> String {
        let short = &self.invocation
            [..self.invocation.char_indices().nth(8).map_or(self.invocation.len(), |(at, _)| at)];
        match (&*self.person, self.tool_name()) {
            ("", "") => short.to_owned(),
            ("", tool) => format!("{tool} {short}"),
            (person, "") => format!("{person} {short}"),
            (person, tool) => format!("{person} {tool}"),
        }
    }

    /// The tool without its version.
    pub(crate) fn tool_name(&self) -> &str {
        self.wire.tool.split_whitespace().next().unwrap_or_default()
    }

    /// When it was first seen.
    pub(crate) fn began(&self) -> Option<Stamp> {
        Stamp::of(self.wire.first_seen.as_ref())
    }

    /// When it was last seen.
    pub(crate) fn last_seen(&self) -> Option<Stamp> {
        Stamp::of(self.wire.last_seen.as_ref())
    }

    /// Whether it has work in the farm, or had a moment ago.
    pub(crate) fn is_active(&self, now: Option<Stamp>) -> bool {
        let heard = self.last_seen().zip(now).is_some_and(|(seen, now)| now.since(seen) < QUIET);
        self.work() > 0 || heard
    }

    /// Actions of it that wait or run.
    pub(crate) fn work(&self) -> u64 {
        self.wire.queued.saturating_add(self.wire.running)
    }

    /// Actions it has had answers for: run, or out of the cache.
    pub(crate) fn done(&self) -> u64 {
        self.wire.executed.saturating_add(self.wire.hits)
    }

    /// Actions run a second, of late; `None` when too little is known.
    pub(crate) fn speed(&self, now: Option<Stamp>) -> Option<f64> {
        let now = now?;
        let (first, before) = self.points.iter().find(|(at, _)| now.since(*at) <= SPEED_OVER)?;
        let seconds = now.since(*first).as_secs_f64();
        let run = self.wire.executed.checked_sub(*before)?;
        (seconds >= 2.0).then(|| run as f64 / seconds)
    }

    /// When all it has in the farm now will likely have run.
    pub(crate) fn remaining(&self, now: Option<Stamp>) -> Option<Duration> {
        let waiting = self.work();
        let speed = self.speed(now).filter(|speed| *speed > 0.0)?;
        let seconds = waiting as f64 / speed;
        (waiting > 0 && seconds < 1e7).then(|| Duration::from_secs_f64(seconds))
    }

    /// What it did, in a few words.
    fn summary(&self) -> String {
        let took = self.began().zip(self.last_seen()).map(|(from, to)| format::duration(to.since(from)));
        let failed = match self.wire.failed {
            0 => String::new(),
            failed => format!(", {} failed", format::count(failed)),
        };
        let hits = format::percent(self.wire.hits, self.wire.lookups);
        let run = format::count(self.wire.executed);
        format!("{run} run{failed}, {hits} hits in {}", took.unwrap_or_default())
    }

    fn mark(&mut self, now: Stamp) {
        if self.points.back().is_some_and(|(at, _)| now.since(*at) < POINT_EVERY) {
            return;
        }
        if self.points.len() == POINTS {
            self.points.pop_front();
        }
        self.points.push_back((now, self.wire.executed));
    }
}

// === impl BuildTable ===

impl BuildTable {
    /// The build of an invocation.
    pub(crate) fn get(&self, invocation: &str) -> Option<&BuildRow> {
        self.rows.get(invocation)
    }

    /// All, in no order.
    pub(crate) fn all(&self) -> impl Iterator<Item = &BuildRow> {
        self.rows.values()
    }

    /// Those with work in the farm, the one first seen first.
    pub(crate) fn active(&self, now: Option<Stamp>) -> Vec<&BuildRow> {
        let mut active: Vec<_> = self.rows.values().filter(|build| build.is_active(now)).collect();
        active.sort_unstable_by_key(|build| build.number);
        active
    }

    /// Takes what the node tells of a build; its invocation and name when it is new.
    pub(super) fn put(
        &mut self,
        wire: control::Build,
        senders: &mut Senders,
        clock: NodeClock,
    ) -> Option<(Arc<str>, String)> {
        let invocation: Arc<str> = Arc::from(wire.invocation.as_str());
        let person = person(&wire);
        self.doubtful.remove(&invocation);
        let is_new = !self.rows.contains_key(&invocation);
        let sender = senders.number(&person, &invocation);
        let row = self.row(&invocation, sender);
        row.person = person.into();
        row.sender = sender;
        row.wire = wire;
        row.under_way |= row.work() > 0;
        if let Some(now) = clock.heard().and_then(|heard| clock.at(heard)) {
            row.mark(now);
        }
        let begun = is_new.then(|| (invocation, row.label()));
        self.forget_the_oldest();
        begun
    }

    /// An operation names a build: it gets a row, so that it has a colour from the start.
    pub(super) fn mention(&mut self, invocation: &Arc<str>, senders: &mut Senders, op: Option<&Op>) {
        self.doubtful.remove(invocation);
        if invocation.is_empty() || self.rows.contains_key(invocation) {
            return;
        }
        let sender = senders.number("", invocation);
        let row = self.row(invocation, sender);
        row.wire.tool = op.map(|op| op.tool.to_string()).unwrap_or_default();
        self.forget_the_oldest();
    }

    /// Builds that were at work and are quiet now: invocation, name, and what they did. Each is told
    /// once, until it has work again.
    pub(super) fn ended(&mut self, now: Option<Stamp>) -> Vec<(Arc<str>, String, String)> {
        let quiet = self.rows.values_mut().filter(|row| row.under_way && !row.is_active(now));
        let told = quiet.map(|row| {
            row.under_way = false;
            (row.invocation.clone(), row.label(), row.summary())
        });
        told.collect()
    }

    /// A snapshot begins.
    pub(super) fn begin_anew(&mut self) {
        self.doubtful = self.rows.keys().cloned().collect();
    }

    /// The snapshot is complete: what it did not tell is void.
    pub(super) fn complete(&mut self) {
        for invocation in std::mem::take(&mut self.doubtful) {
            self.rows.remove(&invocation);
        }
    }

    /// Numbers all senders anew, in the order their builds were seen.
    pub(super) fn number_anew(&mut self, senders: &mut Senders) {
        let mut rows: Vec<_> = self.rows.values_mut().collect();
        rows.sort_unstable_by_key(|row| row.number);
        for row in rows {
            row.sender = senders.number(&row.person, &row.invocation);
        }
    }

    fn row(&mut self, invocation: &Arc<str>, sender: usize) -> &mut BuildRow {
        let next = &mut self.next;
        self.rows.entry(invocation.clone()).or_insert_with(|| {
            *next += 1;
            BuildRow {
                wire: control::Build { invocation: invocation.to_string(), ..Default::default() },
                invocation: invocation.clone(),
                person: "".into(),
                sender,
                number: *next,
                points: VecDeque::new(),
                under_way: false,
            }
        })
    }

    /// Forgets the builds heard of the longest ago, some at a time.
    fn forget_the_oldest(&mut self) {
        if self.rows.len() <= BUILDS {
            return;
        }
        let mut rows: Vec<_> =
            self.rows.values().map(|row| (row.last_seen(), row.number, row.invocation.clone())).collect();
        rows.sort_unstable();
        for (_, _, invocation) in rows.into_iter().take(BUILDS / 10) {
            self.rows.remove(&invocation);
        }
    }
}

fn person(build: &control::Build) -> String {
    person_at(&build.user, &build.machine)
}

/// A person at a machine. Where nobody is known, the machine stands for who uses it.
pub(super) fn person_at(user: &str, machine: &str) -> String {
    match (user, machine) {
        ("", machine) => machine.to_owned(),
        (user, "") => user.to_owned(),
        (user, machine) if user == machine => machine.to_owned(),
        (user, machine) => format!("{user}@{machine}"),
    }
}
