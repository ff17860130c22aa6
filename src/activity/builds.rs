//! [`Builds`]: one line for each run of a build tool.
//!
//! Calls of one build carry the same name ([`RequestMetadata::build`]); those that name none are one
//! build without a name. The latest seen are kept, and all that have something waiting or running.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use farmhand_proto::control;
use farmhand_proto::time::timestamp;

use super::entry::Caller;
use super::traffic::{Moved, Traffic};
use crate::execution::Stage;
use crate::request_metadata::RequestMetadata;

/// The builds.
#[derive(Debug)]
pub(super) struct Builds {
    builds: HashMap<Box<str>, Build>,
    kept: usize,
    forgotten: u64,
}

/// One build.
#[derive(Clone, Debug)]
pub(super) struct Build {
    /// Who calls.
    pub(super) caller: Arc<Caller>,
    correlated: Box<str>,
    first_seen: SystemTime,
    last_seen: SystemTime,
    changed: u64,
    counts: Counts,
    moved: Moved,
    traffic: Arc<Traffic>,
}

/// What was counted for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) queued: u64,
    pub(super) running: u64,
    pub(super) executed: u64,
    pub(super) failed: u64,
    pub(super) lookups: u64,
    pub(super) hits: u64,
    pub(super) uploads: u64,
}

// === impl Builds ===

impl Builds {
    /// None yet; `kept` are remembered.
    pub(super) fn new(kept: usize) -> Self {
        Self { builds: HashMap::new(), kept, forgotten: 0 }
    }

    /// The build a call belongs to, seen now and changed by change number `change`.
    pub(super) fn seen(&mut self, change: u64, now: SystemTime, metadata: &RequestMetadata) -> &mut Build {
        let name = metadata.build();
        if !self.builds.contains_key(name) {
            self.make_room();
        }
        let build = self.builds.entry(name.into()).or_insert_with(|| Build::new(now, metadata));
        build.last_seen = now.max(build.last_seen);
        build.changed = change;
        build
    }

    /// The build called `name`, changed by change number `change`.
    pub(super) fn change(&mut self, change: u64, name: &str) -> Option<&mut Build> {
        let build = self.builds.get_mut(name)?;
        build.changed = change;
        Some(build)
    }

    /// The traffic of the build called `name`, if it was seen before.
    pub(super) fn traffic(&self, name: &str) -> Option<Arc<Traffic>> {
        self.builds.get(name).map(|build| Arc::clone(&build.traffic))
    }

    /// Takes note of the bytes that were moved for each build since the last time. `change` gives
    /// numbers of changes.
    pub(super) fn collect_traffic(&mut self, now: SystemTime, mut change: impl FnMut() -> u64) {
        for build in self.builds.values_mut() {
            let moved = build.traffic.moved();
            if moved != build.moved {
                build.moved = moved;
                build.last_seen = now.max(build.last_seen);
                build.changed = change();
            }
        }
    }

    /// Those that changed after number `after`, and not after number `to`.
    pub(super) fn changed(&self, after: u64, to: u64) -> impl Iterator<Item = &Build> {
        self.builds.values().filter(move |build| (after + 1..=to).contains(&build.changed))
    }

    /// The latest change of a build that is not here any more.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    fn make_room(&mut self) {
        while self.builds.len() >= self.kept {
            let idle = self.builds.values().filter(|build| build.is_idle());
            let Some(oldest) = idle.min_by_key(|build| (build.last_seen, build.changed)) else { return };
            let name = oldest.caller.build.clone();
            self.forgotten = self.forgotten.max(oldest.changed);
            self.builds.remove(&name);
        }
    }
}

// === impl Build ===

impl Build {
    fn new(now: SystemTime, metadata: &RequestMetadata) -> Self {
        let caller = Caller { build: metadata.build().into(), tool: metadata.tool().into() };
        Self {
            caller: Arc::new(caller),
            correlated: metadata.correlated_invocations_id.as_str().into(),
            first_seen: now,
            last_seen: now,
            changed: 0,
            counts: Counts::default(),
            moved: Moved::default(),
            traffic: Arc::default(),
        }
    }

    /// What is counted for it.
    pub(super) fn counts(&mut self) -> &mut Counts {
        &mut self.counts
    }

    /// What it moves.
    pub(super) fn traffic(&self) -> Arc<Traffic> {
        Arc::clone(&self.traffic)
    }

    /// When it was changed last.
    pub(super) fn changed(&self) -> u64 {
        self.changed
    }

