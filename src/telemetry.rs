//! Logs: to stderr, always, so that stdout holds nothing but data. The last lines are in memory too
//! ([`mod@recent`]).

use std::io::{self, IsTerminal};
use std::sync::{Arc, LazyLock};

use tracing_subscriber::filter::{FilterExt, LevelFilter, ParseError};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::{LogConfig, LogFormat};
use recent::RecentLayer;
pub use recent::{Line, Recent};

mod recent;

/// The last lines of this process: there is one log.
static RECENT: LazyLock<Arc<Recent>> = LazyLock::new(Arc::default);

/// The filter is no list of directives.
#[derive(Debug, thiserror::Error)]
#[error("log-filter: {filter:?} is not a log filter: {source}")]
pub struct FilterError {
    /// The filter as given.
    pub filter: String,
    /// What is wrong with it.
    pub source: ParseError,
}

/// Starts logging for the whole process. A second call changes nothing, so that tests may share a
/// process.
///
/// # Errors
/// [`FilterError`] when the filter does not parse.
pub fn init(config: &LogConfig) -> Result<(), FilterError> {
    let kept = LevelFilter::INFO.or(parse_filter(&config.filter)?);
    let lines = tracing_subscriber::registry().with(RecentLayer(recent()).with_filter(kept));
    let filter = parse_filter(&config.filter)?;
    let written = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let outcome = match config.format {
        LogFormat::Text => {
            let written = written.with_ansi(colours(io::stderr().is_terminal()));
            lines.with(written.with_filter(filter)).try_init()
        }
        LogFormat::Json => lines.with(written.json().flatten_event(true).with_filter(filter)).try_init(),
    };
    // The only failure is that logging runs already.
    drop(outcome);
    Ok(())
}

/// The last lines of the log of this process; empty where [`init`] was not called.
pub fn recent() -> Arc<Recent> {
    Arc::clone(&RECENT)
}

/// Whether to colour what goes to a place that is a terminal or not: `NO_COLOR` forbids it.
pub fn colours(is_terminal: bool) -> bool {
    is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn parse_filter(filter: &str) -> Result<EnvFilter, FilterError> {
    EnvFilter::try_new(filter).map_err(|source| FilterError { filter: filter.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        assert!(parse_filter("info").is_ok());
        assert!(parse_filter("warn,farmhand::cas=trace").is_ok());
        let error = parse_filter("farmhand=loud").unwrap_err();
        assert!(error.to_string().starts_with("log-filter: \"farmhand=loud\""), "{error}");
    }

    #[test]
    fn no_colours_without_a_terminal() {
        assert!(!colours(false));
    }
}
