//! Colours by role. Views name what a thing is, a theme says how that looks, and what the terminal
//! can show decides how much of it is left.
//!
//! Themes are small TOML files, see [`mod@file`]; those in `assets/themes` are compiled in.

mod colour;
mod file;

use std::path::Path;

use ratatui::style::{Modifier, Style};

use crate::options::ColourDepth;

/// What a thing on the screen is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    /// Ordinary text.
    Text,
    /// Of less weight: units, labels, what is over.
    Dim,
    /// Of more weight.
    Strong,
    /// Titles of boxes and columns.
    Title,
    /// Keys one can press, links one can follow.
    Key,
    /// Lines around boxes.
    Border,
    /// Lines around the box that has the keys.
    Focus,
    /// The chosen row; laid over what stands there.
    Selected,
    /// What a filter or a search found; laid over.
    Match,
    /// Ended well.
    Good,
    /// Ended badly, or an alarm.
    Bad,
    /// Wants attention: slow, retried, draining, advice.
    Warn,
    /// Runs.
    Running,
    /// Waits.
    Queued,
    /// Out of the cache.
    Hit,
    /// The header line.
    Header,
    /// The hint line.
    Hint,
    /// The banner over data that is old, and the word PAUSED.
    Stale,
    /// The first line of a graph.
    Graph,
    /// The second line of a graph.
    Graph2,
    /// The empty part of bars and graphs.
    Empty,
    /// What was there before: removed lines, old values.
    Old,
    /// What is there now: added lines, new values.
    New,
}

/// Every role with its name in theme files.
pub(crate) const ROLES: [(Role, &str); 23] = [
    (Role::Text, "text"),
    (Role::Dim, "dim"),
    (Role::Strong, "strong"),
    (Role::Title, "title"),
    (Role::Key, "key"),
    (Role::Border, "border"),
    (Role::Focus, "focus"),
    (Role::Selected, "selected"),
    (Role::Match, "match"),
    (Role::Good, "good"),
    (Role::Bad, "bad"),
    (Role::Warn, "warn"),
    (Role::Running, "running"),
    (Role::Queued, "queued"),
    (Role::Hit, "hit"),
    (Role::Header, "header"),
    (Role::Hint, "hint"),
    (Role::Stale, "stale"),
    (Role::Graph, "graph"),
    (Role::Graph2, "graph2"),
    (Role::Empty, "empty"),
    (Role::Old, "old"),
    (Role::New, "new"),
];

/// Themes that come with the program: name and text.
pub(crate) const BUILT_IN: [(&str, &str); 5] = [
    ("default", include_str!("../../assets/themes/default.toml")),
    ("light", include_str!("../../assets/themes/light.toml")),
    ("colour-blind", include_str!("../../assets/themes/colour-blind.toml")),
    ("contrast", include_str!("../../assets/themes/contrast.toml")),
    ("mono", include_str!("../../assets/themes/mono.toml")),
];

/// How roles look on this terminal.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Theme {
    name: String,
    depth: ColourDepth,
    styles: [Style; ROLES.len()],
    senders: Vec<Style>,
}

// === impl Theme ===

impl Theme {
    /// The theme of that name, or in that file, for a terminal of `depth`.
    ///
    /// # Errors
    /// In words, when there is none, or the file is not as it should be.
    pub(crate) fn load(name: &str, depth: ColourDepth) -> Result<Self, String> {
        if let Some((name, text)) = BUILT_IN.iter().find(|(built_in, _)| *built_in == name) {
            return file::parse(name, text, depth);
        }
        if !name.contains(['/', '.']) {
            let names: Vec<_> = BUILT_IN.iter().map(|(name, _)| *name).collect();
            return Err(format!("there is none of that name; there are {}", names.join(", ")));
        }
        let text = std::fs::read_to_string(Path::new(name)).map_err(|error| error.to_string())?;
        file::parse(name, &text, depth)
    }

    /// The theme one starts with.
    pub(crate) fn standard(depth: ColourDepth) -> Self {
        Self::load(BUILT_IN[0].0, depth).expect("invariant: the themes compiled in are tested")
    }

    /// Its name, or the path of its file.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What it was made for.
    pub(crate) fn depth(&self) -> ColourDepth {
        self.depth
    }

    /// How `role` looks.
    pub(crate) fn style(&self, role: Role) -> Style {
        self.styles[role as usize]
    }

    /// How the sender of that number looks, the same everywhere. Numbers beyond the palette begin
    /// anew; without colours all look alike, and letters tell them apart.
    pub(crate) fn sender(&self, number: usize) -> Style {
        match self.senders.len() {
            0 => Style::new().add_modifier(Modifier::BOLD),
            palette => self.senders[number % palette],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_theme_that_comes_along_is_complete() {
        for depth in [ColourDepth::None, ColourDepth::Ansi16, ColourDepth::Ansi256, ColourDepth::True] {
            for (name, _) in BUILT_IN {
                let theme = Theme::load(name, depth).unwrap();
                assert_eq!((theme.name(), theme.depth()), (name, depth));
            }
        }
    }

    #[test]
    fn roles_stand_in_their_order() {
        for (at, (role, name)) in ROLES.iter().enumerate() {
            assert_eq!(*role as usize, at, "{name}");
        }
    }

    #[test]
    fn unknown_themes_are_refused_in_words() {
        let error = Theme::load("nope", ColourDepth::True).unwrap_err();
        assert!(error.contains("default"), "{error}");
        assert!(Theme::load("./nope.toml", ColourDepth::True).is_err());
    }
}
