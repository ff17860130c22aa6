//! [`Race`]: asks one machine after the other, and the next one as well when one takes longer than it usually
//! does.

use std::collections::VecDeque;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::time::timeout;

use super::Elsewhere;
use crate::peer::MachineId;
use crate::replication::copies::Other;

/// Machines that are asked for the same thing.
pub(super) struct Race<'a, T, F> {
    elsewhere: &'a Elsewhere,
    ask: F,
    waiting: VecDeque<Other>,
    asked: Vec<Other>,
    under_way: FuturesUnordered<BoxFuture<'a, (MachineId, Option<T>)>>,
}

// === impl Race ===

impl<'a, T, F, A> Race<'a, T, F>
where
    T: Send + 'a,
    F: Fn(Other) -> A,
    A: Future<Output = Option<T>> + Send + 'a,
{
    /// Asks `candidates` in this order, by `ask`.
    pub(super) fn new(elsewhere: &'a Elsewhere, candidates: Vec<Other>, ask: F) -> Self {
        let waiting = candidates.into();
        Self { elsewhere, ask, waiting, asked: Vec::new(), under_way: FuturesUnordered::new() }
    }

    /// What comes next from any of them; `None` when nobody is left. When it was no good this may be called
    /// again.
    pub(super) async fn next(&mut self) -> Option<T> {
        loop {
            let next = self.waiting.pop_front();
            let patience = next.as_ref().map(|next| self.elsewhere.pace().patience(next.id));
            match next {
                Some(next) => self.begin(next),
                None if self.under_way.is_empty() => return None,
                None => {}
            }
            let answer = match patience {
                Some(patience) if !self.waiting.is_empty() => timeout(patience, self.under_way.next()).await,
                _ => Ok(self.under_way.next().await),
            };
            let Ok(Some((machine, answer))) = answer else { continue };
            self.asked.retain(|asked| asked.id != machine);
            if answer.is_some() {
                return answer;
            }
        }
    }

    /// Those who have not answered, to be asked again if need be.
    pub(super) fn left(self) -> Vec<Other> {
        self.waiting.into_iter().chain(self.asked).collect()
    }

    fn begin(&mut self, other: Other) {
        let machine = other.id;
        self.asked.push(other.clone());
        let answer = (self.ask)(other);
        self.under_way.push(Box::pin(async move { (machine, answer.await) }));
    }
}
