//! Machines in this process, each with a store in memory and a driver, and links that the test makes and ends.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use farmhand_proto::peer::MachineState;
use futures_util::{TryStreamExt, stream};
use tempfile::TempDir;
use tokio::time::sleep;

use super::super::links::{Link, LinkEvent};
use super::super::*;
use crate::cas::ByteRange;
use crate::cas::entry::Standing;
use crate::cas::fetch::{BlobSource, SourceError, SourceStream};
use crate::digest::{BlobHash, Digest};
use crate::replication::copies::memory::MemoryCopies;
use crate::replication::copies::{Copy, CopyPeer, Entry, Taken};

pub(super) const GRACE: Duration = Duration::from_secs(900);

/// Nothing takes as long as that.
const PATIENCE: Duration = Duration::from_secs(300);

/// The farm.
pub(super) struct Farm {
    pub(super) nodes: Vec<Arc<Node>>,
    directory: TempDir,
}

/// One machine.
pub(super) struct Node {
    pub(super) id: MachineId,
    pub(super) store: MemoryCopies,
    pub(super) replication: Replication,
    pub(super) keepers_file: PathBuf,
    pub(super) calls: Mutex<Calls>,
    links: mpsc::UnboundedSender<LinkEvent>,
    state: watch::Sender<Option<Arc<MachineState>>>,
    tasks: Tasks,
    is_silent: watch::Sender<bool>,
}

/// What others asked of a machine.
#[derive(Debug, Default)]
pub(super) struct Calls {
    pub(super) given: Vec<EntryKey>,
    pub(super) settled: Vec<EntryKey>,
}

/// A machine, from another.
struct Far(Weak<Node>);

struct TestLinks(mpsc::UnboundedReceiver<LinkEvent>);

#[async_trait]
impl Links for TestLinks {
    async fn next(&mut self) -> LinkEvent {
        match self.0.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }
}

pub(super) fn machine(number: usize) -> MachineId {
    MachineId::new([u8::try_from(number + 1).unwrap(); 32])
}

fn config(number: usize, directory: &Path) -> ReplicationConfig {
    ReplicationConfig {
        me: machine(number),
        name: format!("machine-{number}").into(),
        copies: 2,
        before_ack: 1,
        repair_after: GRACE,
        weight: 4,
        lag_limit_bytes: LAG_LIMIT,
        keepers_file: directory.join(format!("keepers-{number}")),
    }
}

// === impl Farm ===

impl Farm {
    /// So many machines that know nothing of each other.
    pub(super) fn apart(machines: usize, change: impl Fn(&mut ReplicationConfig)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let node = |number| {
            let mut config = config(number, directory.path());
            change(&mut config);
            Node::start(config, Inbox::new())
        };
        Self { nodes: (0..machines).map(node).collect(), directory }
    }

    /// One machine more, that holds so many news.
    pub(super) fn add_with_inbox(&mut self, news: usize) {
        let config = config(self.nodes.len(), self.directory.path());
        self.nodes.push(Node::start(config, Inbox::holding(news)));
    }

    /// So many machines that are linked and know who counts.
    pub(super) async fn linked(machines: usize, change: impl Fn(&mut ReplicationConfig)) -> Self {
        let farm = Self::apart(machines, change);
        for number in 0..machines {
            (0..number).for_each(|other| farm.link(number, other));
        }
        farm.settled().await;
        farm
    }

    /// Links two machines.
    pub(super) fn link(&self, one: usize, two: usize) {
        for (from, to) in [(one, two), (two, one)] {
            let to = &self.nodes[to];
            let far = Arc::new(Far(Arc::downgrade(to)));
            let link = Link {
                id: to.id,
                name: format!("{}", to.id).into(),
                boot_epoch: 1,
                copies: Arc::clone(&far) as _,
                blobs: far,
                state: to.state.subscribe(),
            };
            self.nodes[from].links.send(LinkEvent::Linked(link)).ok().unwrap();
        }
    }

    /// Ends the links of a machine to all others.
    pub(super) fn unlink(&self, number: usize) {
        for other in (0..self.nodes.len()).filter(|other| *other != number) {
            self.nodes[number].links.send(LinkEvent::Lost(machine(other))).ok().unwrap();
            self.nodes[other].links.send(LinkEvent::Lost(machine(number))).ok().unwrap();
        }
    }

    /// Waits until every machine has nothing more to do.
    pub(super) async fn settled(&self) {
        // Changes of the farm are told after a while.
        sleep(Duration::from_secs(5)).await;
        until("nothing is owed", || {
            let is_done = |node: &Arc<Node>| {
                let status = node.replication.status();
                (status.owed_copies, status.compared) == (0, 1.0)
            };
            self.nodes.iter().all(is_done)
        })
        .await;
        // Those who were not told yet that all is well are.
        sleep(Duration::from_secs(1)).await;
    }

    /// The numbers of the machines that have `key`.
    pub(super) fn having(&self, key: &EntryKey) -> Vec<usize> {
        let nodes = self.nodes.iter().enumerate();
        nodes.filter(|(_, node)| node.store.data(key).is_some()).map(|(number, _)| number).collect()
    }

    /// The numbers of the machines that should have `key`, as `node` sees it.
    pub(super) fn holders(&self, node: usize, key: &EntryKey) -> Vec<usize> {
        let roster = self.nodes[node].replication.others().roster();
        let mut holders: Vec<usize> =
            (0..self.nodes.len()).filter(|number| roster.is_holder(machine(*number), key)).collect();
        holders.sort_unstable();
        holders
    }
}

// === impl Node ===

