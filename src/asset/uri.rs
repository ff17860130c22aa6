//! [`AssetUri`]: a name of content, and [`Url`]: one that can be downloaded from.
//!
//! Pure. Any printable text is a name, since clients push under names of their own making; those of http and
//! https become a [`Url`]. What is shown to people has no user, no query and no fragment: these hold secrets.

use std::fmt;

use base64::Engine;
use fluent_uri::{Uri, UriRef};

/// Bytes of the longest name taken.
const LONGEST: usize = 8 * 1024;

/// Bytes that clients leave as they are and that no URI may hold (RFC 3986, 2).
const TIDIED: &[u8] = b" \"<>\\^`{|}";

/// What a client calls the content.
#[derive(Clone, PartialEq, Eq)]
pub struct AssetUri {
    text: String,
    place: Place,
}

/// Where content of that name can be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// From the server it names.
    Web(Url),
    /// Nowhere: it names content and no place (`urn:`).
    Nowhere,
    /// In a way that is not for this node (`file:`, `ftp:`, no URI at all).
    Elsewhere,
}

/// An address on the web.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    uri: Uri<String>,
    is_secure: bool,
    /// In small letters, IPv6 addresses without brackets.
    host: String,
    port: u16,
}

/// Why a text is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// Empty, too long, or with characters that cannot be shown.
    #[error("a uri has 1 to {LONGEST} bytes and no control characters")]
    Malformed,
}

// === impl AssetUri ===

impl AssetUri {
    /// Parses what a client sent.
    ///
    /// # Errors
    /// [`UriError`].
    pub fn parse(text: &str) -> Result<Self, UriError> {
        if text.is_empty() || text.len() > LONGEST || text.chars().any(char::is_control) {
            return Err(UriError::Malformed);
        }
        let scheme = text.split(':').next().unwrap_or_default().to_ascii_lowercase();
        let place = match scheme.as_str() {
            "http" | "https" => Url::parse(text).map_or(Place::Elsewhere, Place::Web),
            "urn" => Place::Nowhere,
            _ => Place::Elsewhere,
        };
        Ok(Self { text: text.to_owned(), place })
    }

    /// The name, as it was sent. Not for logs.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Where it leads.
    pub fn place(&self) -> &Place {
        &self.place
    }
}

/// Without what may be secret.
impl fmt::Display for AssetUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Place::Web(url) = &self.place {
            return url.fmt(f);
        }
        let end = self.text.find(['?', '#']).unwrap_or(self.text.len());
        // A user may stand before an at sign in schemes that are not known here.
        let shown = self.text[..end].rsplit('@').next().unwrap_or_default();
        f.write_str(&shown.chars().take(200).collect::<String>())
    }
}

impl fmt::Debug for AssetUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === impl Url ===

impl Url {
    /// Parses an address; `None` if it is none of http or https.
    pub fn parse(text: &str) -> Option<Self> {
        Self::of(Uri::parse(tidy(text)).ok()?)
    }

    /// Where `location`, the value of a header of an answer from here, leads (RFC 9110, 10.2.2).
    pub fn join(&self, location: &str) -> Option<Self> {
        if location.len() > LONGEST {
            return None;
        }
        let target = UriRef::parse(tidy(location)).ok()?;
        Self::of(target.resolve_against(&self.uri.strip_fragment()).ok()?)
    }

    /// The address `path` below this one, in place of its query: `/x` and `info/refs?a=b` make
    /// `/x/info/refs?a=b`.
    pub(super) fn below(&self, path: &str) -> Option<Self> {
        let text = self.uri.as_str();
        let base = text.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
        Self::parse(&format!("{base}/{path}"))
    }

    /// The address above `path`, with which this one ends: what [`below`](Self::below) made it from.
    pub(super) fn above(&self, path: &str) -> Option<Self> {
        let base = self.uri.as_str().split(['?', '#']).next()?.strip_suffix(path)?;
        Self::parse(base)
    }

    fn of(uri: Uri<String>) -> Option<Self> {
        let is_secure = match uri.scheme().as_str().to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?;
        let host = authority.host().trim_matches(['[', ']']).to_ascii_lowercase();
        let host = host.trim_end_matches('.').to_owned();
        let usual = if is_secure { 443 } else { 80 };
        let port = match authority.port().map(|port| port.as_str()) {
            None | Some("") => usual,
            Some(port) => port.parse().ok().filter(|port| *port != 0)?,
        };
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
        if host.is_empty() || !host.chars().all(is_name) {
            return None;
        }
        Some(Self { is_secure, host, port, uri })
    }

    /// Whether it is of https.
    pub fn is_secure(&self) -> bool {
        self.is_secure
    }

