//! [`Entrance`]: what stands open to newcomers, for all who look; the news of an invitation go to the one
//! who opened it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

use super::Newcomer;
use super::invitation::MOST_TRIES;

/// What stands open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entrance {
    /// The invitation that can be used; its code is known to the one who opened it.
    pub invitation: Option<Open>,
    /// Newcomers that wait for a person.
    pub waiting: Vec<Newcomer>,
}

/// An invitation that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// Name of the farm.
    pub farm: String,
    /// Where it can be used.
    pub addresses: Vec<SocketAddr>,
    /// Whether a person is asked about who comes.
    pub asks: bool,
    /// When it is over.
    pub expires: SystemTime,
    /// Tries that are left.
    pub tries_left: u32,
}

/// Keeps it up to date. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Doorplate(Arc<watch::Sender<Entrance>>);

/// Takes down what was put up, when dropped.
pub(super) struct Shown {
    doorplate: Doorplate,
    what: What,
}

enum What {
    Invitation,
    Newcomer(u64),
}

// === impl Open ===

impl Open {
    /// Wrong codes that were tried.
    pub fn wrong_codes(&self) -> u32 {
        MOST_TRIES.saturating_sub(self.tries_left)
    }
}

// === impl Doorplate ===

impl Doorplate {
    /// What stands open, now and from now on.
    pub(super) fn watch(&self) -> watch::Receiver<Entrance> {
        self.0.subscribe()
    }

    /// An invitation can be used until what is returned is dropped.
    pub(super) fn open(
        &self,
        farm: &str,
        addresses: &[SocketAddr],
        asks: bool,
        expires: SystemTime,
    ) -> Shown {
        let addresses = addresses.to_vec();
        let open = Open { farm: farm.to_owned(), addresses, asks, expires, tries_left: MOST_TRIES };
        self.0.send_modify(|entrance| entrance.invitation = Some(open));
        Shown { doorplate: self.clone(), what: What::Invitation }
    }

    /// A wrong code was tried.
    pub(super) fn tried(&self, left: u32) {
        self.0.send_modify(|entrance| {
            if let Some(open) = &mut entrance.invitation {
                open.tries_left = left;
            }
        });
    }

    /// A newcomer waits until what is returned is dropped.
    pub(super) fn wait(&self, newcomer: &Newcomer) -> Shown {
        self.0.send_modify(|entrance| entrance.waiting.push(newcomer.clone()));
        Shown { doorplate: self.clone(), what: What::Newcomer(newcomer.number) }
    }
}

// === impl Shown ===

impl Drop for Shown {
    fn drop(&mut self) {
        self.doorplate.0.send_modify(|entrance| match self.what {
            What::Invitation => entrance.invitation = None,
            What::Newcomer(number) => entrance.waiting.retain(|newcomer| newcomer.number != number),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::MachineId;

    #[test]
    fn it_tells_of_what_is_there_and_of_nothing_else() {
        let doorplate = Doorplate::default();
        let seen = doorplate.watch();
        doorplate.tried(3);
        assert_eq!(*seen.borrow(), Entrance::default(), "no invitation, no tries");
        let open = doorplate.open("term forward", &[], true, SystemTime::UNIX_EPOCH);
        doorplate.tried(3);
        let told = seen.borrow().invitation.clone().unwrap();
        assert_eq!((told.tries_left, told.wrong_codes(), told.asks), (3, MOST_TRIES - 3, true));
        let machine = MachineId::read(&[7; 32]).unwrap();
        let check_words = "a b c".to_owned();
        let newcomer = |number| Newcomer {
            number,
            name: "n".into(),
            machine,
            check_words: check_words.clone(),
            address: None,
        };
        let (first, second) = (doorplate.wait(&newcomer(1)), doorplate.wait(&newcomer(2)));
        drop(first);
        assert_eq!(seen.borrow().waiting, [newcomer(2)]);
        drop((second, open));
        assert_eq!(*seen.borrow(), Entrance::default());
    }
}
