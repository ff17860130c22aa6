//! [`Member`]: what is known of one machine.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::routes::Routes;
use super::{
    CallId, Failure, FoundBy, Greeting, HOPELESS_PAUSE, LinkId, Listed, Proven, Route, STEADY, Standing,
    pause,
};
use crate::config::network::PeerAddress;
use crate::peer::MachineId;

/// What a machine is known as.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// Who it is.
    Machine(MachineId),
    /// Where it should answer: nobody did so far.
    Host(PeerAddress),
}

/// A machine.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: Option<Arc<str>>,
    pub(super) program: Arc<str>,
    pub(super) boot_epoch: Option<u64>,
    pub(super) found_by: FoundBy,
    /// Whether it has ever shown that it has the key of its id.
    pub(super) is_proven: bool,
    pub(super) routes: Routes,
    pub(super) link: Option<Linked>,
    pub(super) call: Option<CallId>,
    pub(super) trouble: Option<Trouble>,
    /// What came of the last dial, if it was nothing.
    last_try: Option<String>,
    /// Dials in a row that came to nothing.
    pub(super) tries: u32,
    /// It is not dialled before.
    pub(super) next: Instant,
    /// When the last dial began.
    pub(super) dialled: Option<Instant>,
    /// When it was last heard of.
    pub(super) heard: Instant,
}

/// The link to a machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Linked {
    pub(super) id: LinkId,
    pub(super) since: Instant,
}

/// Why there is no link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// There was one.
    Lost {
        since: Instant,
        reason: String,
    },
    Refused(String),
    Incompatible(String),
    /// It is this machine.
    Myself,
}

// === impl Key ===

impl Key {
    /// What a machine is called that has not told its name. A host has its port, as machines are called like
    /// their hosts.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Machine(id) => id.to_string(),
            Self::Host(address) => address.with_port(),
        }
    }
}

// === impl Member ===

impl Member {
    pub(super) fn new(now: Instant, found_by: FoundBy) -> Self {
        Self {
            name: None,
            program: "".into(),
            boot_epoch: None,
            found_by,
            is_proven: false,
            routes: Routes::default(),
            link: None,
            call: None,
            trouble: None,
            last_try: None,
            tries: 0,
            next: now,
            dialled: None,
            heard: now,
        }
    }

    /// Whether there is no link in either direction.
    pub(super) fn is_idle(&self) -> bool {
        self.link.is_none() && self.call.is_none()
    }

    /// Whether it is to be dialled when its time has come.
    pub(super) fn waits(&self) -> bool {
        self.link.is_none() && !self.routes.is_empty()
    }

    /// Whether it was heard of once, and that is all.
    pub(super) fn is_rumour(&self) -> bool {
        !self.is_proven && self.is_idle() && self.routes.is_empty()
    }

    /// Whether somebody who knows says that it exists.
    pub(super) fn is_sure(&self) -> bool {
        self.is_proven || self.routes.has_host()
    }

    /// There may be something new: it is dialled soon, though not within `least` of the last dial.
    pub(super) fn hint(&mut self, now: Instant, least: Duration) {
        let soonest = self.dialled.map_or(now, |dialled| now.max(dialled + least));
        self.next = self.next.min(soonest);
    }

    /// It has shown who it is, and is called `name` here.
    pub(super) fn prove(&mut self, now: Instant, greeting: &Greeting, name: Arc<str>) {
        self.is_proven = true;
        self.name = Some(name);
        self.program = Arc::clone(&greeting.program);
        self.boot_epoch = Some(greeting.boot_epoch);
        self.heard = now;
        self.last_try = None;
    }

    /// A dial came to nothing.
    pub(super) fn failed(&mut self, now: Instant, jitter: f64, failure: Failure) {
        self.tries = self.tries.saturating_add(1);
        if self.link.is_some() {
            return;
        }
        self.next = now + pause(self.tries, jitter);
        match failure {
            Failure::Unreachable(reason) => {
                self.trouble.take_if(|trouble| !matches!(trouble, Trouble::Lost { .. }));
                self.last_try = Some(reason);
            }
            Failure::Refused(reason) => self.trouble = Some(Trouble::Refused(reason)),
            Failure::Incompatible { reason, .. } => {
                self.trouble = Some(Trouble::Incompatible(reason));
                self.next = now + HOPELESS_PAUSE;
            }
        }
    }

    /// The link is over.
    pub(super) fn lost(&mut self, now: Instant, jitter: f64, reason: String) {
        let lasted =
            self.link.take().map_or(Duration::ZERO, |link| now.saturating_duration_since(link.since));
        self.tries = if lasted >= STEADY { 0 } else { self.tries.saturating_add(1) };
        self.next = now + pause(self.tries, jitter);
        self.trouble = Some(Trouble::Lost { since: now, reason });
        self.last_try = None;
        self.heard = now;
    }

    fn standing(&self, is_dialled: bool) -> Standing {
        let last_try = self.last_try.clone();
        match (self.link, &self.trouble) {
            (Some(_), _) => Standing::Linked,
            (None, Some(Trouble::Lost { since, reason })) => {
                Standing::Lost { since: *since, reason: reason.clone(), last_try }
            }
            (None, Some(Trouble::Refused(reason))) => Standing::Refused(reason.clone()),
            (None, Some(Trouble::Incompatible(reason))) => Standing::Incompatible(reason.clone()),
            (None, Some(Trouble::Myself) | None) if is_dialled && last_try.is_none() => Standing::Dialling,
            (None, Some(Trouble::Myself) | None) => Standing::Known(last_try),
        }
    }

    pub(super) fn listed(&self, key: &Key, is_dialled: bool) -> Listed {
        let id = match key {
            Key::Machine(id) => Some(*id),
            Key::Host(_) => None,
        };
        Listed {
            id,
            name: self.name.clone().unwrap_or_else(|| key.text().into()),
            program: Arc::clone(&self.program),
            standing: self.standing(is_dialled),
            found_by: if self.routes.has_host() { FoundBy::Configured } else { self.found_by },
            route: self.routes.list().into_iter().next(),
            boot_epoch: self.boot_epoch,
            link: self.link.map(|link| link.id),
            call: self.call,
        }
    }

    pub(super) fn to_proven(&self, key: &Key) -> Option<Proven> {
        let Key::Machine(id) = key else { return None };
        let addresses = self.routes.proven();
        let is_worth_it = self.name.is_some() && !addresses.is_empty();
        is_worth_it.then(|| Proven {
            id: *id,
            name: self.name.clone().unwrap_or_default(),
            addresses,
            heard: self.heard,
        })
    }
}

impl Route {
    /// The address, where the route is one.
    pub fn address(&self) -> Option<std::net::SocketAddr> {
        match self {
            Self::Address(address) => Some(*address),
            Self::Host(_) => None,
        }
    }
}
