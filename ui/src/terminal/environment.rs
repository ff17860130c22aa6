//! What the environment tells of the terminal.

use crate::clipboard::Between;
use crate::options::ColourDepth;

/// What the environment tells of the terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Environment {
    terminal: String,
    colours: ColourDepth,
    ascii: bool,
    between: Between,
}

// === impl Environment ===

impl Environment {
    /// That of this process.
    pub(crate) fn detect() -> Self {
        Self::of(|name| std::env::var(name).ok())
    }

    /// What `variable` tells.
    pub(crate) fn of(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let terminal = set("TERM").unwrap_or_default();
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default();
        let locale = locale.to_lowercase();
        let utf8 = locale.contains("utf-8") || locale.contains("utf8");
        let colours = match set("COLORTERM").as_deref() {
            _ if set("NO_COLOR").is_some() => ColourDepth::None,
            Some("truecolor" | "24bit") => ColourDepth::True,
            _ => colours_of(&terminal),
        };
        // The font of the Linux console has few of the signs.
        let ascii = !utf8 || terminal == "linux";
        Self { colours, ascii, between: Between::detect(&variable), terminal }
    }

    /// `TERM`.
    pub(crate) fn terminal_type(&self) -> &str {
        &self.terminal
    }

    /// Whether the cursor cannot be moved.
    pub(crate) fn is_dumb(&self) -> bool {
        matches!(self.terminal.as_str(), "" | "dumb" | "unknown")
    }

    /// Colours it shows.
    pub(crate) fn colours(&self) -> ColourDepth {
        self.colours
    }

    /// Whether it shows ASCII only.
    pub(crate) fn ascii(&self) -> bool {
        self.ascii
    }

    /// What stands between this program and the terminal.
    pub(crate) fn between(&self) -> Between {
        self.between
    }
}

fn colours_of(terminal: &str) -> ColourDepth {
    let has = |part: &str| terminal.contains(part);
    match terminal {
        _ if has("direct") || has("truecolor") => ColourDepth::True,
        _ if has("256color") || has("kitty") || has("alacritty") || has("ghostty") => ColourDepth::Ansi256,
        _ if terminal.starts_with("vt") || has("mono") || terminal.ends_with("-m") => ColourDepth::None,
        _ => ColourDepth::Ansi16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(set: &[(&str, &str)]) -> Environment {
        let set: Vec<_> = set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Environment::of(|name| set.iter().find(|(set, _)| set == name).map(|(_, value)| value.clone()))
    }

    #[test]
    fn colours_are_told_by_variables() {
        let colours = |set: &[(&str, &str)]| with(set).colours();
        assert_eq!(colours(&[("TERM", "xterm-256color"), ("COLORTERM", "truecolor")]), ColourDepth::True);
        assert_eq!(colours(&[("TERM", "screen-256color")]), ColourDepth::Ansi256);
        assert_eq!(colours(&[("TERM", "xterm")]), ColourDepth::Ansi16);
        assert_eq!(colours(&[("TERM", "vt220")]), ColourDepth::None);
        let asked_not_to = [("TERM", "xterm-256color"), ("COLORTERM", "truecolor"), ("NO_COLOR", "1")];
        assert_eq!(colours(&asked_not_to), ColourDepth::None);
        assert_eq!(colours(&[("TERM", "xterm"), ("NO_COLOR", "")]), ColourDepth::Ansi16);
    }

    #[test]
    fn the_locale_tells_the_signs() {
        assert!(!with(&[("TERM", "xterm"), ("LANG", "de_DE.UTF-8")]).ascii());
        assert!(with(&[("TERM", "xterm"), ("LANG", "de_DE.UTF-8"), ("LC_ALL", "C")]).ascii());
        assert!(!with(&[("TERM", "xterm"), ("LC_CTYPE", "C.utf8")]).ascii());
        assert!(with(&[("TERM", "linux"), ("LANG", "C.UTF-8")]).ascii());
        assert!(with(&[("TERM", "xterm")]).ascii());
    }

    #[test]
    fn dumb_terminals_are_known() {
        assert!(with(&[]).is_dumb() && with(&[("TERM", "dumb")]).is_dumb());
        assert!(!with(&[("TERM", "vt100")]).is_dumb());
    }
}
