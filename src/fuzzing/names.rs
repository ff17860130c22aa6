//! Names that clients send as text.

use std::path::{Component as PathComponent, PathBuf};

use super::input::Input;
use crate::digest::DigestFunction;
use crate::path::{Component, RootPath};
use crate::rpc::http::path::Resource;
use crate::rpc::resource_name::{LogName, ReadName, WriteName};

/// A name that parses is written as a name that parses to the same; none is for reads and writes.
///
/// # Panics
/// When that does not hold.
pub fn resource_name(data: &[u8]) {
    let mut input = Input(data);
    let function = if input.flag() { DigestFunction::Blake3 } else { DigestFunction::Sha256 };
    let Ok(text) = std::str::from_utf8(input.0) else { return };
    let read = ReadName::parse(text, |_| function);
    let write = WriteName::parse(text, |_| function);
    assert!(read.is_err() || write.is_err(), "{text:?} is a name for reads and for writes");
    if let Ok(name) = LogName::parse(text) {
        assert!(!name.id.contains('/') && read.is_err());
        let again = LogName::parse(&name.to_string()).expect("a written name parses");
        assert_eq!(again, name);
    }
    // The text form names the function unless it is SHA256, so that is what an absent one must mean.
    let absent = |_: &_| DigestFunction::Sha256;
    if let Ok(name) = read {
        assert!(i64::try_from(name.digest.size()).is_ok());
        let again = ReadName::parse(&name.to_string(), absent).expect("a written name parses");
        assert_eq!(again, name);
    }
    if let Ok(name) = write {
        assert!(!name.upload.contains('/'));
        let again = WriteName::parse(&name.to_string(), absent).expect("a written name parses");
        assert_eq!(again, name);
    }
}

/// A path of the HTTP cache that parses is written as one that parses to the same, in ASCII; headers are read
/// without a panic, whatever they hold.
///
/// # Panics
/// When that does not hold.
pub fn http_request(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let path = lines.next().unwrap_or_default();
    if let Ok(path) = std::str::from_utf8(path)
        && let Ok(resource) = Resource::parse(path, |_| DigestFunction::Sha256)
    {
        let written = resource.to_string();
        assert!(written.is_ascii(), "{written:?}");
        let again = Resource::parse(&written, |_| DigestFunction::Sha256).expect("a written path parses");
        assert_eq!(again, resource);
    }
    let pairs = lines.filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = http::HeaderName::from_bytes(&line[..colon]).ok()?;
        Some((name, http::HeaderValue::from_bytes(&line[colon + 1..]).ok()?))
    });
    let mut headers = http::HeaderMap::new();
    // The server takes no more of one request.
    for (name, value) in pairs.take(100) {
        headers.append(name, value);
    }
    crate::rpc::http::fuzzing::headers(&headers);
}

/// A path inside an input root, joined to a working directory, never leaves it: it has only file names in
/// it, and says what a walk along its segments says.
///
/// # Panics
/// When that does not hold.
pub fn path(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (base, relative) = text.split_once('\n').unwrap_or(("", text));
    assert_eq!(Component::parse(relative).is_ok(), Component::is_valid(relative));
    let Ok(base) = RootPath::root().join(base) else { return };
    let Ok(joined) = base.join(relative) else {
        assert!(!Component::is_valid(relative), "{relative:?} is a file name and is refused");
        return;
    };
    let path = joined.to_path_buf();
    assert!(path.components().all(|part| matches!(part, PathComponent::Normal(_))), "{path:?}");
    assert_eq!(path.components().count(), joined.components().len());
    assert_eq!(path, walked(base.to_path_buf(), relative));
    assert_eq!(RootPath::root().join(&joined.to_string()).expect("a written path parses"), joined);
}

/// Where the segments of `relative` lead from `base`.
fn walked(mut base: PathBuf, relative: &str) -> PathBuf {
    for segment in relative.split('/').filter(|segment| !matches!(*segment, "" | ".")) {
        if segment == ".." {
            assert!(base.pop(), "{relative:?} leads above the root");
        } else {
            base.push(segment);
        }
    }
    base
}
