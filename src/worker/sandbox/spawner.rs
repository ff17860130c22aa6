//! The spawner proper: takes requests from the daemon and runs one command at a time.
//!
//! In a sandbox it is the first process of its pid namespace. After each action it kills
//! everything else in there, which leaves nothing, whatever the processes did to get away; orphans
//! are its children, and are taken in when they end. The namespace serves many actions, one after
//! the other: it is empty in between, each action has user, mount, IPC and network namespaces to
//! itself, and a spawner that finds itself changed by an action (see [`Condition`]) retires.
//!
//! A command that is kept (`keeper`) has the spawner to itself until it ends.
//!
//! Because the command is not the first process of its namespace, signals mean to it what they
//! mean outside.
//!
//! When the daemon dies, the spawner sees the end of its socket, kills what runs, and ends.

use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use rustix::time::{ClockId, clock_gettime};

use super::cgroup;
use super::channel::Channel;
use super::condition::Condition;
use super::enter::{self, Mounts};
use super::guardian::Guardian;
use super::launch::{self, Launch, Ready};
use super::memory::{MEMORY, Memory, Watch};
use super::network::Loopback;
use super::parts::Parts;
use super::sys::{self, ChildStack, Reaped};
use super::template::{Copy, Template};
use super::wire::{Failure, Order, Reply, Request};
use crate::worker::{Exit, InputRoot, Network, Outcome, Overlay, Usage, plain};

mod keeper;

/// Serves one daemon.
pub(super) struct Spawner {
    /// Readable when a child has ended.
    children: OwnedFd,
    null: OwnedFd,
    stack: ChildStack,
    guardian: Guardian,
    containment: Containment,
    /// Its claim to the processors, where it has one of its own.
    seat: Option<cgroup::Seat>,
}

/// What keeps an action apart.
enum Containment {
    Sandbox(Box<Sandbox>),
    Plain,
}

/// What a sandboxing spawner keeps between actions.
struct Sandbox {
    template: Template,
    condition: Condition,
    network: Option<Loopback>,
    /// Mount namespace of the action that runs or has just ended.
    mounts: Option<Copy>,
    /// Input root of the kept command that runs or has just ended.
    parts: Option<Parts>,
}

/// The main process of an action, and what all of its processes that have ended so far used.
struct Running {
    main: Pid,
    started: Duration,
    ended: Option<Outcome>,
    usage: Usage,
    /// Since when it stands still, and for how long it did before.
    still_since: Option<Duration>,
    stood: Duration,
}

/// What woke a supervising spawner.
enum Event {
    ChildEnded,
    /// It is time to look at the directory in memory.
    Look,
    TimeOver,
    Kill,
    StandStill(bool),
    /// Other layers for the kept command.
    Change(Box<Overlay>),
    /// The kept command is to rest.
    Rest,
    DaemonGone,
}

// === impl Spawner ===

impl Spawner {
    /// A spawner in namespaces, for this process, which lives in `template`.
    pub(super) fn sandboxed(
        children: OwnedFd,
        guardian: Guardian,
        template: Template,
        seat: Option<cgroup::Seat>,
    ) -> Result<Self, Failure> {
        let condition = Condition::now();
        let sandbox = Sandbox { template, condition, network: None, mounts: None, parts: None };
        let mut spawner = Self::new(children, guardian, Containment::Sandbox(Box::new(sandbox)), seat)?;
        spawner.stock_network()?;
        Ok(spawner)
    }

    /// A spawner without namespaces, for this process, which is a subreaper.
    pub(super) fn plain(
        children: OwnedFd,
        guardian: Guardian,
        seat: Option<cgroup::Seat>,
    ) -> Result<Self, Failure> {
        Self::new(children, guardian, Containment::Plain, seat)
    }

    fn new(
        children: OwnedFd,
        guardian: Guardian,
        containment: Containment,
        seat: Option<cgroup::Seat>,
    ) -> Result<Self, Failure> {
        let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(Failure::step("open /dev/null"))?;
        let stack = ChildStack::new().map_err(Failure::step("make a stack"))?;
        Ok(Self { children, null, stack, guardian, containment, seat })
    }

