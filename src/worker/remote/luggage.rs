//! Small blobs that go along with a lease, so that the other machine need not ask for them one level of
//! directories after the other.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use farmhand_proto::reapi;
use prost::Message;

use crate::cas::ContentAddressableStorage;
use crate::digest::Digest;
use crate::worker::lease::{LUGGAGE_BYTES, MOST_LUGGAGE};
use crate::worker::traces::Traces;

/// Bytes of the largest file that goes along.
const SMALL: u64 = 4096;

/// Bytes of the largest Directory that goes along.
const SMALL_DIRECTORY: u64 = 64 << 10;

/// What goes along to one machine.
pub(super) struct Luggage {
    machine: Arc<str>,
    traces: Traces,
    digests: Vec<Digest>,
    blobs: Vec<Bytes>,
    bytes: usize,
}

// === impl Luggage ===

impl Luggage {
    /// What `machine` probably lacks of the tree below `root`, from its root downwards, as far as there is room.
    pub(super) async fn pack(
        cas: &dyn ContentAddressableStorage,
        traces: &Traces,
        machine: &Arc<str>,
        root: Digest,
    ) -> Self {
        let mut luggage = Self {
            machine: machine.clone(),
            traces: traces.clone(),
            digests: Vec::new(),
            blobs: Vec::new(),
            bytes: 0,
        };
        if traces.is_new(machine, &root) {
            luggage.add_tree(cas, root).await;
        }
        luggage
    }

    /// What of a Directory cannot be had, or read, is left to whoever stages it to complain of.
    async fn add_tree(&mut self, cas: &dyn ContentAddressableStorage, root: Digest) {
        let mut directories = VecDeque::from([root]);
        while let Some(directory) = directories.pop_front() {
            let Some(bytes) = self.add(cas, directory, SMALL_DIRECTORY).await else { continue };
            let Ok(directory) = reapi::Directory::decode(bytes) else { continue };
            let digest =
                |wire: &Option<reapi::Digest>| Digest::from_wire(root.function(), wire.as_ref()?).ok();
            directories.extend(directory.directories.iter().filter_map(|node| digest(&node.digest)));
            for file in directory.files.iter().filter_map(|node| digest(&node.digest)) {
                self.add(cas, file, SMALL).await;
            }
        }
    }

    /// Adds a blob, unless the machine had it, it is too large, or there is no room; what was added.
    async fn add(&mut self, cas: &dyn ContentAddressableStorage, digest: Digest, most: u64) -> Option<Bytes> {
        let size = usize::try_from(digest.size()).ok()?;
        let has_room = self.blobs.len() < MOST_LUGGAGE && self.bytes + size <= LUGGAGE_BYTES;
        if size == 0 || digest.size() > most || !has_room || !self.traces.send(&self.machine, digest) {
            return None;
        }
        self.digests.push(digest);
        let blob = cas.get(&digest).await.ok()?;
        self.bytes += blob.len();
        self.blobs.push(blob.clone());
        Some(blob)
    }

    /// The blobs.
    pub(super) fn blobs(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.blobs)
    }

    /// The machine did not take them.
    pub(super) fn came_back(&self) {
        self.traces.unsend(&self.machine, &self.digests);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cas::memory::MemoryCas;
    use crate::digest::DigestFunction;

    async fn put(cas: &MemoryCas, data: Vec<u8>) -> Digest {
        let digest = Digest::of(DigestFunction::Sha256, &data);
        cas.put(&digest, data.into()).await.unwrap();
        digest
    }

    fn file(name: &str, digest: Digest) -> reapi::FileNode {
        reapi::FileNode { name: name.into(), digest: Some(digest.to_wire()), ..Default::default() }
    }

    #[tokio::test]
    async fn directories_and_small_files_go_along_once() {
        let (cas, traces, attic) = (MemoryCas::default(), Traces::default(), Arc::from("attic"));
        let (small, large) = (put(&cas, vec![1; 4096]).await, put(&cas, vec![2; 4097]).await);
        let absent = Digest::of(DigestFunction::Sha256, b"absent");
        let below =
            reapi::Directory { files: vec![file("s", small), file("l", large)], ..Default::default() };
        let below = put(&cas, below.encode_to_vec()).await;
        let node = reapi::DirectoryNode { name: "d".into(), digest: Some(below.to_wire()) };
        let root = reapi::Directory {
            directories: vec![node],
            files: vec![file("a", absent)],
            ..Default::default()
        };
        let root = put(&cas, root.encode_to_vec()).await;
        let mut first = Luggage::pack(&cas, &traces, &attic, root).await;
        let sizes: Vec<_> = first.blobs().iter().map(|blob| blob.len() as u64).collect();
        assert_eq!(sizes, [root.size(), below.size(), small.size()]);
        let mut second = Luggage::pack(&cas, &traces, &attic, root).await;
        assert!(second.blobs().is_empty());
        first.came_back();
        assert_eq!(Luggage::pack(&cas, &traces, &attic, root).await.blobs().len(), 3);
        traces.staged(&attic, root, 0, std::time::Duration::ZERO);
        first.came_back();
        assert!(Luggage::pack(&cas, &traces, &attic, root).await.blobs().is_empty(), "it ran there");
    }

    #[tokio::test]
    async fn there_is_room_for_so_much_only() {
        let (cas, traces, attic) = (MemoryCas::default(), Traces::default(), Arc::from("attic"));
        let mut files = Vec::new();
        for number in 0..MOST_LUGGAGE + 88 {
            let digest = put(&cas, format!("{number:01000}").into_bytes()).await;
            files.push(file(&format!("{number:04}"), digest));
        }
        let root = put(&cas, reapi::Directory { files, ..Default::default() }.encode_to_vec()).await;
        let mut luggage = Luggage::pack(&cas, &traces, &attic, root).await;
        let blobs = luggage.blobs();
        let bytes: usize = blobs.iter().map(Bytes::len).sum();
        assert!(
            blobs.len() <= MOST_LUGGAGE && bytes <= LUGGAGE_BYTES && bytes > LUGGAGE_BYTES - 2000,
            "{bytes}"
        );
    }
}
