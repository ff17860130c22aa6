//! What the action view knows besides the farm: one action, as far as it was asked for.

pub(crate) mod facts;
pub(crate) mod loaded;
pub(crate) mod output;
pub(crate) mod tree;

use std::sync::Arc;
use std::time::Duration;

use farmhand_proto::control;

pub(crate) use loaded::Loaded;
pub(crate) use output::Output;
pub(crate) use tree::Tree;

use super::list::ListState;
use super::pager::Pager;
use crate::sanitize;

/// Actions one can go back through.
const DEEPEST: usize = 32;

/// A part of the action view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tab {
    /// What it is and how it went.
    #[default]
    Summary,
    /// Arguments, environment, limits.
    Command,
    /// The tree of inputs.
    Inputs,
    /// What it made.
    Outputs,
    /// What it wrote to stdout.
    Stdout,
    /// What it wrote to stderr.
    Stderr,
    /// Where the time went.
    Timing,
    /// Why it missed the cache.
    Cache,
    /// The messages that define it.
    Raw,
}

/// State of the action view.
#[derive(Debug, Default)]
pub(crate) struct Action {
    /// The action that is wanted.
    pub(crate) subject: Option<Subject>,
    /// The action all below is of.
    pub(crate) shown: Option<Subject>,
    /// Those looked at before, to go back to.
    pub(crate) before: Vec<Subject>,
    /// The part that is shown.
    pub(crate) tab: Tab,
    /// What the node told of it.
    pub(crate) loaded: Option<Box<Loaded>>,
    /// Why it told nothing.
    pub(crate) failure: Option<String>,
    /// Why it missed the cache, or why that is not known.
    pub(crate) miss: Option<Result<control::Miss, String>>,
    /// Its inputs.
    pub(crate) inputs: Tree,
    /// Its outputs.
    pub(crate) outputs: Tree,
    /// What it wrote.
    pub(crate) stdout: Output,
    /// What it wrote.
    pub(crate) stderr: Output,
    /// The messages that define it, as text.
    pub(crate) raw: Pager,
    /// When the node was last asked for it, in time of the program.
    pub(crate) asked_at: Duration,
    /// The tab whose tree waits for a directory.
    pub(crate) listing: Option<Tab>,
    /// A file that is looked at.
    pub(crate) file: Option<Box<File>>,
    lists: [ListState; Tab::ALL.len()],
}

/// The action one looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    /// What the node is asked for: name of the operation, or digest of the action.
    pub(crate) key: Arc<str>,
    /// Instance of the action.
    pub(crate) instance: Arc<str>,
}

/// A file of a tree, its beginning at least.
#[derive(Debug)]
pub(crate) struct File {
    /// Its path.
    pub(crate) title: String,
    /// What it holds.
    pub(crate) pager: Pager,
    /// Bytes it has.
    pub(crate) bytes: u64,
    /// Whether all that was asked for is there.
    pub(crate) ended: bool,
    /// Why there is nothing.
    pub(crate) failure: Option<String>,
}

// === impl Tab ===

impl Tab {
    /// All, in their order.
    pub(crate) const ALL: [Self; 9] = [
        Self::Summary,
        Self::Command,
        Self::Inputs,
        Self::Outputs,
        Self::Stdout,
        Self::Stderr,
        Self::Timing,
        Self::Cache,
        Self::Raw,
    ];

    /// Its name.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Summary => "Summary",
            Self::Command => "Command",
            Self::Inputs => "Inputs",
            Self::Outputs => "Outputs",
            Self::Stdout => "Stdout",
            Self::Stderr => "Stderr",
            Self::Timing => "Timing",
            Self::Cache => "Cache",
            Self::Raw => "Raw",
        }
    }

    /// The tab `steps` further on.
    pub(crate) fn step(self, steps: isize) -> Self {
        let count = Self::ALL.len();
        Self::ALL[(self as usize).wrapping_add_signed(steps).wrapping_add(count) % count]
    }
}

// === impl Action ===

impl Action {
    /// Looks at another action, so that one can come back.
    pub(crate) fn follow(&mut self, subject: Subject) {
        if let Some(present) = self.subject.replace(subject) {
            if self.before.len() == DEEPEST {
                self.before.remove(0);
            }
            self.before.push(present);
        }
    }

