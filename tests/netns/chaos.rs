//! Farms under load to which one thing after the other is done, as a seed has it.
//!
//! Fewer machines are gone at once than there are copies, and after a store was lost the farm comes to rest
//! before the next thing is done. Then nothing that was acknowledged is missing or wrong, anywhere.
//! `FARMHAND_SEED` has the same schedule again, `FARMHAND_RUNS` so many schedules.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use farmhand::digest::Digest;
use tokio::time::{Instant, sleep};

use crate::disk::SmallDisk;
use crate::lan::Quality;
use crate::ledger::Ledger;
use crate::ledger::load::{Load, Pace};
use crate::stores::{GRACE, Stores};
use crate::support::{Dice, runs};

const MACHINES: usize = 5;

/// Things that are done in one schedule.
const STEPS: usize = 6;

/// Schedules, unless `FARMHAND_RUNS` says more.
const RUNS: u64 = 2;

/// MiB of the disk of each machine.
const DISK: u64 = 512;

/// Bytes left on a disk that is full.
const LEFT: u64 = 1 << 20;

const PACE: Pace = Pace { clients: 6, pause: 15, written: 25 };

/// What may be done to a farm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    /// `kill -9`, and started again later.
    Kill,
    /// `kill -9` of as many machines as may be gone, and started again later.
    KillSeveral,
    Freeze,
    /// Nothing comes or goes, and the link is up.
    Cut,
    Unplug,
    /// Two do not hear each other, and all others hear both.
    Part,
    /// A slow and lossy link.
    Weaken,
    FillDisk,
    LoseIndex,
    /// A bit of a blob on the disk.
    Flip,
    /// The store is gone.
    Empty,
    /// Another machine with the same address.
    Replace,
}

const HARMS: [Harm; 12] = [
    Harm::Kill,
    Harm::KillSeveral,
    Harm::Freeze,
    Harm::Cut,
    Harm::Unplug,
    Harm::Part,
    Harm::Weaken,
    Harm::FillDisk,
    Harm::LoseIndex,
    Harm::Flip,
    Harm::Empty,
    Harm::Replace,
];

/// One thing that is done.
#[derive(Clone, Copy, Debug)]
struct Step {
    harm: Harm,
    victim: usize,
    other: usize,
    /// How long after the one before.
    after: Duration,
    lasts: Duration,
    /// Whether the farm may come to rest afterwards.
    rests: bool,
}

/// The copies the farm keeps, and what is done to it.
fn schedule(dice: &mut Dice) -> (usize, Vec<Step>) {
    let copies = 2 + dice.below(2) as usize;
    let mut harms = HARMS;
    for at in (1..harms.len()).rev() {
        harms.swap(at, dice.below(at as u64 + 1) as usize);
    }
    let steps = harms[..STEPS].iter().map(|harm| {
        let victim = dice.below(MACHINES as u64) as usize;
        let other = (victim + 1 + dice.below(MACHINES as u64 - 1) as usize) % MACHINES;
        let after = dice.between(100, 1500);
        let lasts = dice.between(50, 4500);
        Step { harm: *harm, victim, other, after, lasts, rests: dice.below(3) == 0 }
    });
    (copies, steps.collect())
}

struct Chaos {
    stores: Stores,
    disks: Vec<SmallDisk>,
    ledger: Arc<Ledger>,
    copies: usize,
    dice: Dice,
}

impl Chaos {
    async fn new(copies: usize, dice: Dice) -> Option<Self> {
        let disks: Vec<SmallDisk> = (0..MACHINES).map(|_| SmallDisk::mount(DISK)).collect();
        let arguments = |number: usize| {
            let data = disks[number].data();
            GRACE
                .iter()
                .chain(&["--data-dir", &data, "--disk-reserve", "0"])
                .map(ToString::to_string)
                .collect()
        };
        let stores = Stores::with(MACHINES, copies, arguments).await?;
        Some(Self { stores, disks, ledger: Arc::default(), copies, dice })
    }

    async fn rest(&self) {
        self.ledger.settle(&self.stores).await;
    }

    async fn apply(&mut self, step: Step) {
        let Step { harm, victim, other, lasts, .. } = step;
        match harm {
            Harm::Kill => self.kill(&[victim], lasts).await,
            Harm::KillSeveral => {
                let victims: Vec<usize> = (0..self.copies - 1).map(|at| (victim + at) % MACHINES).collect();
                self.kill(&victims, lasts).await;
            }
            Harm::Freeze | Harm::Cut | Harm::Unplug => self.silence(harm, victim, lasts).await,
            Harm::Part => {
                self.stores.conditions.parts(victim, other);
                self.stores.lan.part(victim, other);
                sleep(lasts).await;
                self.stores.lan.unite(victim, other);
                self.stores.linked().await;
                self.stores.conditions.unites(victim, other);
            }
            Harm::Weaken => {
                self.stores.conditions.is_weak(victim, true);
                self.stores.lan.worsen(victim, Quality::WIFI);
                sleep(lasts).await;
                self.stores.lan.mend(victim);
                self.stores.linked().await;
                self.stores.conditions.is_weak(victim, false);
            }
            Harm::FillDisk => {
                self.stores.conditions.is_full(victim, true);
                self.disks[victim].fill(LEFT);
                sleep(lasts).await;
                self.disks[victim].free();
                self.stores.conditions.is_full(victim, false);
            }
            Harm::Flip => self.flip(victim).await,
            Harm::LoseIndex | Harm::Empty | Harm::Replace => self.take(harm, victim, lasts).await,
        }
    }

