//! One link: a connection between two machines that both have shown who they are, and what is said over
//! it for as long as both are there.
//!
//! A machine opens one to each other one and is called by each in turn. `dial` makes the connection of
//! such a link, [`outgoing`] is that end, [`incoming`] the end of the machine that was called. What both
//! ends do alike: `voice` says what there is to say and something at least each second, `ear` listens and
//! notices silence. Calls of those above go over the same connection, by [`PeerChannel`].
//!
//! The other machine is one of us, and may still be broken: what it says is bounded, and made fit to be
//! shown where it is text.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use farmhand_proto::peer::Hello;
use farmhand_proto::time::timestamp;

use super::MachineId;
use super::members::Greeting;

mod answering;
mod channel;
mod dial;
mod ear;
pub mod incoming;
mod life;
pub mod outgoing;
mod voice;
pub mod words;

pub use channel::{AnyChannel, PeerChannel, boxed};
pub use life::{Life, Pulse, Pulsed};

/// Versions of `farmhand.peer.v1` this program speaks.
pub const PROTOCOL: RangeInclusive<u32> = 1..=1;

/// Something is said at least so often.
const BEAT: Duration = Duration::from_secs(1);

/// Who says nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(3);

/// A machine whose bytes come in, and no message in so long, is as good as gone.
const MUTE: Duration = Duration::from_secs(10);

/// Time for each step of the opening: to connect, to show who one is, to say hello.
const OPENING: Duration = Duration::from_secs(3);

/// Bytes of the largest message over a link.
const MOST_BYTES: usize = 256 * 1024;

/// Characters of the longest name and of the longest reason that are shown.
const LONGEST_NAME: usize = 253;
const LONGEST_REASON: usize = 300;

/// This machine, as it tells others.
#[derive(Clone, Debug)]
pub struct Me {
    /// Who it is.
    pub id: MachineId,
    /// Its name.
    pub name: Arc<str>,
    /// Which start of its node this is.
    pub boot_epoch: u64,
    /// Port on which it takes links.
    pub port: u16,
}

/// Why a link is to end in good order; tells its end when set.
pub(super) type Closing = tokio::sync::watch::Receiver<Option<&'static str>>;

/// Ends a link in good order.
#[derive(Clone, Debug)]
pub struct Closer(Arc<tokio::sync::watch::Sender<Option<&'static str>>>);

// === impl Me ===

impl Me {
    fn hello(&self) -> Hello {
        Hello {
            name: self.name.to_string(),
            program: program().to_owned(),
            least_protocol: *PROTOCOL.start(),
            most_protocol: *PROTOCOL.end(),
            boot_epoch: self.boot_epoch,
            peer_port: self.port.into(),
            now: Some(timestamp(SystemTime::now())),
        }
    }

    /// Why no version is common to this machine and the one that says `hello`; `None` if one is.
    fn incompatible(&self, hello: &Hello) -> Option<String> {
        let theirs = hello.least_protocol..=hello.most_protocol;
        let is_common = theirs.start().max(PROTOCOL.start()) <= theirs.end().min(PROTOCOL.end());
        (!is_common).then(|| {
            format!(
                "{} runs farmhand {} ({}), {} runs farmhand {} ({})",
                words::shown(&hello.name, LONGEST_NAME),
                words::shown(&hello.program, LONGEST_NAME),
                versions(&theirs),
                self.name,
                program(),
                versions(&PROTOCOL)
            )
        })
    }
}

fn program() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

fn versions(range: &RangeInclusive<u32>) -> String {
    match (range.start(), range.end()) {
        (least, most) if least == most => format!("protocol {least}"),
        (least, most) => format!("protocols {least} to {most}"),
    }
}

/// What the machine with this id says of itself.
fn greeting(id: MachineId, hello: &Hello, address: Option<std::net::SocketAddr>) -> Greeting {
    Greeting {
        id,
        boot_epoch: hello.boot_epoch,
        name: words::name(&hello.name, LONGEST_NAME).into(),
        program: words::name(&hello.program, LONGEST_NAME).into(),
        address,
    }
}

// === impl Closer ===

impl Closer {
    fn new() -> (Self, Closing) {
        let (sender, closing) = tokio::sync::watch::channel(None);
        (Self(Arc::new(sender)), closing)
    }

    /// Ends the link, with this as the reason for the other machine.
    pub fn close(&self, reason: &'static str) {
        self.0.send_if_modified(|told| told.is_none() && told.replace(reason).is_none());
    }
}

/// Returns when the link is to end, with the reason.
async fn closed(closing: &mut Closing) -> &'static str {
    let reason = closing.wait_for(Option::is_some).await.map(|reason| reason.unwrap_or_default());
    match reason {
        Ok(reason) => reason,
        // Nobody can close it any more.
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(least: u32, most: u32) -> Hello {
        let name = "at\u{1b}tic".to_owned();
        Hello {
            name,
            program: "9.9".into(),
            least_protocol: least,
            most_protocol: most,
            ..Default::default()
        }
    }

    #[test]
    fn a_common_version_is_enough() {
        let me = Me { id: MachineId::new([1; 32]), name: "me".into(), boot_epoch: 1, port: 1 };
        for (least, most) in [(1, 1), (0, 1), (1, 7), (0, u32::MAX)] {
            assert_eq!(me.incompatible(&hello(least, most)), None, "{least} {most}");
        }
        let reason = me.incompatible(&hello(7, 8)).unwrap();
        assert_eq!(
            reason,
            format!(
                "at\u{241b}tic runs farmhand 9.9 (protocols 7 to 8), me runs farmhand {} (protocol 1)",
                program()
            )
        );
        for (least, most) in [(0, 0), (2, 2), (3, 1), (u32::MAX, 0)] {
            assert!(me.incompatible(&hello(least, most)).is_some(), "{least} {most}");
        }
    }

    #[test]
    fn names_of_others_cannot_do_harm() {
        let id = MachineId::new([1; 32]);
        let greeting = greeting(id, &Hello { name: " a\nb\u{202e} ".into(), ..hello(1, 1) }, None);
        assert!(!greeting.name.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\u{202e}'));
    }
}
