//! A key as the table names it and a person reads it.

use std::fmt;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// A key, perhaps with Ctrl. Shift is part of the character.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    code: KeyCode,
    ctrl: bool,
}

// === impl Key ===

impl Key {
    /// The key of a character.
    pub(crate) const fn of(c: char) -> Self {
        Self { code: KeyCode::Char(c), ctrl: false }
    }

    /// Ctrl and a character.
    pub(crate) const fn ctrl(c: char) -> Self {
        Self { code: KeyCode::Char(c), ctrl: true }
    }

    /// A key with a name.
    pub(crate) const fn named(code: KeyCode) -> Self {
        Self { code, ctrl: false }
    }
}

impl From<KeyEvent> for Key {
    fn from(event: KeyEvent) -> Self {
        let ctrl = event.modifiers.contains(KeyModifiers::CONTROL);
        let code = match event.code {
            // Terminals differ in how they tell Shift-Tab.
            KeyCode::Tab if event.modifiers.contains(KeyModifiers::SHIFT) => KeyCode::BackTab,
            KeyCode::Char(c) if ctrl => KeyCode::Char(c.to_ascii_lowercase()),
            code => code,
        };
        Self { code, ctrl }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ctrl {
            f.write_str("ctrl-")?;
        }
        match self.code {
            KeyCode::Char(' ') => f.write_str("space"),
            KeyCode::Char(c) => write!(f, "{c}"),
            KeyCode::BackTab => f.write_str("shift-tab"),
            KeyCode::Delete => f.write_str("del"),
            KeyCode::PageUp => f.write_str("pgup"),
            KeyCode::PageDown => f.write_str("pgdn"),
            KeyCode::F(number) => write!(f, "f{number}"),
            code => f.write_str(&format!("{code:?}").to_lowercase()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_apart_and_named() {
        let event = |code, modifiers| Key::from(KeyEvent::new(code, modifiers));
        assert_eq!(event(KeyCode::Char('L'), KeyModifiers::CONTROL), Key::ctrl('l'));
        assert_eq!(event(KeyCode::Tab, KeyModifiers::SHIFT), Key::named(KeyCode::BackTab));
        assert_eq!(event(KeyCode::Char('G'), KeyModifiers::SHIFT), Key::of('G'));
        let names = [Key::ctrl('s'), Key::of(' '), Key::named(KeyCode::PageDown), Key::named(KeyCode::Enter)];
        assert_eq!(names.map(|key| key.to_string()), ["ctrl-s", "space", "pgdn", "enter"]);
    }
}
