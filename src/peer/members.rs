//! [`Members`]: who is there, and whom to dial next. Pure: time, chance and everything that happens come
//! in as arguments, and what is to be done goes out as a list.
//!
//! What is promised, whatever happens in whatever order:
//! - at most one link of this machine to each other one, and at most one dial for it at a time;
//! - no storms: a machine is dialled again after a pause that doubles up to [`LAST_PAUSE`], and at most
//!   [`MOST_DIALS`] dials are under way in all; what is only heard of on the network shortens that
//!   pause rarely;
//! - nothing grows without bound: [`MOST_MEMBERS`] machines with a bounded number of addresses each;
//! - a machine that cannot be linked with is shown, with the reason.
//!
//! Who a machine is comes from a [`Greeting`] alone, which a connection has proven. Everything else, an
//! announcement on the network or an entry in a file, is a hint where one might answer: when another
//! machine answers there, it is that other machine.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::MachineId;
use crate::config::network::PeerAddress;
use member::{Key, Linked, Member, Trouble};
pub use routes::{MOST_ADDRESSES, Route};

mod member;
mod routes;
#[cfg(test)]
mod tests;

/// Machines that are kept in mind.
pub const MOST_MEMBERS: usize = 256;

/// Dials under way at once.
pub const MOST_DIALS: usize = 16;

/// Pause before the first try to dial again.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// What the pause before the next try grows to.
pub const LAST_PAUSE: Duration = Duration::from_secs(30);

/// Pause before a machine is dialled again with which no protocol version is common, or that is this one.
pub const HOPELESS_PAUSE: Duration = Duration::from_secs(300);

/// A link that lasted so long was a good one: the pause begins anew.
const STEADY: Duration = Duration::from_secs(10);

/// A new hint has a machine dialled at once, but so long after the last dial: one that has proven who it
/// is, and one that was only heard of.
const HINT_PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(10)];

/// A machine that was not heard of for so long is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);

/// A dial, and the link that comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// A link that another machine opened to this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId(pub u64);

/// What a machine says of itself at the start of a link, with the id that its certificate proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Who it is.
    pub id: MachineId,
    /// New with each of its starts.
    pub boot_epoch: u64,
    /// Its name; fit to be shown.
    pub name: Arc<str>,
    /// Version of its program; fit to be shown.
    pub program: Arc<str>,
    /// Where it answered, or where it says it does.
    pub address: Option<SocketAddr>,
}

/// Why a dial came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nobody answered, or nobody who speaks as we do.
    Unreachable(String),
    /// It is no member of this farm, or does not take this machine for one.
    Refused(String),
    /// No protocol version is common to both.
    Incompatible {
        /// Who it is, if that is known.
        peer: Option<Greeting>,
        /// Both versions, in words.
        reason: String,
    },
}

