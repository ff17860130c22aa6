//! [`TestFarm`]: machines that are stores in this process, whose answers can be made to fail.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::watch;
use tokio::time::Instant;

use super::memory::MemoryCopies;
use super::{Copy, CopyPeer, CopyStore, Entry, Other, Others, Taken};
use crate::cas::ByteRange;
use crate::cas::entry::{EntryKey, Standing};
use crate::cas::fetch::{BlobSource, SourceError, SourceStream};
use crate::digest::{BlobHash, Digest};
use crate::peer::MachineId;
use crate::replication::roster::{Machine, Role, Roster};

/// Machines, numbered from 0; this one is number 0. All count, have the same weight and a link.
pub struct TestFarm {
    machines: Vec<Arc<TestMachine>>,
    copies: usize,
    roster: Shared,
    may_have_more: Mutex<HashSet<MachineId>>,
}

/// The roster all machines of a farm know.
type Shared = watch::Sender<Arc<Roster>>;

/// One of them.
pub struct TestMachine {
    /// Who it is.
    pub id: MachineId,
    /// What it has.
    pub store: MemoryCopies,
    name: String,
    fault: Mutex<Fault>,
    calls: Mutex<Calls>,
    roster: Shared,
}

/// What is wrong with the answers of a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// No call ever ends.
    Silent,
    /// Every call fails.
    Error,
    /// Every call takes that long.
    Slow(Duration),
    /// It says that it has nothing, and gives nothing.
    Lacks,
    /// It says what it has, and gives nothing.
    Forgets,
    /// It gives bytes that are wrong.
    Wrong,
    /// What it streams fails after so many bytes.
    Breaks(usize),
    /// What it streams goes no further after so many bytes.
    Stalls(usize),
}

/// What a machine was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// Keys of each `have`.
    pub have: Vec<Vec<EntryKey>>,
    /// Hash of each `find`.
    pub find: Vec<BlobHash>,
    /// Keys of each `give`.
    pub give: Vec<Vec<EntryKey>>,
    /// Key of each `send`.
    pub send: Vec<EntryKey>,
    /// Keys of each `settle`.
    pub settle: Vec<Vec<EntryKey>>,
    /// Keys of each `results`.
    pub results: Vec<Vec<EntryKey>>,
    /// Blobs that were read, in batches or alone.
    pub read: Vec<Digest>,
}

/// Who machine `number` is.
pub fn machine_id(number: usize) -> MachineId {
    MachineId::new([u8::try_from(number + 1).unwrap(); 32])
}

// === impl TestFarm ===

impl TestFarm {
    /// So many machines, with so many copies of each entry.
    pub fn new(machines: usize, copies: usize) -> Arc<Self> {
        let machine = |number| Machine {
            id: machine_id(number),
            name: format!("machine-{number}").into(),
            weight: 4,
            role: Role::Counts,
            is_linked: true,
            boot_epoch: 1,
        };
        let roster = Roster::new(machine_id(0), (0..machines).map(machine).collect(), copies);
        let roster: Shared = watch::Sender::new(Arc::new(roster));
        let machine = |number| {
            Arc::new(TestMachine {
                id: machine_id(number),
                store: MemoryCopies::default(),
                name: format!("machine-{number}"),
                fault: Mutex::default(),
                calls: Mutex::default(),
                roster: roster.clone(),
            })
        };
        let machines = (0..machines).map(machine).collect();
        Arc::new(Self { machines, copies, roster, may_have_more: Mutex::default() })
    }

    /// That machine.
    pub fn machine(&self, number: usize) -> &TestMachine {
        &self.machines[number]
    }

    /// The machine with that id.
    pub fn by_id(&self, id: MachineId) -> &TestMachine {
        self.machines.iter().find(|machine| machine.id == id).unwrap()
    }

    /// The machines on which `key` belongs, the first choice first.
    pub fn holders(&self, key: &EntryKey) -> Vec<&TestMachine> {
        self.roster().holders(key).iter().map(|id| self.by_id(id)).collect()
    }

    /// From now on everybody knows this roster.
    pub fn set_roster(&self, roster: Roster) {
        self.roster.send_replace(Arc::new(roster));
    }

    /// Changes what is known of one machine.
    pub fn change(&self, number: usize, change: impl FnOnce(&mut Machine)) {
        let old = self.roster();
        let mut machines = old.machines().to_vec();
        let id = machine_id(number);
        change(machines.iter_mut().find(|machine| machine.id == id).unwrap());
        self.set_roster(Roster::new(old.me(), machines, self.copies));
    }

