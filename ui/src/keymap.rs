//! The one table of what a person can do: keys, where they work, names for the `:` line, help.
//!
//! Dispatch, the hint line, the `?` page and the completion of commands all read [`BINDINGS`]. The
//! innermost place that knows a key wins, so a view may give a common key a meaning of its own.

mod key;
mod table;

pub(crate) use key::Key;
pub(crate) use table::BINDINGS;

use crate::options::View;

/// What a person can do. What it needs besides comes from the selection, or is the argument of a
/// `:` command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Act {
    // The program.
    Quit,
    Suspend,
    Repaint,
    Reconnect,
    Help,
    Palette,
    Pause,
    Theme,
    Colouring,
    Snapshot,
    // Where one is.
    Show(View),
    Back,
    // Lists and text.
    Up,
    Down,
    PageUp,
    PageDown,
    Top,
    Bottom,
    Left,
    Right,
    Open,
    NextTab,
    PreviousTab,
    Tab,
    SortNext,
    SortReverse,
    Sort,
    Filter,
    Build,
    NextMatch,
    PreviousMatch,
    Follow,
    Wrap,
    // Actions.
    Kill,
    Retry,
    Rerun,
    RunOn,
    Fetch,
    Copy,
    CopyAll,
    Pin,
    Why,
    // Machines.
    Drain,
    Resume,
    Rest,
    Slots,
    MoreSlots,
    FewerSlots,
    // Coming into the farm.
    Invite,
    Answer,
    Join,
    LetIn,
    TurnAway,
    Withdraw,
    // Timeline.
    ZoomIn,
    ZoomOut,
    PanEarlier,
    PanLater,
    Lanes,
    Now,
    Export,
    // The log.
    Level,
    // Dialogs and input lines.
    Accept,
    Refuse,
    Complete,
    Earlier,
    Later,
}

/// Where a key works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// In every view.
    Anywhere,
    /// In every view with a list or a text.
    List,
    /// In one view.
    In(View),
    /// In a question that is answered by yes or no.
    Confirm,
    /// In a line of input.
    Input,
    /// In a list to choose from.
    Pick,
    /// On the help page.
    Help,
    /// In the dialog of an invitation.
    Invitation,
    /// In that of a newcomer.
    Newcomer,
    /// In that of a farm that is joined.
    Joining,
}

/// What a `:` command takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    /// Nothing.
    Nothing,
    /// The name of a theme.
    Theme,
    /// A column of the list that is shown.
    Column,
    /// The name of a machine.
    Machine,
    /// A build.
    Build,
    /// Any text.
    Text,
    /// A number.
    Number,
}

/// One row of the table.
#[derive(Debug)]
pub(crate) struct Binding {
    /// Keys, the first is the one shown.
    pub(crate) keys: &'static [Key],
    /// What it does.
    pub(crate) act: Act,
    /// Where.
    pub(crate) places: &'static [Place],
    /// Name as a `:` command; empty for none.
    pub(crate) name: &'static str,
    /// What the command takes.
    pub(crate) takes: Takes,
    /// For the help page: a sentence without a full stop.
    pub(crate) help: &'static str,
    /// For the hint line: a word or two; empty keeps it out of there.
    pub(crate) hint: &'static str,
    /// Whether it changes something in the farm, so that a read-only dashboard lacks it.
    pub(crate) changes: bool,
}

/// The binding of `key` in the first of `places` that has one.
pub(crate) fn find(places: &[Place], key: Key) -> Option<&'static Binding> {
    places.iter().find_map(|place| in_place(*place).find(|binding| binding.keys.contains(&key)))
}

/// The bindings that work in `place` itself.
pub(crate) fn in_place(place: Place) -> impl Iterator<Item = &'static Binding> {
    BINDINGS.iter().filter(move |binding| binding.places.contains(&place))
}

/// Whether `act`, done in one of `places`, changes something in the farm.
pub(crate) fn changes(places: &[Place], act: Act) -> bool {
    places.iter().flat_map(|place| in_place(*place)).any(|binding| binding.act == act && binding.changes)
}

/// The command of that name that works in one of `places`.
pub(crate) fn command(places: &[Place], name: &str) -> Option<&'static Binding> {
    commands(places).find(|binding| binding.name == name)
}

/// The `:` commands that work in one of `places`.
pub(crate) fn commands(places: &[Place]) -> impl Iterator<Item = &'static Binding> {
    BINDINGS
        .iter()
        .filter(|binding| !binding.name.is_empty())
        .filter(move |binding| binding.places.iter().any(|place| places.contains(place)))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn all_places() -> HashSet<Place> {
        BINDINGS.iter().flat_map(|binding| binding.places.iter().copied()).collect()
    }

    #[test]
    fn a_key_means_one_thing_in_a_place() {
        for place in all_places() {
            let mut seen = HashSet::new();
            for key in in_place(place).flat_map(|binding| binding.keys) {
                assert!(seen.insert(*key), "{key:?} twice in {place:?}");
            }
        }
    }

    #[test]
    fn a_command_means_one_thing_in_a_place() {
        for place in all_places() {
            let mut seen = HashSet::new();
            for binding in in_place(place).filter(|binding| !binding.name.is_empty()) {
                assert!(seen.insert(binding.name), "{} twice in {place:?}", binding.name);
            }
        }
    }

    #[test]
    fn everything_has_help_and_a_way_to_it() {
        for binding in BINDINGS {
            assert!(!binding.help.is_empty() && !binding.help.ends_with('.'), "{binding:?}");
            assert!(!binding.keys.is_empty() || !binding.name.is_empty(), "{binding:?}");
            assert!(!binding.places.is_empty(), "{binding:?}");
        }
    }

    #[test]
    fn the_innermost_place_wins() {
        let there = [Place::In(View::Machines), Place::List, Place::Anywhere];
        assert_eq!(find(&there, Key::of('D')).unwrap().act, Act::Drain);
        assert!(find(&[Place::In(View::Actions), Place::List, Place::Anywhere], Key::of('D')).is_none());
        assert_eq!(find(&there, Key::of('3')).unwrap().act, Act::Show(View::Actions));
    }

    #[test]
    fn what_changes_the_farm_is_known_by_the_act_too() {
        let machines = [Place::In(View::Machines), Place::List, Place::Anywhere];
        assert!([Act::Drain, Act::Answer, Act::Invite].iter().all(|act| changes(&machines, *act)));
        assert!([Act::Open, Act::Help, Act::Filter].iter().all(|act| !changes(&machines, *act)));
    }
}
