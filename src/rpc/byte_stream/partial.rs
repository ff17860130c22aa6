//! [`Partials`]: what is known of uploads that are under way or were interrupted.
//!
//! A [`Session`] is the hold of one call on its upload. When the call ends before the blob does,
//! for whatever reason, the bytes are parked here, and a later call that names the same upload and
//! starts at the right offset goes on with them. Parked uploads are bounded in number and time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::upload::Upload;
use super::write::WriteError;
use crate::cas::CasError;
use crate::digest::Digest;
use crate::instance::InstanceName;
use crate::rpc::resource_name::WriteName;

/// What makes two calls the same upload. Clients may use one id for several blobs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct UploadKey {
    instance: InstanceName,
    upload: String,
    digest: Digest,
}

/// The uploads of a service.
pub(super) struct Partials {
    idle: Duration,
    limit: usize,
    sessions: AtomicU64,
    slots: Mutex<HashMap<UploadKey, Slot>>,
}

struct Slot {
    /// The session that owns this slot: a newer one for the same key takes it over.
    session: u64,
    committed: Arc<AtomicU64>,
    parked: Option<Parked>,
}

struct Parked {
    upload: Upload,
    since: Instant,
}

/// One call's hold on its upload.
pub(super) struct Session {
    partials: Arc<Partials>,
    key: UploadKey,
    id: u64,
    committed: Arc<AtomicU64>,
    upload: Option<Upload>,
}

// === impl UploadKey ===

impl From<WriteName> for UploadKey {
    fn from(name: WriteName) -> Self {
        Self { instance: name.instance, upload: name.upload, digest: name.digest }
    }
}

// === impl Partials ===

impl Partials {
    pub(super) fn new(idle: Duration, limit: usize) -> Self {
        Self { idle, limit, sessions: AtomicU64::new(0), slots: Mutex::default() }
    }

    /// Uncompressed bytes that have come of an upload; 0 if it is not known.
    pub(super) fn committed(&self, key: &UploadKey) -> u64 {
        self.slots().get(key).map_or(0, |slot| slot.committed.load(Ordering::Relaxed))
    }

    /// Begins a call that starts at `offset`: with `fresh` at 0, with the parked bytes where they
    /// end.
    pub(super) fn begin(
        self: &Arc<Self>,
        key: UploadKey,
        offset: u64,
        fresh: impl FnOnce() -> Upload,
    ) -> Result<Session, WriteError> {
        let mut slots = self.slots();
        let upload = if offset == 0 {
            fresh()
        } else {
            let slot = slots.get_mut(&key).ok_or(WriteError::Offset { expected: 0, actual: offset })?;
            let parked = slot.parked.take_if(|parked| parked.upload.written() == offset);
            match (parked, &slot.parked) {
                (Some(parked), _) => parked.upload,
                (None, None) => return Err(WriteError::StillOpen),
                (None, Some(other)) => {
                    return Err(WriteError::Offset { expected: other.upload.written(), actual: offset });
                }
            }
        };
        let id = self.sessions.fetch_add(1, Ordering::Relaxed);
        let committed = Arc::new(AtomicU64::new(offset));
        slots.insert(key.clone(), Slot { session: id, committed: Arc::clone(&committed), parked: None });
        drop(slots);
        Ok(Session { partials: Arc::clone(self), key, id, committed, upload: Some(upload) })
    }

    /// Forgets uploads that were parked before `now` by more than the idle time.
    fn expire(&self, now: Instant) {
        let idle = self.idle;
        self.slots().retain(|_, slot| {
            slot.parked.as_ref().is_none_or(|parked| now.duration_since(parked.since) < idle)
        });
    }