    /// Takes requests until the daemon is gone or this spawner retires.
    pub(super) fn serve(&mut self, channel: &Channel) -> ExitCode {
        let memory = self.containment.memory().map(Memory::root);
        if channel.send_with(&Reply::Ready, memory).is_err() {
            return ExitCode::FAILURE;
        }
        while let Some((request, streams)) = channel.receive() {
            // What Kill was meant for has ended before it came.
            let Request::Run(order) = request else { continue };
            let reply = match self.run(&order, streams, channel) {
                Ok(Some(exit)) => Reply::Ended { exit, retiring: self.is_changed() },
                Ok(None) => return ExitCode::SUCCESS,
                Err(failure) => Reply::Failed(failure),
            };
            let retiring = matches!(reply, Reply::Ended { retiring: true, .. });
            if channel.send(&reply).is_err() || retiring || self.tidy().is_err() {
                break;
            }
        }
        ExitCode::SUCCESS
    }

    /// Runs one command. `None`: the daemon is gone. In every case nothing of the command is left.
    fn run(
        &mut self,
        order: &Order,
        streams: Vec<OwnedFd>,
        channel: &Channel,
    ) -> Result<Option<Exit>, Failure> {
        let mut streams = streams.into_iter();
        let (Some(stdout), Some(stderr)) = (streams.next(), streams.next()) else {
            return Err(Failure::step("take the streams")(Errno::BADMSG));
        };
        let stdin = streams.next().map_or_else(|| launch::copy(self.null.as_fd()), Ok)?;
        let launch = Launch::new(order, &enter::working_directory(order), [stdin, stdout, stderr])?;
        let made = self.containment.prepare(order)?;
        if let Some(seat) = &mut self.seat {
            seat.give_to(order.is_guest);
        }
        let started = now();
        let main = match self.start(order, made.as_ref(), &launch.ready()) {
            Ok(main) => main,
            Err(failure) => {
                self.kill_rest(&mut |_| ());
                return Err(failure);
            }
        };
        let running = Running::new(main, started);
        if matches!(order.root, InputRoot::Parted { .. }) {
            // The other ends of its streams are the daemon's alone, and its overlay is taken away some time.
            drop((launch, made));
            return self.keep(running, channel);
        }
        let watch = self.containment.watch(order);
        self.supervise(running, order.limits.timeout, channel, watch.as_ref())
    }

    /// Starts the main process.
    fn start(&mut self, order: &Order, made: Option<&Mounts>, ready: &Ready<'_>) -> Result<Pid, Failure> {
        // The child tells through memory how far it came.
        let mut failure = Failure::step("start the child")(Errno::CHILD);
        let executing = AtomicBool::new(false);
        let containment = &self.containment;
        let child = sys::spawn_sharing(&mut self.stack, 0, &mut || {
            failure = match containment.contain(order, made, ready) {
                Err(failure) => failure,
                Ok(()) => {
                    executing.store(true, Ordering::SeqCst);
                    let failure = ready.execute();
                    executing.store(false, Ordering::SeqCst);
                    failure
                }
            };
        });
        let child = child.map_err(Failure::step("start the child"))?;
        if executing.load(Ordering::SeqCst) { Ok(child) } else { Err(failure) }
    }

