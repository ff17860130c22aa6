//! What the dashboard knows: the farm as the node told it, where the person is, what is chosen.
//!
//! [`farm`] and what it holds come from the node. Each view has its own state in a file of its
//! name. Nothing in here does I/O or looks at a clock; `now` is set by whoever updates.

pub(crate) mod action;
pub(crate) mod actions;
pub(crate) mod builds;
pub(crate) mod cache;
pub(crate) mod calls;
pub(crate) mod copies;
pub(crate) mod entrance;
pub(crate) mod farm;
pub(crate) mod filter;
pub(crate) mod list;
pub(crate) mod logs;
pub(crate) mod machines;
pub(crate) mod modal;
pub(crate) mod navigation;
pub(crate) mod op;
pub(crate) mod operations;
pub(crate) mod overview;
pub(crate) mod pager;
pub(crate) mod senders;
pub(crate) mod time;
pub(crate) mod timeline;

use std::sync::Arc;
use std::time::Duration;

pub(crate) use list::{ListId, ListState};
pub(crate) use op::{Op, OpKey};
pub(crate) use time::Stamp;

use crate::canvas::Drawn;
use crate::glyphs::Glyphs;
use crate::keymap::Place;
use crate::options::View;
use crate::theme::Theme;
use calls::Calls;
use farm::Farm;
use list::Lists;
use modal::Modal;
use navigation::Navigation;

/// Silence after which what is shown counts as old. The node sends something every second.
pub(crate) const SILENCE: Duration = Duration::from_secs(3);

/// How long a notice stays.
const NOTICE: Duration = Duration::from_secs(6);

/// Everything.
#[derive(Debug)]
pub(crate) struct Model {
    /// Time since the program began.
    pub(crate) now: Duration,
    /// The connection to the node.
    pub(crate) link: Link,
    /// The farm as it is.
    pub(crate) live: Farm,
    /// The farm as it was when the person paused, and when that was.
    pub(crate) frozen: Option<Box<Frozen>>,
    /// Where the person is, and came from.
    pub(crate) navigation: Navigation,
    /// The build everything is narrowed to.
    pub(crate) build: Option<Arc<str>>,
    /// What lies over the view.
    pub(crate) modal: Option<Modal>,
    /// One line of news, for some seconds.
    pub(crate) notice: Option<Notice>,
    /// One piece of advice, brought up to date every second.
    pub(crate) advice: Option<String>,
    /// Selection, scrolling and sorting of every list.
    pub(crate) lists: Lists,
    /// Calls to the node that are under way.
    pub(crate) calls: Calls,
    /// `:` commands that were run, the latest last.
    pub(crate) typed: Vec<String>,
    /// When a person last did something.
    pub(crate) touched: Duration,
    /// Columns and rows of the terminal.
    pub(crate) size: (u16, u16),
    /// What the last painting told.
    pub(crate) drawn: Drawn,
    /// Colours.
    pub(crate) theme: Theme,
    /// Signs.
    pub(crate) glyphs: &'static Glyphs,
    /// What may be done from here.
    pub(crate) rights: Rights,
    /// The state of each view.
    pub(crate) overview: overview::Overview,
    pub(crate) builds: builds::Builds,
    pub(crate) actions: actions::Actions,
    pub(crate) action: action::Action,
    pub(crate) timeline: timeline::Timeline,
    pub(crate) machines: machines::Machines,
    pub(crate) entrance: entrance::Entrance,
    pub(crate) cache: cache::Cache,
    pub(crate) logs: logs::Logs,
}

/// What may be done from here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rights {
    /// Nothing may be changed.
    pub(crate) read_only: bool,
    /// The node ends with this program.
    pub(crate) owns_node: bool,
    /// Inputs can be fetched.
    pub(crate) can_fetch: bool,
}

/// The connection to the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// Not yet tried to its end.
    Connecting,
    /// A stream is open.
    Up,
    /// There is none.
    Down {
        /// Why not, in words.
        reason: String,
        /// When the next attempt is made, in time of the program.
        retry_at: Duration,
    },
}

