//! Keeps a stream of changes open.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use farmhand_proto::control::{WatchPosition, WatchRequest, WatchResponse};
use farmhand_proto::time::duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::{Client, connect};
use crate::message::FeedEvent;
use crate::sanitize;

/// Least time between two messages: more of them nobody can read.
const INTERVAL: Duration = Duration::from_millis(200);

/// Finished operations wanted at first; more are loaded when somebody looks for them.
const FINISHED: u32 = 1000;

/// How long it waits for what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Silence after which a stream counts as dead. The node promises a message a second.
    pub(super) silence: Duration,
    /// The first pause between two attempts.
    pub(super) first_pause: Duration,
    /// The longest.
    pub(super) longest_pause: Duration,
}

/// Why a stream ended.
enum End {
    /// Nobody listens any more.
    Unwanted,
    /// It broke, in words; whether anything was heard of it.
    Broken(String, bool),
}

// === impl Pace ===

impl Default for Pace {
    fn default() -> Self {
        Self {
            silence: Duration::from_secs(5),
            first_pause: Duration::from_millis(250),
            longest_pause: Duration::from_secs(5),
        }
    }
}

/// Connects, watches, and tries again, until nobody listens.
pub(super) async fn run(
    socket: PathBuf,
    events: mpsc::Sender<FeedEvent>,
    clients: watch::Sender<Option<Client>>,
    now: Arc<Notify>,
    pace: Pace,
) {
    let mut position = None;
    let mut pause = pace.first_pause;
    loop {
        let end = attempt(&socket, &events, &clients, &mut position, pace.silence).await;
        clients.send_replace(None);
        let (reason, heard) = match end {
            End::Unwanted => return,
            End::Broken(reason, heard) => (reason, heard),
        };
        if heard {
            pause = pace.first_pause;
        }
        let reason = sanitize::line(&reason).into_owned();
        if events.send(FeedEvent::Lost { reason, retry_in: pause }).await.is_err() {
            return;
        }
        // A wish from before this attempt is not one for the next.
        let _ = timeout(pause, now.notified()).await;
        pause = (pause * 2).min(pace.longest_pause);
    }
}

/// One connection, from its beginning to its end.
async fn attempt(
    socket: &std::path::Path,
    events: &mpsc::Sender<FeedEvent>,
    clients: &watch::Sender<Option<Client>>,
    position: &mut Option<WatchPosition>,
    silence: Duration,
) -> End {
    let mut client = match connect(socket).await {
        Ok(client) => client,
        Err(reason) => return End::Broken(reason, false),
    };
    let request = WatchRequest { resume: *position, finished: FINISHED, interval: Some(duration(INTERVAL)) };
    let stream = match timeout(silence, client.watch(request)).await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return End::Broken(words(&status), false),
        Err(_) => return End::Broken("the node does not answer".to_owned(), false),
    };
    clients.send_replace(Some(client));
    if events.send(FeedEvent::Connected).await.is_err() {
        return End::Unwanted;
    }
    follow(stream, events, position, silence).await
}

async fn follow(
    mut stream: Streaming<WatchResponse>,
    events: &mpsc::Sender<FeedEvent>,
    position: &mut Option<WatchPosition>,
    silence: Duration,
) -> End {
    let mut heard = false;
    loop {
        let message = match timeout(silence, stream.message()).await {
            Ok(Ok(Some(message))) => message,
            Ok(Ok(None)) => return End::Broken("the node ended".to_owned(), heard),
            Ok(Err(status)) => return End::Broken(words(&status), heard),
            Err(_) => return End::Broken("the node says nothing any more".to_owned(), heard),
        };
        heard = true;
        // In the middle of a snapshot there is nothing to resume.
        *position = if message.snapshot && !message.complete { None } else { message.position };
        if events.send(FeedEvent::Changes(Box::new(message))).await.is_err() {
            return End::Unwanted;
        }
    }
}

/// What a status says to a person.
pub(super) fn words(status: &Status) -> String {
    match status.message() {
        "" => format!("the node refuses: {}", status.code()),
        message => message.to_owned(),
    }
}
