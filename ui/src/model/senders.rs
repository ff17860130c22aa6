//! Who sent what: each sender has a number, and with it a colour and a letter, the same everywhere.

use std::collections::HashMap;
use std::sync::Arc;

/// Senders that are told apart; later ones share the last number.
const MOST: usize = 4096;

/// What counts as one sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Colouring {
    /// A person at a machine; builds of which that is not known count for themselves.
    #[default]
    Person,
    /// A build.
    Build,
}

/// Senders by number, in the order they were first seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Senders {
    colouring: Colouring,
    numbers: HashMap<Arc<str>, usize>,
}

// === impl Senders ===

impl Senders {
    /// What counts as one sender.
    pub(crate) fn colouring(&self) -> Colouring {
        self.colouring
    }

    /// Changes that. All numbers are void.
    pub(crate) fn set_colouring(&mut self, colouring: Colouring) {
        *self = Self { colouring, ..Self::default() };
    }

    /// The number of a sender: of `person` (`user@machine`, may be empty) or of the build.
    pub(crate) fn number(&mut self, person: &str, invocation: &Arc<str>) -> usize {
        let by_person = self.colouring == Colouring::Person && !person.is_empty();
        let name = if by_person { person } else { invocation };
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.numbers.len();
        if number == MOST {
            return MOST - 1;
        }
        let name: Arc<str> = if by_person { Arc::from(person) } else { invocation.clone() };
        self.numbers.insert(name, number);
        number
    }
}

/// The letter of a sender, for screens without colour: `A` to `Z`, `a` to `z`, and so on.
pub(crate) fn letter(number: usize) -> char {
    let at = (number % 52) as u8;
    char::from(if at < 26 { b'A' + at } else { b'a' + at - 26 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay() {
        let mut senders = Senders::default();
        let builds: [Arc<str>; 2] = ["b1".into(), "b2".into()];
        assert_eq!(senders.number("ann@attic", &builds[0]), 0);
        assert_eq!(senders.number("", &builds[0]), 1);
        assert_eq!(senders.number("ann@attic", &builds[1]), 0);
        senders.set_colouring(Colouring::Build);
        assert_eq!(senders.number("ann@attic", &builds[1]), 0);
        assert_eq!(senders.number("ann@attic", &builds[0]), 1);
        assert_eq!((letter(0), letter(27), letter(52)), ('A', 'b', 'A'));
    }
}
