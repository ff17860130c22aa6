//! Many blobs at once: each from the likeliest machine, all machines at the same time.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::join_all;

use super::Elsewhere;
use crate::cas::CasError;
use crate::cas::entry::EntryKey;
use crate::cas::fetch::{BlobSource, FetchError};
use crate::digest::Digest;
use crate::peer::MachineId;

impl Elsewhere {
    /// Brings those of `wanted`, none of which is here; what nobody gave, in their order. First each is fetched
    /// where it should be, then what did not come at the next likely machine, and so on through all of them.
    ///
    /// # Errors
    /// When they cannot be stored here.
    pub(in crate::replication) async fn bring(&self, wanted: Vec<Digest>) -> Result<Vec<Digest>, CasError> {
        let (mut rest, mut tries) = (wanted, self.tries());
        loop {
            rest = self.bring_once(rest).await?;
            if rest.is_empty() || !tries.again(self).await {
                return Ok(rest);
            }
        }
    }

    async fn bring_once(&self, mut rest: Vec<Digest>) -> Result<Vec<Digest>, CasError> {
        let roster = self.roster();
        let chart = self.chart(&roster);
        let mut order = Vec::new();
        for round in 0..chart.len() {
            let mut groups: BTreeMap<MachineId, Vec<Digest>> = BTreeMap::new();
            for digest in &rest {
                chart.order(&EntryKey::from(digest), &mut order);
                if let Some(machine) = order.get(round) {
                    groups.entry(*machine).or_default().push(*digest);
                }
            }
            let fetches = groups.iter().map(|(machine, group)| self.bring_from(*machine, group));
            join_all(fetches).await.into_iter().collect::<Result<(), CasError>>()?;
            rest = self.0.kept.find_missing(&rest).await?;
            if rest.is_empty() {
                break;
            }
        }
        Ok(rest)
    }

    async fn bring_from(&self, machine: MachineId, wanted: &[Digest]) -> Result<(), CasError> {
        let Some(other) = self.other(machine) else { return Ok(()) };
        match self.0.fetcher.fetch(wanted, &[other.blobs]).await {
            Ok(fetched) => self.count(fetched),
            Err(FetchError::Cas(error)) => return Err(error),
            Err(FetchError::Missing(_)) => {}
            Err(error @ FetchError::Source(_)) => {
                self.failed(true);
                tracing::debug!(%error, "blobs did not come from where they should be");
            }
        }
        Ok(())
    }

    /// Fetches the whole of a blob of which a part is read, in the background, if little enough is under way.
    pub(super) fn bring_soon(&self, digest: &Digest) {
        if self.0.fetcher.flights().is_under_way(digest) {
            return;
        }
        let Ok(permit) = Arc::clone(&self.0.background).try_acquire_owned() else { return };
        let (this, digest) = (self.clone(), *digest);
        let fetch = async move {
            let _permit = permit;
            let candidates = this.candidates(&digest);
            let sources: Vec<Arc<dyn BlobSource>> = candidates.into_iter().map(|other| other.blobs).collect();
            let wanted = [digest];
            let fetch = this.0.fetcher.fetch(&wanted, &sources);
            match this.0.tasks.token().run_until_cancelled(fetch).await {
                Some(Ok(fetched)) => this.count(fetched),
                Some(Err(error)) => {
                    tracing::debug!(%digest, %error, "a blob that is read in parts is not brought")
                }
                None => {}
            }
        };
        self.0.tasks.spawn("bring", fetch);
    }
}
