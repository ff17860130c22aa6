//! The values of platform properties, read.

use std::path::{Component as PathComponent, Path};

use super::names::Unit;
use super::{NetworkAccess, PlatformError};
use crate::path::RootPath;

/// Directories of a mounted root that an input root cannot stand in.
const TAKEN: [&str; 10] = ["bin", "dev", "etc", "lib", "lib32", "lib64", "proc", "sbin", "sys", "usr"];

/// What an amount of memory looks like.
const MEMORY: &str = "an amount of memory, like 512, 512M or 2GB";

/// What an amount of cores looks like.
const CORES: &str = "a number of cores, like 2, 0.5 or 1500m";

/// Hexadecimal digits of a SHA-256.
const SHA256_DIGITS: usize = 64;

/// Bytes of a name of an image.
const IMAGE_NAME: usize = 512;

/// A container image, named so that it cannot change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageName(String);

/// What the value of a container property says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ContainerValue {
    /// No container.
    None,
    /// This one.
    Pinned(ImageName),
    /// One whose name may mean another image tomorrow.
    Unpinned,
}

// === impl ImageName ===

impl ImageName {
    /// `NAME@sha256:HEX`, as podman and docker take it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The error for a value that a property cannot have.
pub(super) fn invalid(name: &str, value: &str, expected: &'static str) -> PlatformError {
    PlatformError::Value { name: name.to_owned(), value: value.chars().take(200).collect(), expected }
}

pub(super) fn network(name: &str, value: &str) -> Result<NetworkAccess, PlatformError> {
    match value.to_ascii_lowercase().as_str() {
        "on" | "standard" | "bridge" | "host" => Ok(NetworkAccess::Host),
        "off" | "none" | "" => Ok(NetworkAccess::Loopback),
        _ => Err(invalid(name, value, "\"on\", \"off\", \"standard\", \"bridge\", \"host\" or \"none\"")),
    }
}

/// A flag. Bazel writes an empty value for one that is set by its name alone.
pub(super) fn flag(name: &str, value: &str, if_empty: bool) -> Result<bool, PlatformError> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" => Ok(false),
        "" => Ok(if_empty),
        _ => Err(invalid(name, value, "\"true\" or \"false\"")),
    }
}

pub(super) fn id(name: &str, value: &str) -> Result<u32, PlatformError> {
    match value.parse() {
        // The kernel keeps -1 for «no id».
        Ok(u32::MAX) | Err(_) => Err(invalid(name, value, "a number from 0 to 4294967294")),
        Ok(id) => Ok(id),
    }
}

/// Whether an input root may stand at `path` beside what is shown of the host.
pub(super) fn is_free_absolute(path: &str) -> bool {
    let mut components = Path::new(path).components();
    components.next() == Some(PathComponent::RootDir)
        && !path.contains('\0')
        && components.clone().all(|part| matches!(part, PathComponent::Normal(_)))
        && components.next().is_some_and(|first| !TAKEN.iter().any(|taken| first.as_os_str() == *taken))
}

/// A path below the input root. One leading slash is taken for the input root.
pub(super) fn inside(name: &str, value: &str) -> Result<RootPath, PlatformError> {
    let path = RootPath::root().join(value.strip_prefix('/').unwrap_or(value));
    path.ok()
        .filter(|path| !path.is_root())
        .ok_or_else(|| invalid(name, value, "a path of a file below the input root"))
}

/// CPU cores in thousandths: a number, or thousandths with the suffix `m`.
pub(super) fn millicores(name: &str, value: &str) -> Result<u64, PlatformError> {
    let (number, scale) = value.strip_suffix('m').map_or((value, 1000.0), |number| (number, 1.0));
    scaled(number, scale).ok_or_else(|| invalid(name, value, CORES))
}

/// Bytes of memory: an amount with a unit, or with `usual` without one.
pub(super) fn memory(name: &str, value: &str, usual: Unit) -> Result<u64, PlatformError> {
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = value[digits.len()..].to_ascii_lowercase();
    let power = match (unit.as_str(), unit.trim_end_matches('b').trim_end_matches('i')) {
        ("b", _) => 0,
        ("", _) => match usual {
            Unit::Bytes => 0,
            Unit::KiB => 1,
            Unit::MiB => 2,
        },
        (_, "k") => 1,
        (_, "m") => 2,
        (_, "g") => 3,
        (_, "t") => 4,
        _ => return Err(invalid(name, value, MEMORY)),
    };
    scaled(digits, 1024_f64.powi(power)).ok_or_else(|| invalid(name, value, MEMORY))
}

