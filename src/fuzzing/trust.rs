//! Keys as people leave them in files, and what strangers send to the port of an invitation.

use super::input::Input;
use crate::peer::trust::join::{Code, fuzzing};
use crate::peer::trust::{FarmKey, FarmTag};

/// Messages of one exchange.
const MOST_MESSAGES: usize = 16;

/// A text that is a key is written as a text that is the same key, and what it is not is said without it.
/// The same for codes and tags.
///
/// # Panics
/// When that does not hold.
pub fn farm_key(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match text.parse::<FarmKey>() {
        Ok(key) => {
            assert_eq!(key.words().parse(), Ok(key.clone()));
            assert_eq!(key.file().parse(), Ok(key.clone()));
            assert!(!format!("{key:?}").contains(key.words().as_str()));
        }
        Err(error) => {
            let told = error.to_string();
            assert!(told.is_ascii() && told.len() < 100, "{told}");
        }
    }
    if let Ok(code) = text.parse::<Code>() {
        assert_eq!(code.text().parse(), Ok(code.clone()));
    }
    if let Ok(tag) = text.parse::<FarmTag>() {
        assert_eq!(tag.to_string(), text.to_ascii_lowercase());
    }
}

/// Whatever is sent by somebody who does not know the code, to either side: he is not taken for one who
/// does.
///
/// # Panics
/// When he is.
pub fn join_messages(data: &[u8]) {
    let mut input = Input(data);
    let is_member = input.flag();
    let mut messages = Vec::new();
    let mut rest = input.0;
    while let Some((length, tail)) = rest.split_first() {
        let (message, tail) = tail.split_at(usize::from(*length).min(tail.len()));
        messages.push(message);
        rest = tail;
        if messages.len() == MOST_MESSAGES {
            break;
        }
    }
    assert!(!fuzzing::exchange(is_member, &messages), "a stranger was taken for one who knows the code");
}
