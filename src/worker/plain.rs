//! Running without namespaces, where the kernel forbids them.
//!
//! The spawner starts the command as it is, in a session of its own, and is the *subreaper* of all
//! that comes of it: a process whose parent ends becomes a child of the spawner, whatever session
//! or group it has moved to. So all of them can be found, and killed, by walking down from the
//! spawner. This module does the walking; `sandbox::spawner` is the rest.
//!
//! Weaker than a sandbox, on purpose and visibly ([`Runner::is_sandboxed`](super::Runner) is
//! false): the action sees the host's files and network, and two spawners killed in the same
//! instant may leave its processes behind.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use rustix::process::{Pid, Signal, getpid, kill_process};

/// Pause between two rounds of killing.
const ROUND: Duration = Duration::from_millis(1);

/// Kills everything that descends from this process. `reap` takes in what has ended and tells whether
/// any child is left; the function returns when none is.
pub(super) fn kill_descendants(mut reap: impl FnMut() -> bool) {
    while reap() {
        for pid in stop_all() {
            // A process that has ended meanwhile needs no signal: it is ours, so its id is not
            // used again before it is reaped.
            let _ = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(ROUND);
    }
}

/// Has everything that descends from this process stand still, or go on.
pub(super) fn stand_still(still: bool) {
    if still {
        stop_all();
        return;
    }
    for pid in descendants(getpid(), &parents()) {
        let _ = kill_process(pid, Signal::CONT);
    }
}

/// Stops all descendants. None is left that could start another while they are gone through one by one.
fn stop_all() -> HashSet<Pid> {
    let mut stopped = HashSet::new();
    loop {
        let fresh: Vec<Pid> =
            descendants(getpid(), &parents()).into_iter().filter(|pid| !stopped.contains(pid)).collect();
        if fresh.is_empty() {
            return stopped;
        }
        for pid in fresh {
            let _ = kill_process(pid, Signal::STOP);
            stopped.insert(pid);
        }
    }
}

/// All processes with their parents, as `/proc` shows them.
fn parents() -> Vec<(Pid, Pid)> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            let pid = Pid::from_raw(name.to_str()?.parse().ok()?)?;
            let stat = std::fs::read(format!("/proc/{}/stat", name.to_str()?)).ok()?;
            Some((pid, parent_of(&stat)?))
        })
        .collect()
}

/// The parent in a `/proc/…/stat`. The name before it is in parentheses and may hold anything.
fn parent_of(stat: &[u8]) -> Option<Pid> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let mut fields = stat[end + 1..].split(|byte| *byte == b' ').filter(|field| !field.is_empty());
    let parent = fields.nth(1)?;
    Pid::from_raw(std::str::from_utf8(parent).ok()?.parse().ok()?)
}

/// Everything below `root`, without itself.
fn descendants(root: Pid, parents: &[(Pid, Pid)]) -> Vec<Pid> {
    let mut children: HashMap<Pid, Vec<Pid>> = HashMap::new();
    for (pid, parent) in parents {
        children.entry(*parent).or_default().push(*pid);
    }
    let mut found = Vec::new();
    let mut open = vec![root];
    while let Some(pid) = open.pop() {
        // Taken out, so that a list that was read while it changed cannot lead in circles.
        let next = children.remove(&pid).unwrap_or_default();
        found.extend(&next);
        open.extend(next);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pid(number: i32) -> Pid {
        Pid::from_raw(number).unwrap()
    }

    fn tree(pairs: &[(i32, i32)]) -> Vec<(Pid, Pid)> {
        pairs.iter().map(|(child, parent)| (pid(*child), pid(*parent))).collect()
    }

    #[test]
    fn finds_children_of_children_and_nothing_else() {
        let mut found =
            descendants(pid(10), &tree(&[(10, 1), (11, 10), (12, 11), (20, 1), (21, 20), (13, 12)]));
        found.sort_by_key(|pid| pid.as_raw_nonzero());
        assert_eq!(found, [pid(11), pid(12), pid(13)]);
    }

    #[test]
    fn survives_a_list_that_contradicts_itself() {
        let found = descendants(pid(10), &tree(&[(11, 10), (12, 11), (11, 12), (10, 12)]));
        assert!(found.contains(&pid(12)));
    }

    #[test]
    fn reads_the_parent_behind_any_name() {
        assert_eq!(parent_of(b"42 (sh) S 7 42 42 0"), Some(pid(7)));
        assert_eq!(parent_of(b"42 (a) S 1 (b) R 9 42 42"), Some(pid(9)));
        assert_eq!(parent_of(b"1 (init) S 0 1 1"), None);
        assert_eq!(parent_of(b"nonsense"), None);
    }
}
