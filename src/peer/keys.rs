//! Hands a new farm key to the members this machine is linked to, and takes one from them.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use tokio::time::timeout;

use super::link::incoming::Caller;
use super::trust::FarmKey;
use super::trust::rotation::{Fellow, Fellows};
use super::{MachineId, Peers};

/// Time for another machine to keep a key.
const KEEPING: Duration = Duration::from_secs(5);

/// Why a key is not taken.
#[derive(Debug, thiserror::Error)]
pub enum KeyRefused {
    /// It is none.
    #[error("a farm key has 16 bytes")]
    Malformed,
    /// It cannot be kept.
    #[error("the key cannot be kept: {0}")]
    NotKept(String),
}

impl Peers {
    /// Takes the key that `caller` hands on, and keeps it.
    ///
    /// # Errors
    /// [`KeyRefused`]; the old key holds then.
    pub async fn take_key(&self, caller: &Caller, key: &[u8]) -> Result<(), KeyRefused> {
        let key = FarmKey::read(key).ok_or(KeyRefused::Malformed)?;
        let (trust, member) = (self.0.trust.clone(), caller.clone());
        let kept = self.0.tasks.spawn_blocking(move || trust.replace_for(key, || member.is_member())).await;
        let kept =
            kept.map_err(|panic| panic.to_string()).and_then(|kept| kept.map_err(|error| error.to_string()));
        kept.map_err(KeyRefused::NotKept)?;
        tracing::info!(from = %caller.id, farm = self.0.trust.farm(), "the farm has a new key");
        Ok(())
    }
}

#[async_trait]
impl Fellows for Peers {
    fn list(&self) -> Vec<Fellow> {
        let named = |peer: super::PeerInfo| Some(Fellow { id: peer.id?, name: peer.name.to_string() });
        Self::list(self).into_iter().filter_map(named).collect()
    }

    async fn hand_on(&self, key: &FarmKey, to: &[MachineId]) -> Vec<MachineId> {
        let peers = to.iter().filter_map(|id| self.linked(*id));
        let told = join_all(peers.map(|peer| async move {
            match timeout(KEEPING, peer.handle.give_key(key)).await {
                Ok(Ok(())) => return Some(peer.id),
                Ok(Err(reason)) => {
                    tracing::warn!(machine = %peer.name, reason, "a machine has not taken the new key")
                }
                Err(_) => tracing::warn!(machine = %peer.name, "a machine has not taken the new key in time"),
            }
            None
        }));
        told.await.into_iter().flatten().collect()
    }
}
