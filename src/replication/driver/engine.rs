//! [`Engine`]: the task that takes in what happens, and has done what is to be done.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::healing::{Healed, Healing, heal};
use super::inbox::News;
use super::links::{Link, LinkEvent, Links};
use super::waiting::{Known, Wait, Waiting};
use super::{Reach, Shared, Shown, Told};
use crate::cas::entry::{EntryKey, Standing};
use crate::cas::fetch::Fetcher;
use crate::peer::MachineId;
use crate::replication::census::keepers::{self, Keeper};
use crate::replication::census::{Census, Offer, Settings};
use crate::replication::copies::{Entry, Other};
use crate::replication::owed::{Event, Figures, Limits, Owed};
use crate::replication::placement::MOST_COPIES;
use crate::replication::roster::{Role, Roster};
use crate::tasks::Tasks;

/// News taken in before other tasks get a turn.
const TURN: usize = 1000;

/// Others are told what is owed here at most so often.
const TELLING: Duration = Duration::from_secs(1);

/// So long after a copy was given, and at most so many at a time, it is looked whether anybody said that there are
/// enough: whoever gave it may be gone.
const GIVEN: Duration = Duration::from_secs(15);
const MOST_GIVEN: usize = 100_000;

/// What the engine takes in from tasks of its own, and from those who wait.
pub(super) enum Happened {
    /// What became of something that [`Owed`] wanted.
    Owed(Vec<Event>),
    /// What the machine at the other end of a link tells.
    Said { link: u64, id: MachineId, said: Said },
    /// A machine was told of complete entries, or not.
    Settled { link: u64, id: MachineId },
    /// Somebody waits for copies.
    Wait(Wait),
    /// What became of a damaged entry.
    Healed(EntryKey, Healed),
    /// The file of keepers is written, or not.
    Written,
}

/// What matters of what a machine tells of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub offer: Offer,
    pub has_more: bool,
}

/// A link there is.
pub(super) struct Open {
    pub link: Link,
    /// Tells it from earlier ones to the same machine.
    pub number: u64,
    /// Ends with the link.
    pub end: CancellationToken,
    _end: DropGuard,
    /// Complete entries the machine is not told of yet.
    pub settled: VecDeque<EntryKey>,
    /// The fingerprint of the farm in which they are.
    pub settled_in: u64,
    /// Entries that the machine is to ask for itself.
    pub looks: VecDeque<EntryKey>,
    pub is_settling: bool,
}

/// See the module.
pub(super) struct Engine {
    pub(super) shared: Arc<Shared>,
    pub(super) tasks: Tasks,
    pub(super) open: BTreeMap<MachineId, Open>,
    pub(super) sender: mpsc::Sender<Happened>,
    links: Box<dyn Links>,
    happened: mpsc::Receiver<Happened>,
    role: watch::Receiver<Role>,
    links_seen: u64,
    census: Census,
    owed: Owed,
    /// What `owed` knows of the farm.
    roster: Option<Arc<Roster>>,
    /// Its fingerprint.
    pub(super) farm: u64,
    /// What others gave lately, and when.
    given: VecDeque<(Instant, EntryKey)>,
    waiting: Waiting,
    healing: Healing,
    fetcher: Fetcher,
    /// What the file of keepers has, or is to have.
    keepers: Vec<Keeper>,
    is_writing: bool,
    told_at: Instant,
    /// When others are told what is new.
    tell_at: Option<Instant>,
}

// === impl Engine ===

impl Engine {
    pub(super) async fn new(
        shared: Arc<Shared>,
        links: Box<dyn Links>,
        boot_epoch: u64,
        happened: mpsc::Receiver<Happened>,
        tasks: Tasks,
    ) -> Self {
        let config = &shared.config;
        let settings = Settings {
            me: config.me,
            name: Arc::clone(&config.name),
            boot_epoch,
            weight: config.weight,
            copies: config.copies,
            repair_after: config.repair_after,
        };
        let path = config.keepers_file.clone();
        let read = tasks.spawn_blocking(move || keepers::read(&path)).await;
        let keepers = match read {
            Ok(Ok(keepers)) => keepers,
            Ok(Err(error)) => {
                let path = config.keepers_file.display();
                tracing::warn!(%error, %path, "the machines that keep copies are not remembered");
                Vec::new()
            }
            // The panic was logged.
            Err(_) => Vec::new(),
        };
        let now = Instant::now();
        let mut engine = Self {
            census: Census::new(settings, keepers.clone(), now),
            owed: Owed::new(Limits::default()),
            open: BTreeMap::new(),
            sender: shared.sender.clone(),
            links,
            happened,
            role: shared.role.subscribe(),
            links_seen: 0,
            roster: None,
            farm: 0,
            given: VecDeque::new(),
            waiting: Waiting::default(),
            healing: Healing::default(),
            fetcher: Fetcher::new(Arc::clone(&shared.kept)),
            keepers,
            is_writing: false,
            told_at: now,
            tell_at: None,
            tasks,
            shared,
        };
        engine.role.mark_changed();
        engine.census_changed();
        engine
    }

