//! Links that other machines have to this one: what they would run here, and what they may.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use farmhand_proto::peer::{Demand, Grant};

use super::MachineId;
use super::board::{Board, Follower};
use super::link::incoming::CallHandle;
use super::members::CallId;

/// What other machines would run here.
#[derive(Clone, Debug)]
pub enum DemandEvent {
    /// That.
    Demand {
        /// Who.
        id: MachineId,
        /// What it is called here.
        name: Arc<str>,
        /// The start of its node.
        boot_epoch: u64,
        /// All it would run; what it said before counts no more.
        demand: Arc<Demand>,
    },
    /// Nothing any more: its link is over.
    Gone {
        /// Who.
        id: MachineId,
        /// Why, in words.
        reason: String,
    },
}

/// What other machines would run here, told at the pace of who listens: the latest of each.
pub struct Calls {
    follower: Follower<CallNews>,
    /// The link whose demand was told.
    told: BTreeMap<MachineId, CallId>,
    next: Option<DemandEvent>,
}

/// The links that others have to this machine.
pub(super) struct Book {
    board: Arc<Board<CallNews>>,
    handles: Mutex<Handles>,
}

#[derive(Default)]
struct Handles {
    open: BTreeMap<MachineId, Open>,
    /// The latest demand over each link that is not the open one: one that is about to be, or was.
    early: BTreeMap<CallId, Arc<Demand>>,
}

/// A link that is open.
struct Open {
    call: CallId,
    name: Arc<str>,
    boot_epoch: u64,
    handle: CallHandle,
}

/// The latest of the link of a machine.
#[derive(Clone, Debug)]
enum CallNews {
    Up { call: CallId, name: Arc<str>, boot_epoch: u64, demand: Option<Arc<Demand>> },
    Down(Arc<str>),
}

// === impl Book ===

impl Book {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { board: Board::new(), handles: Mutex::default() })
    }

    pub(super) fn follow(&self) -> Calls {
        Calls { follower: self.board.follow(), told: BTreeMap::new(), next: None }
    }

    /// `id`, which is called `name` here, has opened a link; one it had before does not count any more. What
    /// came over it so far counts.
    pub(super) fn open(
        &self,
        id: MachineId,
        call: CallId,
        name: Arc<str>,
        boot_epoch: u64,
        handle: CallHandle,
    ) {
        let open = Open { call, name: Arc::clone(&name), boot_epoch, handle };
        self.with(|handles| {
            handles.open.insert(id, open);
            let demand = handles.early.remove(&call);
            self.board.put(id, CallNews::Up { call, name, boot_epoch, demand }, false);
        });
    }

    /// Over that link came a demand. It is kept until the link is [open](Self::open), or
    /// [closed](Self::close) for the last time.
    pub(super) fn demand(&self, id: MachineId, call: CallId, demand: Demand) {
        let demand = Arc::new(demand);
        self.with(|handles| match handles.open.get(&id).filter(|open| open.call == call) {
            Some(open) => {
                let (name, boot_epoch, demand) = (Arc::clone(&open.name), open.boot_epoch, Some(demand));
                self.board.put(id, CallNews::Up { call, name, boot_epoch, demand }, false);
            }
            None => {
                handles.early.insert(call, demand);
            }
        });
    }

    /// That link is to count no more, or is over.
    pub(super) fn close(&self, id: MachineId, call: CallId, reason: &str) {
        self.with(|handles| {
            handles.early.remove(&call);
            if handles.open.get(&id).is_some_and(|open| open.call == call) {
                handles.open.remove(&id);
                self.board.put(id, CallNews::Down(reason.into()), true);
            }
        });
    }

    pub(super) fn grant(&self, to: MachineId, grant: Grant) {
        self.with(|handles| {
            if let Some(open) = handles.open.get(&to) {
                open.handle.grant(grant);
            }
        });
    }

    fn with<T>(&self, act: impl FnOnce(&mut Handles) -> T) -> T {
        act(&mut self.handles.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

// === impl Calls ===

impl Calls {
    /// The next. Nothing is lost when this is dropped.
    pub async fn next(&mut self) -> DemandEvent {
        loop {
            if let Some(event) = self.next.take() {
                return event;
            }
            let (id, news) = self.follower.next().await;
            if let Some(event) = self.event(id, news) {
                return event;
            }
        }
    }

    fn event(&mut self, id: MachineId, news: CallNews) -> Option<DemandEvent> {
        match news {
            CallNews::Up { call, name, boot_epoch, demand } => {
                let demand = demand.map(|demand| {
                    let told = self.told.insert(id, call);
                    (told, DemandEvent::Demand { id, name, boot_epoch, demand })
                });
                let is_old = |told: &CallId| *told != call;
                match demand {
                    Some((told, demand)) => match told.filter(is_old) {
                        None => Some(demand),
                        Some(_) => {
                            self.next = Some(demand);
                            Some(replaced(id))
                        }
                    },
                    None => {
                        let is_told = self.told.get(&id).is_some_and(is_old);
                        is_told.then(|| {
                            self.told.remove(&id);
                            replaced(id)
                        })
                    }
                }
            }
            CallNews::Down(reason) => {
                self.told.remove(&id)?;
                Some(DemandEvent::Gone { id, reason: reason.to_string() })
            }
        }
    }
}

fn replaced(id: MachineId) -> DemandEvent {
    DemandEvent::Gone { id, reason: "it opened another link".to_owned() }
}

#[cfg(test)]
mod tests {
    use farmhand_proto::peer::Want;
    use futures_util::FutureExt;

    use super::super::link::incoming::testing;
    use super::*;

    const ATTIC: MachineId = MachineId::new([1; 32]);

    fn demand(waiting: u32) -> Demand {
        Demand { wants: vec![Want { waiting, ..Want::default() }] }
    }

    fn open(book: &Book, call: u64) {
        let (handle, _) = testing::handle();
        book.open(ATTIC, CallId(call), "attic".into(), 1, handle);
    }

    /// What is told next: actions that wait, or `None` for the end of a link.
    fn next(calls: &mut Calls) -> Option<u32> {
        match calls.next().now_or_never().expect("something is told") {
            DemandEvent::Demand { demand, .. } => Some(demand.wants[0].waiting),
            DemandEvent::Gone { .. } => None,
        }
    }

    #[test]
    fn what_is_demanded_before_a_link_counts_is_told_when_it_does() {
        let book = Book::new();
        let mut calls = book.follow();
        book.demand(ATTIC, CallId(1), demand(7));
        book.demand(ATTIC, CallId(1), demand(8));
        assert!(calls.next().now_or_never().is_none());
        open(&book, 1);
        assert_eq!(next(&mut calls), Some(8));
        // The next link of the same machine.
        book.demand(ATTIC, CallId(2), demand(9));
        assert!(calls.next().now_or_never().is_none());
        open(&book, 2);
        assert_eq!((next(&mut calls), next(&mut calls)), (None, Some(9)));
        book.close(ATTIC, CallId(1), "late");
        book.close(ATTIC, CallId(2), "over");
        assert_eq!(next(&mut calls), None);
    }

    #[test]
    fn nothing_is_kept_of_links_that_are_over() {
        let book = Book::new();
        open(&book, 1);
        book.close(ATTIC, CallId(1), "it counts no more");
        book.demand(ATTIC, CallId(1), demand(7));
        book.demand(ATTIC, CallId(2), demand(7));
        for call in [1, 2] {
            book.close(ATTIC, CallId(call), "over");
        }
        assert!(book.with(|handles| handles.open.is_empty() && handles.early.is_empty()));
    }
}
