//! Copying to the clipboard of the person's own terminal, by the sequence OSC 52: it works over
//! ssh, because it is the terminal that does it.
//!
//! The text travels as base64, so nothing in it can act on the terminal. Whether the terminal took
//! it, it does not say; callers word their message so.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Most bytes of base64 that common terminals take in one sequence.
const MOST_ENCODED: usize = 74_994;

/// Most bytes of text that can be copied.
pub(crate) const MOST_BYTES: usize = MOST_ENCODED / 4 * 3;

/// What stands between this program and the terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Between {
    /// Nothing that matters.
    #[default]
    Nothing,
    /// tmux.
    Tmux,
    /// GNU screen.
    Screen,
}

/// The text is longer than terminals take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLong {
    /// Its length in bytes.
    pub(crate) bytes: usize,
}

// === impl Between ===

impl Between {
    /// What the environment tells: `variable` looks one up.
    pub(crate) fn detect(variable: impl Fn(&str) -> Option<String>) -> Self {
        let is_set = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
        if is_set("TMUX") {
            Self::Tmux
        } else if is_set("STY") {
            Self::Screen
        } else {
            Self::Nothing
        }
    }
}

/// What to write to the terminal so that it puts `text` into its clipboard.
///
/// # Errors
/// [`TooLong`] above [`MOST_BYTES`].
pub(crate) fn sequence(text: &str, between: Between) -> Result<String, TooLong> {
    if text.len() > MOST_BYTES {
        return Err(TooLong { bytes: text.len() });
    }
    let plain = format!("\x1b]52;c;{}\x07", STANDARD.encode(text));
    Ok(match between {
        Between::Nothing => plain,
        // Which of the two is heard depends on the options `set-clipboard` and
        // `allow-passthrough`; that both are does no harm.
        Between::Tmux => format!("{plain}\x1bPtmux;{}\x1b\\", plain.replace('\x1b', "\x1b\x1b")),
        Between::Screen => in_pieces(&plain),
    })
}

/// Device control strings, short enough for GNU screen, which passes them on.
fn in_pieces(sequence: &str) -> String {
    const PIECE: usize = 512;
    let mut text = String::with_capacity(sequence.len() * 2);
    for piece in sequence.as_bytes().chunks(PIECE) {
        text.push_str("\x1bP");
        text.extend(piece.iter().map(|&byte| char::from(byte)));
        text.push_str("\x1b\\");
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_terminal_gets_its_form() {
        assert_eq!(sequence("hi", Between::Nothing).unwrap(), "\x1b]52;c;aGk=\x07");
        assert_eq!(
            sequence("hi", Between::Tmux).unwrap(),
            "\x1b]52;c;aGk=\x07\x1bPtmux;\x1b\x1b]52;c;aGk=\x07\x1b\\"
        );
        assert_eq!(sequence("hi", Between::Screen).unwrap(), "\x1bP\x1b]52;c;aGk=\x07\x1b\\");
        let pieces = sequence(&"x".repeat(1000), Between::Screen).unwrap();
        assert_eq!(pieces.matches("\x1bP").count(), 3);
    }

    #[test]
    fn what_terminals_would_cut_is_refused() {
        assert!(sequence(&"x".repeat(MOST_BYTES), Between::Nothing).is_ok());
        let bytes = MOST_BYTES + 1;
        assert_eq!(sequence(&"x".repeat(bytes), Between::Nothing), Err(TooLong { bytes }));
    }

    #[test]
    fn the_environment_tells_what_is_between() {
        let with = |set: &'static str| Between::detect(move |name| (name == set).then(|| "x".to_owned()));
        assert_eq!(
            [with("TMUX"), with("STY"), with("X")],
            [Between::Tmux, Between::Screen, Between::Nothing]
        );
        assert_eq!(Between::detect(|_| Some(String::new())), Between::Nothing);
    }

    proptest! {
        #[test]
        fn only_the_frame_can_act_on_a_terminal(text in "\\PC*[\\x00-\\xff]*") {
            let sequence = sequence(&text, Between::Nothing).unwrap();
            let inner = sequence.strip_prefix("\x1b]52;c;").unwrap().strip_suffix('\x07').unwrap();
            prop_assert!(inner.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b)));
            prop_assert_eq!(STANDARD.decode(inner).unwrap(), text.into_bytes());
        }
    }
}
