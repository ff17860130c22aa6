//! What the action cache needs of the store: records by a key that is not a digest.

use std::sync::Arc;

use bytes::Bytes;

use super::DiskCas;
use super::map::{Place, Use};
use super::news::Origin;
use super::packs::{Appender, Wait};
use super::record::{Key, record_len};
use super::store::Store;
use crate::cas::CasError;

/// Bytes up to which a result is read and written on the caller's thread.
const INLINE: usize = 64 * 1024;

/// Where a result is: a new one under the same key has another place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ActionPlace(Place);

/// A result that is there.
#[derive(Clone, Copy)]
pub(crate) struct StoredAction {
    key: Key,
    found: super::map::Found,
}

impl StoredAction {
    pub(crate) fn place(&self) -> ActionPlace {
        ActionPlace(self.found.place)
    }
}

impl DiskCas {
    /// The result whose identity hashes to `hash`, if there is one; its use is noted.
    pub(crate) fn find_action(&self, hash: &[u8; 32]) -> Option<StoredAction> {
        self.look_at_action(&Key::action(hash), Use::Here)
    }

    pub(super) fn look_at_action(&self, key: &Key, using: Use) -> Option<StoredAction> {
        let found = self.inner().map.look(key, self.inner().now(), using)?;
        Some(StoredAction { key: *key, found })
    }

    /// The bytes of a result; `None` if they are gone or damaged.
    pub(crate) async fn read_action(&self, stored: StoredAction) -> Result<Option<Bytes>, CasError> {
        let StoredAction { key, found } = stored;
        if found.length as usize <= INLINE {
            match self.inner().read_action(&key, &found, Wait::No) {
                Some(None) => {}
                done => return Ok(done.flatten()),
            }
        }
        self.blocking(move |store| Ok(store.read_action(&key, &found, Wait::Yes).flatten())).await
    }

    /// Stores a result in place of an earlier one.
    pub(crate) async fn put_action(&self, hash: &[u8; 32], data: Bytes) -> Result<ActionPlace, CasError> {
        self.put_action_from(Key::action(hash), data, Origin::Here { anew: true }).await
    }

    /// Stores a result from anywhere. The bytes that are there already are not written again.
    pub(super) async fn put_action_from(
        &self,
        key: Key,
        data: Bytes,
        origin: Origin,
    ) -> Result<ActionPlace, CasError> {
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let reservation = self.inner().admit(record_len(length)).await?;
        let (place, epoch) = if data.len() <= INLINE {
            let same = self.inner().same_action(&key, &data, Wait::No);
            let append = move |store: &Store, appender: Appender<'_>| {
                store.append_action(appender, key, (&data, same), reservation, origin)
            };
            self.inner().append(append).await?
        } else {
            let put = move |store: &Arc<Store>| {
                let same = store.same_action(&key, &data, Wait::Yes);
                store.append_action(store.packs.appender(), key, (&data, same), reservation, origin)
            };
            self.blocking(put).await?
        };
        self.inner().settle(epoch).await?;
        Ok(ActionPlace(place))
    }
}