impl Node {
    fn start(config: ReplicationConfig, inbox: Inbox) -> Arc<Self> {
        let (links, receiver) = mpsc::unbounded_channel();
        let (store, tasks) = (MemoryCopies::default(), Tasks::default());
        let (id, keepers_file) = (config.me, config.keepers_file.clone());
        let keeps_copies = config.weight > 0;
        let budget_bytes = u64::from(config.weight) << 28;
        let replication =
            Replication::with_inbox(config, Arc::new(store.clone()), Arc::new(store.of_others()), inbox);
        let node = Arc::new(Self {
            id,
            store,
            replication,
            keepers_file,
            calls: Mutex::default(),
            links,
            state: watch::Sender::new(None),
            tasks,
            is_silent: watch::Sender::new(false),
        });
        node.replication.start_over(Box::new(TestLinks(receiver)), 1, &node.tasks);
        let (told, state) = (node.replication.watch(), node.state.clone());
        node.tasks.spawn("tells", publish(told, state, keeps_copies, budget_bytes));
        node
    }

    /// Writes a blob, as a client would.
    pub(super) fn write(&self, data: impl Into<Bytes>) -> EntryKey {
        let key = self.store.blob(data);
        let bytes = self.store.look(&key).unwrap().bytes;
        self.replication.news().stored(key, bytes);
        key
    }

    /// From now on it answers nothing, or does again.
    pub(super) fn silence(&self, is_silent: bool) {
        self.is_silent.send_replace(is_silent);
    }

    fn standing(&self, key: &EntryKey) -> Standing {
        let roster = self.replication.others().roster();
        if roster.is_holder(self.id, key) { Standing::Counted } else { Standing::Spare }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.tasks.token().cancel();
    }
}

async fn publish(
    mut told: watch::Receiver<Told>,
    state: watch::Sender<Option<Arc<MachineState>>>,
    keeps_copies: bool,
    budget_bytes: u64,
) {
    loop {
        let Told { role, owed_copies, owed_bytes } = *told.borrow_and_update();
        state.send_replace(Some(Arc::new(MachineState {
            keeps_copies: Some(keeps_copies),
            budget_bytes,
            transient: role == Role::Transient,
            leaving: role == Role::Leaving,
            owed_copies,
            owed_bytes,
            ..Default::default()
        })));
        if told.changed().await.is_err() {
            return;
        }
    }
}

/// Waits until that is so.
pub(super) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !is_so() {
            sleep(Duration::from_millis(50)).await;
        }
    });
    assert!(waited.await.is_ok(), "it is not so that {what}");
}

// === impl Far ===

impl Far {
    async fn called(&self) -> Result<Arc<Node>, SourceError> {
        let gone = || SourceError::new("test", "it is gone");
        let mut is_silent = self.0.upgrade().ok_or_else(gone)?.is_silent.subscribe();
        is_silent.wait_for(|is_silent| !is_silent).await.map_err(|_| gone())?;
        sleep(Duration::from_millis(1)).await;
        self.0.upgrade().ok_or_else(gone)
    }
}

#[async_trait]
impl CopyPeer for Far {
    fn name(&self) -> &str {
        "test"
    }

    async fn have(&self, keys: &[EntryKey], extend: bool) -> Result<Vec<bool>, SourceError> {
        Ok(self.called().await?.store.have(keys, extend))
    }

    async fn find(&self, hash: &BlobHash) -> Result<Option<Digest>, SourceError> {
        Ok(CopyStore::find(&self.called().await?.store, hash))
    }

    async fn give(&self, copies: Vec<Copy>) -> Result<Vec<Taken>, SourceError> {
        let node = self.called().await?;
        let mut taken = Vec::new();
        for copy in copies {
            lock(&node.calls).given.push(copy.key);
            taken.push(node.store.keep(copy, Standing::Sole).await);
        }
        Ok(taken)
    }

    async fn send(&self, key: &EntryKey, store: &dyn CopyStore) -> Result<Taken, SourceError> {
        let node = self.called().await?;
        lock(&node.calls).given.push(*key);
        let Some(Entry { age, .. }) = store.look(key) else { return Ok(Taken::Bad) };
        let pieces: Vec<Bytes> = store.stream(key, 0).await.unwrap().try_collect().await.unwrap();
        let copy = Copy { key: *key, data: pieces.concat().into(), age };
        Ok(node.store.keep(copy, Standing::Sole).await)
    }

    async fn settle(&self, keys: &[EntryKey], farm: u64) -> Result<(), SourceError> {
        let node = self.called().await?;
        lock(&node.calls).settled.extend(keys);
        if node.replication.others().roster().fingerprint() == farm {
            keys.iter().for_each(|key| node.store.mark(&[*key], node.standing(key)));
        } else {
            node.replication.news().used(keys.to_vec());
        }
        Ok(())
    }

    async fn results(&self, keys: &[EntryKey]) -> Result<Vec<(EntryKey, Bytes)>, SourceError> {
        let node = self.called().await?;
        Ok(keys.iter().filter_map(|key| Some((*key, node.store.data(key)?))).collect())
    }
}

#[async_trait]
impl BlobSource for Far {
    fn name(&self) -> &str {
        "test"
    }

    async fn read_batch(&self, digests: &[Digest]) -> Result<Vec<(Digest, Bytes)>, SourceError> {
        let node = self.called().await?;
        let data = |digest: &Digest| node.store.data(&EntryKey::from(digest));
        Ok(digests.iter().filter_map(|digest| Some((*digest, data(digest)?))).collect())
    }

    async fn read(&self, digest: &Digest, range: ByteRange) -> Result<Option<SourceStream>, SourceError> {
        let data = self.called().await?.store.data(&EntryKey::from(digest));
        let end = range.end(digest.size()).unwrap();
        let of_it = |data: Bytes| data.slice(range.offset as usize..end as usize);
        Ok(data.map(|data| Box::pin(stream::iter([Ok(of_it(data))])) as SourceStream))
    }
}