    /// Makes or breaks the link to a machine.
    pub fn link(&self, number: usize, is_linked: bool) {
        self.change(number, |machine| machine.is_linked = is_linked);
    }

    /// Breaks the link to a machine, which is expected back for so long.
    pub fn lose(&self, number: usize, returning: Duration) {
        self.link(number, false);
        let roster = self.roster().as_ref().clone();
        self.set_roster(roster.expecting(Some(Instant::now() + returning)));
    }

    /// Whether a machine may have what no holder has.
    pub fn set_may_have_more(&self, number: usize, may: bool) {
        let mut set = lock(&self.may_have_more);
        if may {
            set.insert(machine_id(number))
        } else {
            set.remove(&machine_id(number))
        };
    }
}

impl Others for TestFarm {
    fn follow(&self) -> watch::Receiver<Arc<Roster>> {
        self.roster.subscribe()
    }

    fn other(&self, id: MachineId) -> Option<Other> {
        let roster = self.roster();
        let machine = self.machines.iter().find(|machine| machine.id == id)?;
        (id != roster.me() && roster.is_linked(id)).then(|| Other {
            id,
            copies: Arc::<TestMachine>::clone(machine),
            blobs: Arc::<TestMachine>::clone(machine),
        })
    }

    fn may_have_more(&self, id: MachineId) -> bool {
        lock(&self.may_have_more).contains(&id)
    }
}

// === impl TestMachine ===

impl TestMachine {
    /// From now on this is wrong with it; calls under way go on as they began.
    pub fn set_fault(&self, fault: Fault) {
        *lock(&self.fault) = fault;
    }

    /// What it was asked so far.
    pub fn calls(&self) -> Calls {
        lock(&self.calls).clone()
    }

    /// Notes a call, and waits or fails if that is what it does now.
    async fn called(&self, note: impl FnOnce(&mut Calls)) -> Result<Fault, SourceError> {
        note(&mut lock(&self.calls));
        let fault = *lock(&self.fault);
        match fault {
            Fault::Silent => std::future::pending().await,
            Fault::Error => return Err(SourceError::new(&self.name, "the test says so")),
            Fault::Slow(time) => tokio::time::sleep(time).await,
            _ => {}
        }
        Ok(fault)
    }

    /// What it gives of `key`.
    fn give_out(&self, key: &EntryKey, fault: Fault) -> Option<Bytes> {
        let data = self.store.data(key)?;
        match fault {
            Fault::Lacks | Fault::Forgets => None,
            Fault::Wrong => Some(data.iter().map(|byte| byte ^ 1).collect()),
            _ => Some(data),
        }
    }

    fn standing(&self, key: &EntryKey) -> Standing {
        if self.roster.borrow().is_holder(self.id, key) { Standing::Counted } else { Standing::Spare }
    }
}

#[async_trait]
impl CopyPeer for TestMachine {
    fn name(&self) -> &str {
        &self.name
    }

    async fn have(&self, keys: &[EntryKey], extend: bool) -> Result<Vec<bool>, SourceError> {
        let fault = self.called(|calls| calls.have.push(keys.to_vec())).await?;
        if fault == Fault::Lacks {
            return Ok(vec![false; keys.len()]);
        }
        Ok(self.store.have(keys, extend))
    }

    async fn find(&self, hash: &BlobHash) -> Result<Option<Digest>, SourceError> {
        let fault = self.called(|calls| calls.find.push(*hash)).await?;
        let found = self.store.find(hash).filter(|_| fault != Fault::Lacks);
        Ok(found.map(|digest| if fault == Fault::Wrong { hash.sized(digest.size() + 1) } else { digest }))
    }

    async fn give(&self, copies: Vec<Copy>) -> Result<Vec<Taken>, SourceError> {
        let keys = copies.iter().map(|copy| copy.key).collect();
        self.called(|calls| calls.give.push(keys)).await?;
        let mut taken = Vec::with_capacity(copies.len());
        for copy in copies {
            let standing = self.standing(&copy.key);
            taken.push(self.store.keep(copy, standing).await);
        }
        Ok(taken)
    }