/// What happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// An earlier run of the node was linked with a machine.
    Remembered {
        /// Who.
        id: MachineId,
        /// Its name then.
        name: Arc<str>,
        /// Where it was.
        addresses: Vec<SocketAddr>,
    },
    /// One of both has let the other into the farm.
    Met {
        /// Who it says it is.
        id: MachineId,
        /// What it says it is called; fit to be shown.
        name: Arc<str>,
        /// Where it says it answers.
        address: SocketAddr,
    },
    /// The settings name a machine.
    Configured(PeerAddress),
    /// A machine is announced on the network. Anybody may announce anything.
    Sighted {
        /// Who it is said to be.
        id: MachineId,
        /// Where it is said to be.
        addresses: Vec<SocketAddr>,
    },
    /// It is announced no more.
    Vanished(MachineId),
    /// A dial is over.
    Dialled {
        /// Which one.
        link: LinkId,
        /// Who answered and by which route, or why nobody did.
        outcome: Result<(Greeting, Route), Failure>,
    },
    /// A link is over.
    Ended {
        /// Which one.
        link: LinkId,
        /// Why, in words.
        reason: String,
    },
    /// A machine has opened a link to this one.
    Called {
        /// That link.
        call: CallId,
        /// Who.
        greeting: Greeting,
    },
    /// That link is over.
    CallEnded(CallId),
    /// A machine that opened a link to this one was sent away.
    CallRefused {
        /// Who.
        greeting: Greeting,
        /// Why, in words.
        reason: String,
    },
    /// This machine has another farm key.
    KeyChanged,
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Dial these, the likeliest first, until one answers.
    Dial {
        /// The name of the dial.
        link: LinkId,
        /// Where.
        routes: Vec<Route>,
    },
    /// That dial has become the link to a machine: those above may use it.
    Linked {
        /// Which one.
        link: LinkId,
        /// What the machine is called here: no two have the same name.
        name: Arc<str>,
    },
    /// They may not any more.
    Lost {
        /// Which one.
        link: LinkId,
        /// Why, in words.
        reason: String,
    },
    /// End this link in good order.
    Close {
        /// Which one.
        link: LinkId,
        /// What to tell the other machine.
        reason: &'static str,
    },
    /// This machine's callers have it under this name.
    CallNamed {
        /// Which link.
        call: CallId,
        /// The name.
        name: Arc<str>,
    },
    /// End this link of another machine in good order.
    CloseCall {
        /// Which one.
        call: CallId,
        /// What to tell the other machine.
        reason: &'static str,
    },
    /// What is worth to be remembered has changed.
    Remember,
}

/// How a machine was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FoundBy {
    /// It was announced on the network.
    Mdns,
    /// It was linked with before.
    Remembered,
    /// One of both has let the other into the farm.
    Joining,
    /// It opened a link to this machine.
    Call,
    /// The settings name it.
    Configured,
}

/// How a machine stands to this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It was heard of, and not linked with so far; with what came of the last try.
    Known(Option<String>),
    /// The first dial for it is under way.
    Dialling,
    /// There is a link.
    Linked,
    /// There was a link.
    Lost {
        /// Until when.
        since: Instant,
        /// Why it ended.
        reason: String,
        /// What came of the last try to dial again.
        last_try: Option<String>,
    },
    /// No protocol version is common to both; both versions, in words.
    Incompatible(String),
    /// It is no member of this farm, or does not take this machine for one.
    Refused(String),
}

/// A machine, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Who it is; `None` for one that the settings name and that has never answered.
    pub id: Option<MachineId>,
    /// What it is called here: no two have the same.
    pub name: Arc<str>,
    /// Version of its program; empty while it is not known.
    pub program: Arc<str>,
    /// How it stands.
    pub standing: Standing,
    /// How it was found.
    pub found_by: FoundBy,
    /// Where it answered last, or would be dialled first.
    pub route: Option<Route>,
    /// The start of its node that is known.
    pub boot_epoch: Option<u64>,
    /// The link to it.
    pub link: Option<LinkId>,
    /// Its link to this machine.
    pub call: Option<CallId>,
}

/// A machine worth to be remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// Who.
    pub id: MachineId,
    /// Its name.
    pub name: Arc<str>,
    /// Where it answered.
    pub addresses: Vec<SocketAddr>,
    /// When it was last heard of.
    pub heard: Instant,
}

/// The other machines.
#[derive(Debug)]
pub struct Members {
    me: MachineId,
    my_name: Arc<str>,
    my_epoch: u64,
    table: BTreeMap<Key, Member>,
    /// Dials under way, and for which machine each was begun.
    dials: BTreeMap<LinkId, Key>,
    next_link: u64,
}

/// One step: when, by which chance, and what came of it so far.
struct Step {
    now: Instant,
    jitter: f64,
    effects: Vec<Effect>,
}

const SELF: &str = "this is the same machine";
const TWIN: &str = "another machine has the identity of this one: its data directory is a copy";
const ANEW: &str = "its node was started anew";
const DOUBLE: &str = "there is another link";
const TOO_MANY: &str = "too many machines are known";
const NEW_KEY: &str = "the farm has another key";

// === impl Members ===

