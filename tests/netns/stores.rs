//! [`Stores`]: a farm whose machines keep copies for one another, and what is done to them; [`Conditions`]:
//! what may be asked of each machine meanwhile.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use farmhand::digest::Digest;
use farmhand_proto::control::{self, Replication, SetMachineRequest, machine};
use tokio::time::{Instant, sleep};

use crate::lan::Lan;
use crate::machine::Machine;
use crate::support::Client;

/// A machine that is gone is not waited for long.
pub(crate) const GRACE: [&str; 2] = ["--repair-after", "2s"];

/// A machine that is gone is waited for longer than any test takes.
pub(crate) const PATIENT: [&str; 2] = ["--repair-after", "10m"];

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(90);

/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Bytes of a blob above which it has a file of its own.
const SMALL: u64 = 32 << 10;

/// The farm.
pub(crate) struct Stores {
    pub(crate) machines: Vec<Machine>,
    pub(crate) lan: Lan,
    pub(crate) conditions: Arc<Conditions>,
    /// Copies that the farm is to keep.
    copies: usize,
}

/// How the machines are, for those that use them at the same time.
pub(crate) struct Conditions(Mutex<State>);

#[derive(Default)]
struct State {
    /// Changes of anything below.
    changes: u64,
    /// Of each machine.
    machines: Vec<Condition>,
    /// Pairs that do not hear each other.
    parted: Vec<(usize, usize)>,
}

#[derive(Clone, Default)]
struct Condition {
    /// Killed, frozen, or cut off.
    is_out: bool,
    /// The stores it has had before this one.
    life: u32,
    /// Whether its disk is full.
    is_full: bool,
    /// Whether its link is a bad one, which may be lost at any moment.
    is_weak: bool,
}

/// How things are for one machine at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outlook {
    /// Changes so far.
    pub(crate) changes: u64,
    /// Whether the machine itself is killed, frozen, or cut off.
    pub(crate) is_out: bool,
    /// The stores it has had before this one.
    pub(crate) life: u32,
    /// Others it cannot reach, or not for sure.
    pub(crate) unreachable: usize,
    /// Whether the link of any machine is a bad one.
    pub(crate) is_any_weak: bool,
    /// Whether the disk of any machine is full.
    pub(crate) is_any_full: bool,
}

// === impl Conditions ===

impl Conditions {
    fn new(machines: usize) -> Arc<Self> {
        let machines = vec![Condition::default(); machines];
        Arc::new(Self(Mutex::new(State { machines, ..State::default() })))
    }

    /// How things are for a machine.
    pub(crate) fn look(&self, machine: usize) -> Outlook {
        let state = self.0.lock().unwrap();
        let is_parted = |other: usize| {
            state.parted.iter().any(|pair| *pair == (machine, other) || *pair == (other, machine))
        };
        let Condition { is_out, life, is_weak, .. } = state.machines[machine];
        let is_unsure = |other: &usize| {
            let Condition { is_out, is_weak: is_weak_itself, .. } = state.machines[*other];
            is_out || is_weak || is_weak_itself || is_parted(*other)
        };
        let others = (0..state.machines.len()).filter(|other| *other != machine);
        Outlook {
            changes: state.changes,
            is_out,
            life,
            unreachable: others.filter(is_unsure).count(),
            is_any_weak: state.machines.iter().any(|machine| machine.is_weak),
            is_any_full: state.machines.iter().any(|machine| machine.is_full),
        }
    }

    /// Machines there are.
    pub(crate) fn count(&self) -> usize {
        self.0.lock().unwrap().machines.len()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.0.lock().unwrap();
        state.changes += 1;
        change(&mut state);
    }

    /// A machine is about to be killed, frozen or cut off.
    pub(crate) fn goes(&self, machine: usize) {
        self.change(|state| state.machines[machine].is_out = true);
    }

    /// It is back, and linked with the others.
    pub(crate) fn is_back(&self, machine: usize) {
        self.change(|state| state.machines[machine].is_out = false);
    }

    /// Its store is lost.
    pub(crate) fn loses_store(&self, machine: usize) {
        self.change(|state| state.machines[machine].life += 1);
    }

    /// Its disk is about to be full, or has room again.
    pub(crate) fn is_full(&self, machine: usize, is_full: bool) {
        self.change(|state| state.machines[machine].is_full = is_full);
    }

    /// Its link is about to be a bad one, or is a good one again.
    pub(crate) fn is_weak(&self, machine: usize, is_weak: bool) {
        self.change(|state| state.machines[machine].is_weak = is_weak);
    }

