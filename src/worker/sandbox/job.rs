//! [`Job`]: what a spawner process is told by its command line.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::pool::{Mode, SpawnerConfig};

/// First argument of a spawner process.
pub(super) const WORD: &str = "__spawner";

/// Second argument of one that only tries what the kernel allows. The third is a directory to try in.
pub(super) const PROBE: &str = "probe";

const SANDBOX: &str = "sandbox";
const PLAIN: &str = "plain";

/// The work of a spawner process, the same for all its commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) mode: Mode,
    /// Control group to join.
    pub(super) group: Option<PathBuf>,
    /// Control group to have a seat in.
    pub(super) seats: Option<PathBuf>,
    /// Bytes of `/tmp`, and of `/dev/shm`.
    pub(super) tmp_size: Option<u64>,
    /// Files a command may have open until it asks for more; as many as the daemon if not set.
    pub(super) open_files: Option<u64>,
    /// Directories of the host to show.
    pub(super) shown: Vec<PathBuf>,
}

impl Job {
    pub(super) fn of(config: &SpawnerConfig) -> Self {
        Self {
            mode: config.mode,
            group: config.group.as_ref().map(|group| group.directories().0.to_owned()),
            seats: config.group.as_ref().and_then(|group| group.directories().1.map(Path::to_owned)),
            tmp_size: config.tmp_size,
            open_files: config.open_files,
            shown: config.shown.clone(),
        }
    }

    /// The command line: [`WORD`], mode, groups, size and limit (empty where there is none), directories.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let mode = match self.mode {
            Mode::Sandbox => SANDBOX,
            Mode::Plain => PLAIN,
        };
        let path = |path: &Option<PathBuf>| path.clone().unwrap_or_default().into_os_string();
        let number = |number: Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
        let (size, files) = (number(self.tmp_size), number(self.open_files));
        let (group, seats) = (path(&self.group), path(&self.seats));
        let mut arguments = vec![WORD.into(), mode.into(), group, seats, size.into(), files.into()];
        arguments.extend(self.shown.iter().map(OsString::from));
        arguments
    }

    /// Reads what follows [`WORD`]; `None` if nobody but a person wrote it.
    pub(super) fn parse(mode: &OsStr, mut rest: impl Iterator<Item = OsString>) -> Option<Self> {
        let mode = match mode.to_str()? {
            SANDBOX => Mode::Sandbox,
            PLAIN => Mode::Plain,
            _ => return None,
        };
        let mut path = || Some(Some(rest.next()?).filter(|path| !path.is_empty()).map(PathBuf::from));
        let (group, seats) = (path()?, path()?);
        let (tmp_size, open_files) = (number(&rest.next()?)?, number(&rest.next()?)?);
        Some(Self { mode, group, seats, tmp_size, open_files, shown: rest.map(PathBuf::from).collect() })
    }
}

/// A number or nothing; `None` for anything else.
fn number(text: &OsStr) -> Option<Option<u64>> {
    if text.is_empty() { Some(None) } else { text.to_str()?.parse().ok().map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_tells_it_all() {
        let group = Some("/sys/fs/cgroup/x".into());
        for (group, tmp_size, open_files) in [(None, None, Some(1024)), (group, Some(1 << 30), None)] {
            let shown = vec!["/opt/sdk".into()];
            let seats = group.clone();
            let job = Job { mode: Mode::Sandbox, group, seats, tmp_size, open_files, shown };
            let mut arguments = job.arguments().into_iter();
            assert_eq!(arguments.next().unwrap(), WORD);
            assert_eq!(Job::parse(&arguments.next().unwrap(), arguments), Some(job));
        }
    }

    #[test]
    fn other_words_are_no_job() {
        for words in [&["dance", "", "", "", ""][..], &["plain", "", "", ""], &["plain", "", "", "lots", ""]]
        {
            let mut words = words.iter().map(OsString::from);
            assert_eq!(Job::parse(&words.next().unwrap(), words), None);
        }
    }
}
