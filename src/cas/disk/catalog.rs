//! The catalog: what the index holds of a store, and how it is kept up to date.
//!
//! Entries are kept in *blocks*: up to 128 consecutive records of one pack under one key, so that the
//! engine sees one record where the store has a hundred; starting with a million blobs then takes a
//! fraction of a second. A *checkpoint* for each pack says up to which offset the blocks know it;
//! what lies behind is found by scanning. A journal of *uses* holds the recency of entries whose
//! block did not change otherwise. Everything here follows from the packs and may be lost.
//!
//! Changes are staged as epochs close and committed together. A commit therefore shows the state of
//! the store at the end of a closed epoch and nothing later: after a power loss the index never knows
//! of records that are not on the disk, nor has forgotten any that are.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::map::{Found, Map, Place};
use super::packs::{Closing, Written};
use super::record::{Key, Kind};
use crate::cas::entry::Standing;
use crate::digest::KEY_LEN;
use crate::index::{Batch, Index, IndexError};

/// Entries in a block.
const BLOCK: usize = 128;
const ITEM_LEN: usize = KEY_LEN + 1 + 4 + 4 + 4;
const USE_LEN: usize = KEY_LEN + 4;
const TWIN: u8 = 0x80;

/// Uses in one record of the journal.
const USES: usize = 128;

/// Blocks in one commit of a rewrite.
const REWRITE: usize = 512;

/// Records staged while there is no index, beyond which it is better written anew.
const MOST_STAGED: usize = 1 << 20;

/// Time the engine may take to open.
const OPEN_LIMIT: Duration = Duration::from_secs(60);

/// An entry in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) key: Key,
    pub(super) found: Found,
}

/// Pack and offset of the first record.
type BlockId = (u32, u32);

/// What an index held at start.
#[derive(Default)]
pub(super) struct Loaded {
    /// For each pack, how far the blocks know it.
    pub(super) ends: HashMap<u32, u64>,
    /// Largest pack number mentioned.
    pub(super) last_pack: u32,
}

/// The catalog of a store.
pub(super) struct Catalog {
    path: PathBuf,
    cache: u64,
    index: Option<Index>,
    blocks: HashMap<u32, BTreeSet<u32>>,
    /// The block that still fills.
    open: Option<(BlockId, Vec<Item>)>,
    staged: Staged,
    uses: BTreeSet<u64>,
    /// What the index should know, as far as `whole`, and did not take.
    unsent: Option<Unsent>,
    /// The blocks here are those of the index, once it took what is unsent.
    whole: bool,
}

/// A batch an index failed over.
struct Unsent {
    batch: Batch,
    /// Commits the index had taken before.
    generation: u64,
}

#[derive(Default)]
struct Staged {
    epoch: u64,
    written: Vec<Written>,
    dead: HashSet<Place>,
    stale: Vec<Place>,
    ends: BTreeMap<u32, u64>,
    dropped: Vec<u32>,
}

// === impl Catalog ===

impl Catalog {
    /// Opens the index in `path`.
    pub(super) fn open(path: &Path, cache: u64) -> Result<Self, IndexError> {
        let index = Index::open(path, cache, OPEN_LIMIT)?;
        Ok(Self { index: Some(index), whole: true, ..Self::without_index(path, cache) })
    }

    /// A catalog that tells nobody, until it [starts over](Self::start_over).
    pub(super) fn without_index(path: &Path, cache: u64) -> Self {
        Self {
            path: path.to_owned(),
            cache,
            index: None,
            blocks: HashMap::new(),
            open: None,
            staged: Staged::default(),
            uses: BTreeSet::new(),
            unsent: None,
            whole: false,
        }
    }

    /// The index, when it works.
    pub(super) fn index(&self) -> Option<&Index> {
        self.index.as_ref()
    }

    /// Entries there will be about, before they are loaded.
    pub(super) fn expected_entries(&self) -> usize {
        let records = self.index.as_ref().map_or(0, |index| index.opened().records);
        // Records are blocks, most of them full; the memory of a million entries is the most to guess.
        usize::try_from(records).unwrap_or(usize::MAX).saturating_mul(BLOCK).min(1 << 20)
    }

    /// Packs the index speaks of.
    pub(super) fn packs(&self) -> impl Iterator<Item = u32> {
        self.blocks.keys().copied()
    }

    /// Closes the index. Returns its generation, if it worked.
    pub(super) fn close(&mut self) -> Option<u64> {
        self.index.take().map(Index::close)
    }