impl Members {
    /// None yet, for a machine with this id and name in this start of its node.
    pub fn new(me: MachineId, my_name: Arc<str>, my_epoch: u64) -> Self {
        Self { me, my_name, my_epoch, table: BTreeMap::new(), dials: BTreeMap::new(), next_link: 1 }
    }

    /// Takes in what happened at `now`. `jitter`, from 0 to below 1, spreads the pauses that begin now.
    pub fn apply(&mut self, now: Instant, jitter: f64, event: Event) -> Vec<Effect> {
        let mut step = Step { now, jitter: jitter.clamp(0.0, 1.0), effects: Vec::new() };
        match event {
            Event::Remembered { id, name, addresses } => self.remembered(&step, id, name, addresses),
            Event::Met { id, name, address } => self.met(&step, id, name, address),
            Event::Configured(address) => self.configured(&step, address),
            Event::Sighted { id, addresses } => self.sighted(&step, id, addresses),
            Event::Vanished(id) => self.vanished(id),
            Event::Dialled { link, outcome } => self.dialled(&mut step, link, outcome),
            Event::Ended { link, reason } => self.ended(&mut step, link, reason),
            Event::Called { call, greeting } => self.called(&mut step, call, greeting),
            Event::CallEnded(call) => self.call_ended(&step, call),
            Event::CallRefused { greeting, reason } => self.call_refused(&step, greeting, reason),
            Event::KeyChanged => self.key_changed(&mut step),
            Event::Tick => {}
        }
        self.forget(now);
        self.dial(&mut step);
        step.effects
    }

    /// When the next [`Event::Tick`] is due, if nothing else happens before.
    pub fn wake(&self) -> Option<Instant> {
        if self.dials.len() >= MOST_DIALS {
            return None;
        }
        let waiting = self.table.iter().filter(|(key, member)| member.waits() && !self.is_dialled(key));
        waiting.map(|(_, member)| member.next).min()
    }

    /// All machines that are known but this one, for people.
    pub fn list(&self) -> Vec<Listed> {
        let is_shown = |member: &Member| member.trouble != Some(Trouble::Myself) && !member.is_rumour();
        let shown = self.table.iter().filter(|(_, member)| is_shown(member));
        shown.map(|(key, member)| member.listed(key, self.is_dialled(key))).collect()
    }

    /// Machines that have proven who they are.
    pub fn proven(&self) -> Vec<Proven> {
        self.table.iter().filter_map(|(key, member)| member.to_proven(key)).collect()
    }

    // --- hints ---

    fn remembered(&mut self, step: &Step, id: MachineId, name: Arc<str>, addresses: Vec<SocketAddr>) {
        let Some(name) = (id != self.me).then(|| self.free_name(id, name)) else { return };
        if let Some(member) = self.entry(step.now, Key::Machine(id), FoundBy::Remembered, false) {
            member.name.get_or_insert(name);
            member.routes.remember(addresses);
        }
    }

    fn met(&mut self, step: &Step, id: MachineId, name: Arc<str>, address: SocketAddr) {
        let Some(name) = (id != self.me).then(|| self.free_name(id, name)) else { return };
        if let Some(member) = self.entry(step.now, Key::Machine(id), FoundBy::Joining, true) {
            member.name.get_or_insert(name);
            member.heard = step.now;
            member.routes.called(Some(address));
            member.hint(step.now, HINT_PAUSES[0]);
        }
    }

    fn configured(&mut self, step: &Step, address: PeerAddress) {
        let key = Key::Host(address.clone());
        if let Some(member) = self.entry(step.now, key, FoundBy::Configured, true) {
            member.routes.add_host(address);
        }
    }

    fn sighted(&mut self, step: &Step, id: MachineId, addresses: Vec<SocketAddr>) {
        if id == self.me {
            return;
        }
        let Some(member) = self.entry(step.now, Key::Machine(id), FoundBy::Mdns, false) else { return };
        member.heard = step.now;
        if member.routes.sight(addresses) {
            member.hint(step.now, HINT_PAUSES[usize::from(!member.is_proven)]);
        }
    }

    fn vanished(&mut self, id: MachineId) {
        if let Some(member) = self.table.get_mut(&Key::Machine(id)) {
            member.routes.sight(Vec::new());
        }
    }

