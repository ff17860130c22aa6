//! What a single setting may be, and what to say where it is not that.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::values::ChunkSize;
use super::{ConfigError, MOST_COPIES};

/// Name of the longest socket in the runtime directory.
const LONGEST_SOCKET: &str = "control.sock";

/// Bytes of the longest path a Unix socket may have (`sun_path`, without the final NUL).
const SOCKET_PATH_MAX: usize = 107;

pub(super) fn invalid<T>(
    key: &'static str,
    reason: impl Into<String>,
    remedy: impl Into<String>,
) -> Result<T, ConfigError> {
    Err(ConfigError::Invalid { key, reason: reason.into(), remedy: remedy.into() })
}

pub(super) fn at_least<T: PartialOrd + std::fmt::Display>(
    key: &'static str,
    value: T,
    least: T,
) -> Result<T, ConfigError> {
    if value < least {
        return invalid(key, format!("{value} is too small"), format!("{least} is the least"));
    }
    Ok(value)
}

pub(super) fn check_name(name: String) -> Result<String, ConfigError> {
    if name.is_empty() || name.len() > 253 || name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return invalid(
            "name",
            format!("{name:?} cannot be the name of a machine"),
            "use 1 to 253 characters without blanks",
        );
    }
    Ok(name)
}

pub(super) fn check_person(name: String) -> Result<String, ConfigError> {
    if name.is_empty() || name.len() > 253 || name.chars().any(char::is_control) {
        let reason = format!("{name:?} cannot be the name of a person");
        return invalid("person", reason, "use 1 to 253 characters");
    }
    Ok(name)
}

pub(super) fn check_listen(listen: SocketAddr, insecure_lan: bool) -> Result<SocketAddr, ConfigError> {
    if !listen.ip().is_loopback() && !insecure_lan {
        return invalid(
            "listen",
            format!("{listen} can be reached from other machines, and this port asks nobody who he is"),
            "keep 127.0.0.1, or add --insecure-lan if everybody on that network may run commands here",
        );
    }
    Ok(listen)
}

pub(super) fn check_timeouts(default: Duration, max: Duration) -> Result<(), ConfigError> {
    if default.is_zero() || default > max {
        return invalid(
            "default-timeout",
            format!("{default:?} is not between zero and max-timeout ({max:?})"),
            "lower default-timeout or raise max-timeout",
        );
    }
    Ok(())
}

pub(super) fn check_epoch(interval: Duration) -> Result<Duration, ConfigError> {
    let (least, most) = (Duration::from_millis(10), Duration::from_secs(60));
    if interval < least || interval > most {
        return invalid(
            "epoch-interval",
            format!("{interval:?} is out of range"),
            "use 10ms to 60s: it is what a power cut may cost",
        );
    }
    Ok(interval)
}

/// A state told again without a pause would keep a core busy for each client that waits.
pub(super) fn check_update_interval(interval: Duration) -> Result<Duration, ConfigError> {
    if interval < Duration::from_millis(10) {
        return invalid("update-interval", format!("{interval:?} is too short"), "10ms is the least");
    }
    Ok(interval)
}

pub(super) fn check_chunk_size(bytes: u64) -> Result<ChunkSize, ConfigError> {
    match ChunkSize::new(bytes) {
        Some(size) => Ok(size),
        None => invalid(
            "chunk-size",
            format!("{bytes} bytes are no size that clients cut by"),
            "use a power of two from 64KiB to 1MiB",
        ),
    }
}

pub(super) fn check_copies(copies: usize) -> Result<usize, ConfigError> {
    if !(1..=MOST_COPIES).contains(&copies) {
        let remedy = format!("use 1 to {MOST_COPIES}; with 2, any one machine may be lost");
        return invalid("copies", format!("{copies} is out of range"), remedy);
    }
    Ok(copies)
}

/// Of the `copies` of each blob, those that are waited for.
pub(super) fn check_before_ack(before_ack: usize, copies: usize) -> Result<usize, ConfigError> {
    if before_ack > copies {
        let reason = format!("{before_ack} is more than copies ({copies})");
        return invalid("copies-before-ack", reason, "lower it, or raise copies");
    }
    at_least("copies-before-ack", before_ack, 1)
}

pub(super) fn check_repair_after(away: Duration) -> Result<Duration, ConfigError> {
    let (least, most) = (Duration::from_secs(1), Duration::from_secs(7 * 24 * 3600));
    if away < least || away > most {
        return invalid(
            "repair-after",
            format!("{away:?} is out of range"),
            "use 1s to 7d: longer than a restart takes, shorter than the next loss is away",
        );
    }
    Ok(away)
}

pub(super) fn check_asset_timeout(timeout: Duration) -> Result<Duration, ConfigError> {
    let (least, most) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));
    if timeout < least || timeout > most {
        return invalid("asset-timeout", format!("{timeout:?} is out of range"), "use 1s to 1d");
    }
    Ok(timeout)
}

pub(super) fn check_handshake(timeout: Duration) -> Result<Duration, ConfigError> {
    if timeout < Duration::from_millis(100) {
        return invalid("handshake-timeout", format!("{timeout:?} is too short"), "100ms is the least");
    }
    Ok(timeout)
}

pub(super) fn absolute(key: &'static str, path: Option<PathBuf>) -> Result<PathBuf, ConfigError> {
    let Some(path) = path else {
        return invalid(key, "this user has no home directory", format!("say where with --{key}"));
    };
    match std::path::absolute(&path) {
        Ok(path) => Ok(path),
        Err(error) => invalid(key, format!("{}: {error}", path.display()), "use an absolute path"),
    }
}

pub(super) fn check_runtime_dir(dir: PathBuf) -> Result<PathBuf, ConfigError> {
    if dir.join(LONGEST_SOCKET).as_os_str().len() > SOCKET_PATH_MAX {
        return invalid(
            "runtime-dir",
            format!("{} is too long: the path of a Unix socket has {SOCKET_PATH_MAX} bytes", dir.display()),
            "use a shorter path with --runtime-dir",
        );
    }
    Ok(dir)
}
