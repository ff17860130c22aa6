//! [`Manners`]: how much of this machine others may have now, so that whoever sits at it never minds.
//!
//! A pure state machine over what is measured every few seconds ([`Signs`]). It closes the door at once
//! and opens it again only after things were well for a while, so that a machine at a threshold does not
//! flap. What is decided holds for new guests; what becomes of those that run
//! the setting `running-guests` says.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::Load;

/// How long all must have been well before guests come again.
const CALM: Duration = Duration::from_secs(30);

/// A share of memory, or of time, beyond which the machine is pressed, and below which it is well again.
const MEMORY_PRESSURE: [f64; 2] = [0.10, 0.02];
const IO_PRESSURE: [f64; 2] = [0.60, 0.30];

/// Free memory that guests leave alone: this share of all, within these bounds in bytes.
const MEMORY_SHARE: u64 = 20;
const MEMORY_BOUNDS: [u64; 2] = [256 << 20, 4 << 30];

/// What a person allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Actions of others at once, at most.
    pub guest_slots: usize,
    /// Whether guests may run while the machine runs on battery.
    pub on_battery: bool,
    /// Whether guests may run while memory or disks are short.
    pub under_pressure: bool,
    /// Actions of others at once while somebody uses the machine.
    pub while_used: usize,
    /// How long after the last sign of a person the machine counts as used.
    pub used_for: Duration,
}

/// What is seen of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Signs {
    /// What it does.
    pub load: Load,
    /// Time since a person typed something; unset where it cannot be told.
    pub untouched: Option<Duration>,
}

/// Why there are fewer guests than the rules allow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reason {
    /// It runs on battery.
    Battery,
    /// So many bytes of memory are left.
    Memory(u64),
    /// Tasks wait for memory in this share of the time.
    MemoryPressure(f64),
    /// Tasks wait for disks in this share of the time.
    IoPressure(f64),
    /// Somebody uses it.
    Used,
    /// It was one of these until a moment ago.
    Recovering,
}

/// What others may have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Allowance {
    /// Actions of others at once.
    pub slots: usize,
    /// Why not as many as the rules allow.
    pub reason: Option<Reason>,
}

/// The state machine.
#[derive(Debug)]
pub struct Manners {
    rules: Rules,
    /// Since when the machine is not pressed; `None` while it is.
    well_since: Option<Instant>,
    /// Whether it ever was.
    was_pressed: bool,
}

// === impl Reason ===

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Battery => write!(f, "it runs on battery"),
            Self::Memory(left) => write!(f, "{} MiB of memory are left", left >> 20),
            Self::MemoryPressure(share) => {
                write!(f, "programs wait for memory {:.0} % of the time", share * 100.0)
            }
            Self::IoPressure(share) => {
                write!(f, "programs wait for the disk {:.0} % of the time", share * 100.0)
            }
            Self::Used => write!(f, "somebody uses it"),
            Self::Recovering => write!(f, "it was busy with its own until a moment ago"),
        }
    }
}

impl Reason {
    /// Which of them it is, whatever the numbers in it.
    pub fn kind(&self) -> std::mem::Discriminant<Self> {
        std::mem::discriminant(self)
    }
}

// === impl Manners ===

impl Manners {
    /// Keeps to `rules`. Guests are welcome from the start, if nothing speaks against it.
    pub fn new(rules: Rules) -> Self {
        Self { rules, well_since: None, was_pressed: false }
    }

