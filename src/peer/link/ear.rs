//! [`Ear`]: what one end of a link hears, and when that is too little.

use std::sync::Arc;
use std::time::SystemTime;

use farmhand_proto::control::machine::State;
use farmhand_proto::peer::link_message::Message;
use farmhand_proto::peer::{LinkMessage, MachineState};
use farmhand_proto::protobuf::Timestamp;
use farmhand_proto::time::system_time;
use prost::Message as _;
use tokio::sync::watch;
use tonic::{Status, Streaming};

use super::life::{Life, until_silent};
use super::{LONGEST_REASON, MOST_BYTES, MUTE, words};

/// Characters of a fact that a machine tells of itself: a system, a pool, a label.
const LONGEST_FACT: usize = 1024;

/// Bytes, and entries, beyond which no machine has any: their sums over a farm are numbers still, and one
/// that errs about itself gets no more copies than the largest disk would.
const MOST: u64 = 1 << 50;

/// One end, listening.
pub(super) struct Ear {
    messages: Streaming<LinkMessage>,
    life: Arc<Life>,
    state: watch::Sender<Option<Arc<MachineState>>>,
}

/// Why nothing more is heard.
#[derive(Debug)]
pub(super) enum End {
    /// The other machine said so.
    Farewell(String),
    /// The stream broke.
    Broken(Status),
    /// Anything else, in words.
    Other(String),
}

impl Ear {
    /// Listens to `messages`, the first of which has come. What it hears of the machine goes to `state`.
    pub(super) fn new(
        messages: Streaming<LinkMessage>,
        life: Arc<Life>,
        state: watch::Sender<Option<Arc<MachineState>>>,
    ) -> Self {
        Self { messages, life, state }
    }

    /// Listens until the end. What is not told here, `take` is told: demands or grants.
    pub(super) async fn listen(&mut self, mut take: impl FnMut(Message)) -> End {
        loop {
            let pulse = self.life.pulse().clone();
            let message = tokio::select! {
                message = self.messages.message() => message,
                silence = until_silent(&pulse, MUTE) => return End::Other(silence.to_owned()),
            };
            match message {
                // What a call may carry at this end is far more.
                Ok(Some(message)) if message.encoded_len() > MOST_BYTES => {
                    return End::Other("it said too much at once".to_owned());
                }
                Ok(Some(LinkMessage { message: Some(message) })) => {
                    if let Some(end) = self.hear(message, &mut take) {
                        return end;
                    }
                }
                // From a newer program.
                Ok(Some(LinkMessage { message: None })) => {}
                Ok(None) => return End::Other("it ended the link".to_owned()),
                Err(status) => return End::Broken(status),
            }
        }
    }

    fn hear(&mut self, message: Message, take: &mut impl FnMut(Message)) -> Option<End> {
        match message {
            Message::Hello(_) => return Some(End::Other("it said hello twice".to_owned())),
            Message::Farewell(farewell) => {
                return Some(End::Farewell(words::shown(&farewell.reason, LONGEST_REASON)));
            }
            Message::Beat(beat) => see_clock(&self.life, beat.now.as_ref()),
            Message::State(state) => {
                self.state.send_replace(Some(Arc::new(fit(state))));
            }
            other => take(other),
        }
        None
    }
}

/// What a machine says of itself, made fit to be believed and shown: it stands as one can that speaks, it has
/// no more than machines have, and its texts are lines that steer no terminal.
fn fit(mut told: MachineState) -> MachineState {
    if !matches!(told.state(), State::Active | State::Yielding | State::Draining | State::Paused) {
        told.set_state(State::Unspecified);
    }
    let MachineState { used_bytes, budget_bytes, owed_copies, owed_bytes, sole_entries, sole_bytes, .. } =
        &mut told;
    for number in [used_bytes, budget_bytes, owed_copies, owed_bytes, sole_entries, sole_bytes] {
        *number = (*number).min(MOST);
    }
    let MachineState { os, isa, pools, labels, container_tool, toolchain, reason, .. } = &mut told;
    *reason = words::shown(reason, LONGEST_REASON);
    for fact in [os, container_tool, toolchain].into_iter().chain(isa).chain(pools).chain(labels) {
        *fact = words::shown(fact, LONGEST_FACT);
    }
    told
}

/// The other machine's clock shows `now`.
pub(super) fn see_clock(life: &Life, now: Option<&Timestamp>) {
    if let Some(theirs) = now.and_then(system_time) {
        life.see_clock(theirs, SystemTime::now());
    }
}

// === impl End ===

impl End {
    /// In words.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Farewell(reason) if reason.is_empty() => "it said goodbye".to_owned(),
            Self::Farewell(reason) => format!("it said goodbye: {reason}"),
            Self::Broken(status) => words::of_status(status),
            Self::Other(words) => words.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_machine_says_of_itself_can_be_shown() {
        let bad = || "\u{1b}]0;mine\u{7}\n\u{202e}".to_owned();
        let told = fit(MachineState {
            os: bad(),
            isa: vec![bad(), "x86-64".into()],
            pools: vec![bad()],
            labels: vec![bad(), "gpu=yes".into()],
            toolchain: bad(),
            reason: bad().repeat(1000),
            slots: 4,
            ..Default::default()
        });
        let lists = [&told.isa, &told.pools, &told.labels].into_iter().flatten();
        for text in lists.chain([&told.os, &told.toolchain, &told.reason]) {
            assert!(!text.chars().any(|c| c.is_control() || c == '\u{202e}'), "{text:?}");
        }
        assert_eq!((told.isa[1].as_str(), told.labels[1].as_str(), told.slots), ("x86-64", "gpu=yes", 4));
        assert_eq!(told.reason.chars().count(), LONGEST_REASON);
    }

    #[test]
    fn a_machine_has_no_more_than_machines_have() {
        let told = fit(MachineState {
            used_bytes: u64::MAX,
            budget_bytes: u64::MAX,
            owed_copies: u64::MAX,
            owed_bytes: u64::MAX,
            sole_entries: 7,
            sole_bytes: MOST + 1,
            ..Default::default()
        });
        let numbers =
            [told.used_bytes, told.budget_bytes, told.owed_copies, told.owed_bytes, told.sole_bytes];
        assert_eq!((numbers, told.sole_entries), ([MOST; 5], 7));
    }

    #[test]
    fn a_machine_that_speaks_is_neither_lost_nor_refused() {
        let state = |state: i32| fit(MachineState { state, ..Default::default() }).state;
        let possible = [State::Active, State::Yielding, State::Draining, State::Paused];
        for told in -1..20 {
            let is_possible = possible.iter().any(|possible| i32::from(*possible) == told);
            assert_eq!(state(told), if is_possible { told } else { State::Unspecified.into() });
        }
    }
}