    /// Reads everything: entries in the order of their places, then later uses.
    pub(super) fn load(
        &mut self,
        mut entry: impl FnMut(Item),
        mut used: impl FnMut(&Key, u32),
    ) -> Result<Loaded, IndexError> {
        let mut loaded = Loaded::default();
        let Some(index) = &self.index else { return Ok(loaded) };
        let (blocks, uses) = (&mut self.blocks, &mut self.uses);
        index.scan(|key, value| match (key.first(), key.len()) {
            (Some(b'b'), 9) => {
                let (pack, start) = (word(key, 1), word(key, 5));
                blocks.entry(pack).or_default().insert(start);
                loaded.last_pack = loaded.last_pack.max(pack);
                decode_block(pack, value).for_each(&mut entry);
            }
            (Some(b'c'), 5) if value.len() == 8 => {
                let end = u64::from(word(value, 0)) << 32 | u64::from(word(value, 4));
                loaded.last_pack = loaded.last_pack.max(word(key, 1));
                loaded.ends.insert(word(key, 1), end);
            }
            (Some(b't'), 9) => {
                uses.insert(u64::from(word(key, 1)) << 32 | u64::from(word(key, 5)));
                for (key, time) in decode_uses(value) {
                    used(&key, time);
                }
            }
            _ => {}
        })?;
        Ok(loaded)
    }

    /// Takes in what a closed epoch did; told to the index by the next [`commit`](Self::commit).
    pub(super) fn stage(&mut self, closing: Closing) {
        let staged = &mut self.staged;
        staged.epoch = closing.epoch;
        staged.written.extend(closing.written);
        staged.dead.extend(closing.dead);
        staged.stale.extend(closing.stale);
        staged.ends.extend(closing.packs.iter().map(|(pack, end)| (pack.id, *end)));
    }

    /// Takes in that a pack is about to go; no live record is in it.
    pub(super) fn stage_drop(&mut self, pack: u32) {
        self.staged.dropped.push(pack);
    }

    pub(super) fn has_staged(&self) -> bool {
        let staged = &self.staged;
        !(staged.ends.is_empty()
            && staged.dead.is_empty()
            && staged.stale.is_empty()
            && staged.dropped.is_empty())
    }

    /// Tells the index all that was staged. Returns the last epoch it now knows.
    pub(super) fn commit(&mut self, map: &Map) -> Result<u64, IndexError> {
        let Some(index) = &self.index else { return Ok(0) };
        let staged = std::mem::take(&mut self.staged);
        let epoch = staged.epoch;
        self.staged.epoch = epoch;
        // Until there is a batch that can be sent again.
        self.whole = false;
        let dropped: HashSet<u32> = staged.dropped.iter().copied().collect();
        let mut changed: BTreeMap<BlockId, Vec<Item>> = BTreeMap::new();
        for written in &staged.written {
            if !staged.dead.contains(&written.place) && !dropped.contains(&written.place.pack) {
                push(&mut self.open, &mut self.blocks, &mut changed, item_of(written));
            }
        }
        let outdated = staged.dead.iter().chain(&staged.stale).filter(|place| !dropped.contains(&place.pack));
        for place in outdated {
            if let Some(id) = block_of(&self.blocks, *place)
                && !changed.contains_key(&id)
            {
                changed.insert(id, read_block(index, self.open.as_ref(), id)?);
            }
        }
        let mut batch = Batch::default();
        for (id, mut items) in changed {
            items.retain(|item| !staged.dead.contains(&item.found.place));
            items.iter_mut().for_each(|item| refresh(item, map));
            self.put_block(&mut batch, id, items);
        }
        for (pack, end) in staged.ends.iter().filter(|(pack, _)| !dropped.contains(pack)) {
            batch.put(checkpoint_key(*pack), &end.to_be_bytes());
        }
        self.remove_packs(&mut batch, &dropped);
        self.whole = true;
        self.send(batch).map(|()| epoch)
    }

    /// Notes later uses of entries.
    pub(super) fn commit_uses(&mut self, uses: &[(Key, u32)]) -> Result<(), IndexError> {
        let mut batch = Batch::default();
        for chunk in uses.chunks(USES) {
            let number = self.uses.last().map_or(0, |last| last + 1);
            self.uses.insert(number);
            let bytes: Vec<u8> =
                chunk.iter().flat_map(|(key, time)| key.0.into_iter().chain(time.to_be_bytes())).collect();
            batch.put(use_key(number), &bytes);
        }
        if batch.is_empty() { Ok(()) } else { self.send(batch) }
    }