    /// Two machines are about not to hear each other.
    pub(crate) fn parts(&self, one: usize, other: usize) {
        self.change(|state| state.parted.push((one, other)));
    }

    /// They do again.
    pub(crate) fn unites(&self, one: usize, other: usize) {
        self.change(|state| state.parted.retain(|pair| *pair != (one, other)));
    }
}

// === impl Stores ===

impl Stores {
    /// A farm of so many machines that keeps so many copies, with further arguments, all linked; `None` where
    /// there can be none.
    pub(crate) async fn new(machines: usize, copies: usize, arguments: &[&str]) -> Option<Self> {
        Self::with(machines, copies, |_| arguments.iter().map(ToString::to_string).collect()).await
    }

    /// The same with arguments for each machine.
    pub(crate) async fn with(
        count: usize,
        copies: usize,
        arguments: impl Fn(usize) -> Vec<String>,
    ) -> Option<Self> {
        let lan = Lan::new(count)?;
        let mut stores = Self { machines: Vec::new(), lan, conditions: Conditions::new(count), copies };
        for number in 0..count {
            let common = ["--copies", &copies.to_string(), "--slots", "2", "--disk-budget", "2GiB"];
            let common = common.iter().map(ToString::to_string);
            let arguments: Vec<String> = common.chain(arguments(number)).collect();
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            stores.machines.push(Machine::start(&stores.lan, number, &arguments));
        }
        stores.linked().await;
        Some(stores)
    }

    /// A build tool on a machine.
    pub(crate) fn client(&self, machine: usize) -> Client {
        self.machines[machine].patient_client()
    }

    /// Machines that run.
    pub(crate) fn up(&self) -> Vec<usize> {
        (0..self.machines.len()).filter(|machine| self.machines[*machine].is_up()).collect()
    }

    /// Waits until all machines that run are linked with one another.
    pub(crate) async fn linked(&self) {
        let up: Vec<&Machine> = self.machines.iter().filter(|machine| machine.is_up()).collect();
        for machine in &up {
            let others: Vec<&Machine> =
                up.iter().filter(|other| other.name() != machine.name()).copied().collect();
            machine.links_with(&others).await;
        }
    }

    /// Kills a machine as `kill -9` does.
    pub(crate) fn kill(&mut self, machine: usize) {
        self.conditions.goes(machine);
        self.machines[machine].kill();
    }

    /// Starts it again, and waits until it is linked with all that run.
    pub(crate) async fn restart(&mut self, machine: usize) {
        self.machines[machine].restart(&self.lan);
        self.linked().await;
        self.conditions.is_back(machine);
    }

    /// Kills it and starts it again.
    pub(crate) async fn bounce(&mut self, machine: usize) {
        self.kill(machine);
        self.restart(machine).await;
    }

    /// Drains a machine, so that it may leave.
    pub(crate) async fn drain(&self, machine: usize) {
        let request = SetMachineRequest { state: machine::State::Draining.into(), ..Default::default() };
        self.machines[machine].control().await.set_machine(request).await.unwrap();
    }

    /// What a machine says of itself.
    pub(crate) async fn myself(&self, machine: usize) -> control::Machine {
        let machines = self.machines[machine].machines().await;
        machines.into_iter().find(|machine| machine.is_self).unwrap()
    }

    /// What a machine says of its copies.
    pub(crate) async fn replication(&self, machine: usize) -> Replication {
        let status = self.machines[machine].status().await.expect("it answers");
        let replication = status.storage.and_then(|storage| storage.replication);
        replication.unwrap_or_else(|| panic!("m{machine} says nothing of copies"))
    }

    /// Waits until the machines that run are at rest; see [`at_rest`].
    pub(crate) async fn settled(&self) {
        self.settled_with(self.up().len()).await;
    }

    /// The same where so many machines count.
    pub(crate) async fn settled_with(&self, keepers: usize) {
        let since = Instant::now();
        let mut quiet = 0;
        while quiet < 3 {
            let words = self.unrest(keepers).await;
            quiet = if words.is_empty() { quiet + 1 } else { 0 };
            if since.elapsed() > PATIENCE {
                panic!("the farm does not come to rest: {words:#?}");
            }
            sleep(PAUSE).await;
        }
    }

