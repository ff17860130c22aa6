//! What went wrong between two machines, in words for people.

use std::error::Error;
use std::io;

use rustls::AlertDescription;
use tonic::{Code, Status};

use super::LONGEST_REASON;

/// Text from another machine, fit to be shown: one line of at most `most` characters, none of which
/// steers a terminal.
pub(super) fn shown(text: &str, most: usize) -> String {
    let sign = |c: char| match c {
        '\0'..='\u{1f}' => char::from_u32(0x2400 + u32::from(c)).unwrap_or(char::REPLACEMENT_CHARACTER),
        c if c.is_control() || is_unseen(c) => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.chars().take(most).map(sign).collect()
}

/// A name that another machine gives itself or has for its program, fit to be shown and to be typed: one
/// word, or nothing if it has none.
pub(in crate::peer) fn name(text: &str, most: usize) -> String {
    shown(text, most).split_whitespace().collect::<Vec<_>>().join("-")
}

/// Whether a character takes no room itself, and may change how others look: marks of direction, joiners,
/// breaks of lines.
pub fn is_unseen(c: char) -> bool {
    matches!(c,
        '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Why a call over a link failed.
pub(super) fn of_status(status: &Status) -> String {
    match (status.code(), status.source()) {
        (_, Some(source)) => of_error(source),
        (Code::Unknown | Code::Internal, None) if status.message().is_empty() => "the link broke".to_owned(),
        (_, None) => shown(status.message(), LONGEST_REASON),
    }
}

/// The root of an error of the connection.
pub(super) fn of_error(error: &(dyn Error + 'static)) -> String {
    if let Some(tls) = find::<rustls::Error>(error) {
        return of_tls(tls);
    }
    if let Some(io) = find::<io::Error>(error) {
        return of_io(io);
    }
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    of_text(&root.to_string())
}

/// What is left of an error of a socket once it has gone through HTTP/2: its text.
fn of_text(text: &str) -> String {
    let is_of = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    if is_of(&["close_notify", "broken pipe", "Broken pipe"]) {
        return of_io(&io::ErrorKind::BrokenPipe.into());
    }
    if is_of(&["connection reset", "Connection reset"]) {
        return of_io(&io::ErrorKind::ConnectionReset.into());
    }
    shown(text, LONGEST_REASON)
}

/// An error of a socket.
pub(super) fn of_io(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionReset => "the connection was reset".to_owned(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => {
            "the connection was closed".to_owned()
        }
        io::ErrorKind::ConnectionRefused => "nobody listens there".to_owned(),
        io::ErrorKind::TimedOut => "no answer".to_owned(),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "no way there".to_owned(),
        _ => of_text(&error.to_string()),
    }
}

/// An error of TLS.
fn of_tls(error: &rustls::Error) -> String {
    refused(error).map_or_else(
        || match error {
            rustls::Error::InvalidMessage(_) => "whoever answers there is no machine of a farm".to_owned(),
            rustls::Error::AlertReceived(alert) => format!("it ended the handshake: {alert:?}"),
            error => shown(&error.to_string(), LONGEST_REASON),
        },
        ToOwned::to_owned,
    )
}

/// Why this is no member of the farm, or does not take us for one, if the error says so.
pub(super) fn refusal(error: &(dyn Error + 'static)) -> Option<&'static str> {
    refused(find::<rustls::Error>(error)?)
}

fn refused(error: &rustls::Error) -> Option<&'static str> {
    match error {
        rustls::Error::InvalidCertificate(_) => Some("it has another farm key"),
        rustls::Error::NoCertificatesPresented => Some("it has no farm key"),
        rustls::Error::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::DecryptError
            | AlertDescription::AccessDenied,
        ) => Some("it has another farm key, and takes this machine for a stranger"),
        _ => None,
    }
}

/// The first error of this type among the causes of `error`; those inside of I/O errors included.
fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            let inner = error.downcast_ref::<io::Error>().and_then(inner);
            return inner.and_then(|inner| find::<T>(inner)).or(Some(found));
        }
        let inner = error.downcast_ref::<io::Error>().and_then(inner);
        next = inner.or_else(|| error.source());
    }
    None
}

fn inner(error: &io::Error) -> Option<&(dyn Error + 'static)> {
    error.get_ref().map(|inner| inner as &(dyn Error + 'static))
}

#[cfg(test)]
mod tests {
    use rustls::CertificateError;

    use super::*;

    #[test]
    fn a_stranger_is_told_from_a_broken_connection() {
        let tls = |error: rustls::Error| io::Error::new(io::ErrorKind::InvalidData, error);
        let other = tls(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer));
        assert_eq!(refusal(&other), Some("it has another farm key"));
        let sent_away = tls(rustls::Error::AlertReceived(AlertDescription::UnknownCA));
        assert!(refusal(&sent_away).unwrap().contains("stranger"));
        assert_eq!(refusal(&tls(rustls::Error::HandshakeNotComplete)), None);
        let reset = io::Error::other(io::Error::from(io::ErrorKind::ConnectionReset));
        assert_eq!((refusal(&reset), of_error(&reset).as_str()), (None, "the connection was reset"));
        let status = Status::from_error(Box::new(io::Error::from(io::ErrorKind::UnexpectedEof)));
        assert_eq!(of_status(&status), "the connection was closed");
        assert_eq!(of_status(&Status::unavailable("gone\x07")), "gone\u{2407}");
        assert_eq!(of_status(&Status::unavailable("\u{7f}a\u{85}")), "\u{fffd}a\u{fffd}");
        let text = io::Error::other("peer closed connection without sending TLS close_notify: see …");
        assert_eq!(of_error(&text), "the connection was closed");
    }

    #[test]
    fn names_are_single_words_of_letters_that_are_seen() {
        assert_eq!(name(" the \tattic ", 99), "the-\u{2409}attic");
        assert_eq!(name("a\u{2028}b\u{202e}c\u{200b}\u{200d}\u{feff}\u{2069}\u{61c}", 99), "a�b�c�����");
        assert_eq!((name("attic", 3).as_str(), name(" \u{a0}", 9).as_str()), ("att", ""));
    }
}