    /// Uses in the journal, roughly.
    pub(super) fn journal_len(&self) -> usize {
        self.uses.len() * USES
    }

    /// Writes the whole catalog anew into an index that holds none of `items`, or an older state of
    /// them. `ends` says how far `items` know each pack.
    pub(super) fn rewrite(
        &mut self,
        mut items: Vec<Item>,
        ends: &BTreeMap<u32, u64>,
    ) -> Result<(), IndexError> {
        items.sort_unstable_by_key(|item| item.found.place);
        self.whole = false;
        let mut batch = Batch::default();
        let packs: HashSet<u32> = self.blocks.keys().copied().collect();
        let uses = std::mem::take(&mut self.uses);
        self.remove_packs(&mut batch, &packs);
        self.open = None;
        self.staged = Staged::default();
        for number in uses {
            batch.remove(use_key(number));
        }
        for pack in items.chunk_by(|a, b| a.found.place.pack == b.found.place.pack) {
            for items in pack.chunks(BLOCK) {
                let place = items[0].found.place;
                self.blocks.entry(place.pack).or_default().insert(place.offset);
                self.put_block(&mut batch, (place.pack, place.offset), items.to_vec());
                if batch.len() >= REWRITE {
                    self.send(std::mem::take(&mut batch))?;
                }
            }
        }
        self.open = None;
        for (pack, end) in ends {
            batch.put(checkpoint_key(*pack), &end.to_be_bytes());
        }
        self.whole = self.index.is_some();
        self.send(batch)
    }

    /// Whether the index can be had again by [`reopen`](Self::reopen).
    pub(super) fn is_whole(&self) -> bool {
        self.whole && self.staged.written.len() <= MOST_STAGED
    }

    /// Opens the index again after a failure and sends it what it did not take.
    ///
    /// # Errors
    /// Whatever the engine says; [`IndexError::Damaged`] if it lost anything.
    pub(super) fn reopen(&mut self) -> Result<(), IndexError> {
        self.close_broken();
        let index = Index::open(&self.path, self.cache, OPEN_LIMIT)?;
        index.scan(|_, _| {})?;
        let Some(unsent) = self.unsent.take() else {
            self.index = Some(index);
            return Ok(());
        };
        let found = index.opened().generation;
        if found != unsent.generation && found != unsent.generation + 1 {
            self.whole = false;
            let reason = format!("it is at commit {found}, not {}", unsent.generation);
            return Err(IndexError::Damaged { path: self.path.clone(), reason });
        }
        self.index = Some(index);
        self.send(unsent.batch)
    }

    fn close_broken(&mut self) {
        // A broken engine may hang while it closes: that must not hold up the store.
        let broken = self.index.take();
        let closing = std::thread::Builder::new().name("index-close".to_owned());
        let _ = closing.spawn(move || drop(broken));
    }

    /// Starts over with an empty index after a failure; [`rewrite`](Self::rewrite) must follow.
    pub(super) fn start_over(&mut self) -> Result<(), IndexError> {
        self.close_broken();
        self.whole = false;
        let failed =
            |error: std::io::Error| IndexError::Failed { path: self.path.clone(), reason: error.to_string() };
        let aside = crate::index::set_aside(&self.path).map_err(failed)?;
        // The packs have it all; the room may be needed.
        let _ = std::fs::remove_dir_all(aside);
        *self = Self::open(&self.path, self.cache)?;
        Ok(())
    }

    fn put_block(&mut self, batch: &mut Batch, id: BlockId, items: Vec<Item>) {
        if items.is_empty() {
            batch.remove(block_key(id));
            if let Some(starts) = self.blocks.get_mut(&id.0) {
                starts.remove(&id.1);
            }
            self.open.take_if(|(open, _)| *open == id);
            return;
        }
        batch.put(block_key(id), &encode_block(&items));
        if self.open.as_ref().is_some_and(|(open, _)| *open == id) {
            self.open = (items.len() < BLOCK).then_some((id, items));
        }
    }

    fn remove_packs(&mut self, batch: &mut Batch, packs: &HashSet<u32>) {
        for pack in packs {
            for start in self.blocks.remove(pack).unwrap_or_default() {
                batch.remove(block_key((*pack, start)));
            }
            batch.remove(checkpoint_key(*pack));
            self.open.take_if(|((open, _), _)| open == pack);
        }
    }