    /// Runs until the node ends.
    pub(super) async fn run(mut self) {
        let stop = self.tasks.token().clone();
        while stop.run_until_cancelled(self.step()).await.is_some() {}
    }

    async fn step(&mut self) {
        let wake = self.wake();
        tokio::select! {
            event = self.links.next() => self.link_event(event),
            Some(happened) = self.happened.recv() => self.take_in(happened),
            () = self.shared.inbox.came() => {
                let news = self.shared.inbox.take();
                self.news(news).await;
            }
            Ok(()) = self.role.changed() => {
                let role = *self.role.borrow_and_update();
                self.census.set_role(Instant::now(), role);
                self.census_changed();
            }
            () = at(wake) => self.tick(),
        }
        self.heal();
        self.show();
    }

    fn wake(&self) -> Option<Instant> {
        let healing = self.healing.next().filter(|_| !self.open.is_empty());
        let given = self.given.front().map(|(at, _)| *at + GIVEN);
        [self.owed.next(), self.census.next(), self.tell_at, healing, given].into_iter().flatten().min()
    }

    fn tick(&mut self) {
        let now = Instant::now();
        if self.census.next().is_some_and(|next| next <= now) {
            self.poll(now);
        }
        if self.owed.next().is_some_and(|next| next <= now) {
            self.apply(Event::Tick);
        }
        self.look_after_given(now);
    }

    // --- who there is ---

    fn poll(&mut self, now: Instant) {
        if let Some(roster) = self.census.poll(now) {
            self.look_into(roster);
        }
        self.census_changed();
    }

    /// Has copies made, and compared, for these machines from now on.
    fn look_into(&mut self, roster: Arc<Roster>) {
        let keepers = roster.machines().iter().filter(|machine| machine.counts()).count();
        let linked = roster.others().count();
        tracing::info!(keepers, linked, copies = roster.copies(), "the farm keeps copies");
        let is_alone = roster.machines().len() == 1;
        self.farm = roster.fingerprint();
        self.roster = Some(Arc::clone(&roster));
        // In this order, what is written meanwhile is told, or found when the store is looked through.
        if !is_alone {
            self.shared.inbox.set_alone(false);
        }
        self.apply(Event::Roster(roster));
        if is_alone {
            self.shared.inbox.set_alone(true);
        }
        for key in self.waiting.keys() {
            self.look_after(&key);
        }
    }

    /// Shows who there is to those who read, and writes it down. How far copies are is shown first: nobody may take
    /// what was said of other machines for what is said of these.
    fn census_changed(&mut self) {
        self.show();
        self.shared.set_roster(self.census.roster());
        let keepers = self.census.keepers();
        if self.is_writing || keepers == self.keepers {
            return;
        }
        self.is_writing = true;
        self.keepers.clone_from(&keepers);
        let (path, sender) = (self.shared.config.keepers_file.clone(), self.sender.clone());
        let written = self.tasks.spawn_blocking(move || {
            if let Err(error) = keepers::write(&path, &keepers) {
                let path = path.display();
                tracing::warn!(%error, %path, "the machines that keep copies are not remembered");
            }
        });
        self.spawn(async move {
            // A panic was logged.
            let _ = written.await;
            let _ = sender.send(Happened::Written).await;
        });
    }

    fn link_event(&mut self, event: LinkEvent) {
        let now = Instant::now();
        match event {
            LinkEvent::Linked(link) => self.linked(now, link),
            LinkEvent::Lost(id) => {
                // Its calls end with it.
                self.open.remove(&id);
                self.shared.links().remove(&id);
                self.census.lost(now, id);
            }
        }
        self.census_changed();
    }

