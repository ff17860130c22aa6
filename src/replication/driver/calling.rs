//! What [`Owed`](crate::replication::owed::Owed) wants, done: each by a task that answers, in bounded time.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::time::{Instant, sleep, timeout};

use super::Shared;
use super::engine::{Engine, Happened};
use crate::cas::entry::EntryKey;
use crate::peer::MachineId;
use crate::replication::copies::{Copy, CopyPeer, Entry, MOST_KEYS, Taken};
use crate::replication::owed::{Effect, Event};

/// Time for an answer to a question.
const ASKING: Duration = Duration::from_secs(30);

/// Time for a batch to be loaded and taken.
const GIVING: Duration = Duration::from_secs(60);

/// Bytes a second at which something large has to move at least, beyond the time for a batch.
const LEAST_SPEED: u64 = 128 << 10;

/// A machine there is no link to is said not to answer after this.
const NO_LINK: Duration = Duration::from_millis(100);

/// Complete entries that a machine is not told of yet; those beyond it finds out about itself.
const MOST_SETTLED: usize = 200_000;

/// What no farm is recognised by: whoever is told of entries in this one asks for them itself.
const NO_FARM: u64 = 0;

/// Entries of a batch that are read at once.
const LOADS: usize = 16;

/// Bytes of one batch: less than a message may have.
const MOST_BATCH: usize = 3 << 20;

// === impl Engine ===

impl Engine {
    pub(super) fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Ask { machine, keys, extend } => self.ask(machine, keys, extend),
            Effect::Give { machine, keys } => self.give(machine, keys),
            Effect::Send { machine, key } => self.send(machine, key),
            Effect::Settle { machine, keys } => self.settle(machine, keys),
            Effect::Look { machine, keys } => self.have_looked_for(machine, keys),
            Effect::Mark { keys, standing } => self.shared.store.mark(&keys, standing),
            Effect::Walk(range) => self.walk(range),
        }
    }

    fn ask(&self, machine: MachineId, keys: Vec<EntryKey>, extend: bool) {
        let asked = keys.clone();
        let work = move |peer: Arc<dyn CopyPeer>| async move {
            let present = peer.have(&keys, extend).await;
            let present = present.inspect_err(|error| tracing::debug!(%error, "a machine cannot be asked"));
            vec![Event::Asked { machine, present: present.ok(), keys }]
        };
        self.call(machine, ASKING, work, Event::Asked { machine, keys: asked, present: None });
    }

    fn give(&self, machine: MachineId, keys: Vec<EntryKey>) {
        let (shared, asked) = (Arc::clone(&self.shared), keys.clone());
        let work = move |peer: Arc<dyn CopyPeer>| async move { give(&shared, machine, &*peer, keys).await };
        let deadline = GIVING + Duration::from_secs(self.bytes_of_one(&asked) / LEAST_SPEED);
        self.call(machine, deadline, work, Event::Given { machine, taken: None, keys: asked });
    }

    /// Bytes of what is given alone, because it may be large.
    fn bytes_of_one(&self, keys: &[EntryKey]) -> u64 {
        match keys {
            [key] => self.shared.store.look(key).map_or(0, |entry| entry.bytes),
            _ => 0,
        }
    }

    fn send(&self, machine: MachineId, key: EntryKey) {
        let shared = Arc::clone(&self.shared);
        let bytes = key.digest().map_or(0, |digest| digest.size());
        let work = move |peer: Arc<dyn CopyPeer>| async move {
            if shared.store.look(&key).is_none() {
                return vec![Event::Gone(vec![key]), Event::Sent { machine, key, taken: Some(Taken::Bad) }];
            }
            let taken = peer.send(&key, &*shared.store).await;
            let taken = taken.inspect_err(|error| tracing::debug!(%error, "a machine cannot be sent a blob"));
            if taken == Ok(Taken::Stored) {
                shared.count_sent(Instant::now(), 1, bytes);
            }
            vec![Event::Sent { machine, key, taken: taken.ok() }]
        };
        let deadline = GIVING + Duration::from_secs(bytes / LEAST_SPEED);
        self.call(machine, deadline, work, Event::Sent { machine, key, taken: None });
    }

    /// Has `work` done over the link to a machine, as long as there is one; else the outcome is `none`.
    fn call<F>(
        &self,
        machine: MachineId,
        deadline: Duration,
        work: impl FnOnce(Arc<dyn CopyPeer>) -> F,
        none: Event,
    ) where
        F: Future<Output = Vec<Event>> + Send + 'static,
    {
        let sender = self.sender.clone();
        let Some(open) = self.open.get(&machine) else {
            return self.spawn(async move {
                sleep(NO_LINK).await;
                let _ = sender.send(Happened::Owed(vec![none])).await;
            });
        };
        let (work, end) = (work(Arc::clone(&open.link.copies)), open.end.clone());
        self.spawn(async move {
            let events = match end.run_until_cancelled(timeout(deadline, work)).await {
                Some(Ok(events)) => events,
                Some(Err(_)) | None => vec![none],
            };
            let _ = sender.send(Happened::Owed(events)).await;
        });
    }

    fn walk(&self, range: u8) {
        let (store, sender) = (Arc::clone(&self.shared.store), self.sender.clone());
        let read = self.tasks.spawn_blocking(move || store.range(range));
        self.spawn(async move {
            // A panic was logged.
            let entries = read.await.unwrap_or_default();
            let _ = sender.send(Happened::Owed(vec![Event::Walked { range, entries }])).await;
        });
    }

    // --- complete entries ---

    fn settle(&mut self, machine: MachineId, keys: Vec<EntryKey>) {
        let farm = self.farm;
        let Some(open) = self.open.get_mut(&machine) else { return };
        if open.settled_in != farm {
            // What is not told yet is of another farm: it is asked for again.
            open.settled.clear();
            open.settled_in = farm;
        }
        let room = MOST_SETTLED.saturating_sub(open.settled.len());
        open.settled.extend(keys.into_iter().take(room));
        self.tell_settled(machine);
    }

    /// The machine is to ask for these itself.
    fn have_looked_for(&mut self, machine: MachineId, keys: Vec<EntryKey>) {
        let Some(open) = self.open.get_mut(&machine) else { return };
        let room = MOST_SETTLED.saturating_sub(open.looks.len());
        open.looks.extend(keys.into_iter().take(room));
        self.tell_settled(machine);
    }

    /// A machine was told.
    pub(super) fn settled(&mut self, link: u64, machine: MachineId) {
        if let Some(open) = self.open.get_mut(&machine).filter(|open| open.number == link) {
            open.is_settling = false;
            self.tell_settled(machine);
        }
    }

    fn tell_settled(&mut self, machine: MachineId) {
        let Some(open) = self.open.get_mut(&machine) else { return };
        let (told, farm) = match open.looks.is_empty() {
            true => (&mut open.settled, open.settled_in),
            false => (&mut open.looks, NO_FARM),
        };
        if open.is_settling || told.is_empty() {
            return;
        }
        open.is_settling = true;
        let keys: Vec<EntryKey> = told.drain(..told.len().min(MOST_KEYS)).collect();
        let (peer, link, end) = (Arc::clone(&open.link.copies), open.number, open.end.clone());
        let sender = self.sender.clone();
        self.spawn(async move {
            // What it was not told it finds out itself.
            let _ = end.run_until_cancelled(timeout(ASKING, peer.settle(&keys, farm))).await;
            let _ = sender.send(Happened::Settled { link, id: machine }).await;
        });
    }
}

