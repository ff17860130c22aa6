//! Single calls to the node: one a slot, each in a task of its own, given up when it is not wanted
//! any more.

use std::collections::HashMap;
use std::error::Error as _;
use std::future::Future;
use std::time::Duration;

use farmhand_proto::client::Client;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tonic::{Code, Response, Status, Streaming};

use super::watch::words;
use crate::message::{Answer, Call, CallId, Failure, Slot};
use crate::sanitize;

/// Answers that wait to be applied.
const WAITING: usize = 16;

/// Time a call may take. Finding out why an action missed may read much.
const LIMIT: Duration = Duration::from_secs(15);

/// Calls under way.
pub(crate) struct Calls {
    tasks: JoinSet<()>,
    open: HashMap<Slot, AbortHandle>,
    send: mpsc::Sender<(CallId, Answer)>,
    answers: mpsc::Receiver<(CallId, Answer)>,
}

/// Where the answers of one call go.
struct Reply {
    id: CallId,
    send: mpsc::Sender<(CallId, Answer)>,
}

// === impl Calls ===

impl Calls {
    /// None.
    pub(crate) fn new() -> Self {
        let (send, answers) = mpsc::channel(WAITING);
        Self { tasks: JoinSet::new(), open: HashMap::new(), send, answers }
    }

    /// Asks `client`; without one the answer is that there is none. An earlier call of the slot is
    /// given up.
    pub(crate) fn ask(&mut self, client: Option<Client>, id: CallId, call: Call) {
        self.cancel(id.slot);
        // Forgets tasks that are over.
        while self.tasks.try_join_next().is_some() {}
        let reply = Reply { id, send: self.send.clone() };
        let handle = self.tasks.spawn(async move {
            let failure = match client {
                Some(client) => perform(client, call, &reply).await.err().map(|status| failure(&status)),
                None => Some(no_node()),
            };
            if let Some(failure) = failure {
                reply.send(Answer::Failed(failure)).await;
            }
        });
        self.open.insert(id.slot, handle);
    }

    /// Gives up the call of a slot.
    pub(crate) fn cancel(&mut self, slot: Slot) {
        if let Some(handle) = self.open.remove(&slot) {
            handle.abort();
        }
    }

    /// The next answer.
    pub(crate) async fn next(&mut self) -> Option<(CallId, Answer)> {
        self.answers.recv().await
    }
}

// === impl Reply ===

impl Reply {
    async fn send(&self, answer: Answer) {
        // Nobody listens when the dashboard ends.
        let _ = self.send.send((self.id, answer)).await;
    }
}

async fn perform(mut client: Client, call: Call, reply: &Reply) -> Result<(), Status> {
    let answer = match call {
        Call::Action(request) => Answer::Action(Box::new(soon(client.get_action(request)).await?)),
        Call::Actions(request) => Answer::Actions(soon(client.list_actions(request)).await?),
        Call::Directory(request) => Answer::Directory(soon(client.list_directory(request)).await?),
        Call::Miss(request) => Answer::Miss(soon(client.explain_miss(request)).await?),
        Call::Kill(request) => Answer::Killed(soon(client.kill_action(request)).await?),
        Call::Pin(request) => Answer::Pinned(soon(client.pin_action(request)).await?),
        Call::Machine(request) => Answer::Machine(Box::new(soon(client.set_machine(request)).await?)),
        Call::Settings(request) => Answer::Settings(soon(client.get_settings(request)).await?),
        Call::Farm(request) => Answer::Farm(Box::new(soon(client.get_farm(request)).await?)),
        Call::Newcomer(request) => Answer::Newcomer(soon(client.answer_newcomer(request)).await?),
        Call::Invite(request) => {
            let boxed = |news| Answer::Invite(Box::new(news));
            return stream(soon(client.invite(request)).await?, reply, boxed).await;
        }
        Call::Join(request) => {
            let boxed = |news| Answer::Join(Box::new(news));
            return stream(soon(client.join(request)).await?, reply, boxed).await;
        }
        Call::Blob(request) => {
            return stream(soon(client.read_blob(request)).await?, reply, Answer::Blob).await;
        }
        Call::Output(request) => {
            return stream(soon(client.read_output(request)).await?, reply, Answer::Output).await;
        }
        Call::Rerun(request) => {
            let boxed = |run| Answer::Rerun(Box::new(run));
            return stream(soon(client.rerun_action(request)).await?, reply, boxed).await;
        }
        Call::Log(request) => {
            return stream(soon(client.watch_log(request)).await?, reply, Answer::Log).await;
        }
    };
    reply.send(answer).await;
    Ok(())
}

/// The answer, unless it takes too long.
async fn soon<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
    match timeout(LIMIT, call).await {
        Ok(result) => result.map(Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("the node took too long to answer")),
    }
}

/// Passes on what comes. A stream may be silent for as long as it likes: what it follows may be.
async fn stream<T>(
    mut stream: Streaming<T>,
    reply: &Reply,
    answer: impl Fn(T) -> Answer,
) -> Result<(), Status> {
    while let Some(message) = stream.message().await? {
        reply.send(answer(message)).await;
    }
    reply.send(Answer::Ended).await;
    Ok(())
}

fn no_node() -> Failure {
    let text = "there is no connection to the node".to_owned();
    Failure { code: Code::Unavailable.into(), text, lost: true }
}

fn failure(status: &Status) -> Failure {
    // A status that the node sent has no source.
    let lost = matches!(status.code(), Code::Unavailable | Code::Unknown) && status.source().is_some();
    let text = match status.code() {
        // What tonic says of a connection that broke helps nobody.
        _ if lost => "the connection to the node was lost".to_owned(),
        Code::Unimplemented => "this node cannot do that: it is older than this program".to_owned(),
        _ => words(status),
    };
    Failure { code: status.code().into(), text: sanitize::line(&text).into_owned(), lost }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_broken_connection_is_told_from_a_node_that_refuses() {
        let broken = failure(&Status::from_error(Box::new(io::Error::from(io::ErrorKind::BrokenPipe))));
        assert!(broken.lost && broken.text.contains("was lost"), "{broken:?}");
        let refused = failure(&Status::unavailable("no address can be\nlistened at"));
        assert!(!refused.lost && refused.code == 14 && refused.text.contains("no address"), "{refused:?}");
    }
}
