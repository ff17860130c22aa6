//! What the action cache needs of the store: records by a key that is not a digest.

use bytes::Bytes;

use super::DiskCas;
use super::map::Place;
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
        let key = Key::action(hash);
        let found = self.inner().map.touch(&key, self.inner().now())?;
        Some(StoredAction { key, found })
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
        let key = Key::action(hash);
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let reservation = self.inner().admit(record_len(length)).await?;
        let is_short = data.len() <= INLINE;
        let append = move |store: &Store, appender: Appender<'_>| {
            store.append_action(appender, key, &data, reservation)
        };
        let (place, epoch) = if is_short {
            self.inner().append(append).await?
        } else {
            self.blocking(move |store| append(store, store.packs.appender())).await?
        };
        self.inner().settle(epoch).await?;
        Ok(ActionPlace(place))
    }
}
