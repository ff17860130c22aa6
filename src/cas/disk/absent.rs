//! What is not there: the answer to FindMissing, out of the map, and for parts out of their notes.

use std::collections::HashSet;

use super::DiskCas;
use super::map::Use;
use super::record::{Key, Kind};
use crate::cas::CasError;
use crate::digest::Digest;

/// Digests looked up before other tasks get a turn.
const TURN: usize = 8192;

/// Missing digests up to which duplicates are found by looking through them.
const FEW: usize = 16;

impl DiskCas {
    /// Those of `digests` that are not there, each once. The lives of the others are renewed as `using` says.
    pub(super) async fn absent(&self, digests: &[Digest], using: Use) -> Result<Vec<Digest>, CasError> {
        let (map, now) = (&self.inner().map, self.inner().now());
        let mut parts = Vec::new();
        let is_there = |digest: &Digest| {
            let found = map.look(&Key::from(digest), now, using);
            parts.extend(found.filter(|found| found.kind == Kind::Part).map(|found| (*digest, found)));
            found.is_some()
        };
        let missing = absent(digests, is_there).await;
        if parts.is_empty() {
            return Ok(missing);
        }
        let gone = self.blocking(move |store| {
            let is_gone = |(part, found): &(Digest, _)| store.stretch(part, found, using).is_none();
            Ok(parts.into_iter().filter(is_gone).map(|(part, _)| part).collect::<HashSet<_>>())
        });
        let gone: HashSet<_> = gone.await?.into_iter().chain(missing).collect();
        Ok(absent(digests, |digest| !gone.contains(digest)).await)
    }
}

/// Those of `digests` that are not there, each once.
async fn absent(digests: &[Digest], mut is_there: impl FnMut(&Digest) -> bool) -> Vec<Digest> {
    let mut missing = Vec::new();
    for (turn, digests) in digests.chunks(TURN).enumerate() {
        if turn > 0 {
            tokio::task::yield_now().await;
        }
        let absent = |digest: &&Digest| !is_there(digest) && !digest.is_empty_blob();
        missing.extend(digests.iter().filter(absent));
    }
    remove_duplicates(&mut missing);
    missing
}

/// Keeps the first of equal digests.
fn remove_duplicates(digests: &mut Vec<Digest>) {
    if digests.len() <= FEW {
        let mut kept: Vec<Digest> = Vec::with_capacity(digests.len());
        for digest in digests.drain(..) {
            if !kept.contains(&digest) {
                kept.push(digest);
            }
        }
        *digests = kept;
    } else {
        let mut seen = HashSet::with_capacity(digests.len());
        digests.retain(|digest| seen.insert(*digest));
    }
}
