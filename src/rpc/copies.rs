//! `farmhand.peer.v1.Copies`: what this machine offers the others of its farm of its store.
//!
//! Members only. What comes is bounded and parsed before anything is done; what is to be stored is verified
//! by the store, each for itself.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use farmhand_proto::peer::copies_server::{self, CopiesServer};
use farmhand_proto::peer::{
    Entry, FindRequest, FindResponse, GiveRequest, GiveResponse, HaveRequest, HaveResponse, ResultsRequest,
    ResultsResponse, SettleRequest, SettleResponse,
};
use futures_util::stream::{self, StreamExt};
use tonic::{Request, Response, Status};

use super::MAX_SENT_MESSAGE;
use super::peer::caller;
use crate::cas::compression::decompress;
use crate::cas::disk::StoreNews;
use crate::cas::entry::{EntryKey, Standing};
use crate::digest::BlobHash;
use crate::replication::copies::{Copy, CopyStore, LARGEST_RESULT, MOST_KEYS, Taken};
use crate::replication::messages::{
    GIVEN_BYTES, MOST_BYTES, MOST_GIVEN, MessageError, read_keys, read_result_keys, write_bits, write_taken,
};
use crate::replication::roster::{Machine, Roster};

/// Keys that are looked up before others get their turn.
const TURN: usize = 512;

/// Bytes that are decompressed before others get their turn.
const TURN_BYTES: usize = 256 << 10;

/// Copies that are stored, and results that are read, at once in one call.
const AT_ONCE: usize = 64;

/// Bytes that the numbers around an entry of a message take at most.
const AROUND: usize = 32;

/// Who there is, now.
pub type RosterNow = Arc<dyn Fn() -> Arc<Roster> + Send + Sync>;

/// The service.
pub struct CopiesService {
    store: Arc<dyn CopyStore>,
    roster: RosterNow,
    asking: Option<Arc<dyn StoreNews>>,
}

// === impl CopiesService ===

impl CopiesService {
    /// Offers `store`; what comes counts as a copy where `roster` has it here.
    pub fn new(store: Arc<dyn CopyStore>, roster: RosterNow) -> Self {
        Self { store, roster, asking: None }
    }

    /// What others say of a farm that is not the one known here, `news` is told as used, so that it is
    /// asked for from here.
    pub fn asking(self, news: Arc<dyn StoreNews>) -> Self {
        Self { asking: Some(news), ..self }
    }

    /// For the router.
    pub fn into_server(self) -> CopiesServer<Self> {
        CopiesServer::new(self).max_decoding_message_size(MOST_BYTES)
    }

    async fn present(&self, keys: &[EntryKey], extend: bool) -> Vec<bool> {
        let mut present = Vec::with_capacity(keys.len());
        for turn in keys.chunks(TURN) {
            present.extend(self.store.have(turn, extend));
            tokio::task::yield_now().await;
        }
        present
    }

    async fn mark(&self, keys: Vec<EntryKey>, farm: u64) {
        let roster = (self.roster)();
        if roster.fingerprint() != farm {
            return self.asking.iter().for_each(|news| news.used(keys.clone()));
        }
        for turn in keys.chunks(TURN) {
            let (counted, spare): (Vec<EntryKey>, Vec<EntryKey>) =
                turn.iter().partition(|key| roster.is_holder(roster.me(), key));
            self.store.mark(&counted, Standing::Counted);
            self.store.mark(&spare, Standing::Spare);
            tokio::task::yield_now().await;
        }
    }

    /// Nothing is known of other copies until whoever gives these says so. Where copies do not count, they
    /// are of no importance.
    async fn keep(&self, copies: Vec<Option<Copy>>) -> Vec<Taken> {
        let roster = (self.roster)();
        let counts = roster.machine(roster.me()).is_some_and(Machine::counts);
        let standing = if counts { Standing::Sole } else { Standing::Spare };
        let kept = copies.into_iter().map(|copy| async move {
            let Some(copy) = copy else { return Taken::Bad };
            self.store.keep(copy, standing).await
        });
        stream::iter(kept).buffered(AT_ONCE).collect().await
    }

    /// The results there are, as many as fit into one message, but one in any case.
    async fn read(&self, keys: Vec<EntryKey>) -> Vec<Entry> {
        let loads = keys.into_iter().map(|key| async move { (key, self.store.load(&key).await) });
        let mut loads = stream::iter(loads).buffered(AT_ONCE);
        let (mut entries, mut room) = (Vec::new(), MAX_SENT_MESSAGE);
        while let Some((key, data)) = loads.next().await {
            let data = match data {
                Ok(Some(data)) => data,
                Ok(None) => continue,
                Err(error) => {
                    tracing::warn!(?key, %error, "a result for another machine cannot be read");
                    continue;
                }
            };
            let size = EntryKey::LEN + data.len() + AROUND;
            if size <= room || entries.is_empty() && data.len() as u64 <= LARGEST_RESULT {
                room = room.saturating_sub(size);
                entries.push(Entry { key: key.bytes().to_vec(), data, age: 0 });
            }
        }
        entries
    }
}

