//! What a person reads when a command fails: one line of what, one line of what to do.

use std::error::Error;
use std::fmt::{self, Display, Formatter};
use std::io::IsTerminal;
use std::process::ExitCode;

use super::output::Paint;
use crate::config::ConfigError;
use crate::telemetry::FilterError;

/// A failed command.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CliError {
    message: String,
    hint: Option<String>,
}

/// Puts the reason of a failure behind what was being done.
pub(super) trait Explain<T> {
    /// `doing: reason: its cause …`, on one line.
    fn explain(self, doing: impl Display) -> Result<T, CliError>;
}

// === impl CliError ===

impl CliError {
    /// A failure without a known remedy.
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    /// The same with a remedy.
    #[must_use]
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Writes it to stderr; the exit code.
    pub(super) fn report(self) -> ExitCode {
        let paint = Paint::for_stream(std::io::stderr().is_terminal());
        eprintln!("{} {self}", paint.red("error:"));
        if let Some(hint) = &self.hint {
            eprintln!("{} {}", paint.cyan("hint:"), one_line(hint));
        }
        ExitCode::FAILURE
    }
}

fn one_line(text: &str) -> String {
    text.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

/// What went wrong, on one line, without the remedy.
impl Display for CliError {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str(&one_line(&self.message))
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        let hint = match &error {
            ConfigError::Invalid { remedy, .. } => remedy.clone(),
            ConfigError::File { .. } => {
                "farmhand serve --help names every key with its default: --slots is slots".into()
            }
            ConfigError::Read { .. } => "name another file with --config, or leave it out".into(),
        };
        Self::new(error.to_string()).hint(hint)
    }
}

impl From<FilterError> for CliError {
    fn from(error: FilterError) -> Self {
        Self::new(error.to_string())
            .hint("use a level such as info, or levels by module: info,farmhand::cas=debug")
    }
}

/// A refused call: the server's words, and its code for those who look it up.
impl From<tonic::Status> for CliError {
    fn from(status: tonic::Status) -> Self {
        Self::new(format!("{} ({:?})", status.message(), status.code()))
    }
}

impl<T, E: Error> Explain<T> for Result<T, E> {
    fn explain(self, doing: impl Display) -> Result<T, CliError> {
        self.map_err(|error| CliError::new(format!("{doing}: {}", chain(&error))))
    }
}

/// An error with its causes; a cause that its parent already quotes is not said twice.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);

    #[test]
    fn causes_are_told_once_on_one_line() {
        let outer = Outer(io::Error::other("inner"));
        assert_eq!(chain(&outer), "outer: inner");
        let failed: Result<(), _> = Err(io::Error::other("broken\npipe")).explain("reading");
        let error = failed.unwrap_err();
        assert_eq!(error.to_string(), "reading: broken; pipe");
    }
}
