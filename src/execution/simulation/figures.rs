//! What the state machines cost, and what they make of a large farm.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::{Costs, Farm, Setup, Submission, Time, action};
use crate::dice::Dice;
use crate::execution::Settings;
use crate::execution::operations::OperationId;
use crate::execution::queue::{Event, Now, Queue};
use crate::execution::run_times::Like;

/// Machines, slots of each, and those of them whose clients want something.
const MACHINES: usize = 64;
const SLOTS: usize = 16;
const OWNERS: usize = 8;

/// What a command takes on average.
const MEAN: Duration = Duration::from_millis(500);

/// What was measured.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Actions that were run.
    pub actions: usize,
    /// What one event in one state machine took: on average, and 99 of 100 at most.
    pub decision: (Duration, Duration),
    /// Events that were applied.
    pub decisions: usize,
    /// Messages between machines for each action.
    pub messages: f64,
    /// Runs for each action that were sent ahead of their slots, and those that came back as busy.
    pub ahead: (f64, f64),
    /// Memory that an action takes while it waits, in bytes; 0 where that cannot be told.
    pub bytes: u64,
    /// What all of it took in the farm, and what it would have if no slot had ever been idle.
    pub took: (Time, Time),
    /// The longest time for which a slot was idle beside something that waited.
    pub idle: Duration,
    /// What a message to another machine and the answer take at most.
    pub round_trip: Duration,
}

/// Has a farm of 64 machines with 16 slots each run so many actions of eight people, and measures.
pub fn measure(actions: usize, seed: u64) -> Figures {
    let bytes = bytes_queued(actions);
    let settings = Settings { queue_limit: actions, ..Settings::default() };
    let mut farm = Farm::new(Setup {
        seed,
        slots: vec![SLOTS; MACHINES],
        latency: Duration::from_micros(200),
        jitter: Duration::from_micros(100),
        ahead: true,
        clocks_off: Duration::from_secs(3600),
        settings,
    });
    farm.run_for(Duration::from_secs(2));
    farm.forget_costs();
    let (began, messages) = (farm.now(), farm.ledger.messages);
    let dice = Dice::new(seed);
    let mut work = Duration::ZERO;
    for number in 0..actions {
        let time = MEAN / 2 + dice.exponential(MEAN / 2);
        work += time;
        farm.submit(number % OWNERS, submission(number, time));
    }
    assert!(farm.finish(Duration::from_secs(24 * 3600)), "some actions never end");
    let ideal = work / u32::try_from(MACHINES * SLOTS).unwrap_or(u32::MAX);
    let Costs { queue, grants, demand } = farm.costs();
    let mut costs: Vec<u32> = queue.iter().chain(grants).chain(demand).copied().collect();
    costs.sort_unstable();
    let sum: u64 = costs.iter().map(|cost| u64::from(*cost)).sum();
    let most = costs.get(costs.len() * 99 / 100).copied().unwrap_or(0);
    Figures {
        actions,
        decision: (Duration::from_nanos(sum / costs.len().max(1) as u64), Duration::from_nanos(most.into())),
        decisions: costs.len(),
        messages: (farm.ledger.messages - messages) as f64 / actions.max(1) as f64,
        ahead: (
            farm.ledger.sent_ahead as f64 / actions.max(1) as f64,
            farm.ledger.busy as f64 / actions.max(1) as f64,
        ),
        bytes,
        took: (farm.ledger.last_change() - began, ideal),
        idle: farm.ledger.longest_idle,
        round_trip: farm.round_trip(),
    }
}

fn submission(number: usize, time: Duration) -> Submission {
    let name = |kind: char, of: usize| format!("{kind}{of}").into();
    Submission {
        operation: OperationId::from_number(number as u128),
        action: action(number as u64, time, None, false),
        priority: 0,
        person: name('p', number % OWNERS),
        build: name('b', number % OWNERS),
        like: Like::new(&format!("//target:{number}"), ["CppCompile", "Rustc", "Javac"][number % 3]),
        looked_up_at: None,
    }
}

/// What an action that waits adds to the memory of this process, its description included.
fn bytes_queued(actions: usize) -> u64 {
    let now = Now { instant: Instant::now(), wall: SystemTime::UNIX_EPOCH };
    let settings = Settings { queue_limit: actions, ..Settings::default() };
    let before = resident();
    let mut queue = Queue::new(&settings, now);
    for number in 0..actions {
        queue.apply(now, Event::Submitted(submission(number, MEAN)));
    }
    resident().saturating_sub(before) / actions.max(1) as u64
}

/// Bytes of memory that this process has.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_farm_is_measured() {
        let figures = measure(300, 1);
        assert_eq!(figures.actions, 300);
        assert!(figures.took.0 >= figures.took.1, "{figures:?}");
        assert!(figures.idle <= 2 * figures.round_trip, "{figures:?}");
        assert!(figures.decisions > 4 * 300);
        if let Ok(actions) = std::env::var("FARMHAND_SIMULATION_ACTIONS") {
            eprintln!("{:#?}", measure(actions.parse().unwrap(), 1));
        }
    }
}
