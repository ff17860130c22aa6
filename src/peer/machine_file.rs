//! Files with a line for each machine: one that says what kind of file it is, then what is known of each.
//!
//! What such a file says is hostile until parsed: it is read up to 256 KiB, lines that mean nothing are left out,
//! and so is what comes a second time. It is written whole or not at all. What a line says is for whoever owns the
//! file.

use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::Path;

use super::MachineId;

/// Bytes of a file that are read.
const MOST_BYTES: u64 = 256 * 1024;

/// Bytes of a name.
const LONGEST_NAME: usize = 253;

/// The text of the file at `path`. One that is not there is empty.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: &Path) -> io::Result<String> {
    let mut text = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(MOST_BYTES).read_to_end(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(error),
    };
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Writes `text` to the file at `path`, in place of what it has.
///
/// # Errors
/// When it cannot be written; it is as before then.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    let next = path.with_extension("new");
    let written = || {
        let mut file = File::create(&next)?;
        file.write_all(text.as_bytes())?;
        file.sync_data()?;
        fs::rename(&next, path)
    };
    written().inspect_err(|_| {
        // What is left of it would be in the way of nobody.
        let _ = fs::remove_file(&next);
    })
}

/// The machines of a text that begins with the line `head`, each once and `most` at most; none of another text.
/// `parse` reads what follows the id in a line; `None` where that means nothing.
pub fn parse<T>(text: &str, head: &str, most: usize, parse: impl Fn(MachineId, &str) -> Option<T>) -> Vec<T> {
    let mut lines = text.lines();
    if lines.next() != Some(head) {
        return Vec::new();
    }
    let machine = |line: &str| {
        let (id, rest) = line.split_once(' ')?;
        let id = MachineId::read(&const_hex::decode(id).ok()?)?;
        Some((id, parse(id, rest)?))
    };
    let mut all: Vec<(MachineId, T)> = Vec::new();
    for (id, machine) in lines.filter_map(machine).take(most) {
        if all.iter().all(|(other, _)| *other != id) {
            all.push((id, machine));
        }
    }
    all.into_iter().map(|(_, machine)| machine).collect()
}

/// Whether a machine may be called so in a line.
pub fn is_name(name: &str) -> bool {
    let is_usable = |c: char| !c.is_control() && !c.is_whitespace();
    !name.is_empty() && name.len() <= LONGEST_NAME && name.chars().all(is_usable)
}
