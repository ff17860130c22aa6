//! The number of a start of the node: larger than that of every earlier one on the same data directory.
//!
//! It is kept in a small file, and is the time in seconds where that is larger: so it grows even when the
//! file is lost, and when the clock is set back. A file that cannot be written does not keep a node
//! from starting: a full disk is no reason to serve nothing.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

/// Name of the file in the data directory.
const FILE: &str = "BOOTS";

/// The number of this start. To be called once in each, while the data directory is locked.
pub(super) fn count(data_dir: &Path, now: SystemTime) -> u64 {
    let path = data_dir.join(FILE);
    let last = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let number = last.map_or(seconds, |last| last.saturating_add(1).max(seconds));
    if let Err(error) = write(&path, number) {
        tracing::warn!(%error, path = %path.display(), "the number of this start is not kept");
    }
    number
}

/// Writes in place: that needs no room on the disk but for the first time, and as many bytes each time.
fn write(path: &Path, number: u64) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    file.write_all(format!("{number:020}\n").as_bytes())?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn it_grows_whatever_the_clock_does() {
        let directory = tempfile::tempdir().unwrap();
        let count = |seconds| count(directory.path(), at(seconds));
        assert_eq!([count(100), count(100), count(50), count(1000)], [100, 101, 102, 1000]);
    }

    #[test]
    fn a_damaged_file_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(FILE), "what?").unwrap();
        assert_eq!(count(directory.path(), at(7)), 7);
        assert_eq!(count(directory.path(), at(7)), 8);
    }

    #[test]
    fn a_directory_that_cannot_be_written_gives_the_time() {
        assert_eq!(count(Path::new("/nowhere/at/all"), at(9)), 9);
    }
}