    // --- links to others ---

    fn dialled(&mut self, step: &mut Step, link: LinkId, outcome: Result<(Greeting, Route), Failure>) {
        let from = self.dials.remove(&link);
        match (outcome, from) {
            (Ok((greeting, route)), Some(from)) => self.answered(step, link, &from, greeting, &route),
            // Its machine was forgotten meanwhile.
            (Ok(_), None) => step.close(link, DOUBLE),
            (Err(failure), from) => {
                let key = from.map(|key| self.known_as(step.now, key, &failure));
                if let Some(member) = key.and_then(|key| self.table.get_mut(&key)) {
                    member.failed(step.now, step.jitter, failure);
                }
            }
        }
    }

    /// Who it was that `from` was taken for, as far as this failure tells.
    fn known_as(&mut self, now: Instant, from: Key, failure: &Failure) -> Key {
        let Failure::Incompatible { peer: Some(greeting), .. } = failure else { return from };
        let key = Key::Machine(greeting.id);
        if greeting.id == self.me {
            return from;
        }
        let route = match (&from, greeting.address) {
            (Key::Host(host), _) => Some(Route::Host(host.clone())),
            (Key::Machine(_), address) => address.map(Route::Address),
        };
        if let Some(route) = &route {
            self.move_route(now, &from, route, greeting.id);
        }
        let name = self.free_name(greeting.id, Arc::clone(&greeting.name));
        let Some(member) = self.entry(now, key.clone(), FoundBy::Configured, true) else { return from };
        member.prove(now, greeting, name);
        member.routes.found(greeting.address);
        if let Some(Route::Host(host)) = route {
            member.routes.add_host(host);
        }
        key
    }

    fn answered(&mut self, step: &mut Step, link: LinkId, from: &Key, greeting: Greeting, route: &Route) {
        if greeting.id == self.me {
            step.close(link, SELF);
            let twin = greeting.boot_epoch != self.my_epoch;
            return self.answered_by_myself(step.now, from, route, twin);
        }
        self.move_route(step.now, from, route, greeting.id);
        let name = self.free_name(greeting.id, Arc::clone(&greeting.name));
        let Some(member) = self.entry(step.now, Key::Machine(greeting.id), FoundBy::Configured, true) else {
            return step.close(link, TOO_MANY);
        };
        if let Route::Host(host) = route {
            member.routes.add_host(host.clone());
        }
        if let Some(old) = member.link {
            if member.boot_epoch == Some(greeting.boot_epoch) {
                return step.close(link, DOUBLE);
            }
            step.close(old.id, ANEW);
            step.lose(old.id, ANEW);
        }
        member.prove(step.now, &greeting, Arc::clone(&name));
        member.routes.found(greeting.address);
        member.trouble = None;
        member.link = Some(Linked { id: link, since: step.now });
        step.effects.extend([Effect::Linked { link, name }, Effect::Remember]);
    }

    /// `from` was looked for, and this machine answered, or one that has its key.
    fn answered_by_myself(&mut self, now: Instant, from: &Key, route: &Route, twin: bool) {
        if let (Key::Machine(_), Some(member)) = (from, self.table.get_mut(from)) {
            member.routes.lose(route);
        }
        let Route::Host(host) = route else { return };
        let Some(member) = self.entry(now, Key::Host(host.clone()), FoundBy::Configured, true) else {
            return;
        };
        member.routes.add_host(host.clone());
        member.trouble = Some(if twin { Trouble::Refused(TWIN.to_owned()) } else { Trouble::Myself });
        member.next = now + HOPELESS_PAUSE;
    }

    /// `from` was looked for, and `id` answered: where that was is no way to `from`.
    fn move_route(&mut self, now: Instant, from: &Key, route: &Route, id: MachineId) {
        match from {
            Key::Machine(looked_for) if *looked_for == id => {}
            Key::Machine(_) => {
                if let Some(member) = self.table.get_mut(from) {
                    member.routes.lose(route);
                    member.hint(now, HINT_PAUSES[0]);
                }
            }
            Key::Host(_) => {
                self.table.remove(from);
            }
        }
    }

