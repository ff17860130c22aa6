//! The file of machines that keep copies, so that a node that starts knows whom to wait for.
//!
//! One line a machine: id, share of the copies, start of its node, name. [`machine_file`] reads and writes it.

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{MOST_MACHINES, MOST_SHARES};
use crate::peer::{MachineId, machine_file};

/// The first line.
const HEAD: &str = "# farmhand keepers 1";

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
    Ok(parse(&machine_file::read(path)?))
}

/// Writes `keepers` to the file at `path`, in place of what it has.
///
/// # Errors
/// When it cannot be written; it is as before then.
pub fn write(path: &Path, keepers: &[Keeper]) -> io::Result<()> {
    machine_file::write(path, &to_text(keepers))
}

/// The machines of the text of a file.
pub fn parse(text: &str) -> Vec<Keeper> {
    machine_file::parse(text, HEAD, MOST_MACHINES, parse_line)
}

fn parse_line(id: MachineId, line: &str) -> Option<Keeper> {
    let mut words = line.splitn(3, ' ');
    let weight: u32 = words.next()?.parse().ok()?;
    let boot_epoch = words.next()?.parse().ok()?;
    let name = words.next().filter(|name| machine_file::is_name(name))?;
    let is_usable = weight > 0 && u64::from(weight) <= MOST_SHARES;
    is_usable.then(|| Keeper { id, name: name.into(), boot_epoch, weight })
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
    use std::fs;

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