#[async_trait]
impl copies_server::Copies for CopiesService {
    async fn have(&self, request: Request<HaveRequest>) -> Result<Response<HaveResponse>, Status> {
        caller(&request)?;
        let HaveRequest { keys, extend } = request.into_inner();
        let keys = read_keys(&keys, MOST_KEYS)?;
        let present = self.present(&keys, extend).await;
        Ok(Response::new(HaveResponse { present: write_bits(&present) }))
    }

    async fn find(&self, request: Request<FindRequest>) -> Result<Response<FindResponse>, Status> {
        caller(&request)?;
        let hash = BlobHash::from_bytes(&request.into_inner().hash).ok_or(MessageError::NoHash)?;
        Ok(Response::new(FindResponse { size: self.store.find(&hash).map(|digest| digest.size()) }))
    }

    async fn give(&self, request: Request<GiveRequest>) -> Result<Response<GiveResponse>, Status> {
        caller(&request)?;
        let copies = read_copies(request.into_inner()).await?;
        let taken = self.keep(copies).await;
        Ok(Response::new(GiveResponse { taken: taken.into_iter().map(write_taken).collect() }))
    }

    async fn settle(&self, request: Request<SettleRequest>) -> Result<Response<SettleResponse>, Status> {
        caller(&request)?;
        let SettleRequest { keys, farm } = request.into_inner();
        self.mark(read_keys(&keys, MOST_KEYS)?, farm).await;
        Ok(Response::new(SettleResponse {}))
    }

    async fn results(&self, request: Request<ResultsRequest>) -> Result<Response<ResultsResponse>, Status> {
        caller(&request)?;
        let keys = read_result_keys(&request.into_inner().keys)?;
        Ok(Response::new(ResultsResponse { entries: self.read(keys).await }))
    }
}

/// The copies of a request, decompressed; `None` for one that cannot be what its key says.
async fn read_copies(request: GiveRequest) -> Result<Vec<Option<Copy>>, MessageError> {
    let GiveRequest { entries, compressed } = request;
    if entries.len() > MOST_GIVEN {
        return Err(MessageError::TooMany { count: entries.len(), most: MOST_GIVEN });
    }
    let mut keyed = Vec::with_capacity(entries.len());
    for (number, entry) in entries.into_iter().enumerate() {
        let key = EntryKey::read(&entry.key).ok_or(MessageError::NoKey(number))?;
        keyed.push((key, entry));
    }
    // What a blob has is known; results share what is left.
    let known = |(key, entry): &(EntryKey, Entry)| match key.digest() {
        Some(digest) if compressed => digest.size(),
        _ => entry.data.len() as u64,
    };
    let bytes = keyed.iter().map(known).fold(0, u64::saturating_add);
    let most = match &keyed[..] {
        [(key, _)] if key.is_action() && !compressed => LARGEST_RESULT,
        _ => GIVEN_BYTES,
    };
    if bytes > most {
        return Err(MessageError::TooLarge { bytes, most });
    }
    let mut room = most - bytes;
    let (mut copies, mut turn) = (Vec::with_capacity(keyed.len()), 0);
    for (key, Entry { data, age, .. }) in keyed {
        let data = if compressed { unpack(&key, data, &mut room) } else { Some(data) };
        turn += data.as_ref().map_or(0, Bytes::len);
        if compressed && turn >= TURN_BYTES {
            turn = 0;
            tokio::task::yield_now().await;
        }
        copies.push(data.map(|data| Copy { key, data, age: Duration::from_secs(age.into()) }));
    }
    Ok(copies)
}

/// What comes out of `data`, in no more memory than that; of a result no more than what it has itself and
/// `room`, which gets smaller.
fn unpack(key: &EntryKey, data: Bytes, room: &mut u64) -> Option<Bytes> {
    if let Some(digest) = key.digest() {
        return decompress(data, digest.size()).ok();
    }
    let own = data.len() as u64;
    let all = decompress(data, own + *room).ok()?;
    *room -= (all.len() as u64).saturating_sub(own);
    Some(Bytes::copy_from_slice(&all))
}

#[cfg(test)]
mod tests;