    /// Ends a session: its upload is parked if there is something worth keeping.
    fn end(&self, key: &UploadKey, id: u64, upload: Option<Upload>, now: Instant) {
        let mut slots = self.slots();
        let Some(slot) = slots.get_mut(key).filter(|slot| slot.session == id) else { return };
        match upload.filter(|upload| upload.written() > 0) {
            Some(upload) => slot.parked = Some(Parked { upload, since: now }),
            None => {
                slots.remove(key);
                return;
            }
        }
        let since = |slot: &Slot| slot.parked.as_ref().map(|parked| parked.since);
        if slots.values().filter(|slot| slot.parked.is_some()).count() > self.limit {
            let oldest = slots.iter().filter_map(|(key, slot)| Some((since(slot)?, key))).min_by_key(|e| e.0);
            if let Some(key) = oldest.map(|(_, key)| key.clone()) {
                slots.remove(&key);
            }
        }
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<UploadKey, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets idle uploads until `token` fires.
pub(super) async fn expire(partials: Arc<Partials>, token: CancellationToken) {
    let mut ticks = tokio::time::interval(partials.idle.div_f64(4.0).max(Duration::from_millis(10)));
    while token.run_until_cancelled(ticks.tick()).await.is_some() {
        partials.expire(Instant::now());
    }
}

// === impl Session ===

impl Session {
    /// Begins the blob in the store before its first bytes are there.
    pub(super) async fn open(&mut self) -> Result<(), CasError> {
        let Some(mut upload) = self.upload.take() else { return Ok(()) };
        upload.open().await?;
        self.upload = Some(upload);
        Ok(())
    }

    /// Takes the next uncompressed bytes.
    pub(super) async fn write(&mut self, data: Bytes, is_last: bool) -> Result<(), CasError> {
        // Taken out for the time of the write: a call that is dropped in the middle of one leaves no
        // upload whose state is not known.
        let Some(mut upload) = self.upload.take() else { return Ok(()) };
        upload.write(data, is_last).await?;
        self.committed.store(upload.written(), Ordering::Relaxed);
        self.upload = Some(upload);
        Ok(())
    }

    /// Uncompressed bytes that have come.
    pub(super) fn written(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }

    /// Verifies the blob and makes it visible. Forgets it if it is wrong.
    pub(super) async fn commit(mut self) -> Result<(), CasError> {
        match self.upload.take() {
            Some(upload) => upload.commit().await,
            None => Ok(()),
        }
    }

    /// Forgets what has come: it is not worth going on with.
    pub(super) fn discard(&mut self) {
        self.upload = None;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.partials.end(&self.key, self.id, self.upload.take(), Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cas::memory::MemoryCas;
    use crate::digest::DigestFunction;

    fn key(upload: &str) -> UploadKey {
        let digest = Digest::of(DigestFunction::Sha256, &[1; 100]);
        UploadKey { instance: InstanceName::default(), upload: upload.into(), digest }
    }

    fn fresh() -> Upload {
        Upload::new(Arc::new(MemoryCas::default()), key("").digest, None)
    }

    async fn park(partials: &Arc<Partials>, upload: &str, len: usize) {
        let mut session = partials.begin(key(upload), 0, fresh).unwrap();
        session.write(Bytes::from(vec![1; len]), false).await.unwrap();
    }

    #[tokio::test]
    async fn an_interrupted_upload_goes_on_where_it_was() {
        let partials = Arc::new(Partials::new(Duration::from_secs(60), 10));
        park(&partials, "a", 40).await;
        assert_eq!(partials.committed(&key("a")), 40);
        assert_eq!(partials.committed(&key("b")), 0);
        let wrong = partials.begin(key("a"), 39, fresh).err();
        assert_eq!(wrong, Some(WriteError::Offset { expected: 40, actual: 39 }));
        let mut session = partials.begin(key("a"), 40, fresh).unwrap();
        assert_eq!(partials.begin(key("a"), 40, fresh).err(), Some(WriteError::StillOpen));
        session.write(Bytes::from(vec![1; 60]), true).await.unwrap();
        session.commit().await.unwrap();
        assert_eq!(partials.committed(&key("a")), 0);
        assert!(partials.slots().is_empty());
    }

    #[tokio::test]
    async fn a_newer_call_takes_over() {
        let partials = Arc::new(Partials::new(Duration::from_secs(60), 10));
        let mut old = partials.begin(key("a"), 0, fresh).unwrap();
        old.write(Bytes::from_static(&[1; 50]), false).await.unwrap();
        let mut new = partials.begin(key("a"), 0, fresh).unwrap();
        new.write(Bytes::from_static(&[1; 10]), false).await.unwrap();
        drop(old);
        assert_eq!(partials.committed(&key("a")), 10);
        drop(new);
        assert!(partials.begin(key("a"), 10, fresh).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn parked_uploads_are_bounded_in_number_and_time() {
        let partials = Arc::new(Partials::new(Duration::from_secs(60), 2));
        for upload in ["a", "b", "c"] {
            park(&partials, upload, 5).await;
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let known = |name: &str| partials.committed(&key(name)) > 0;
        assert_eq!([known("a"), known("b"), known("c")], [false, true, true]);
        tokio::time::advance(Duration::from_secs(58)).await;
        partials.expire(Instant::now());
        assert_eq!([known("b"), known("c")], [false, true]);
    }
}
