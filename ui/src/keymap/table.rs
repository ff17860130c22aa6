//! The table itself. The order is that of the help page; the hint line takes from the top.

use crossterm::event::KeyCode;

use super::{Act, Binding, Key, Place, Takes};
use crate::options::View;

const ANYWHERE: &[Place] = &[Place::Anywhere];
const LIST: &[Place] = &[Place::List];
const OVERVIEW: Place = Place::In(View::Overview);
const BUILDS: Place = Place::In(View::Builds);
const ACTIONS: Place = Place::In(View::Actions);
const ACTION: Place = Place::In(View::Action);
const TIMELINE: Place = Place::In(View::Timeline);
const MACHINES: Place = Place::In(View::Machines);
const CACHE: Place = Place::In(View::Cache);
const LOGS: Place = Place::In(View::Logs);

/// What can be done to an action works wherever one is chosen.
const ON_ACTION: &[Place] = &[ACTIONS, ACTION, TIMELINE];

const fn named(code: KeyCode) -> Key {
    Key::named(code)
}

const fn row(
    keys: &'static [Key],
    act: Act,
    places: &'static [Place],
    name: &'static str,
    hint: &'static str,
    help: &'static str,
) -> Binding {
    Binding { keys, act, places, name, takes: Takes::Nothing, help, hint, changes: false }
}

// === impl Binding ===

impl Binding {
    const fn takes(self, takes: Takes) -> Self {
        Self { takes, ..self }
    }

    const fn changes(self) -> Self {
        Self { changes: true, ..self }
    }
}