    fn send(&mut self, batch: Batch) -> Result<(), IndexError> {
        let Some(index) = &self.index else { return Ok(()) };
        let sent = index.commit(batch.clone());
        if sent.is_err() {
            self.unsent = Some(Unsent { batch, generation: index.generation() });
        }
        sent
    }
}

/// Adds an item behind all earlier ones of its pack, in the open block while that has room.
fn push(
    open: &mut Option<(BlockId, Vec<Item>)>,
    blocks: &mut HashMap<u32, BTreeSet<u32>>,
    changed: &mut BTreeMap<BlockId, Vec<Item>>,
    item: Item,
) {
    let Place { pack, offset } = item.found.place;
    let fits = open.as_ref().is_some_and(|((open, _), items)| *open == pack && items.len() < BLOCK);
    if !fits {
        blocks.entry(pack).or_default().insert(offset);
        *open = Some(((pack, offset), Vec::new()));
    }
    if let Some((id, items)) = open {
        items.push(item);
        let block = changed.entry(*id).or_insert_with(|| items[..items.len() - 1].to_vec());
        block.push(item);
    }
}

fn item_of(written: &Written) -> Item {
    let header = &written.header;
    let found = Found {
        place: written.place,
        length: header.length,
        kind: header.kind,
        twin: false,
        standing: Standing::Sole,
        last_use: header.written,
    };
    Item { key: header.key, found }
}

/// Brings recency and twin up to date where the map still has this record.
fn refresh(item: &mut Item, map: &Map) {
    if let Some(found) = map.peek(&item.key).filter(|found| found.place == item.found.place) {
        item.found = found;
    }
}

fn block_of(blocks: &HashMap<u32, BTreeSet<u32>>, place: Place) -> Option<BlockId> {
    let start = blocks.get(&place.pack)?.range(..=place.offset).next_back()?;
    Some((place.pack, *start))
}

fn read_block(
    index: &Index,
    open: Option<&(BlockId, Vec<Item>)>,
    id: BlockId,
) -> Result<Vec<Item>, IndexError> {
    if let Some((_, items)) = open.filter(|(open, _)| *open == id) {
        return Ok(items.clone());
    }
    let value = index.get(&block_key(id))?;
    Ok(value.map(|value| decode_block(id.0, &value).collect()).unwrap_or_default())
}

// === records of the index ===

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn block_key((pack, start): BlockId) -> Vec<u8> {
    [&b"b"[..], &pack.to_be_bytes(), &start.to_be_bytes()].concat()
}

fn checkpoint_key(pack: u32) -> Vec<u8> {
    [&b"c"[..], &pack.to_be_bytes()].concat()
}

fn use_key(number: u64) -> Vec<u8> {
    [&b"t"[..], &number.to_be_bytes()].concat()
}

pub(super) fn encode_block(items: &[Item]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(items.len() * ITEM_LEN);
    for Item { key, found } in items {
        bytes.extend_from_slice(&key.0);
        bytes.push(found.kind as u8 | if found.twin { TWIN } else { 0 });
        bytes.extend_from_slice(&found.place.offset.to_be_bytes());
        bytes.extend_from_slice(&found.length.to_be_bytes());
        bytes.extend_from_slice(&found.last_use.to_be_bytes());
    }
    bytes
}

pub(super) fn decode_block(pack: u32, bytes: &[u8]) -> impl Iterator<Item = Item> {
    bytes.chunks_exact(ITEM_LEN).filter_map(move |item| {
        let (key, rest) = item.split_first_chunk::<KEY_LEN>()?;
        let found = Found {
            place: Place { pack, offset: word(rest, 1) },
            length: word(rest, 5),
            kind: Kind::from_tag(rest[0] & !TWIN)?,
            twin: rest[0] & TWIN != 0,
            standing: Standing::Sole,
            last_use: word(rest, 9),
        };
        Some(Item { key: Key(*key), found })
    })
}