    async fn kill(&mut self, victims: &[usize], lasts: Duration) {
        victims.iter().for_each(|victim| self.stores.kill(*victim));
        sleep(lasts).await;
        for victim in victims {
            self.stores.restart(*victim).await;
        }
    }

    async fn silence(&mut self, harm: Harm, victim: usize, lasts: Duration) {
        self.stores.conditions.goes(victim);
        let (machine, lan) = (&self.stores.machines[victim], &self.stores.lan);
        match harm {
            Harm::Freeze => machine.signal("STOP"),
            Harm::Cut => lan.silence(victim),
            _ => lan.unplug(victim),
        }
        sleep(lasts).await;
        match harm {
            Harm::Freeze => machine.signal("CONT"),
            Harm::Cut => lan.unsilence(victim),
            _ => lan.plug(victim),
        }
        self.stores.linked().await;
        self.stores.conditions.is_back(victim);
    }

    /// Takes something of the store of a machine away, or all of it.
    async fn take(&mut self, harm: Harm, victim: usize, lasts: Duration) {
        if harm != Harm::LoseIndex {
            // What was lost before is made good: no second store goes meanwhile.
            self.rest().await;
        }
        self.stores.kill(victim);
        if harm == Harm::LoseIndex {
            self.stores.machines[victim].lose_index();
        } else {
            self.stores.conditions.loses_store(victim);
            self.ledger.lose_store(victim);
            let machine = &self.stores.machines[victim];
            if harm == Harm::Empty { machine.empty() } else { machine.become_another() }
        }
        sleep(lasts).await;
        self.stores.restart(victim).await;
        self.rest().await;
    }

    /// Flips a bit of a blob on the disk of a machine, and reads it there.
    async fn flip(&mut self, victim: usize) {
        self.rest().await;
        for _ in 0..50 {
            let Some((blob, digest)) = self.ledger.any_protected(&mut self.dice) else { return };
            let bytes = blob.bytes();
            let is_large = digest.size() > 32 << 10;
            if !is_large || !self.stores.flip(victim, &digest, &bytes) {
                continue;
            }
            let read = self.stores.client(victim).read(&digest).await;
            assert!(read.is_ok_and(|read| read == bytes), "m{victim} served {digest:?} though it is damaged");
            let since = Instant::now();
            while !self.stores.is_sound(victim, &digest, &bytes) {
                assert!(
                    since.elapsed() < Duration::from_secs(60),
                    "m{victim} got no good copy of {digest:?}"
                );
                sleep(Duration::from_millis(50)).await;
            }
            return;
        }
    }

    /// At rest, everything is everywhere; and still is without as many machines as may be gone.
    async fn end(mut self) {
        self.rest().await;
        self.ledger.check(&self.stores).await;
        let large = self.ledger.blobs().into_iter().map(|(_, digest)| digest);
        let large: Vec<Digest> = large.filter(|digest| digest.size() > 32 << 10).collect();
        let copies = self.stores.copies_of(&large);
        assert!(copies.iter().all(|copies| *copies >= self.copies), "{} are meant: {copies:?}", self.copies);
        for _ in 1..self.copies {
            let up = self.stores.up();
            self.stores.kill(up[self.dice.below(up.len() as u64) as usize]);
        }
        let last = self.stores.up();
        self.ledger.check_at(&self.stores, last[0]).await;
        self.ledger.assert_right();
    }
}

/// Goes through the schedule of a seed; `None` where there can be no farm.
async fn run(seed: u64) -> Option<()> {
    let mut dice = Dice::from_number(seed);
    let (copies, steps) = schedule(&mut dice);
    let since = Instant::now();
    let mut chaos = Chaos::new(copies, dice.fork(1)).await?;
    let load = Load::start(&chaos.ledger, &chaos.stores, &dice.fork(2), PACE);
    for step in steps {
        sleep(step.after).await;
        println!("{:6.2?} {step:?}", since.elapsed());
        chaos.apply(step).await;
        if chaos.ledger.is_violated() {
            break;
        }
        if step.rests {
            chaos.rest().await;
        }
    }
    load.end().await;
    chaos.ledger.assert_right();
    let ledger = Arc::clone(&chaos.ledger);
    chaos.end().await;
    println!("{:6.2?} {copies} copies, {:?}", since.elapsed(), ledger.counts());
    Some(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_was_acknowledged_is_lost() {
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros() as u64;
    let first = std::env::var("FARMHAND_SEED").map_or_else(|_| now(), |seed| seed.parse().unwrap());
    let runs = runs(RUNS);
    for number in 0..runs {
        let seed = first.wrapping_add(number);
        println!("schedule {} of {runs}: FARMHAND_SEED={seed}", number + 1);
        if run(seed).await.is_none() {
            return;
        }
    }
}

#[test]
fn a_schedule_follows_from_its_seed_and_harms_everything_in_time() {
    let once = |seed| format!("{:?}", schedule(&mut Dice::from_number(seed)));
    assert_eq!(once(7), once(7));
    let steps: Vec<Step> = (0..200).flat_map(|seed| schedule(&mut Dice::from_number(seed)).1).collect();
    for harm in HARMS {
        assert!(steps.iter().any(|step| step.harm == harm), "{harm:?}");
    }
    assert!(steps.iter().all(|step| step.victim != step.other && step.other < MACHINES));
}