/// Gives a machine those of `keys` that are here.
async fn give(shared: &Shared, machine: MachineId, peer: &dyn CopyPeer, keys: Vec<EntryKey>) -> Vec<Event> {
    let Batch { copies, bytes, gone, bad } = Batch::load(shared, &keys).await;
    let sent: Vec<(EntryKey, u64)> = copies.iter().map(|copy| (copy.key, copy.data.len() as u64)).collect();
    let answer = if copies.is_empty() { Ok(Vec::new()) } else { peer.give(copies).await };
    let taken = match answer {
        Ok(taken) if taken.len() == sent.len() => Some(taken),
        Ok(_) => {
            tracing::debug!(machine = peer.name(), "a machine answers what was not asked");
            None
        }
        Err(error) => {
            tracing::debug!(%error, "a machine cannot be given copies");
            None
        }
    };
    let taken = taken.map(|taken| {
        let stored = sent.iter().zip(&taken).filter(|(_, taken)| **taken == Taken::Stored);
        let number = stored.clone().count() as u64;
        let of_them = stored.map(|((_, bytes), _)| bytes).sum::<u64>().min(bytes);
        shared.count_sent(Instant::now(), number, of_them);
        let not_sent = gone.iter().chain(&bad).map(|key| (*key, Taken::Bad));
        sent.iter().map(|(key, _)| *key).zip(taken).chain(not_sent).collect()
    });
    let mut events = Vec::new();
    if !gone.is_empty() {
        events.push(Event::Gone(gone));
    }
    events.push(Event::Given { machine, taken, keys });
    events
}

/// What is given at once.
#[derive(Default)]
struct Batch {
    copies: Vec<Copy>,
    bytes: u64,
    /// Not here any more.
    gone: Vec<EntryKey>,
    /// Cannot be read.
    bad: Vec<EntryKey>,
}

// === impl Batch ===

impl Batch {
    /// Of `keys`, as many as fit.
    async fn load(shared: &Shared, keys: &[EntryKey]) -> Self {
        let (mut batch, mut chosen) = (Self::default(), Vec::with_capacity(keys.len()));
        for key in keys {
            match shared.store.look(key) {
                None => batch.gone.push(*key),
                // A result goes alone, however large it is.
                Some(entry) if !chosen.is_empty() && batch.bytes + entry.bytes > MOST_BATCH as u64 => {}
                Some(entry) => {
                    batch.bytes += entry.bytes;
                    chosen.push(entry);
                }
            }
        }
        let loads =
            chosen.into_iter().map(|entry| async move { (entry, shared.store.load(&entry.key).await) });
        let mut loads = stream::iter(loads).buffered(LOADS);
        while let Some((Entry { key, age, .. }, data)) = loads.next().await {
            match data {
                Ok(Some(data)) => batch.copies.push(Copy { key, data, age }),
                Ok(None) => batch.gone.push(key),
                Err(error) => {
                    tracing::warn!(?key, %error, "cannot read what is to be copied");
                    batch.bad.push(key);
                }
            }
        }
        batch
    }
}