    /// Waits for the main process, or a reason to end it; then ends everything else.
    fn supervise(
        &self,
        mut running: Running,
        timeout: Option<Duration>,
        channel: &Channel,
        watch: Option<&Watch<'_>>,
    ) -> Result<Option<Exit>, Failure> {
        let stopped = loop {
            let deadline = timeout.and_then(|timeout| running.reaches(timeout));
            let look =
                watch.and_then(|_| running.reaches(running.time() + Watch::look_again(running.time())));
            let event =
                self.next_event(channel, deadline, look).map_err(Failure::step("watch the action"))?;
            self.reap(&mut |reaped| running.take_in(reaped));
            if let Some(outcome) = running.ended {
                break Some(outcome);
            }
            if watch.is_some_and(|watch| watch.is_over(running.time())) {
                self.kill_rest(&mut |_| ());
                return Err(Failure::MemoryFull);
            }
            match event {
                Event::ChildEnded | Event::Look => {}
                Event::StandStill(still) => {
                    self.stand_still(still);
                    running.stand_still(still);
                }
                Event::TimeOver => break Some(Outcome::TimedOut),
                Event::Kill => break Some(Outcome::Cancelled),
                // The others are for what is kept.
                Event::DaemonGone | Event::Change(_) | Event::Rest => break None,
            }
        };
        let wall = running.time();
        self.kill_rest(&mut |reaped| running.take_in(reaped));
        Ok(stopped.map(|outcome| Exit { outcome, wall, usage: running.usage, memory_exceeded: None }))
    }

    fn next_event(
        &self,
        channel: &Channel,
        deadline: Option<Duration>,
        look: Option<Duration>,
    ) -> Result<Event, Errno> {
        let wake = deadline.into_iter().chain(look).min();
        let timeout = wake.and_then(|wake| Timespec::try_from(wake.saturating_sub(now())).ok());
        let mut polled = [PollFd::new(&self.children, PollFlags::IN), PollFd::new(channel, PollFlags::IN)];
        match poll(&mut polled, timeout.as_ref()) {
            Ok(0) if wake == deadline => return Ok(Event::TimeOver),
            Ok(0) => return Ok(Event::Look),
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Event::ChildEnded),
            Err(error) => return Err(error),
        }
        if !polled[0].revents().is_empty() {
            self.take_signal();
            return Ok(Event::ChildEnded);
        }
        // Another command makes no sense while one runs.
        Ok(match channel.receive() {
            Some((Request::Kill, _)) => Event::Kill,
            Some((Request::StandStill(still), _)) => Event::StandStill(still),
            Some((Request::Change(overlay), _)) => Event::Change(overlay),
            Some((Request::Rest, _)) => Event::Rest,
            _ => Event::DaemonGone,
        })
    }

    /// SIGCHLD is told once, however many children have ended.
    fn take_signal(&self) {
        let mut buffer = [0; 128];
        let _ = rustix::io::read(&self.children, &mut buffer);
    }

    /// Takes in the children that have ended. Returns whether any is left.
    fn reap(&self, taken: &mut dyn FnMut(Reaped)) -> bool {
        loop {
            match sys::wait_any(false) {
                Ok(Some(reaped)) => taken(reaped),
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    }

    /// Has everything that descends from this process stand still, or go on.
    fn stand_still(&self, still: bool) {
        match self.containment {
            Containment::Sandbox(_) => {
                // As with its end.
                let _ = sys::signal_namespace(if still { Signal::STOP } else { Signal::CONT });
            }
            Containment::Plain => plain::stand_still(still),
        }
    }

    /// Kills everything that descends from this process, and waits for its end.
    fn kill_rest(&self, taken: &mut dyn FnMut(Reaped)) {
        match self.containment {
            Containment::Sandbox(_) => {
                // This process is the first of its namespace: the call does not fail.
                let _ = sys::signal_namespace(Signal::KILL);
                while let Ok(reaped) = sys::wait_any(true) {
                    reaped.into_iter().for_each(&mut *taken);
                }
            }
            Containment::Plain => plain::kill_descendants(|| self.reap(taken)),
        }
        self.take_signal();
    }

    /// Work that does not have to be done before the answer.
    fn tidy(&mut self) -> Result<(), Failure> {
        if let Containment::Sandbox(sandbox) = &mut self.containment {
            sandbox.template.go_home()?;
            sandbox.parts = None;
            if let Some(mounts) = sandbox.mounts.take() {
                self.guardian.close(mounts);
            }
            sandbox.network.take_if(|network| !network.is_empty());
            sandbox.template.stock()?;
            self.stock_network()?;
        }
        Ok(())
    }

    /// Makes sure that a network namespace is ready.
    fn stock_network(&mut self) -> Result<(), Failure> {
        if let Containment::Sandbox(sandbox) = &mut self.containment
            && sandbox.network.is_none()
        {
            sandbox.network = Some(Loopback::new(&mut self.stack)?);
            self.take_signal();
        }
        Ok(())
    }

    fn is_changed(&self) -> bool {
        match &self.containment {
            Containment::Sandbox(sandbox) => sandbox.condition != Condition::now(),
            Containment::Plain => false,
        }
    }
}

// === impl Containment ===

impl Containment {
    /// Makes ready what the next child is to find. Returns the mounts of its file system.
    fn prepare(&mut self, order: &Order) -> Result<Option<Mounts>, Failure> {
        let Self::Sandbox(sandbox) = self else { return Ok(None) };
        sandbox.template.prepare(order)?;
        let made = enter::make_mounts(order)?;
        sandbox.mounts = Some(sandbox.template.enter_copy()?);
        if let InputRoot::Parted { at, .. } = &order.root {
            sandbox.parts = Some(Parts::mount(at, &order.working_directory, &made.overlay)?);
        }
        Ok(Some(made))
    }

    fn memory(&self) -> Option<&Memory> {
        match self {
            Self::Sandbox(sandbox) => sandbox.template.memory(),
            Self::Plain => None,
        }
    }

    /// Watches an action that writes into memory.
    fn watch(&self, order: &Order) -> Option<Watch<'_>> {
        let upper = &order.root.overlay()?.upper;
        self.memory().filter(|_| upper.starts_with(MEMORY)).map(Memory::watch)
    }

    /// In the child: all that comes before exec.
    fn contain(&self, order: &Order, made: Option<&Mounts>, ready: &Ready<'_>) -> Result<(), Failure> {
        launch::volunteer();
        match (self, made) {
            (Self::Sandbox(sandbox), Some(made)) => {
                let network = sandbox.network.as_ref().filter(|_| order.network == Network::Loopback);
                enter::enter(order, made, network)?;
                enter::become_user(order.ids)?;
                ready.settle()
            }
            _ => {
                if !matches!(order.root, InputRoot::Plain { .. }) {
                    return Err(Failure::step("mount the input root without a sandbox")(Errno::INVAL));
                }
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
                    .map_err(Failure::step("follow the spawner"))?;
                ready.settle()
            }
        }
    }
}