    fn linked(&mut self, now: Instant, mut link: Link) {
        self.links_seen += 1;
        let (number, id) = (self.links_seen, link.id);
        let end = self.tasks.token().child_token();
        let other = Other { id, copies: Arc::clone(&link.copies), blobs: Arc::clone(&link.blobs) };
        self.shared.links().insert(id, Reach { other, has_more: false });
        self.census.linked(now, id, Arc::clone(&link.name), link.boot_epoch);
        let said = Said::of(&mut link);
        if let Some(said) = said {
            self.said(now, id, said);
        }
        let (follow, sender, ended) = (link.clone(), self.sender.clone(), end.clone());
        self.spawn(async move {
            ended.run_until_cancelled(follow_state(follow, number, said, sender)).await;
        });
        let open = Open {
            link,
            number,
            _end: end.clone().drop_guard(),
            end,
            settled: VecDeque::new(),
            settled_in: self.farm,
            looks: VecDeque::new(),
            is_settling: false,
        };
        self.open.insert(id, open);
    }

    fn said(&mut self, now: Instant, id: MachineId, said: Said) {
        self.census.told(now, id, said.offer);
        if let Some(reach) = self.shared.links().get_mut(&id) {
            reach.has_more = said.has_more;
        }
    }

    // --- what happens ---

    fn take_in(&mut self, happened: Happened) {
        match happened {
            Happened::Owed(events) => {
                let about: Vec<EntryKey> = events.iter().flat_map(|event| self.waited_for(event)).collect();
                events.into_iter().for_each(|event| self.apply(event));
                about.iter().for_each(|key| self.look_after(key));
            }
            Happened::Said { link, id, said } => {
                if self.open.get(&id).is_some_and(|open| open.number == link) {
                    self.said(Instant::now(), id, said);
                    self.census_changed();
                }
            }
            Happened::Settled { link, id } => self.settled(link, id),
            Happened::Wait(wait) => {
                let key = wait.key;
                self.waiting.add(wait);
                let news = self.shared.inbox.take();
                self.news_now(&news);
                self.see_to(key);
                self.look_after(&key);
            }
            Happened::Healed(key, healed) => {
                self.healing.end(Instant::now(), key, healed);
                if healed == Healed::Yes {
                    tracing::info!(?key, "a damaged entry was replaced by a good copy");
                    let bytes = self.shared.store.look(&key).map_or(0, |entry| entry.bytes);
                    self.shared.count_healed(bytes);
                    self.see_to(key);
                }
            }
            Happened::Written => {
                self.is_writing = false;
                self.census_changed();
            }
        }
    }

    /// Takes in what the store told; others get a turn now and then.
    async fn news(&mut self, mut news: News) {
        let stored = std::mem::take(&mut news.stored);
        for some in stored.chunks(TURN) {
            some.iter().for_each(|(key, bytes)| self.apply(Event::Stored { key: *key, bytes: *bytes }));
            yield_now().await;
        }
        self.news_now(&news);
    }

    fn news_now(&mut self, news: &News) {
        for (key, bytes) in &news.stored {
            self.apply(Event::Stored { key: *key, bytes: *bytes });
        }
        if !news.used.is_empty() {
            self.apply(Event::Used(news.used.clone()));
        }
        let (now, room) = (Instant::now(), MOST_GIVEN.saturating_sub(self.given.len()));
        self.given.extend(news.given.iter().take(room).map(|key| (now, *key)));
        for range in news.missed.iter() {
            self.apply(Event::Missed(range));
        }
        news.damaged.iter().for_each(|key| self.healing.add(*key));
        if !news.damaged.is_empty() {
            self.apply(Event::Gone(news.damaged.clone()));
        }
    }

    /// Asks for what was given some time ago if nobody has said that there are enough copies of it.
    fn look_after_given(&mut self, now: Instant) {
        let due = self.given.partition_point(|(at, _)| *at + GIVEN <= now);
        let is_left = |key: &EntryKey| {
            let is_sole = |entry: Entry| entry.standing == Standing::Sole;
            self.owed.confirmed(key).is_none() && self.shared.store.look(key).is_some_and(is_sole)
        };
        let left: Vec<EntryKey> = self.given.iter().take(due).map(|(_, key)| *key).filter(is_left).collect();
        self.given.drain(..due);
        if !left.is_empty() {
            self.apply(Event::Used(left));
        }
    }

    /// Has what is here of `key` copied, if nothing is known of copies.
    fn see_to(&mut self, key: EntryKey) {
        let entry = self.shared.store.look(&key).filter(|entry| entry.standing == Standing::Sole);
        if let (None, Some(entry)) = (self.owed.confirmed(&key), entry) {
            self.apply(Event::Stored { key, bytes: entry.bytes });
        }
    }