/// Everything a person can do.
#[rustfmt::skip]
pub(crate) static BINDINGS: &[Binding] = &[
    // What one view has for itself.
    row(&[named(KeyCode::Enter)], Act::Open, &[OVERVIEW], "", "open", "Open what is chosen: a machine, a build, an action"),
    row(&[named(KeyCode::Enter)], Act::Open, &[BUILDS], "", "only this build", "Show this build only, in every view"),
    row(&[named(KeyCode::Enter)], Act::Open, &[ACTIONS, TIMELINE], "", "open", "Open the action"),
    row(&[named(KeyCode::Enter)], Act::Open, &[ACTION], "", "open", "Open or close a directory, look at a file, follow a digest"),
    row(&[named(KeyCode::Enter)], Act::Open, &[MACHINES], "", "actions", "Show the actions of the machine"),
    row(&[named(KeyCode::Enter)], Act::Open, &[CACHE], "", "", "Show the machine in full, of those with copies"),
    row(&[named(KeyCode::Tab), Key::of(']')], Act::NextTab, &[OVERVIEW], "", "next box", "Go to the next box"),
    row(&[named(KeyCode::BackTab), Key::of('[')], Act::PreviousTab, &[OVERVIEW], "", "", "Go to the box before"),
    row(&[named(KeyCode::Tab), Key::of(']')], Act::NextTab, &[ACTIONS, ACTION, CACHE], "", "next tab", "Go to the next tab"),
    row(&[named(KeyCode::BackTab), Key::of('[')], Act::PreviousTab, &[ACTIONS, ACTION, CACHE], "", "", "Go to the tab before"),
    row(&[], Act::Tab, &[ACTIONS, ACTION, CACHE], "tab", "", "Go to the tab of that name, or of that beginning").takes(Takes::Text),

    // Actions.
    row(&[Key::of('x')], Act::Kill, ON_ACTION, "kill", "kill", "End the action, after a question").changes(),
    row(&[Key::of('r')], Act::Retry, ON_ACTION, "retry", "run again", "Run the action again, anywhere").changes(),
    row(&[Key::of('R')], Act::Rerun, ON_ACTION, "rerun", "", "Run the action several times, and compare what comes of it").takes(Takes::Number).changes(),
    row(&[Key::of('@')], Act::RunOn, ON_ACTION, "run-on", "", "Run the action again on one machine").takes(Takes::Machine).changes(),
    row(&[Key::of('F')], Act::Fetch, ON_ACTION, "fetch", "fetch", "Fetch its inputs into a directory, and tell how to run it there"),
    row(&[Key::of('y')], Act::Copy, ON_ACTION, "copy", "copy", "Copy the command as a shell line, or what is chosen"),
    row(&[Key::of('Y')], Act::CopyAll, ON_ACTION, "copy-digest", "", "Copy the digest of the action"),
    row(&[Key::of('p')], Act::Pin, ON_ACTION, "pin", "pin", "Keep the result from being evicted, or let go of it").changes(),
    row(&[Key::of('W')], Act::Why, ON_ACTION, "why", "why", "Tell why it missed the cache, or why it waits"),
    row(&[Key::of('n')], Act::NextMatch, &[ACTION, LOGS], "", "", "Go to what the search finds next"),
    row(&[Key::of('N')], Act::PreviousMatch, &[ACTION, LOGS], "", "", "Go to what the search found before"),
    row(&[Key::of('f')], Act::Follow, &[ACTION, LOGS], "follow", "follow", "Follow the end of the text, or stop"),
    row(&[Key::of('w')], Act::Wrap, &[ACTION, LOGS], "wrap", "wrap", "Wrap long lines, or cut them"),
    row(&[Key::of('v')], Act::Level, &[LOGS], "level", "level", "Show lines of the next level and above: all, info, warnings, errors").takes(Takes::Text),

    // Machines.
    row(&[Key::of('a')], Act::Answer, &[MACHINES], "answer", "answer it", "Let in, or turn away, the machine that asks to come in").changes(),
    row(&[Key::of('D')], Act::Drain, &[MACHINES], "drain", "drain", "Let the machine finish what it has and take nothing new").takes(Takes::Machine).changes(),
    row(&[Key::of('P')], Act::Rest, &[MACHINES], "rest", "pause", "Pause the machine: it takes nothing new").takes(Takes::Machine).changes(),
    row(&[Key::of('U')], Act::Resume, &[MACHINES], "resume", "resume", "Let the machine take actions again").takes(Takes::Machine).changes(),
    row(&[Key::of('S')], Act::Slots, &[MACHINES], "slots", "", "Change how many actions the machine runs at once").takes(Takes::Number).changes(),
    row(&[Key::of('+'), Key::of('=')], Act::MoreSlots, &[MACHINES], "", "", "Let the machine run one action more at once").changes(),
    row(&[Key::of('-')], Act::FewerSlots, &[MACHINES], "", "", "Let the machine run one action less at once").changes(),
    row(&[Key::of('I')], Act::Invite, &[MACHINES], "invite", "invite", "Invite a machine into the farm: shows a code to type there").changes(),
    row(&[Key::of('J')], Act::Join, &[MACHINES], "join", "join", "Join the farm of another machine by the code it shows").takes(Takes::Text).changes(),

    // Timeline.
    row(&[Key::of('+'), Key::of('=')], Act::ZoomIn, &[TIMELINE], "zoom-in", "zoom in", "Show less time, larger"),
    row(&[Key::of('-')], Act::ZoomOut, &[TIMELINE], "zoom-out", "zoom out", "Show more time"),
    row(&[Key::of('<'), Key::of(',')], Act::PanEarlier, &[TIMELINE], "", "", "Show what was earlier"),
    row(&[Key::of('>'), Key::of('.')], Act::PanLater, &[TIMELINE], "", "", "Show what was later"),
    row(&[Key::of('m')], Act::Lanes, &[TIMELINE], "lanes", "colour by", "Colour bars by sender, status or mnemonic"),
    row(&[Key::of('0'), named(KeyCode::End)], Act::Now, &[TIMELINE], "now", "", "Go back to now"),
    row(&[Key::of('e')], Act::Export, &[TIMELINE], "export", "export", "Write what is shown as a Chrome trace"),

    // Lists and texts.
    row(&[named(KeyCode::Up), Key::of('k')], Act::Up, LIST, "", "", "Go up"),
    row(&[named(KeyCode::Down), Key::of('j')], Act::Down, LIST, "", "", "Go down"),
    row(&[named(KeyCode::PageUp), Key::ctrl('b')], Act::PageUp, LIST, "", "", "Go up a page"),
    row(&[named(KeyCode::PageDown), Key::ctrl('f')], Act::PageDown, LIST, "", "", "Go down a page"),
    row(&[named(KeyCode::Home), Key::of('g')], Act::Top, LIST, "top", "", "Go to the first"),
    row(&[named(KeyCode::End), Key::of('G')], Act::Bottom, LIST, "bottom", "", "Go to the last"),
    row(&[named(KeyCode::Left), Key::of('h')], Act::Left, LIST, "", "", "Go left, or close a directory"),
    row(&[named(KeyCode::Right), Key::of('l')], Act::Right, LIST, "", "", "Go right, or open a directory"),
    row(&[Key::of('s')], Act::SortNext, LIST, "", "sort", "Sort by the next column"),
    row(&[Key::of('i')], Act::SortReverse, LIST, "reverse", "", "Sort the other way round"),
    row(&[], Act::Sort, LIST, "sort", "", "Sort by a column").takes(Takes::Column),
    row(&[Key::of('/')], Act::Filter, LIST, "filter", "filter", "Filter: letters in order, /regex/, or ! before either for all others; in a text, search").takes(Takes::Text),

    // Everywhere.
    row(&[Key::of('1')], Act::Show(View::Overview), ANYWHERE, "overview", "", "The farm at a glance"),
    row(&[Key::of('2')], Act::Show(View::Builds), ANYWHERE, "builds", "", "A row a build"),
    row(&[Key::of('3')], Act::Show(View::Actions), ANYWHERE, "actions", "", "What waits, runs, and ran"),
    row(&[Key::of('4')], Act::Show(View::Action), ANYWHERE, "action", "", "One action in full; a command takes its digest").takes(Takes::Text),
    row(&[Key::of('5')], Act::Show(View::Timeline), ANYWHERE, "timeline", "", "Lanes of slots over time"),
    row(&[Key::of('6')], Act::Show(View::Machines), ANYWHERE, "machines", "", "A row a machine"),
    row(&[Key::of('7')], Act::Show(View::Cache), ANYWHERE, "cache", "", "The action cache and the store"),
    row(&[Key::of('8')], Act::Show(View::Logs), ANYWHERE, "logs", "", "The log of the node"),
    row(&[named(KeyCode::Esc), named(KeyCode::Backspace)], Act::Back, ANYWHERE, "back", "", "Go back: close, drop a filter, leave a view"),
    row(&[Key::of('b')], Act::Build, ANYWHERE, "build", "", "Show one build only, or all again").takes(Takes::Build),
    row(&[Key::of('c')], Act::Colouring, ANYWHERE, "colour", "", "Colour by person or by build"),
    row(&[Key::of(' ')], Act::Pause, ANYWHERE, "pause", "", "Freeze the screen, or go on"),
    row(&[Key::ctrl('s')], Act::Snapshot, ANYWHERE, "snapshot", "", "Write what the screen shows into a text file"),
    row(&[], Act::Theme, ANYWHERE, "theme", "", "Change the colours").takes(Takes::Theme),
    row(&[], Act::Reconnect, ANYWHERE, "reconnect", "", "Connect to the node now"),
    row(&[Key::of(':')], Act::Palette, ANYWHERE, "", "", "Type a command; tab completes"),
    row(&[Key::of('?'), named(KeyCode::F(1))], Act::Help, ANYWHERE, "help", "help", "This page"),
    row(&[Key::ctrl('l')], Act::Repaint, ANYWHERE, "", "", "Draw everything anew"),
    row(&[Key::ctrl('z')], Act::Suspend, ANYWHERE, "", "", "Back to the shell for a while; fg returns"),
    row(&[Key::of('q'), Key::ctrl('c')], Act::Quit, ANYWHERE, "quit", "quit", "Leave"),

    // Dialogs.
    row(&[Key::of('y'), named(KeyCode::Enter)], Act::Accept, &[Place::Confirm], "", "yes", "Yes"),
    row(&[Key::of('n'), named(KeyCode::Esc), Key::of('q'), Key::ctrl('c')], Act::Refuse, &[Place::Confirm], "", "no", "No"),
    row(&[Key::of('a')], Act::LetIn, &[Place::Newcomer], "", "let it in", "Let the machine in, after a question").changes(),
    row(&[Key::of('r')], Act::TurnAway, &[Place::Newcomer], "", "turn it away", "Turn the machine away, after a question").changes(),
    row(&[named(KeyCode::Esc), Key::of('q'), Key::ctrl('c')], Act::Refuse, &[Place::Newcomer], "", "later", "Answer it later: a in 6 Machines"),
    row(&[Key::of('y')], Act::Copy, &[Place::Invitation], "", "copy the command", "Copy the command to type on the other machine"),
    row(&[Key::of('x')], Act::Withdraw, &[Place::Invitation], "", "withdraw", "Withdraw the invitation").changes(),
    row(&[named(KeyCode::Esc), named(KeyCode::Enter), Key::of('q'), Key::ctrl('c')], Act::Refuse, &[Place::Invitation], "", "close, leave it open", "Close this; the invitation stays open"),
    row(&[named(KeyCode::Esc), named(KeyCode::Enter), Key::of('q'), Key::ctrl('c')], Act::Refuse, &[Place::Joining], "", "close", "Close this, and give up what is under way"),
    row(&[named(KeyCode::Enter)], Act::Accept, &[Place::Input, Place::Pick], "", "ok", "Take it"),
    row(&[named(KeyCode::Esc), Key::ctrl('c')], Act::Refuse, &[Place::Input, Place::Pick], "", "cancel", "Leave it"),
    row(&[named(KeyCode::Tab)], Act::Complete, &[Place::Input], "", "complete", "Complete what was typed"),
    row(&[named(KeyCode::Up)], Act::Earlier, &[Place::Input], "", "", "What was typed before"),
    row(&[named(KeyCode::Down)], Act::Later, &[Place::Input], "", "", "What was typed later"),
    row(&[named(KeyCode::Up), Key::of('k')], Act::Up, &[Place::Pick, Place::Help], "", "", "Go up"),
    row(&[named(KeyCode::Down), Key::of('j')], Act::Down, &[Place::Pick, Place::Help], "", "", "Go down"),
    row(&[named(KeyCode::PageUp)], Act::PageUp, &[Place::Help], "", "", "Go up a page"),
    row(&[named(KeyCode::PageDown), Key::of(' ')], Act::PageDown, &[Place::Help], "", "", "Go down a page"),
    row(&[named(KeyCode::Home), Key::of('g')], Act::Top, &[Place::Help], "", "", "Go to the first"),
    row(&[named(KeyCode::End), Key::of('G')], Act::Bottom, &[Place::Help], "", "", "Go to the last"),
    row(&[named(KeyCode::Esc), Key::of('q'), Key::of('?'), named(KeyCode::Enter), Key::ctrl('c')], Act::Refuse, &[Place::Help], "", "close", "Close"),
];