// === impl Running ===

impl Running {
    fn new(main: Pid, started: Duration) -> Self {
        let (usage, stood) = (Usage::default(), Duration::ZERO);
        Self { main, started, ended: None, usage, still_since: None, stood }
    }

    /// How long it runs. Time in which it stands still does not count.
    fn time(&self) -> Duration {
        let until = self.still_since.unwrap_or_else(now);
        until.saturating_sub(self.started).saturating_sub(self.stood)
    }

    /// When it will have run for so long; `None` while it stands still.
    fn reaches(&self, time: Duration) -> Option<Duration> {
        let at = self.started.saturating_add(self.stood).saturating_add(time);
        self.still_since.is_none().then_some(at)
    }

    /// It stands still from now on, or goes on.
    fn stand_still(&mut self, still: bool) {
        match (self.still_since, still) {
            (None, true) => self.still_since = Some(now()),
            (Some(since), false) => {
                self.stood += now().saturating_sub(since);
                self.still_since = None;
            }
            (None, false) | (Some(_), true) => {}
        }
    }

    fn take_in(&mut self, reaped: Reaped) {
        if reaped.pid == self.main {
            self.ended = Some(reaped.outcome);
        }
        self.usage.user += reaped.usage.user;
        self.usage.system += reaped.usage.system;
        self.usage.max_rss = self.usage.max_rss.max(reaped.usage.max_rss);
    }
}

/// The time since some fixed point.
fn now() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default()
}
