//! A command that is kept: it lives on between requests, sees another input root for each of them, and stands
//! still in between.
//!
//! What its requests are, and how they reach it, is between it and the daemon, which has the other ends of its
//! streams. There is no time limit: the daemon says when it is to end.

use std::fs;
use std::time::Duration;

use rustix::io::Errno;

use super::{Containment, Event, Running, Spawner};
use crate::worker::sandbox::channel::Channel;
use crate::worker::sandbox::enter;
use crate::worker::sandbox::template::Template;
use crate::worker::sandbox::wire::{Failure, Reply};
use crate::worker::{Exit, Outcome, Overlay, Usage};

impl Spawner {
    /// Looks after the kept command until it ends or has to. `None`: the daemon is gone. Nothing of the command
    /// is left in any case.
    pub(super) fn keep(&mut self, mut running: Running, channel: &Channel) -> Result<Option<Exit>, Failure> {
        let mut reply = Some(Reply::Settled);
        let outcome = loop {
            if reply.take().is_some_and(|reply| channel.send(&reply).is_err()) {
                break None;
            }
            let event = self.next_event(channel, None, None).map_err(Failure::step("watch the command"))?;
            self.reap(&mut |reaped| running.take_in(reaped));
            if let Some(outcome) = running.ended {
                break Some(outcome);
            }
            match event {
                Event::ChildEnded | Event::Look | Event::TimeOver => {}
                Event::StandStill(still) => self.stand_still(still),
                Event::Rest => {
                    self.stand_still(true);
                    reply = Some(Reply::Resting(use_of_all(running.usage)));
                }
                Event::Change(overlay) => {
                    if let Err(failure) = self.change(&overlay) {
                        self.kill_rest(&mut |_| ());
                        return Err(failure);
                    }
                    self.stand_still(false);
                    reply = Some(Reply::Settled);
                }
                Event::Kill => break Some(Outcome::Cancelled),
                Event::DaemonGone => break None,
            }
        };
        let wall = running.time();
        self.kill_rest(&mut |reaped| running.take_in(reaped));
        Ok(outcome.map(|outcome| Exit { outcome, wall, usage: running.usage, memory_exceeded: None }))
    }

    /// Puts the entries of `overlay` in the places of those that the command saw.
    fn change(&mut self, overlay: &Overlay) -> Result<(), Failure> {
        let nothing = || Failure::step("change the inputs")(Errno::INVAL);
        let Containment::Sandbox(sandbox) = &mut self.containment else { return Err(nothing()) };
        let (Some(mounts), Some(parts)) = (&sandbox.mounts, &mut sandbox.parts) else {
            return Err(nothing());
        };
        sandbox.template.go_home()?;
        let overlay = enter::make_overlay_of(overlay)?;
        Template::enter_again(mounts)?;
        parts.exchange(&overlay)
    }
}

/// What all processes but this one have used, with those that have `ended`, and the memory they have now.
fn use_of_all(ended: Usage) -> Usage {
    let mut usage = Usage { max_rss: 0, ..ended };
    let Ok(entries) = fs::read_dir("/proc") else { return usage };
    let own = std::process::id();
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    for id in ids.filter(|id| *id != own) {
        // One that has ended meanwhile is counted when it is taken in.
        if let Some(process) = fs::read(format!("/proc/{id}/stat")).ok().and_then(|stat| usage_in(&stat)) {
            usage.user += process.user;
            usage.system += process.system;
            usage.max_rss += process.max_rss;
        }
    }
    usage
}

/// What `/proc/…/stat` says of a process: its times, and the memory it has now. The name in it is in
/// parentheses and may hold anything.
fn usage_in(stat: &[u8]) -> Option<Usage> {
    /// Places of the fields behind the name: time in user mode, in the kernel, pages.
    const FIELDS: [usize; 3] = [11, 12, 21];
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let fields: Vec<_> = std::str::from_utf8(&stat[end + 1..]).ok()?.split_ascii_whitespace().collect();
    let number = |place: usize| fields.get(place)?.parse::<u64>().ok();
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    let time = |place| Some(Duration::from_millis(number(place)?.saturating_mul(1000) / ticks));
    let pages = number(FIELDS[2])?;
    let max_rss = pages.saturating_mul(rustix::param::page_size() as u64);
    Some(Usage { user: time(FIELDS[0])?, system: time(FIELDS[1])?, max_rss })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_use_of_a_process_is_read_behind_any_name() {
        let stat = b"7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 1 0 9 1000000 3 184 0";
        let usage = usage_in(stat).unwrap();
        let tick = 1000 / rustix::param::clock_ticks_per_second();
        assert_eq!(usage.user, Duration::from_millis(250 * tick));
        assert_eq!(usage.system, Duration::from_millis(50 * tick));
        assert_eq!(usage.max_rss, 3 * rustix::param::page_size() as u64);
        assert_eq!(usage_in(b"nonsense"), None);
        assert_eq!(usage_in(b"7 (a) S 1"), None);
    }
}
