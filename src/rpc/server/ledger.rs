//! [`Ledger`]: what each connection makes the node hold in memory, and which one goes when it is too much.
//!
//! Counted are the parts of messages that are not complete yet and the answers that a client has not
//! taken yet: both stay for as long as the client pleases. When all connections together hold more than
//! the limit, the one that holds most is closed, so a client with ordinary calls is never the one. When
//! there are too many connections, the one that has been without calls for longest is.

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use futures_util::task::AtomicWaker;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::CALLS;

/// Milliseconds without a call after which a connection is quiet: its client may be about to make one.
const QUIET: u64 = 1000;

/// The connections of a server.
#[derive(Debug)]
pub(super) struct Ledger {
    limit: u64,
    held: AtomicU64,
    next: AtomicU64,
    started: Instant,
    accounts: Mutex<HashMap<u64, Arc<State>>>,
    closed: Notify,
}

/// One connection. Clones are the same; the entry goes with the last of them.
#[derive(Clone, Debug)]
pub(super) struct Account(Arc<Entry>);

#[derive(Debug)]
struct Entry {
    id: u64,
    ledger: Arc<Ledger>,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    address: Option<IpAddr>,
    held: AtomicU64,
    calls: AtomicUsize,
    /// When the last call ended, in milliseconds since the ledger was opened.
    quiet_since: AtomicU64,
    is_closing: AtomicBool,
    waker: AtomicWaker,
}

/// Bytes that a call holds, counted for its connection until this is dropped.
#[derive(Debug)]
pub(super) struct Holding {
    account: Account,
    bytes: u64,
}

/// A call under way.
#[derive(Debug)]
pub(super) struct Call(Account);

// === impl Ledger ===

