//! What the other machines have: one question to each, all at once, and one deadline.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, timeout_at};

use super::Elsewhere;
use crate::cas::entry::EntryKey;
use crate::digest::{BlobHash, Digest};
use crate::peer::MachineId;
use crate::replication::copies::{MOST_KEYS, Other};

/// How long answers are waited for, and how much longer for each hundred keys.
const DEADLINE: Duration = Duration::from_millis(150);
const PER_HUNDRED: Duration = Duration::from_millis(1);

/// What a machine says of the keys in these places; `None` if it is no answer.
struct Answer<'a> {
    machine: MachineId,
    places: &'a [usize],
    present: Option<Vec<bool>>,
}

impl Elsewhere {
    /// Those of `absent` that no other machine said it has, in their order. `extend` renews the life there of
    /// those that are. No answer, or none in time, is a no; so is the word of one that gave wrong bytes.
    pub(in crate::replication) async fn lacking(&self, mut absent: Vec<Digest>, extend: bool) -> Vec<Digest> {
        let roster = self.roster();
        let chart = self.chart(&roster);
        if chart.is_empty() {
            return absent;
        }
        let keys: Vec<EntryKey> = absent.iter().map(EntryKey::from).collect();
        let questions = chart.questions(keys.iter());
        let deadline = Instant::now() + deadline(keys.len());
        let mut answers = FuturesUnordered::new();
        for question in &questions {
            let Some(other) = self.other(question.machine) else { continue };
            for places in question.places.chunks(MOST_KEYS) {
                answers.push(ask(other.clone(), &keys, places, extend));
            }
        }
        let (mut present, mut open) = (vec![false; keys.len()], keys.len());
        while open > 0
            && let Ok(Some(Answer { machine, places, present: answer })) =
                timeout_at(deadline, answers.next()).await
        {
            let there = places.iter().zip(answer.unwrap_or_default()).filter(|(_, is_there)| *is_there);
            for (place, _) in there.filter(|(place, _)| !self.is_liar(&absent[**place], machine)) {
                open -= usize::from(!present[*place]);
                present[*place] = true;
            }
        }
        let mut present = present.into_iter();
        absent.retain(|_| !present.next().unwrap_or_default());
        absent
    }
}

impl Elsewhere {
    /// The digest of the blob of that hash, if another machine says that it has one: those are asked on which
    /// it belongs, and those that may have more, all at once. No answer, or none in time, is a no.
    pub(in crate::replication) async fn find(&self, hash: &BlobHash) -> Option<Digest> {
        let roster = self.roster();
        // Where an entry belongs does not depend on its size.
        let likely = self.chart(&roster).likely(&EntryKey::from(&hash.sized(0)));
        let others = likely.into_iter().filter_map(|machine| self.other(machine));
        let mut answers: FuturesUnordered<_> = others.map(|other| find(other, hash)).collect();
        let deadline = Instant::now() + DEADLINE;
        while let Ok(Some(answer)) = timeout_at(deadline, answers.next()).await {
            let trusted = answer.filter(|(machine, digest)| !self.is_liar(digest, *machine));
            if let Some((_, digest)) = trusted {
                return Some(digest);
            }
        }
        None
    }
}

async fn find(other: Other, hash: &BlobHash) -> Option<(MachineId, Digest)> {
    match other.copies.find(hash).await {
        Ok(found) => found.map(|digest| (other.id, digest)),
        Err(error) => {
            tracing::debug!(%error, "a machine does not say whether it has a blob");
            None
        }
    }
}

async fn ask<'a>(other: Other, keys: &[EntryKey], places: &'a [usize], extend: bool) -> Answer<'a> {
    let asked: Vec<EntryKey> = places.iter().map(|place| keys[*place]).collect();
    let present = match other.copies.have(&asked, extend).await {
        Ok(present) => Some(present).filter(|present| present.len() == asked.len()),
        Err(error) => {
            tracing::debug!(%error, "a machine does not say what it has");
            None
        }
    };
    Answer { machine: other.id, places, present }
}

fn deadline(keys: usize) -> Duration {
    let hundreds = u32::try_from(keys.div_ceil(100)).unwrap_or(u32::MAX);
    DEADLINE + PER_HUNDRED * hundreds
}
