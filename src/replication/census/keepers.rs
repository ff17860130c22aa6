//! The file of machines that keep copies, so that a node that starts knows whom to wait for.
//!
//! One line a machine: id, share of the copies, start of its node, name. It is hostile until parsed: lines that mean nothing
//! are left out. It is written whole or not at all.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::Path;
use std::sync::Arc;

use super::{MOST_MACHINES, MOST_SHARES};
use crate::peer::MachineId;

/// The first line.
const HEAD: &str = "# farmhand keepers 1";

/// Bytes of the file that are read.
const MOST_BYTES: u64 = 256 * 1024;

/// Bytes of a name.
const LONGEST_NAME: usize = 253;

/// A machine that keeps copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keeper {
    /// Who.
    pub id: MachineId,
    /// Its name.
    pub name: Arc<str>,
    /// The start of its node that was known last.
    pub boot_epoch: u64,
    /// Share of the copies that it takes.
    pub weight: u32,
}

/// The machines in the file at `path`. A file that is not there is empty.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: &Path) -> io::Result<Vec<Keeper>> {
    let mut text = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(MOST_BYTES).read_to_end(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    Ok(parse(&String::from_utf8_lossy(&text)))
}

/// Writes `keepers` to the file at `path`, in place of what it has.
///
/// # Errors
/// When it cannot be written; it is as before then.
pub fn write(path: &Path, keepers: &[Keeper]) -> io::Result<()> {
    let next = path.with_extension("new");
    let written = || {
        let mut file = File::create(&next)?;
        file.write_all(to_text(keepers).as_bytes())?;
        file.sync_data()?;
        fs::rename(&next, path)
    };
    written().inspect_err(|_| {
        // What is left of it would be in the way of nobody.
        let _ = fs::remove_file(&next);
    })
}

/// The machines of the text of a file.
pub fn parse(text: &str) -> Vec<Keeper> {
    let mut lines = text.lines();
    if lines.next() != Some(HEAD) {
        return Vec::new();
    }
    let mut all: Vec<Keeper> = Vec::new();
    for keeper in lines.filter_map(parse_line).take(MOST_MACHINES) {
        if all.iter().all(|other| other.id != keeper.id) {
            all.push(keeper);
        }
    }
    all
}

fn parse_line(line: &str) -> Option<Keeper> {
    let mut words = line.splitn(4, ' ');
    let id = MachineId::read(&const_hex::decode(words.next()?).ok()?)?;
    let weight: u32 = words.next()?.parse().ok()?;
    let boot_epoch = words.next()?.parse().ok()?;
    let name = words.next()?;
    let is_name = |c: char| !c.is_control() && !c.is_whitespace();
    let is_usable = weight > 0 && u64::from(weight) <= MOST_SHARES;
    (is_usable && !name.is_empty() && name.len() <= LONGEST_NAME && name.chars().all(is_name))
        .then(|| Keeper { id, name: name.into(), boot_epoch, weight })
}

/// The text of a file of these.
pub fn to_text(keepers: &[Keeper]) -> String {
    let mut text = format!("{HEAD}\n");
    for Keeper { id, name, boot_epoch, weight } in keepers {
        let _ = writeln!(text, "{} {weight} {boot_epoch} {name}", const_hex::encode(id.bytes()));
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keeper(number: u8) -> Keeper {
        Keeper {
            id: MachineId::new([number; 32]),
            name: format!("machine-{number}").into(),
            boot_epoch: 7,
            weight: number.into(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keepers");
        assert_eq!(read(&path).unwrap(), []);
        write(&path, &[keeper(1)]).unwrap();
        write(&path, &[keeper(1), keeper(2)]).unwrap();
        assert_eq!(read(&path).unwrap(), [keeper(1), keeper(2)]);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        assert!(write(&directory.path().join("no/such"), &[]).is_err());
    }

    #[test]
    fn lines_that_mean_nothing_are_left_out() {
        let good = to_text(&[keeper(1)]);
        let line = good.lines().nth(1).unwrap();
        for wrong in [
            line.replacen("01", "0", 1),
            line.replace(" 1 ", " 0 "),
            line.replace(" 1 ", " 99999999999 "),
            line.replace(" 1 ", " 4294967295 "),
            line.replace(" 7 ", " -7 "),
            line.replace(" 7 ", " 99999999999999999999 "),
            line.replace("machine-1", ""),
            line.replace("machine-1", "a\u{7}"),
            line.replace("machine-1", "a b"),
        ] {
            assert_eq!(parse(&format!("{HEAD}\n{wrong}\n")), [], "{wrong}");
        }
        assert_eq!(parse(&format!("{HEAD}\n\nnonsense\n{line}\n{line}\n")), [keeper(1)]);
        assert_eq!(parse(line), [], "a file of another kind");
        let many: String = (0..10_000_u32).map(|number| format!("{number:064x} 1 1 a\n")).collect();
        assert_eq!(parse(&format!("{HEAD}\n{many}")).len(), MOST_MACHINES);
    }

    proptest! {
        #[test]
        fn any_text_parses_to_what_is_written_the_same(text in "(?s).{0,200}") {
            let keepers = parse(&format!("{HEAD}\n{text}"));
            prop_assert_eq!(parse(&to_text(&keepers)), keepers);
        }
    }
}
