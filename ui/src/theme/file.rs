//! Theme files.
//!
//! ```toml
//! [roles]
//! good = "#98c379/green"
//! selected = "bold on #3e4451/dark-gray"
//! [senders]
//! colours = ["#61afef/light-blue", "#e5c07b/yellow"]
//! ```
//!
//! A look is words in any order: `bold dim italic underline reverse`, a colour for the text, and
//! `on` with a colour behind it. A colour is `#rrggbb`, one of the sixteen by name, `default`, or
//! `#rrggbb/name`. A role that is left out looks as the terminal does.

use std::collections::BTreeMap;

use ratatui::style::{Modifier, Style};
use serde::Deserialize;

use super::colour::Colour;
use super::{ROLES, Theme};
use crate::options::ColourDepth;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    roles: BTreeMap<String, String>,
    #[serde(default)]
    senders: Senders,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Senders {
    colours: Vec<String>,
}

/// The theme of `text` for a terminal of `depth`.
pub(super) fn parse(name: &str, text: &str, depth: ColourDepth) -> Result<Theme, String> {
    let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
    let mut styles = [Style::new(); ROLES.len()];
    for (role, look) in &file.roles {
        let Some(at) = ROLES.iter().position(|(_, name)| name == role) else {
            return Err(format!("{role:?} is no role"));
        };
        styles[at] = style(look, depth).map_err(|word| format!("role {role}: {word:?} is no colour"))?;
    }
    let senders = file.senders.colours.iter().map(|look| style(look, depth));
    let senders =
        senders.collect::<Result<Vec<_>, _>>().map_err(|word| format!("senders: {word:?} is no colour"))?;
    let senders = if depth == ColourDepth::None { Vec::new() } else { senders };
    Ok(Theme { name: name.to_owned(), depth, styles, senders })
}

/// The style of a look; the word that is none as the error.
fn style(look: &str, depth: ColourDepth) -> Result<Style, String> {
    let mut style = Style::new();
    let mut behind = false;
    for word in look.split_whitespace() {
        let modifier = match word {
            "bold" => Modifier::BOLD,
            "dim" => Modifier::DIM,
            "italic" => Modifier::ITALIC,
            "underline" => Modifier::UNDERLINED,
            "reverse" => Modifier::REVERSED,
            "on" => {
                behind = true;
                continue;
            }
            _ => {
                let colour = Colour::parse(word).ok_or_else(|| word.to_owned())?.at(depth);
                match (colour, behind) {
                    (Some(colour), false) => style = style.fg(colour),
                    (Some(colour), true) => style = style.bg(colour),
                    // A bar told by its background only must still be seen without colours.
                    (None, true) => style = style.add_modifier(Modifier::REVERSED),
                    (None, false) => {}
                }
                behind = false;
                continue;
            }
        };
        style = style.add_modifier(modifier);
    }
    Ok(style)
}

#[cfg(test)]
mod tests {
    use ratatui::style::Color;

    use super::*;
    use crate::theme::Role;

    #[test]
    fn looks_are_read() {
        let text =
            "[roles]\ngood = \"bold green\"\nselected = \"on #000080/blue\"\n[senders]\ncolours = [\"red\"]";
        let theme = parse("x", text, ColourDepth::Ansi16).unwrap();
        assert_eq!(theme.style(Role::Good), Style::new().fg(Color::Green).add_modifier(Modifier::BOLD));
        assert_eq!(theme.style(Role::Selected), Style::new().bg(Color::Blue));
        assert_eq!(theme.sender(7), Style::new().fg(Color::Red));
        let bare = parse("x", text, ColourDepth::None).unwrap();
        assert_eq!(bare.style(Role::Good), Style::new().add_modifier(Modifier::BOLD));
        assert_eq!(bare.style(Role::Selected), Style::new().add_modifier(Modifier::REVERSED));
    }

    #[test]
    fn mistakes_are_named() {
        let error = |text: &str| parse("x", text, ColourDepth::True).unwrap_err();
        assert!(error("[roles]\ngreat = \"red\"").contains("great"));
        assert!(error("[roles]\ngood = \"rouge\"").contains("rouge"));
        assert!(error("[rolls]").contains("rolls"));
    }
}
