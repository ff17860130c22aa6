//! [`Gate`]: a number that only grows, and waiting for it, from tasks and from threads.

use std::sync::{Condvar, Mutex, PoisonError};

use tokio::sync::watch;

/// Something was shut down while others waited for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended;

/// A growing number.
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
    watch: watch::Sender<State>,
}

#[derive(Clone, Copy)]
struct State {
    value: u64,
    ended: bool,
}

impl Gate {
    pub(super) fn new(value: u64) -> Self {
        let state = State { value, ended: false };
        Self { state: Mutex::new(state), changed: Condvar::new(), watch: watch::Sender::new(state) }
    }

    pub(super) fn value(&self) -> u64 {
        self.watch.borrow().value
    }

    /// Lets everybody through who waits for `value` or less.
    pub(super) fn advance(&self, value: u64) {
        self.change(|state| state.value = state.value.max(value));
    }

    /// Sends away all who wait, and all who come.
    pub(super) fn end(&self) {
        self.change(|state| state.ended = true);
    }

    pub(super) fn is_ended(&self) -> bool {
        self.watch.borrow().ended
    }

    /// Waits for `value`.
    pub(super) async fn reached(&self, value: u64) -> Result<(), Ended> {
        let mut watch = self.watch.subscribe();
        let state = watch.wait_for(|state| state.ended || state.value >= value).await.map_err(|_| Ended)?;
        if state.value >= value { Ok(()) } else { Err(Ended) }
    }

    /// Waits for `value`, blocking the thread.
    pub(super) fn wait(&self, value: u64) -> Result<(), Ended> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = self.changed.wait_while(state, |state| !state.ended && state.value < value);
        let state = waiting.unwrap_or_else(PoisonError::into_inner);
        if state.value >= value { Ok(()) } else { Err(Ended) }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        self.watch.send_replace(*state);
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waits_for_the_value_or_the_end() {
        let gate = std::sync::Arc::new(Gate::new(3));
        assert_eq!(gate.reached(3).await, Ok(()));
        assert_eq!(gate.wait(2), Ok(()));
        let other = gate.clone();
        let thread = std::thread::spawn(move || (other.wait(5), other.wait(9)));
        gate.advance(5);
        gate.advance(4);
        assert_eq!(gate.value(), 5);
        assert_eq!(gate.reached(5).await, Ok(()));
        gate.end();
        assert_eq!(thread.join().unwrap(), (Ok(()), Err(Ended)));
        assert_eq!(gate.reached(6).await, Err(Ended));
    }
}