    async fn send(&self, key: &EntryKey, store: &dyn CopyStore) -> Result<Taken, SourceError> {
        self.called(|calls| calls.send.push(*key)).await?;
        let Some(Entry { age, .. }) = store.look(key) else { return Ok(Taken::Bad) };
        let Ok(pieces) = store.stream(key, 0).await else { return Ok(Taken::Bad) };
        let Ok(pieces) = pieces.try_collect::<Vec<Bytes>>().await else { return Ok(Taken::Bad) };
        let copy = Copy { key: *key, data: pieces.concat().into(), age };
        Ok(self.store.keep(copy, self.standing(key)).await)
    }

    async fn settle(&self, keys: &[EntryKey], _farm: u64) -> Result<(), SourceError> {
        self.called(|calls| calls.settle.push(keys.to_vec())).await?;
        for key in keys {
            self.store.mark(std::slice::from_ref(key), self.standing(key));
        }
        Ok(())
    }

    async fn results(&self, keys: &[EntryKey]) -> Result<Vec<(EntryKey, Bytes)>, SourceError> {
        let fault = self.called(|calls| calls.results.push(keys.to_vec())).await?;
        let results = keys.iter().filter(|key| key.is_action());
        Ok(results.filter_map(|key| Some((*key, self.give_out(key, fault)?))).collect())
    }
}

#[async_trait]
impl BlobSource for TestMachine {
    fn name(&self) -> &str {
        &self.name
    }

    async fn read_batch(&self, digests: &[Digest]) -> Result<Vec<(Digest, Bytes)>, SourceError> {
        let fault = self.called(|calls| calls.read.extend(digests)).await?;
        let data = |digest: &Digest| self.give_out(&EntryKey::from(digest), fault);
        Ok(digests.iter().filter_map(|digest| Some((*digest, data(digest)?))).collect())
    }

    async fn read(&self, digest: &Digest, range: ByteRange) -> Result<Option<SourceStream>, SourceError> {
        let fault = self.called(|calls| calls.read.push(*digest)).await?;
        let Some(data) = self.give_out(&EntryKey::from(digest), fault) else { return Ok(None) };
        let data = data.slice(range.offset as usize..range.end(digest.size()).unwrap() as usize);
        let sent = match fault {
            Fault::Breaks(sent) | Fault::Stalls(sent) => sent.min(data.len()),
            _ => data.len(),
        };
        let pieces: Vec<Bytes> = data[..sent].chunks(256 * 1024).map(Bytes::copy_from_slice).collect();
        let pieces = stream::iter(pieces.into_iter().map(Ok));
        Ok(Some(match fault {
            Fault::Breaks(_) => {
                let broken = SourceError::new(&self.name, "the test breaks it");
                pieces.chain(stream::iter([Err(broken)])).boxed()
            }
            Fault::Stalls(_) => pieces.chain(stream::pending()).boxed(),
            _ => pieces.boxed(),
        }))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn machines_take_and_give_and_fail_as_they_are_told() {
        let farm = TestFarm::new(3, 2);
        let key = farm.machine(0).store.blob(&b"blob"[..]);
        let holders = farm.holders(&key);
        let other = farm.other(machine_id(1)).unwrap();
        assert_eq!(other.copies.send(&key, &farm.machine(0).store).await, Ok(Taken::Stored));
        let is_holder = holders.iter().any(|holder| holder.id == machine_id(1));
        let standing = if is_holder { Standing::Counted } else { Standing::Spare };
        assert_eq!(farm.machine(1).store.standing(&key), Some(standing));

        let digest = key.digest().unwrap();
        assert_eq!(other.blobs.read_batch(&[digest]).await.unwrap()[0].1, &b"blob"[..]);
        farm.machine(1).set_fault(Fault::Wrong);
        assert_ne!(other.blobs.read_batch(&[digest]).await.unwrap()[0].1, &b"blob"[..]);
        farm.machine(1).set_fault(Fault::Lacks);
        assert_eq!(other.copies.have(&[key], false).await, Ok(vec![false]));
        assert!(other.blobs.read(&digest, ByteRange::default()).await.unwrap().is_none());
        farm.machine(1).set_fault(Fault::Error);
        assert!(other.copies.have(&[key], false).await.is_err());
        farm.machine(1).set_fault(Fault::Silent);
        assert!(timeout(Duration::from_secs(9), other.copies.have(&[key], false)).await.is_err());

        assert!(farm.other(machine_id(0)).is_none() && !farm.may_have_more(machine_id(1)));
        farm.link(1, false);
        assert!(farm.other(machine_id(1)).is_none() && farm.other(machine_id(2)).is_some());
        assert_eq!(farm.machine(1).calls().have.len(), 3);
    }
}