impl Ledger {
    /// A ledger whose connections may hold `limit` bytes together.
    pub(super) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            limit,
            held: AtomicU64::new(0),
            next: AtomicU64::new(0),
            started: Instant::now(),
            accounts: Mutex::default(),
            closed: Notify::new(),
        })
    }

    /// Enters a connection from `address`.
    pub(super) fn enter(self: &Arc<Self>, address: Option<IpAddr>) -> Account {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let state = Arc::new(State {
            address,
            held: AtomicU64::new(0),
            calls: AtomicUsize::new(0),
            quiet_since: AtomicU64::new(self.now()),
            is_closing: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        });
        self.accounts().insert(id, Arc::clone(&state));
        Account(Arc::new(Entry { id, ledger: Arc::clone(self), state }))
    }

    /// Connections there are.
    pub(super) fn len(&self) -> usize {
        self.accounts().len()
    }

    /// Connections there are from `address`.
    pub(super) fn from(&self, address: IpAddr) -> usize {
        self.accounts().values().filter(|state| state.address == Some(address)).count()
    }

    /// Closes the connection that has been without a call for longest; false if all have calls, or had
    /// until now.
    pub(super) fn close_quietest(&self) -> bool {
        let Some(before) = self.now().checked_sub(QUIET) else { return false };
        let accounts = self.accounts();
        let quiet = accounts.values().filter(|state| state.is_quiet(before));
        let quietest = quiet.min_by_key(|state| state.quiet_since.load(Ordering::Relaxed)).cloned();
        drop(accounts);
        quietest.inspect(|state| state.close()).is_some()
    }

    /// Returns when a connection has gone since this was called.
    pub(super) async fn one_less(&self) {
        self.closed.notified().await;
    }

    /// Closes connections, the one that holds most first, until the others hold no more than the limit.
    fn relieve(&self) {
        let accounts = self.accounts();
        let staying = accounts.values().filter(|state| !state.is_closing.load(Ordering::Relaxed));
        let mut holders: Vec<_> = staying.map(|state| (state.held.load(Ordering::Relaxed), state)).collect();
        let mut held: u64 = holders.iter().map(|(held, _)| held).sum();
        holders.sort_unstable_by_key(|(held, _)| *held);
        while let Some((most, state)) = holders.pop().filter(|_| held > self.limit) {
            tracing::warn!(bytes = most, limit = self.limit, "closing the connection that holds most");
            state.close();
            held -= most;
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn accounts(&self) -> MutexGuard<'_, HashMap<u64, Arc<State>>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    /// Without a call since `before` or longer, and not closing yet.
    fn is_quiet(&self, before: u64) -> bool {
        self.calls.load(Ordering::Relaxed) == 0
            && self.quiet_since.load(Ordering::Relaxed) <= before
            && !self.is_closing.load(Ordering::Relaxed)
    }

    fn close(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
        self.waker.wake();
    }
}

// === impl Account ===

impl Account {
    /// Whether the connection is to end. `waker` is told when that changes.
    pub(super) fn is_closing(&self, waker: &std::task::Waker) -> bool {
        self.0.state.waker.register(waker);
        self.0.state.is_closing.load(Ordering::Relaxed)
    }

    /// Returns when the connection is to end.
    pub(super) async fn closed(&self) {
        poll_fn(|context| if self.is_closing(context.waker()) { Poll::Ready(()) } else { Poll::Pending })
            .await;
    }

    /// Whether the connection is to end.
    pub(super) fn is_condemned(&self) -> bool {
        self.0.state.is_closing.load(Ordering::Relaxed)
    }

    /// Calls under way on it.
    #[cfg(test)]
    pub(super) fn calls(&self) -> usize {
        self.0.state.calls.load(Ordering::Relaxed)
    }

    /// Enters a call. With too many, the connection is closed.
    pub(super) fn call(&self) -> Call {
        if self.0.state.calls.fetch_add(1, Ordering::Relaxed) == CALLS {
            tracing::warn!("closing a connection with more than {CALLS} calls at once");
            self.0.state.close();
        }
        Call(self.clone())
    }

    /// A holding of no bytes.
    pub(super) fn holding(&self) -> Holding {
        Holding { account: self.clone(), bytes: 0 }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.ledger.accounts().remove(&self.id);
        self.ledger.closed.notify_one();
    }
}

// === impl Call ===

impl Drop for Call {
    fn drop(&mut self) {
        let Entry { ledger, state, .. } = &*self.0.0;
        state.quiet_since.store(ledger.now(), Ordering::Relaxed);
        state.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Holding ===

impl Holding {
    /// Counts `bytes` in place of what was counted before.
    pub(super) fn set(&mut self, bytes: u64) {
        let Entry { ledger, state, .. } = &*self.account.0;
        if bytes > self.bytes {
            let more = bytes - self.bytes;
            state.held.fetch_add(more, Ordering::Relaxed);
            let all = ledger.held.fetch_add(more, Ordering::Relaxed) + more;
            self.bytes = bytes;
            if all > ledger.limit {
                ledger.relieve();
            }
        } else if bytes < self.bytes {
            let less = self.bytes - bytes;
            state.held.fetch_sub(less, Ordering::Relaxed);
            ledger.held.fetch_sub(less, Ordering::Relaxed);
            self.bytes = bytes;
        }
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::task::noop_waker_ref;

    use super::*;

    fn is_closing(account: &Account) -> bool {
        account.is_closing(noop_waker_ref())
    }

    #[test]
    fn who_holds_most_goes() {
        let ledger = Ledger::new(100);
        let [small, large, other] = [(); 3].map(|()| ledger.enter(None));
        let mut holdings: Vec<_> = [&small, &large, &large, &other]
            .into_iter()
            .zip([30, 20, 25, 25])
            .map(|(account, bytes)| {
                let mut holding = account.holding();
                holding.set(bytes);
                holding
            })
            .collect();
        assert!([&small, &large, &other].into_iter().all(|account| !is_closing(account)));
        holdings[0].set(31);
        assert_eq!([&small, &large, &other].map(is_closing), [false, true, false]);
        // What the closing one still holds is not held against the others.
        holdings[3].set(69);
        assert_eq!([&small, &large, &other].map(is_closing), [false, true, false]);
        drop(holdings);
        assert_eq!(ledger.held.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_quiet_for_longest_goes() {
        let ledger = Ledger::new(100);
        let [first, second, third] = [(); 3].map(|()| ledger.enter(None));
        let call = first.call();
        let ended = second.call();
        let quiet = Duration::from_millis(QUIET);
        assert!(!ledger.close_quietest());
        tokio::time::advance(quiet).await;
        drop(ended);
        assert!(ledger.close_quietest());
        assert_eq!([&first, &second, &third].map(is_closing), [false, false, true]);
        drop(third);
        assert!(!ledger.close_quietest());
        tokio::time::advance(quiet).await;
        assert!(ledger.close_quietest());
        assert!(is_closing(&second));
        drop(second);
        assert!(!ledger.close_quietest());
        assert_eq!(first.calls(), 1);
        drop(call);
        tokio::time::advance(quiet).await;
        assert!(ledger.close_quietest());
    }

    #[test]
    fn who_has_too_many_calls_goes() {
        let ledger = Ledger::new(100);
        let account = ledger.enter(None);
        let calls: Vec<_> = (0..CALLS).map(|_| account.call()).collect();
        assert!(!is_closing(&account));
        drop(account.call());
        assert!(is_closing(&account));
        drop(calls);
        assert_eq!(account.calls(), 0);
    }

    #[tokio::test]
    async fn connections_are_counted_by_address() {
        let ledger = Ledger::new(100);
        let here: IpAddr = "10.0.0.1".parse().unwrap();
        let accounts = [Some(here), Some(here), None].map(|address| ledger.enter(address));
        assert_eq!((ledger.len(), ledger.from(here)), (3, 2));
        let gone = ledger.one_less();
        drop(accounts);
        gone.await;
        assert_eq!((ledger.len(), ledger.from(here)), (0, 0));
    }
}
