//! [`Voice`]: what one end of a link says.
//!
//! A message is made when the connection is ready for it and not before, out of what there is to say then:
//! the latest counts, and nothing queues however slow the other machine reads.

use std::sync::Arc;
use std::time::SystemTime;

use farmhand_proto::peer::link_message::Message;
use farmhand_proto::peer::{Beat, Farewell, Hello, LinkMessage, MachineState};
use farmhand_proto::time::timestamp;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_stream::Stream;

use super::{BEAT, Closing, closed};

/// One end, speaking.
pub(super) struct Voice {
    hello: Option<Hello>,
    /// How this machine is.
    state: watch::Receiver<Option<Arc<MachineState>>>,
    /// What this end asks or grants.
    lines: watch::Receiver<Option<Message>>,
    closing: Closing,
    /// When something has to be said.
    beat: Instant,
    is_over: bool,
}

impl Voice {
    /// Begins with `hello`; then tells what `state` and `lines` show, until `closing` has a reason.
    pub(super) fn new(
        hello: Hello,
        mut state: watch::Receiver<Option<Arc<MachineState>>>,
        mut lines: watch::Receiver<Option<Message>>,
        closing: Closing,
    ) -> Self {
        state.mark_changed();
        lines.mark_changed();
        Self { hello: Some(hello), state, lines, closing, beat: Instant::now(), is_over: false }
    }

    /// All it says.
    pub(super) fn messages(self) -> impl Stream<Item = LinkMessage> + Send {
        futures_util::stream::unfold(self, |mut voice| async {
            let message = voice.next().await?;
            Some((LinkMessage { message: Some(message) }, voice))
        })
    }

    async fn next(&mut self) -> Option<Message> {
        if self.is_over {
            return None;
        }
        let message = match self.hello.take() {
            Some(hello) => Message::Hello(hello),
            None => self.news().await,
        };
        self.is_over = matches!(message, Message::Farewell(_));
        self.beat = Instant::now() + BEAT;
        Some(message)
    }

    async fn news(&mut self) -> Message {
        tokio::select! {
            biased;
            reason = closed(&mut self.closing) => Message::Farewell(Farewell { reason: reason.to_owned() }),
            lines = changed(&mut self.lines) => lines,
            state = changed(&mut self.state) => Message::State(Arc::unwrap_or_clone(state)),
            () = sleep_until(self.beat) => Message::Beat(Beat { now: Some(timestamp(SystemTime::now())) }),
        }
    }
}

/// The next value; never, once nobody can set one.
async fn changed<T: Clone>(values: &mut watch::Receiver<Option<T>>) -> T {
    loop {
        if values.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        let value = values.borrow_and_update().clone();
        if let Some(value) = value {
            return value;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use farmhand_proto::peer::Demand;

    use super::super::Closer;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_latest_is_told_once_and_beats_fill_the_pauses() {
        let (state, states) = watch::channel(Some(Arc::new(MachineState::default())));
        let (lines, all_lines) = watch::channel(None);
        let (closer, closing) = Closer::new();
        let mut voice = Voice::new(Hello::default(), states, all_lines, closing);
        assert!(matches!(voice.next().await, Some(Message::Hello(_))));
        assert!(matches!(voice.next().await, Some(Message::State(_))));
        let before = Instant::now();
        assert!(matches!(voice.next().await, Some(Message::Beat(_))));
        assert_eq!(before.elapsed(), BEAT);
        for slots in 1..=3 {
            state.send_replace(Some(Arc::new(MachineState { slots, ..Default::default() })));
            lines.send_replace(Some(Message::Demand(Demand::default())));
        }
        assert!(matches!(voice.next().await, Some(Message::Demand(_))));
        assert!(matches!(voice.next().await, Some(Message::State(state)) if state.slots == 3));
        drop((state, lines));
        assert!(matches!(voice.next().await, Some(Message::Beat(_))));
        tokio::time::sleep(Duration::from_millis(10)).await;
        closer.close("over");
        closer.close("again");
        assert!(matches!(voice.next().await, Some(Message::Farewell(f)) if f.reason == "over"));
        assert_eq!(voice.next().await, None);
    }
}