    /// Applies an event, and has done what is to be done.
    pub(super) fn apply(&mut self, event: Event) {
        for effect in self.owed.apply(Instant::now(), event) {
            self.perform(effect);
        }
    }

    // --- those who wait ---

    /// Keys somebody waits for of which `event` tells.
    fn waited_for(&self, event: &Event) -> Vec<EntryKey> {
        let keys = match event {
            Event::Asked { keys, .. } | Event::Given { keys, .. } | Event::Gone(keys) => &keys[..],
            Event::Sent { key, .. } => std::slice::from_ref(key),
            _ => &[],
        };
        keys.iter().filter(|key| self.waiting.is_waited_for(key)).copied().collect()
    }

    fn look_after(&mut self, key: &EntryKey) {
        let known = self.known(key);
        let possible = self.roster.as_ref().map_or(0, |roster| roster.copies());
        self.waiting.look(key, known, possible);
    }

    fn known(&self, key: &EntryKey) -> Known {
        if self.roster.is_none() {
            return Known::Nothing;
        }
        let Some(entry) = self.shared.store.look(key) else { return Known::Gone };
        match self.owed.confirmed(key) {
            Some(confirmed) => Known::Some(confirmed),
            None if entry.standing == Standing::Sole => Known::Some(1),
            None => Known::All,
        }
    }

    // --- damage ---

    fn heal(&mut self) {
        while !self.open.is_empty() {
            let Some(key) = self.healing.begin(Instant::now()) else { return };
            let others = self.others_for(&key);
            let (store, fetcher) = (Arc::clone(&self.shared.store), self.fetcher.clone());
            let sender = self.sender.clone();
            self.spawn(async move {
                let healed = heal(key, &others, &*store, &fetcher).await;
                let _ = sender.send(Happened::Healed(key, healed)).await;
            });
        }
    }

    /// The machines there is a link to, those first that should have `key`.
    fn others_for(&self, key: &EntryKey) -> Vec<Other> {
        let roster = self.shared.roster();
        let places: Vec<MachineId> = roster.places(key, MOST_COPIES).iter().collect();
        let rank = |id: MachineId| places.iter().position(|place| *place == id).unwrap_or(MOST_COPIES);
        let mut others: Vec<Other> = self.shared.links().values().map(|reach| reach.other.clone()).collect();
        others.sort_by_key(|other| rank(other.id));
        others
    }

    // --- what others see ---

    fn show(&mut self) {
        let now = Instant::now();
        let figures = self.figures(now);
        self.shared.show(Shown { at: now, figures });
        let told = Told {
            role: *self.role.borrow(),
            owed_copies: figures.owed_copies(),
            owed_bytes: figures.writes.bytes + figures.repairs.bytes,
        };
        if *self.shared.told.borrow() == told {
            self.tell_at = None;
        } else if self.told_at + TELLING <= now {
            self.told_at = now;
            self.tell_at = None;
            self.shared.told.send_replace(told);
        } else {
            self.tell_at = Some(self.told_at + TELLING);
        }
    }

    fn figures(&self, now: Instant) -> Figures {
        let figures = self.owed.figures(now);
        // Nothing is compared with a farm that is not known yet.
        let is_known = self.roster.is_some() && self.census.is_told();
        if is_known { figures } else { Figures { compared: 0.0, ..figures } }
    }

    /// Runs `work` until it is over, or the node ends.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.tasks.token().clone();
        self.tasks.spawn("copies", async move {
            stop.run_until_cancelled(work).await;
        });
    }
}

// === impl Said ===

impl Said {
    /// What the machine at the other end of `link` tells now; `None` if it has told nothing.
    fn of(link: &mut Link) -> Option<Self> {
        let state = link.state.borrow_and_update();
        let state = state.as_ref()?;
        // What it has alone may be what nobody else had room for.
        let has_more = state.owed_copies > 0 || state.sole_entries > 0;
        Some(Self { offer: Offer::of(state), has_more })
    }
}

/// Tells what the machine at the other end of `link` says, whenever that changes.
async fn follow_state(mut link: Link, number: u64, mut last: Option<Said>, sender: mpsc::Sender<Happened>) {
    loop {
        let said = Said::of(&mut link);
        if let Some(said) = said.filter(|_| said != last) {
            last = Some(said);
            if sender.send(Happened::Said { link: number, id: link.id, said }).await.is_err() {
                return;
            }
        }
        if link.state.changed().await.is_err() {
            return;
        }
    }
}

/// Returns at `moment`, if there is one.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