/// How many of something, in thousandths.
pub(super) fn amount(name: &str, value: &str) -> Result<u64, PlatformError> {
    scaled(value, 1000.0).ok_or_else(|| invalid(name, value, "a number"))
}

fn scaled(number: &str, scale: f64) -> Option<u64> {
    let number: f64 = number.parse().ok()?;
    let scaled = (number * scale).ceil();
    (number.is_finite() && (0.0..1e18).contains(&scaled)).then_some(scaled as u64)
}

/// A container image: `docker://NAME@sha256:HEX`, with or without the scheme.
pub(super) fn container(name: &str, value: &str) -> Result<ContainerValue, PlatformError> {
    if matches!(value, "" | "none") {
        return Ok(ContainerValue::None);
    }
    let image = value.strip_prefix("docker://").unwrap_or(value);
    // A name that begins with a dash would be a flag to the tool.
    let is_name = |text: &str| {
        text.len() <= IMAGE_NAME
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-/:".contains(c))
    };
    let (path, digest) = image.split_once('@').map_or((image, None), |(path, digest)| (path, Some(digest)));
    let hex = digest.map(|digest| digest.strip_prefix("sha256:").unwrap_or_default());
    let is_digest =
        |hex: &str| hex.len() == SHA256_DIGITS && hex.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
    match hex {
        Some(hex) if is_name(path) && is_digest(hex) => {
            Ok(ContainerValue::Pinned(ImageName(image.to_owned())))
        }
        None if is_name(path) => Ok(ContainerValue::Unpinned),
        _ => Err(invalid(name, value, "docker://NAME@sha256: with 64 digits, or \"none\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_of_memory() {
        let bytes = |value, usual| memory("m", value, usual).ok();
        assert_eq!(bytes("512", Unit::MiB), Some(512 << 20));
        assert_eq!(bytes("512", Unit::KiB), Some(512 << 10));
        assert_eq!(bytes("512", Unit::Bytes), Some(512));
        for (value, expected) in
            [("100B", 100), ("3KiB", 3072), ("2GB", 2 << 30), ("1T", 1 << 40), ("1.5k", 1536)]
        {
            assert_eq!(bytes(value, Unit::MiB), Some(expected), "{value}");
        }
        for value in ["", "x", "-1", "1q", "nan", "inf", "1e300", "1mm"] {
            assert_eq!(bytes(value, Unit::MiB), None, "{value:?}");
        }
    }

    #[test]
    fn images_are_pinned_or_not_or_no_images() {
        let hex = "0123456789abcdef".repeat(4);
        let pinned = format!("gcr.io/a/b-c:tag@sha256:{hex}");
        for value in [pinned.clone(), format!("docker://{pinned}")] {
            let Ok(ContainerValue::Pinned(image)) = container("c", &value) else { panic!("{value}") };
            assert_eq!(image.as_str(), pinned);
        }
        for value in ["none", ""] {
            assert_eq!(container("c", value), Ok(ContainerValue::None));
        }
        for value in ["gcc", "docker://gcc:13", "localhost:5000/x"] {
            assert_eq!(container("c", value), Ok(ContainerValue::Unpinned), "{value}");
        }
        for value in ["-v", "docker://--privileged", "a b", "a@sha256:12", "a@md5:12", "@", "oci://x y"] {
            assert!(container("c", value).is_err(), "{value}");
        }
    }

    #[test]
    fn sockets_are_inside() {
        assert_eq!(inside("s", "/tmp/casd.sock").unwrap().to_string(), "tmp/casd.sock");
        assert_eq!(inside("s", "run/x").unwrap().to_string(), "run/x");
        for value in ["/", "..", "a/../..", "a/", "//x", ".", "a\0"] {
            assert!(inside("s", value).is_err(), "{value:?}");
        }
    }
}