/// The farm as it was.
#[derive(Debug)]
pub(crate) struct Frozen {
    /// What was known.
    pub(crate) farm: Farm,
    /// When, in time of the program.
    pub(crate) at: Duration,
}

/// One line of news.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    /// What it says.
    pub(crate) text: String,
    /// Whether something went wrong.
    pub(crate) is_bad: bool,
    /// When it goes.
    pub(crate) until: Duration,
}

// === impl Model ===

impl Model {
    /// A model that knows nothing yet.
    pub(crate) fn new(theme: Theme, glyphs: &'static Glyphs, rights: Rights, view: View) -> Self {
        Self {
            now: Duration::ZERO,
            link: Link::Connecting,
            live: Farm::default(),
            frozen: None,
            navigation: Navigation::at(view),
            build: None,
            modal: None,
            notice: None,
            advice: None,
            lists: Lists::default(),
            calls: Calls::default(),
            typed: Vec::new(),
            touched: Duration::ZERO,
            size: (80, 24),
            drawn: Drawn::default(),
            theme,
            glyphs,
            rights,
            overview: overview::Overview::default(),
            builds: builds::Builds::default(),
            actions: actions::Actions::default(),
            action: action::Action::default(),
            timeline: timeline::Timeline::default(),
            machines: machines::Machines::default(),
            entrance: entrance::Entrance::default(),
            cache: cache::Cache::default(),
            logs: logs::Logs::default(),
        }
    }

    /// The farm that is shown: as it is, or as it was when the person paused.
    pub(crate) fn farm(&self) -> &Farm {
        self.frozen.as_ref().map_or(&self.live, |frozen| &frozen.farm)
    }

    /// The view that is shown.
    pub(crate) fn view(&self) -> View {
        self.navigation.view()
    }

    /// The time on the clock of the node that belongs to what is shown. It stands still when the
    /// screen is paused, and when the node is silent: nothing is said to go on that may not.
    pub(crate) fn node_now(&self) -> Option<Stamp> {
        let at = self.frozen.as_ref().map_or(self.now, |frozen| frozen.at);
        self.farm().clock.at(at)
    }

    /// The time on the clock of the node, on a paused screen too: for what goes on while that stands still.
    pub(crate) fn live_now(&self) -> Option<Stamp> {
        self.live.clock.at(self.now)
    }

    /// How long `stamp` is ago by the clock that belongs to what is shown.
    pub(crate) fn since(&self, stamp: Option<Stamp>) -> Option<Duration> {
        Some(self.node_now()?.since(stamp?))
    }

    /// Age of what is shown, when it is too old to pass for the present.
    pub(crate) fn stale(&self) -> Option<Duration> {
        let heard = self.live.clock.heard()?;
        let age = self.now.saturating_sub(heard);
        (age > SILENCE).then_some(age)
    }

    /// The operation of the bar that is chosen on the timeline.
    pub(crate) fn chosen_bar(&self) -> Option<&Op> {
        self.farm().ops.get(self.timeline.chosen?)
    }

    /// Where keys are looked up, the innermost place first.
    pub(crate) fn places(&self) -> Vec<Place> {
        match &self.modal {
            Some(modal) => vec![modal.place()],
            None => vec![Place::In(self.view()), Place::List, Place::Anywhere],
        }
    }

    /// Takes what a painting told.
    pub(crate) fn painted(&mut self, drawn: Drawn) {
        for viewport in &drawn.viewports {
            self.lists.seen(viewport);
        }
        self.drawn = drawn;
    }

    /// Shows a line of news.
    pub(crate) fn tell(&mut self, text: impl Into<String>) {
        self.notice = Some(Notice { text: text.into(), is_bad: false, until: self.now + NOTICE });
    }

    /// Shows a line of bad news.
    pub(crate) fn complain(&mut self, text: impl Into<String>) {
        self.notice = Some(Notice { text: text.into(), is_bad: true, until: self.now + NOTICE });
    }
}