    /// Keeps to these from now on. What was seen so far counts.
    pub fn keep_to(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// What others may have, now that this was seen.
    pub fn see(&mut self, now: Instant, signs: &Signs) -> Allowance {
        let was_well = self.well_since.is_some();
        let pressed = self.pressed(signs, was_well || !self.was_pressed);
        let Some(reason) = pressed else { return self.well(now, signs) };
        (self.well_since, self.was_pressed) = (None, true);
        Allowance { slots: 0, reason: Some(reason) }
    }

    fn well(&mut self, now: Instant, signs: &Signs) -> Allowance {
        let since = *self.well_since.get_or_insert(now);
        if self.was_pressed && now.saturating_duration_since(since) < CALM {
            return Allowance { slots: 0, reason: Some(Reason::Recovering) };
        }
        self.was_pressed = false;
        let Rules { guest_slots, while_used, used_for, .. } = self.rules;
        let is_used = signs.untouched.is_some_and(|untouched| untouched < used_for);
        if is_used && while_used < guest_slots {
            return Allowance { slots: while_used, reason: Some(Reason::Used) };
        }
        Allowance { slots: guest_slots, reason: None }
    }

    /// What presses the machine. One that is well may come closer to a threshold than one that is not.
    fn pressed(&self, signs: &Signs, was_well: bool) -> Option<Reason> {
        let load = &signs.load;
        let which = usize::from(!was_well);
        if load.on_battery == Some(true) && !self.rules.on_battery {
            return Some(Reason::Battery);
        }
        if self.rules.under_pressure {
            return None;
        }
        let [least, most] = MEMORY_BOUNDS;
        let reserve = (load.memory_total / MEMORY_SHARE).clamp(least, most);
        let wanted = if was_well { reserve } else { reserve + reserve / 2 };
        if load.memory_total > 0 && load.memory_available < wanted.min(load.memory_total) {
            return Some(Reason::Memory(load.memory_available));
        }
        if let Some(share) = load.memory_pressure.filter(|share| *share > MEMORY_PRESSURE[which]) {
            return Some(Reason::MemoryPressure(share));
        }
        load.io_pressure.filter(|share| *share > IO_PRESSURE[which]).map(Reason::IoPressure)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: Rules = Rules {
        guest_slots: 4,
        on_battery: false,
        under_pressure: false,
        while_used: 1,
        used_for: Duration::from_secs(300),
    };

    fn signs() -> Signs {
        let load = Load { memory_total: 16 << 30, memory_available: 8 << 30, ..Load::default() };
        Signs { load, untouched: None }
    }

    fn see(manners: &mut Manners, begin: Instant, seconds: u64, signs: Signs) -> (usize, Option<Reason>) {
        let Allowance { slots, reason } = manners.see(begin + Duration::from_secs(seconds), &signs);
        (slots, reason)
    }

    #[test]
    fn guests_are_welcome_where_nothing_speaks_against_it() {
        let mut manners = Manners::new(RULES);
        assert_eq!(see(&mut manners, Instant::now(), 0, signs()), (4, None));
    }

    #[test]
    fn the_door_closes_at_once_and_opens_after_a_calm_while() {
        let begin = Instant::now();
        let mut manners = Manners::new(RULES);
        let battery = Signs { load: Load { on_battery: Some(true), ..signs().load }, ..signs() };
        assert_eq!(see(&mut manners, begin, 0, battery), (0, Some(Reason::Battery)));
        assert_eq!(see(&mut manners, begin, 10, signs()), (0, Some(Reason::Recovering)));
        assert_eq!(see(&mut manners, begin, 39, signs()), (0, Some(Reason::Recovering)));
        assert_eq!(see(&mut manners, begin, 40, signs()), (4, None));
        let mut careless = Manners::new(Rules { on_battery: true, ..RULES });
        assert_eq!(see(&mut careless, begin, 0, battery), (4, None));
    }

    #[test]
    fn who_sits_at_it_shares_it_as_he_likes() {
        let begin = Instant::now();
        let mut manners = Manners::new(RULES);
        let used = |seconds| Signs { untouched: Some(Duration::from_secs(seconds)), ..signs() };
        assert_eq!(see(&mut manners, begin, 0, used(299)), (1, Some(Reason::Used)));
        assert_eq!(see(&mut manners, begin, 1, used(300)), (4, None), "nothing to recover from");
        let mut generous = Manners::new(Rules { while_used: 9, ..RULES });
        assert_eq!(see(&mut generous, begin, 0, used(0)), (4, None));
    }

    #[test]
    fn rules_may_change_while_the_machine_recovers() {
        let begin = Instant::now();
        let mut manners = Manners::new(RULES);
        let battery = Signs { load: Load { on_battery: Some(true), ..signs().load }, ..signs() };
        see(&mut manners, begin, 0, battery);
        assert_eq!(see(&mut manners, begin, 5, signs()).1, Some(Reason::Recovering));
        manners.keep_to(Rules { guest_slots: 2, ..RULES });
        assert_eq!(see(&mut manners, begin, 10, signs()), (0, Some(Reason::Recovering)));
        assert_eq!(see(&mut manners, begin, 36, signs()), (2, None));
    }

    #[test]
    fn each_kind_of_pressure_is_told() {
        let load = signs().load;
        let cases = [
            (Load { memory_available: 100 << 20, ..load }, Reason::Memory(100 << 20)),
            (Load { memory_pressure: Some(0.2), ..load }, Reason::MemoryPressure(0.2)),
            (Load { io_pressure: Some(0.7), ..load }, Reason::IoPressure(0.7)),
        ];
        for (load, reason) in cases {
            let mut manners = Manners::new(RULES);
            let seen = see(&mut manners, Instant::now(), 0, Signs { load, untouched: None });
            assert_eq!(seen, (0, Some(reason)));
            let mut careless = Manners::new(Rules { under_pressure: true, ..RULES });
            assert_eq!(see(&mut careless, Instant::now(), 0, Signs { load, untouched: None }), (4, None));
            assert!(!reason.to_string().is_empty());
        }
    }

    proptest! {
        /// Whatever is seen in whatever order: within the rules, a reason for every slot less, and never
        /// open within the calm after a pressure.
        #[test]
        fn the_rules_hold(
            steps in prop::collection::vec((0..20_u64, 0..4_u8, 0..600_u64), 1..60),
        ) {
            let begin = Instant::now();
            let (mut manners, mut at, mut pressed_at) = (Manners::new(RULES), 0, None);
            for (pause, kind, untouched) in steps {
                at += pause;
                let mut signs = Signs { untouched: Some(Duration::from_secs(untouched)), ..signs() };
                match kind {
                    0 => signs.load.on_battery = Some(true),
                    1 => signs.load.memory_pressure = Some(0.5),
                    2 => signs.load.memory_pressure = Some(0.05),
                    _ => {}
                }
                let (slots, reason) = see(&mut manners, begin, at, signs);
                prop_assert!(slots <= RULES.guest_slots);
                prop_assert_eq!(slots == RULES.guest_slots, reason.is_none());
                if kind < 2 {
                    prop_assert_eq!(slots, 0);
                    pressed_at = Some(at);
                } else if pressed_at.is_some_and(|pressed| at < pressed + CALM.as_secs()) {
                    prop_assert_eq!(slots, 0);
                }
            }
        }
    }
}
