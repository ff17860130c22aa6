//! Takes the links that other machines open to this one.

use farmhand_proto::peer::LinkMessage;
use farmhand_proto::peer::link_message::Message;
use tokio_stream::Stream;
use tonic::{Status, Streaming};

use super::incoming::{Caller, Incoming, Rejection};
use crate::peer::Peers;
use crate::peer::driver::{ENDING, Happened, next_call};
use crate::peer::members::Event;

impl Peers {
    /// Takes the link that `caller` opens with `messages`; gives what is said over it.
    ///
    /// # Errors
    /// What the caller is told, when it has not said who it is or no version is common to both.
    pub async fn answer(
        &self,
        caller: &Caller,
        messages: Streaming<LinkMessage>,
    ) -> Result<impl Stream<Item = Result<LinkMessage, Status>> + Send + use<>, Status> {
        let shared = &self.0;
        let accepted = Incoming::accept(&shared.me, shared.state.subscribe(), caller, messages).await;
        let (incoming, voice) = match accepted {
            Ok(accepted) => accepted,
            Err(Rejection { incompatible, status }) => {
                if let Some((greeting, reason)) = incompatible {
                    tracing::warn!(id = %greeting.id, reason, "a machine was sent away");
                    self.tell(Happened::Event(Event::CallRefused { greeting, reason })).await;
                }
                return Err(status);
            }
        };
        let call = next_call();
        let (greeting, handle) = (incoming.greeting.clone(), incoming.handle.clone());
        let id = greeting.id;
        let called = Happened::Called { call, caller: caller.clone(), greeting, handle };
        if !self.tell(called).await {
            return Err(Status::unavailable(ENDING));
        }
        let peers = self.clone();
        shared.tasks.spawn("call", async move {
            let calls = &peers.0.calls;
            let take = |message| {
                if let Message::Demand(demand) = message {
                    calls.demand(id, call, demand);
                }
            };
            let reason = incoming.run(take).await;
            peers.tell(Happened::CallEnded { id, call, reason }).await;
        });
        Ok(voice)
    }

    /// Tells the driver; `false` if there is none any more.
    async fn tell(&self, happened: Happened) -> bool {
        let sent = self.0.tasks.token().run_until_cancelled(self.0.happened.send(happened)).await;
        matches!(sent, Some(Ok(())))
    }
}