    /// One of its operations went from one stage to another; `None` is outside.
    pub(super) fn moved(&mut self, from: Option<Stage>, to: Option<Stage>) {
        let Counts { queued, running, .. } = &mut self.counts;
        match from {
            Some(Stage::Queued) => *queued = queued.saturating_sub(1),
            Some(Stage::Executing) => *running = running.saturating_sub(1),
            Some(Stage::Completed) | None => {}
        }
        match to {
            Some(Stage::Queued) => *queued += 1,
            Some(Stage::Executing) => *running += 1,
            Some(Stage::Completed) | None => {}
        }
    }

    fn is_idle(&self) -> bool {
        self.counts.queued + self.counts.running == 0
    }

    /// As the control API shows it; its calls come to `machine`, which `person` uses.
    pub(super) fn to_wire(&self, machine: &str, person: &str) -> control::Build {
        let Counts { queued, running, executed, failed, lookups, hits, uploads } = self.counts;
        control::Build {
            invocation: self.caller.build.to_string(),
            correlated: self.correlated.to_string(),
            tool: self.caller.tool.to_string(),
            user: person.to_owned(),
            machine: machine.to_owned(),
            first_seen: Some(timestamp(self.first_seen)),
            last_seen: Some(timestamp(self.last_seen)),
            queued,
            running,
            executed,
            failed,
            lookups,
            hits,
            uploaded_bytes: self.moved.uploaded,
            downloaded_bytes: self.moved.downloaded,
            uploads,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::traffic::Meter;
    use super::*;

    fn metadata(name: &str) -> RequestMetadata {
        RequestMetadata { tool_invocation_id: name.into(), tool_name: "t".into(), ..Default::default() }
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn names(builds: &Builds, after: u64) -> Vec<String> {
        let mut names: Vec<_> =
            builds.changed(after, u64::MAX).map(|build| build.caller.build.to_string()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_longest_unseen_go_and_none_with_work() {
        let mut builds = Builds::new(3);
        for (change, name) in [(1, "a"), (2, "b"), (3, "c")] {
            builds.seen(change, at(change), &metadata(name));
        }
        builds.change(4, "a").unwrap().moved(None, Some(Stage::Queued));
        builds.seen(5, at(5), &metadata("d"));
        assert_eq!((names(&builds, 0), builds.forgotten()), (vec!["a".into(), "c".into(), "d".into()], 2));
        for name in ["a", "c", "d"] {
            builds.change(6, name).unwrap().moved(None, Some(Stage::Executing));
        }
        builds.seen(7, at(7), &metadata("e"));
        assert_eq!(names(&builds, 0).len(), 4, "all have work");
        assert_eq!(names(&builds, 6), ["e"]);
    }

    #[test]
    fn stages_are_counted_in_and_out() {
        let mut builds = Builds::new(3);
        let build = builds.seen(1, at(1), &metadata("a"));
        build.moved(None, Some(Stage::Queued));
        build.moved(None, Some(Stage::Queued));
        build.moved(Some(Stage::Queued), Some(Stage::Executing));
        let wire = build.to_wire("m", "ada");
        assert_eq!((wire.queued, wire.running), (1, 1));
        build.moved(Some(Stage::Queued), None);
        build.moved(Some(Stage::Executing), Some(Stage::Completed));
        assert!(build.is_idle());
        assert_eq!((&*build.caller.tool, wire.machine.as_str(), wire.user.as_str()), ("t", "m", "ada"));
    }

    #[test]
    fn bytes_are_noted_when_they_are_collected() {
        let mut builds = Builds::new(3);
        let meter = Meter { node: Arc::default(), build: builds.seen(1, at(1), &metadata("a")).traffic() };
        meter.uploaded(5);
        meter.downloaded(7);
        builds.seen(2, at(1), &metadata("b"));
        let mut change = 2;
        builds.collect_traffic(at(9), || {
            change += 1;
            change
        });
        assert_eq!((change, names(&builds, 2)), (3, vec!["a".to_owned()]));
        let wire = builds.changed(2, 3).next().unwrap().to_wire("m", "ada");
        assert_eq!((wire.uploaded_bytes, wire.downloaded_bytes), (5, 7));
        assert_eq!(wire.last_seen, Some(timestamp(at(9))));
    }

    #[test]
    fn calls_without_a_name_are_one_build() {
        let mut builds = Builds::new(3);
        builds.seen(1, at(1), &RequestMetadata::default());
        builds.seen(2, at(2), &RequestMetadata { target_id: "//a".into(), ..Default::default() });
        assert_eq!(names(&builds, 0), [""]);
        assert!(builds.traffic("").is_some() && builds.traffic("x").is_none());
    }
}
