//! The loop: what comes in is applied to the model, what it asks for is done, what changed is
//! painted.
//!
//! A key press is painted at once; changes of the farm wait for one another, at most [`FRAME`].
//! While the terminal is busy nothing is painted. Nothing in the loop waits for anything but the
//! next thing to happen.

mod files;
mod signals;

use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::Duration;

use crossterm::event::{Event, EventStream};
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::canvas::Canvas;
use crate::feed::{Calls, Feed};
use crate::glyphs::Glyphs;
use crate::message::{Command, Message};
use crate::model::{Model, Rights};
use crate::options::{FetchRequest, Options, Outcome, UiError};
use crate::terminal::{Environment, Screen};
use crate::theme::Theme;
use crate::update::update;
use crate::{clipboard, view};
use signals::{Signal, Signals};

/// Least time between two paintings nobody waits for.
const FRAME: Duration = Duration::from_millis(33);

/// How often ages are brought up to date.
const TICK: Duration = Duration::from_secs(1);

/// Things done elsewhere whose outcome may wait to be told.
const WAITING: usize = 16;

/// Shows the dashboard until the person leaves, or a signal ends it.
///
/// # Errors
/// When there is no terminal it could be shown on, a theme cannot be used, or the terminal fails.
pub async fn run(options: Options) -> Result<Outcome, UiError> {
    let environment = Environment::detect();
    let model = model(&options, &environment)?;
    let screen = Screen::open(&environment)?;
    App::new(options, environment, model, screen).map_err(UiError::Terminal)?.run().await
}

/// A model that looks as it was asked for, or as the terminal can.
///
/// # Errors
/// When the theme cannot be used.
pub(crate) fn model(options: &Options, environment: &Environment) -> Result<Model, UiError> {
    let depth = options.look.colours.unwrap_or_else(|| environment.colours());
    let theme = match &options.look.theme {
        Some(name) => {
            Theme::load(name, depth).map_err(|reason| UiError::Theme { name: name.clone(), reason })?
        }
        None => Theme::standard(depth),
    };
    let glyphs = Glyphs::of(options.look.ascii.unwrap_or_else(|| environment.ascii()));
    let rights = Rights {
        read_only: options.read_only,
        owns_node: options.owns_node,
        can_fetch: options.fetcher.is_some(),
    };
    Ok(Model::new(theme, glyphs, rights, options.view))
}

/// The dashboard while it runs.
struct App {
    options: Options,
    environment: Environment,
    model: Model,
    screen: Screen,
    feed: Feed,
    calls: Calls,
    keys: EventStream,
    signals: Signals,
    began: Instant,
    /// When the last painting was.
    painted: Instant,
    /// Something changed since.
    dirty: bool,
    /// Somebody waits to see it.
    urgent: bool,
    /// What is done elsewhere, and its outcomes.
    elsewhere: JoinSet<()>,
    outcomes: (mpsc::Sender<Message>, mpsc::Receiver<Message>),
}

/// Something the loop woke up for.
enum Woken {
    Message(Box<Message>),
    Terminal(io::Result<Event>),
    Signal(Signal),
    /// The terminal is ready, or it is time to paint.
    Paint(io::Result<()>),
    /// The terminal is gone.
    Gone,
}

// === impl App ===

impl App {
    fn new(options: Options, environment: Environment, model: Model, screen: Screen) -> io::Result<Self> {
        let now = Instant::now();
        Ok(Self {
            feed: Feed::start(options.socket.clone()),
            calls: Calls::new(),
            keys: EventStream::new(),
            signals: Signals::new()?,
            began: now,
            painted: now,
            dirty: true,
            urgent: true,
            elsewhere: JoinSet::new(),
            outcomes: mpsc::channel(WAITING),
            options,
            environment,
            model,
            screen,
        })
    }

    async fn run(mut self) -> Result<Outcome, UiError> {
        let (columns, rows) = self.screen.size();
        let mut end = self.apply(Message::Resize(columns, rows));
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while end.is_none() {
            let woken = self.woken(&mut ticks).await;
            end = self.handle(woken).await.map_err(UiError::Terminal)?;
            self.paint_if_due();
        }
        Ok(end.unwrap_or(Outcome::Quit))
    }

    /// Waits for the next thing to happen; keys before everything else.
    async fn woken(&mut self, ticks: &mut tokio::time::Interval) -> Woken {
        let idle = self.screen.is_idle();
        let due = if self.urgent { self.painted } else { self.painted + FRAME };
        tokio::select! {
            biased;
            signal = self.signals.next() => Woken::Signal(signal),
            event = self.keys.next() => event.map_or(Woken::Gone, Woken::Terminal),
            ready = self.screen.idle(), if !idle => Woken::Paint(ready),
            () = sleep_until(due), if self.dirty && idle => Woken::Paint(Ok(())),
            Some(event) = self.feed.next() => Woken::Message(Box::new(Message::Feed(event))),
            Some((id, answer)) = self.calls.next() => Woken::Message(Box::new(Message::Answer(id, answer))),
            Some(outcome) = self.outcomes.1.recv() => Woken::Message(Box::new(outcome)),
            _ = ticks.tick() => Woken::Message(Box::new(Message::Tick)),
        }
    }

