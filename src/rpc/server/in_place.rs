//! [`InPlace`]: calls that need not wait are answered by the task of their connection.
//!
//! A call that gets a task of its own costs two wake-ups, of its task and then of the connection's, and
//! most often two more of threads. Most calls need none of that: by the time the connection has read
//! what was there, the whole request is, and the answer is in memory. So new calls are polled once by
//! their connection after it has read, and what they answered goes out with one write (`corked`). Those that have
//! to wait become tasks: for the rest of a large request, for an action, for a disk. Those with much to
//! do become one at once ([`leave_connection`]).

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use hyper::rt::Executor;
use hyper_util::rt::TokioExecutor;
use tokio::io::AsyncWrite;

use super::corked::Corked;

type Call = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Leaves the task of the connection: what follows would hold up its other calls. Without effect in a
/// task of a call's own.
pub(in crate::rpc) async fn leave_connection() {
    tokio::task::yield_now().await;
}

/// The executor of one connection.
#[derive(Clone, Default)]
pub(super) struct InPlace {
    fresh: Arc<Mutex<Vec<Call>>>,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for InPlace {
    fn execute(&self, call: F) {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner).push(Box::pin(call));
    }
}

impl InPlace {
    /// Runs `connection`, which was given clones of this executor and of `socket`, and its calls.
    pub(super) async fn run<C: Future, S: AsyncWrite + Unpin>(
        &self,
        mut connection: Pin<&mut C>,
        socket: &Corked<S>,
    ) -> C::Output {
        poll_fn(|context| {
            loop {
                let polled = connection.as_mut().poll(context);
                // What was answered is sent by the next round.
                if !self.poll_fresh(context) || polled.is_ready() {
                    // A socket that fails tells the connection when it reads.
                    let _ = socket.poll_uncork(context);
                    return polled;
                }
            }
        })
        .await
    }

    /// Polls the new calls. False if there are none.
    fn poll_fresh(&self, context: &mut Context<'_>) -> bool {
        let fresh = std::mem::take(&mut *self.fresh.lock().unwrap_or_else(PoisonError::into_inner));
        let is_any = !fresh.is_empty();
        for mut call in fresh {
            // A call that panics is reset; the others on its connection go on, as they would if it had a
            // task of its own.
            let polled = catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(context)));
            if matches!(polled, Ok(Poll::Pending)) {
                TokioExecutor::new().execute(call);
            }
        }
        is_any
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::oneshot;

    use super::*;

    /// A connection that hands its calls over when it is first polled, and ends when `done` is reached.
    async fn run(calls: Vec<Call>, ended: Arc<AtomicUsize>, done: usize) {
        let executor = InPlace::default();
        let mut calls = Some(calls);
        let connection = poll_fn(|context| {
            for call in calls.take().unwrap_or_default() {
                executor.execute(call);
            }
            if ended.load(Ordering::SeqCst) == done {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        });
        executor.run(std::pin::pin!(connection), &Corked::new(tokio::io::sink())).await;
    }

    #[tokio::test]
    async fn calls_end_in_place_or_become_tasks() {
        let ended = Arc::new(AtomicUsize::new(0));
        let end = || {
            let ended = Arc::clone(&ended);
            move || ended.fetch_add(1, Ordering::SeqCst)
        };
        let (first, second, third) = (end(), end(), end());
        let (open, opened) = oneshot::channel();
        let leaves: Call = {
            let end = end();
            Box::pin(async move {
                leave_connection().await;
                assert!(tokio::task::try_id().is_some());
                end();
            })
        };
        let in_place: Call = Box::pin(async move {
            assert_eq!(tokio::task::try_id(), None, "the connection of this test is no task");
            first();
        });
        let panics: Call = Box::pin(async { panic!("a call that panics") });
        let waits: Call = Box::pin(async move {
            assert_eq!(tokio::task::try_id(), None);
            opened.await.unwrap();
            assert!(tokio::task::try_id().is_some());
            second();
        });
        let opens: Call = Box::pin(async move {
            open.send(()).unwrap();
            third();
        });
        run(vec![in_place, panics, waits, leaves, opens], ended, 4).await;
    }
}