pub(super) fn decode_uses(bytes: &[u8]) -> impl Iterator<Item = (Key, u32)> {
    bytes.chunks_exact(USE_LEN).filter_map(|entry| {
        let (key, time) = entry.split_first_chunk::<KEY_LEN>()?;
        Some((Key(*key), word(time, 0)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cas::disk::record::Header;

    fn written(n: u32) -> Written {
        let mut hash = [0; 32];
        hash[..4].copy_from_slice(&n.to_be_bytes());
        let header = Header { kind: Kind::Action, key: Key::action(&hash), epoch: 1, written: n, length: 10 };
        Written { place: Place { pack: 1 + n / 300, offset: n % 300 * 82 + 32 }, header }
    }

    fn closing(written_items: Vec<Written>, dead: Vec<Place>) -> Closing {
        Closing { epoch: 3, written: written_items, dead, ..Closing::default() }
    }

    fn loaded(path: &Path) -> (Vec<u32>, Vec<u32>) {
        let (mut items, mut uses) = (Vec::new(), Vec::new());
        let mut catalog = Catalog::open(path, 1 << 20).unwrap();
        catalog.load(|item| items.push(item.found.last_use), |_, time| uses.push(time)).unwrap();
        (items, uses)
    }

    #[test]
    fn holds_what_was_staged_less_what_died() {
        let directory = tempfile::tempdir().unwrap();
        let map = Map::new(0);
        let mut catalog = Catalog::open(directory.path(), 1 << 20).unwrap();
        catalog.stage(closing((0..200).map(written).collect(), vec![written(7).place]));
        assert_eq!(catalog.commit(&map).unwrap(), 3);
        let dead = [3, 150, 205].map(|n| written(n).place).to_vec();
        catalog.stage(closing((200..700).map(written).collect(), dead));
        catalog.commit(&map).unwrap();
        catalog.commit_uses(&[(written(5).header.key, 99)]).unwrap();
        catalog.stage_drop(2);
        catalog.commit(&map).unwrap();
        drop(catalog);
        let expected: Vec<u32> = (0..300).chain(600..700).filter(|n| ![3, 7, 150, 205].contains(n)).collect();
        assert_eq!(loaded(directory.path()), (expected, vec![99]));
    }

    #[test]
    fn an_index_opened_again_knows_what_it_failed_over() {
        let directory = tempfile::tempdir().unwrap();
        let map = Map::new(0);
        for was_taken in [false, true] {
            let path = directory.path().join(was_taken.to_string());
            let mut catalog = Catalog::open(&path, 1 << 20).unwrap();
            catalog.stage(closing((0..100).map(written).collect(), Vec::new()));
            catalog.commit(&map).unwrap();
            let mut batch = Batch::default();
            push(&mut catalog.open, &mut catalog.blocks, &mut BTreeMap::new(), item_of(&written(100)));
            let (id, items) = catalog.open.clone().unwrap();
            catalog.put_block(&mut batch, id, items);
            let index = catalog.index.as_ref().unwrap();
            catalog.unsent = Some(Unsent { batch: batch.clone(), generation: index.generation() });
            if was_taken {
                index.commit(batch).unwrap();
            }
            catalog.close_broken();
            catalog.stage(closing((101..110).map(written).collect(), Vec::new()));
            assert_eq!(catalog.commit(&map).unwrap(), 0, "nothing is told while there is no index");
            assert!(catalog.is_whole());
            catalog.reopen().unwrap();
            assert_eq!(catalog.commit(&map).unwrap(), 3);
            drop(catalog);
            assert_eq!(loaded(&path).0, (0..110).collect::<Vec<u32>>());
        }
    }

    #[test]
    fn an_index_that_lost_commits_is_not_taken_back() {
        let directory = tempfile::tempdir().unwrap();
        let mut catalog = Catalog::open(directory.path(), 1 << 20).unwrap();
        catalog.unsent = Some(Unsent { batch: Batch::default(), generation: 7 });
        assert!(matches!(catalog.reopen(), Err(IndexError::Damaged { .. })));
        assert!(!catalog.is_whole());
    }

    #[test]
    fn a_rewrite_replaces_everything() {
        let directory = tempfile::tempdir().unwrap();
        let map = Map::new(0);
        let mut catalog = Catalog::open(directory.path(), 1 << 20).unwrap();
        catalog.stage(closing((0..400).map(written).collect(), Vec::new()));
        catalog.commit(&map).unwrap();
        catalog.commit_uses(&[(written(5).header.key, 99)]).unwrap();
        let items: Vec<Item> = (100..350).rev().map(|n| item_of(&written(n))).collect();
        catalog.rewrite(items, &BTreeMap::from([(1, 500)])).unwrap();
        catalog.stage(closing(vec![written(401)], vec![written(100).place]));
        catalog.commit(&map).unwrap();
        drop(catalog);
        assert_eq!(loaded(directory.path()), ((101..350).chain([401]).collect(), vec![]));
        let mut catalog = Catalog::open(directory.path(), 1 << 20).unwrap();
        let found = catalog.load(|_| {}, |_, _| {}).unwrap();
        assert_eq!((found.ends, found.last_pack), (HashMap::from([(1, 500)]), 2));
    }
}