    async fn handle(&mut self, woken: Woken) -> io::Result<Option<Outcome>> {
        match woken {
            Woken::Message(message) => Ok(self.apply_with_others(*message)),
            Woken::Terminal(event) => self.terminal_event(event?).await,
            Woken::Signal(Signal::End(number)) => Ok(Some(Outcome::Signal(number))),
            Woken::Signal(Signal::Stop) => self.suspend().map(|()| None),
            Woken::Signal(Signal::Continue) => self.resume().map(|()| None),
            Woken::Paint(ready) => ready.map(|()| None),
            Woken::Gone => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Changes that wait already are applied together, and painted once.
    fn apply_with_others(&mut self, message: Message) -> Option<Outcome> {
        let mut end = self.apply(message);
        while let Some(event) = self.feed.ready().filter(|_| end.is_none()) {
            end = self.apply(Message::Feed(event));
        }
        end
    }

    /// A key, and those that were pressed meanwhile: a wheel sends many.
    async fn terminal_event(&mut self, event: Event) -> io::Result<Option<Outcome>> {
        let mut next = Some(event);
        while let Some(event) = next {
            self.urgent = true;
            if let Event::Resize(columns, rows) = event {
                self.screen.resize(columns, rows);
            }
            let message = match event {
                Event::Key(key) => Message::Key(key),
                Event::Mouse(mouse) => Message::Mouse(mouse),
                Event::Paste(text) => Message::Paste(text),
                Event::Resize(columns, rows) => Message::Resize(columns, rows),
                Event::FocusGained | Event::FocusLost => return Ok(None),
            };
            if let Some(end) = self.apply(message) {
                return Ok(Some(end));
            }
            next = self.waiting_key().await.transpose()?;
        }
        Ok(None)
    }

    /// A key that is there already. The stream keeps the waker it was asked with last, so it must be that of
    /// this task, or the next key wakes nobody.
    async fn waiting_key(&mut self) -> Option<io::Result<Event>> {
        poll_fn(|context| match self.keys.poll_next_unpin(context) {
            Poll::Ready(event) => Poll::Ready(event),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    /// Applies a message and does what it asks for; how it ends, if it does.
    fn apply(&mut self, message: Message) -> Option<Outcome> {
        let todo = update(&mut self.model, message, self.began.elapsed());
        self.dirty |= todo.redraw;
        todo.commands.into_iter().find_map(|command| self.perform(command))
    }

    fn perform(&mut self, command: Command) -> Option<Outcome> {
        match command {
            Command::Call(id, call) => self.calls.ask(self.feed.client(), id, *call),
            Command::Cancel(slot) => self.calls.cancel(slot),
            Command::Copy(text) => self.copy(&text),
            Command::WriteFile { name, text } => self.write(name, text),
            Command::Snapshot => {
                let text = view::text_of(self.screen.shown());
                self.write("farmhand-screen.txt".to_owned(), text);
            }
            Command::Fetch(request) => self.fetch(request),
            Command::Reconnect => self.feed.reconnect(),
            Command::Repaint => self.screen.forget(),
            Command::Suspend => {
                // What fails here fails again with the next painting, and ends the loop there.
                let _ = self.suspend();
            }
            Command::Quit(outcome) => return Some(outcome),
        }
        None
    }

    fn copy(&mut self, text: &str) {
        match clipboard::sequence(text, self.environment.between()) {
            Ok(sequence) => {
                self.screen.send(sequence);
                self.model.tell("copied, if the terminal allows it");
            }
            Err(too_long) => {
                self.model
                    .complain(format!("too long to copy: {}", crate::format::bytes(too_long.bytes as u64)));
            }
        }
        self.dirty = true;
    }

    fn write(&mut self, name: String, text: String) {
        let outcomes = self.outcomes.0.clone();
        self.elsewhere.spawn(async move {
            let written = tokio::task::spawn_blocking(move || files::write_new(&name, &text)).await;
            let result = written.unwrap_or_else(|error| Err(error.to_string()));
            let _ = outcomes.send(Message::Written(result)).await;
        });
    }

    fn fetch(&mut self, request: FetchRequest) {
        let Some(fetcher) = self.options.fetcher.clone() else { return };
        let outcomes = self.outcomes.0.clone();
        self.elsewhere.spawn(async move {
            let _ = outcomes.send(Message::Fetched(fetcher.fetch(request).await)).await;
        });
    }

    fn paint_if_due(&mut self) {
        let due = self.urgent || self.painted.elapsed() >= FRAME;
        if !self.dirty || !due || !self.screen.is_idle() {
            return;
        }
        let model = &self.model;
        let drawn = self.screen.draw(|buffer| {
            let area = buffer.area;
            let mut canvas = Canvas::new(buffer, &model.theme, model.glyphs);
            view::draw(model, &mut canvas, area);
            canvas.drawn
        });
        self.model.painted(drawn);
        self.painted = Instant::now();
        self.dirty = false;
        self.urgent = false;
    }

    /// Gives the terminal back and stops, until the shell lets it go on.
    fn suspend(&mut self) -> io::Result<()> {
        if !signals::can_stop() {
            self.model.complain("there is no shell to go back to");
            self.dirty = true;
            return Ok(());
        }
        self.screen.leave();
        signals::stop_group()?;
        self.resume()
    }

    /// Takes the terminal again, whatever was done to it meanwhile.
    fn resume(&mut self) -> io::Result<()> {
        self.screen.leave();
        self.screen.enter()?;
        let (columns, rows) = self.screen.size();
        self.apply(Message::Resize(columns, rows));
        self.urgent = true;
        Ok(())
    }
}
