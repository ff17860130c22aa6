//! Text files a person asked for.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Names tried before it is given up.
const TRIES: u32 = 1000;

/// Writes `text` into a new file in the directory the program was started in. The name gets a number
/// when there is one already.
pub(super) fn write_new(name: &str, text: &str) -> Result<PathBuf, String> {
    write_new_in(Path::new("."), name, text)
}

fn write_new_in(directory: &Path, name: &str, text: &str) -> Result<PathBuf, String> {
    let (stem, extension) = name.rsplit_once('.').unwrap_or((name, "txt"));
    for number in 1..=TRIES {
        let name = if number == 1 { name.to_owned() } else { format!("{stem}-{number}.{extension}") };
        let path = directory.join(name);
        let opened = OpenOptions::new().write(true).create_new(true).open(&path);
        match opened.and_then(|mut file| file.write_all(text.as_bytes())) {
            Ok(()) => return Ok(path.canonicalize().unwrap_or(path)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(format!("cannot write {}: {error}", path.display())),
        }
    }
    Err(format!("there are too many files like {name} already"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let first = write_new_in(directory.path(), "screen.txt", "one").unwrap();
        let second = write_new_in(directory.path(), "screen.txt", "two").unwrap();
        assert_eq!(second.file_name().unwrap(), "screen-2.txt");
        assert_eq!(std::fs::read_to_string(first).unwrap(), "one");
        assert!(write_new_in(&directory.path().join("no"), "x.txt", "").unwrap_err().contains("no"));
    }
}