    fn ended(&mut self, step: &mut Step, link: LinkId, reason: String) {
        let of_link = |member: &&mut Member| member.link.is_some_and(|linked| linked.id == link);
        if let Some(member) = self.table.values_mut().find(of_link) {
            member.lost(step.now, step.jitter, reason.clone());
            step.effects.extend([Effect::Lost { link, reason }, Effect::Remember]);
        }
    }

    // --- links of others ---

    fn called(&mut self, step: &mut Step, call: CallId, greeting: Greeting) {
        if greeting.id == self.me {
            let reason = if greeting.boot_epoch == self.my_epoch { SELF } else { TWIN };
            return step.effects.push(Effect::CloseCall { call, reason });
        }
        let name = self.free_name(greeting.id, Arc::clone(&greeting.name));
        let Some(member) = self.entry(step.now, Key::Machine(greeting.id), FoundBy::Call, true) else {
            return step.effects.push(Effect::CloseCall { call, reason: TOO_MANY });
        };
        if let Some(old) = member.call.replace(call) {
            step.effects.push(Effect::CloseCall { call: old, reason: DOUBLE });
        }
        if let Some(old) = member.link.filter(|_| member.boot_epoch != Some(greeting.boot_epoch)) {
            step.close(old.id, ANEW);
            step.lose(old.id, ANEW);
            member.lost(step.now, step.jitter, ANEW.to_owned());
        }
        member.prove(step.now, &greeting, Arc::clone(&name));
        member.routes.called(greeting.address);
        // What kept us from linking before may be over: it has a reason to call.
        member.trouble.take_if(|trouble| !matches!(trouble, Trouble::Lost { .. }));
        member.tries = member.tries.min(2);
        member.hint(step.now, FIRST_PAUSE);
        step.effects.extend([Effect::CallNamed { call, name }, Effect::Remember]);
    }

    fn call_ended(&mut self, step: &Step, call: CallId) {
        if let Some(member) = self.table.values_mut().find(|member| member.call == Some(call)) {
            member.call = None;
            member.heard = step.now;
        }
    }

    fn call_refused(&mut self, step: &Step, greeting: Greeting, reason: String) {
        if greeting.id == self.me {
            return;
        }
        let name = self.free_name(greeting.id, Arc::clone(&greeting.name));
        let Some(member) = self.entry(step.now, Key::Machine(greeting.id), FoundBy::Call, true) else {
            return;
        };
        member.prove(step.now, &greeting, name);
        member.routes.called(greeting.address);
        if member.link.is_none() {
            member.trouble = Some(Trouble::Incompatible(reason));
            member.next = member.next.max(step.now + HOPELESS_PAUSE);
        }
    }

    fn key_changed(&mut self, step: &mut Step) {
        for member in self.table.values_mut() {
            if let Some(call) = member.call.take() {
                step.effects.push(Effect::CloseCall { call, reason: NEW_KEY });
            }
            if let Some(old) = member.link {
                step.close(old.id, NEW_KEY);
                step.lose(old.id, NEW_KEY);
                member.lost(step.now, step.jitter, NEW_KEY.to_owned());
            }
            member.trouble.take_if(|trouble| !matches!(trouble, Trouble::Lost { .. }));
            member.tries = 0;
            member.next = step.now + pause(0, step.jitter);
        }
    }

    // --- bounds ---

    /// The entry of `key`, made if there is none; `None` if there is no room. An `is_sure` newcomer takes
    /// the place of any that is out of reach, another one only that of those who have proven nothing.
    fn entry(&mut self, now: Instant, key: Key, found_by: FoundBy, is_sure: bool) -> Option<&mut Member> {
        if !self.table.contains_key(&key) && self.table.len() >= MOST_MEMBERS {
            let least = self.least_wanted(is_sure)?;
            self.table.remove(&least);
        }
        Some(self.table.entry(key).or_insert_with(|| Member::new(now, found_by)))
    }

