//! What the other machines have: one question to each, all at once, and one deadline.
//!
//! A machine on which something belongs, and which lacks it, has said that it is missing, and so has this one: what
//! has its copies would be there. Only if none of them said anything, as all are slow, fail, or lost their links
//! just now, is waited for longer. So one machine that is silent is never waited for.

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

/// How long the first word of any machine on which something belongs is waited for: links to dead machines end sooner.
const LATEST: Duration = Duration::from_secs(5);

/// What is known of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// Nobody has said anything who would know.
    None,
    /// Somebody lacks it who should have it.
    No,
    Yes,
}

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
        let mut tries = self.tries();
        let mut words = self.ask(&absent, extend).await;
        while words.contains(&Word::None) && tries.again(self).await {
            let open: Vec<usize> = (0..words.len()).filter(|at| words[*at] == Word::None).collect();
            let digests: Vec<Digest> = open.iter().map(|at| absent[*at]).collect();
            let again = self.ask(&digests, extend).await;
            open.into_iter().zip(again).for_each(|(at, word)| words[at] = word);
        }
        let mut words = words.into_iter();
        absent.retain(|_| words.next() != Some(Word::Yes));
        absent
    }

    /// What all machines there is a link to say of `digests`, none of which is here.
    async fn ask(&self, digests: &[Digest], extend: bool) -> Vec<Word> {
        let roster = self.roster();
        let chart = self.chart(&roster);
        let keys: Vec<EntryKey> = digests.iter().map(EntryKey::from).collect();
        let first = |key| if roster.is_holder(roster.me(), key) { Word::No } else { Word::None };
        let mut words: Vec<Word> = keys.iter().map(first).collect();
        let questions = chart.questions(keys.iter());
        let began = Instant::now();
        let mut answers = FuturesUnordered::new();
        for question in &questions {
            let Some(other) = self.other(question.machine) else { continue };
            for places in question.places.chunks(MOST_KEYS) {
                answers.push(ask(other.clone(), &keys, places, extend));
            }
        }
        while words.iter().any(|word| *word != Word::Yes) {
            let time = if words.contains(&Word::None) { LATEST } else { deadline(keys.len()) };
            let Ok(Some(answer)) = timeout_at(began + time, answers.next()).await else { break };
            let Answer { machine, places, present } = answer;
            self.failed(present.is_none());
            for (place, is_there) in places.iter().zip(present.unwrap_or_default()) {
                let word = &mut words[*place];
                if is_there && !self.is_liar(&digests[*place], machine) {
                    *word = Word::Yes;
                } else if *word == Word::None && roster.is_holder(machine, &keys[*place]) {
                    *word = Word::No;
                }
            }
        }
        words
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