    /// Name or address of the host, in small letters, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Path and query, as a request names them.
    pub fn target(&self) -> String {
        let path = self.uri.path().as_str();
        let path = if path.is_empty() { "/" } else { path };
        self.uri.query().map_or(path.to_owned(), |query| format!("{path}?{query}"))
    }

    /// Host, and port where it is not the usual one, for the header `host`.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let usual = if self.is_secure { 443 } else { 80 };
        if self.port == usual { host } else { format!("{host}:{}", self.port) }
    }

    /// What the user in it makes of the header `authorization`.
    pub fn credentials(&self) -> Option<String> {
        let userinfo = self.uri.authority()?.userinfo()?;
        let decoded = userinfo.decode().to_bytes();
        Some(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(decoded)))
    }

    /// Whether both are of one server, so that what one may know, the other may.
    pub fn is_same_origin(&self, other: &Self) -> bool {
        (self.is_secure, &self.host, self.port) == (other.is_secure, &other.host, other.port)
    }

    /// The whole of it but user and fragment, for a request to a proxy.
    pub(super) fn absolute(&self) -> String {
        let scheme = if self.is_secure { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority(), self.target())
    }
}

/// Without what may be secret.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_secure { "https" } else { "http" };
        let path: String = self.uri.path().as_str().chars().take(200).collect();
        write!(f, "{scheme}://{}{path}", self.authority())
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// With percent signs for what people type and no URI may hold.
fn tidy(text: &str) -> String {
    let mut tidied = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && !TIDIED.contains(&byte) {
            tidied.push(char::from(byte));
        } else {
            tidied.push_str(&format!("%{byte:02X}"));
        }
    }
    tidied
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn addresses_on_the_web_are_taken_apart() {
        let plain = url("http://Example.com");
        assert_eq!((plain.host(), plain.port(), plain.target().as_str()), ("example.com", 80, "/"));
        let full = url("https://u:p%40ss@[::1]:8443/a b/c?x=1#frag");
        assert_eq!((full.host(), full.port(), full.target().as_str()), ("::1", 8443, "/a%20b/c?x=1"));
        assert_eq!(full.authority(), "[::1]:8443");
        assert_eq!(full.credentials().as_deref(), Some("Basic dTpwQHNz"));
        for text in
            ["http://", "http://:80/", "http:///x", "ftp://a/", "//a/b", "http://a:0/", "http://a:99999/"]
        {
            assert_eq!(Url::parse(text), None, "{text}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        for text in ["https://user:pass@host/path?token=pass#pass", "svn://user:pass@host/path?pass"] {
            let uri = AssetUri::parse(text).unwrap();
            let shown = format!("{uri} {uri:?} {:?}", uri.place());
            assert!(shown.contains("host/path") && !shown.contains("pass"), "{shown}");
            assert_eq!(uri.as_str(), text);
        }
    }

    #[test]
    fn redirects_lead_where_they_say() {
        let base = url("https://u:p@a.example/x/y?q=1");
        for (location, target) in [
            ("https://b.example/z", "https://b.example/z"),
            ("//c.example", "https://c.example"),
            ("/root", "https://a.example/root"),
            ("z?k=v", "https://a.example/x/z"),
        ] {
            assert_eq!(base.join(location).unwrap().to_string(), target);
        }
        assert_eq!(base.join("file:///etc/passwd"), None);
        assert_eq!(base.join("javascript:x"), None);
        assert!(base.is_same_origin(&base.join("/other").unwrap()));
        let listing = url("http://u@h/r.git/?x").below("info/refs?s=1").unwrap();
        assert_eq!(listing.target(), "/r.git/info/refs?s=1");
        assert_eq!(listing.above("/info/refs"), Some(url("http://u@h/r.git")));
        for other in ["http://a.example/", "https://a.example:444/", "https://b.example/"] {
            assert!(!base.is_same_origin(&url(other)), "{other}");
        }
    }

    #[test]
    fn names_are_any_text_that_can_be_shown() {
        let place = |text: &str| AssetUri::parse(text).unwrap().place().clone();
        assert_eq!(place("urn:fdc:buildstream.build:2020:artifact:p/e/k"), Place::Nowhere);
        assert_eq!(place("file:///etc/passwd"), Place::Elsewhere);
        assert_eq!(place("any text"), Place::Elsewhere);
        assert!(matches!(place("HTTP://a/b"), Place::Web(_)));
        for text in ["", "a\nb", &"x".repeat(LONGEST + 1)] {
            assert_eq!(AssetUri::parse(text), Err(UriError::Malformed));
        }
    }
}