    /// Whose place a newcomer may take: of those in question one that did not answer, the longest unheard.
    fn least_wanted(&self, is_sure: bool) -> Option<Key> {
        let idle = self.table.iter().filter(|(key, member)| {
            matches!(key, Key::Machine(_)) && member.is_idle() && !member.routes.has_host()
        });
        let in_question = idle.filter(|(_, member)| is_sure || !member.is_proven);
        in_question
            .min_by_key(|(_, member)| (member.is_proven, member.tries == 0, member.heard))
            .map(|(key, _)| key.clone())
    }

    fn forget(&mut self, now: Instant) {
        let is_old = |member: &Member| now.saturating_duration_since(member.heard) > FORGET_AFTER;
        // One that was dialled not long ago is kept, so that it is not dialled again if it comes back.
        let was_dialled = |member: &Member| {
            member.dialled.is_some_and(|dialled| now.saturating_duration_since(dialled) < HINT_PAUSES[1])
        };
        self.table.retain(|_, member| {
            let is_kept = !member.is_idle() || member.routes.has_host();
            is_kept || !(is_old(member) || member.is_rumour() && !was_dialled(member))
        });
    }

    fn is_dialled(&self, key: &Key) -> bool {
        self.dials.values().any(|dialled| dialled == key)
    }

    /// Begins the dials that are due: machines that are known to exist first.
    fn dial(&mut self, step: &mut Step) {
        if self.dials.len() >= MOST_DIALS {
            return;
        }
        let is_due =
            |key: &Key, member: &Member| member.waits() && member.next <= step.now && !self.is_dialled(key);
        let due = self.table.iter().filter(|(key, member)| is_due(key, member));
        let mut due: Vec<_> =
            due.map(|(key, member)| (!member.is_sure(), member.next, key.clone())).collect();
        due.sort();
        due.truncate(MOST_DIALS - self.dials.len());
        for (_, _, key) in due {
            let Some(member) = self.table.get_mut(&key) else { continue };
            member.dialled = Some(step.now);
            member.next = step.now + pause(member.tries, step.jitter);
            let link = LinkId(self.next_link);
            self.next_link += 1;
            step.effects.push(Effect::Dial { link, routes: member.routes.list() });
            self.dials.insert(link, key);
        }
    }

    // --- names ---

    /// What `id`, which calls itself `said`, is called here.
    fn free_name(&self, id: MachineId, said: Arc<str>) -> Arc<str> {
        let is_other = |key: &Key| *key != Key::Machine(id);
        let has_it = |(key, member): (&Key, &Member), name: &str| match &member.name {
            Some(known) => **known == *name,
            None => key.text() == name,
        };
        let is_taken = |name: &str| {
            let mut others = self.table.iter().filter(|(key, _)| is_other(key));
            *self.my_name == *name || others.any(|other| has_it(other, name))
        };
        if !said.is_empty() && !is_taken(&said) {
            return said;
        }
        let digits = id.to_string();
        let candidates = [4, 8, 16].map(|count| format!("{said}-{}", &digits[..count]));
        let free = candidates.iter().find(|name| !is_taken(name)).unwrap_or(&candidates[2]);
        free.trim_start_matches('-').into()
    }
}

// === impl Step ===

impl Step {
    fn close(&mut self, link: LinkId, reason: &'static str) {
        self.effects.push(Effect::Close { link, reason });
    }

    fn lose(&mut self, link: LinkId, reason: &str) {
        self.effects.push(Effect::Lost { link, reason: reason.to_owned() });
    }
}

// === impl FoundBy ===

impl fmt::Display for FoundBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mdns => "mdns",
            Self::Remembered => "remembered",
            Self::Joining => "joining",
            Self::Call => "called",
            Self::Configured => "configured",
        })
    }
}

/// The pause before the next try after `tries` that came to nothing: half of it is chance.
fn pause(tries: u32, jitter: f64) -> Duration {
    let whole = FIRST_PAUSE.saturating_mul(1 << tries.min(10)).min(LAST_PAUSE);
    whole.mul_f64(0.5 + jitter / 2.0)
}