    /// Shows another tab; each keeps its own place. `list` is that of the tab that was shown.
    pub(crate) fn show_tab(&mut self, tab: Tab, list: &mut ListState) {
        self.lists[self.tab as usize] = *list;
        self.tab = tab;
        *list = self.lists[tab as usize];
    }

    /// Forgets everything of the action before: another one is looked at.
    pub(crate) fn clear(&mut self) {
        let tab = self.tab;
        let (subject, before) = (self.subject.take(), std::mem::take(&mut self.before));
        *self = Self { shown: subject.clone(), subject, before, tab, ..Self::default() };
    }

    /// Takes what the node told of it.
    pub(crate) fn take(&mut self, response: control::GetActionResponse) {
        let loaded = Loaded::of(response);
        let is_other = self.loaded.as_ref().is_none_or(|before| before.input_root != loaded.input_root);
        if is_other {
            self.inputs = loaded.inputs();
        }
        let results = |loaded: &Loaded| (loaded.result.clone(), loaded.missing.clone());
        if self.loaded.as_ref().is_none_or(|before| results(before) != results(&loaded)) {
            self.outputs = loaded.outputs();
        }
        self.raw.replace(&loaded.raw_text());
        self.failure = None;
        self.loaded = Some(Box::new(loaded));
    }

    /// Takes why it missed.
    pub(crate) fn take_miss(&mut self, mut miss: control::Miss) {
        sanitize::in_place(&mut miss.summary);
        for difference in &mut miss.differences {
            for text in [&mut difference.name, &mut difference.old, &mut difference.new] {
                sanitize::in_place(text);
            }
        }
        self.miss = Some(Ok(miss));
    }

    /// The output of the tab that is shown, if it shows one.
    pub(crate) fn output(&self) -> Option<&Output> {
        match self.tab {
            Tab::Stdout => Some(&self.stdout),
            Tab::Stderr => Some(&self.stderr),
            _ => None,
        }
    }

    /// The text that is shown, if it is one.
    pub(crate) fn pager(&self) -> Option<&Pager> {
        match (&self.file, self.tab) {
            (Some(file), _) => Some(&file.pager),
            (None, Tab::Raw) => Some(&self.raw),
            (None, _) => self.output().map(|output| &output.pager),
        }
    }

    /// The same, to be moved.
    pub(crate) fn pager_mut(&mut self) -> Option<&mut Pager> {
        match (&mut self.file, self.tab) {
            (Some(file), _) => Some(&mut file.pager),
            (None, Tab::Raw) => Some(&mut self.raw),
            (None, Tab::Stdout) => Some(&mut self.stdout.pager),
            (None, Tab::Stderr) => Some(&mut self.stderr.pager),
            (None, _) => None,
        }
    }

    /// The tree that is shown, if it is one.
    pub(crate) fn tree(&self) -> Option<&Tree> {
        match self.tab {
            Tab::Inputs => Some(&self.inputs),
            Tab::Outputs => Some(&self.outputs),
            _ => None,
        }
    }

    /// The same, to be opened.
    pub(crate) fn tree_mut(&mut self) -> Option<&mut Tree> {
        match self.tab {
            Tab::Inputs => Some(&mut self.inputs),
            Tab::Outputs => Some(&mut self.outputs),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tabs_go_round_and_keep_their_place() {
        assert_eq!((Tab::Raw.step(1), Tab::Summary.step(-1)), (Tab::Summary, Tab::Raw));
        let mut action = Action::default();
        let mut list = ListState { selected: 5, ..Default::default() };
        action.show_tab(Tab::Inputs, &mut list);
        assert_eq!(list.selected, 0);
        list.selected = 7;
        action.show_tab(Tab::Summary, &mut list);
        assert_eq!(list.selected, 5);
        action.show_tab(Tab::Inputs, &mut list);
        assert_eq!(list.selected, 7);
    }

    #[test]
    fn one_can_come_back() {
        let subject = |key: &str| Subject { key: key.into(), instance: "".into() };
        let mut action = Action::default();
        action.follow(subject("a"));
        assert!(action.before.is_empty());
        action.follow(subject("b"));
        assert_eq!(action.before, [subject("a")]);
        for _ in 0..100 {
            action.follow(subject("c"));
        }
        assert_eq!(action.before.len(), DEEPEST);
        action.tab = Tab::Cache;
        action.clear();
        assert_eq!((action.shown.clone(), action.tab), (Some(subject("c")), Tab::Cache));
    }
}