    /// What keeps the farm from being at rest; nothing if every machine says so.
    async fn unrest(&self, keepers: usize) -> Vec<String> {
        let mut words = Vec::new();
        for machine in self.up() {
            let Some(status) = self.machines[machine].status().await else {
                words.push(format!("m{machine} does not answer"));
                continue;
            };
            match status.storage.and_then(|storage| storage.replication) {
                // There is nothing to be said of them where there is one machine.
                None if keepers == 1 => {}
                None => words.push(format!("m{machine} says nothing of copies")),
                Some(said) if !at_rest(&said, keepers) => {
                    words.push(format!("m{machine}, {keepers} keepers are meant: {said:?}"));
                }
                Some(_) => {}
            }
        }
        words
    }

    /// Copies that the farm can keep of each blob, as it is.
    pub(crate) fn copies(&self) -> usize {
        self.copies.min(self.up().len())
    }

    /// How many of the machines that run have each of these blobs on their disks.
    pub(crate) fn copies_of(&self, digests: &[Digest]) -> Vec<usize> {
        let mut copies = vec![0; digests.len()];
        for machine in self.up() {
            let held = held(&self.machines[machine].data(), digests);
            copies.iter_mut().zip(held).for_each(|(count, held)| *count += usize::from(held));
        }
        copies
    }

    /// Which of these blobs are on the disk of a machine.
    pub(crate) fn held(&self, machine: usize, digests: &[Digest]) -> Vec<bool> {
        held(&self.machines[machine].data(), digests)
    }

    /// Flips a bit of a blob on the disk of a machine, in the middle of its bytes; whether it is there.
    pub(crate) fn flip(&self, machine: usize, digest: &Digest, bytes: &[u8]) -> bool {
        let data = self.machines[machine].data();
        let Some((path, at)) = place(&data, digest, bytes) else { return false };
        let file = fs::File::options().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        let at = at + digest.size() / 2;
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        true
    }

    /// Whether the bytes of a blob are on the disk of a machine as they should be.
    pub(crate) fn is_sound(&self, machine: usize, digest: &Digest, bytes: &[u8]) -> bool {
        let data = self.machines[machine].data();
        if digest.size() > SMALL {
            return fs::read(file(&data, digest)).is_ok_and(|found| found == bytes);
        }
        place(&data, digest, bytes).is_some()
    }
}

/// Whether a machine owes nothing, has compared everything, and knows of nothing that it alone has, in a farm
/// of so many that count.
fn at_rest(said: &Replication, keepers: usize) -> bool {
    let copies = (said.copies_wanted as usize).min(keepers);
    said.keepers as usize == keepers
        && said.copies as usize == copies
        && (copies < 2 || said.sole_entries == 0)
        && said.owed_copies == 0
        && said.compared >= 1.0
}

/// The file of a large blob.
fn file(data: &Path, digest: &Digest) -> PathBuf {
    let hash = digest.hash_hex();
    let name = format!("{}-{hash}-{}", digest.function(), digest.size());
    data.join("blobs").join(&hash[..2]).join(name)
}

/// The contents of the packs.
fn packs(data: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let Ok(packs) = fs::read_dir(data.join("packs")) else { return Vec::new() };
    let paths = packs.flatten().map(|pack| pack.path());
    paths.filter_map(|path| fs::read(&path).ok().map(|bytes| (path, bytes))).collect()
}

/// Where the bytes of a blob begin, if they are there as they should be; of a large one, in its file.
fn place(data: &Path, digest: &Digest, bytes: &[u8]) -> Option<(PathBuf, u64)> {
    if digest.size() > SMALL {
        let path = file(data, digest);
        return path.exists().then_some((path, 0));
    }
    packs(data).into_iter().find_map(|(path, pack)| {
        let at = pack.windows(bytes.len()).position(|window| window == bytes)?;
        Some((path, at as u64))
    })
}

/// Which of these blobs are there: large ones have a file, of the others the packs have a record.
fn held(data: &Path, digests: &[Digest]) -> Vec<bool> {
    let mut held: Vec<bool> =
        digests.iter().map(|digest| digest.size() > SMALL && file(data, digest).exists()).collect();
    let small = digests.iter().enumerate().filter(|(_, digest)| digest.size() <= SMALL);
    let keys: HashMap<[u8; 8], usize> = small.map(|(at, digest)| (start(digest), at)).collect();
    if keys.is_empty() {
        return held;
    }
    for (_, pack) in packs(data) {
        for window in pack.windows(8) {
            if let Some(at) = keys.get(window) {
                held[*at] = true;
            }
        }
    }
    held
}

/// The first bytes of a hash: enough to know it by, in a pack.
fn start(digest: &Digest) -> [u8; 8] {
    let hash = u64::from_str_radix(&digest.hash_hex()[..16], 16).unwrap();
    hash.to_be_bytes()
}
