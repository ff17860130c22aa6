//! The file of machines this one was linked with, so that a farm finds itself again where nothing is
//! announced.
//!
//! One line a machine: id, when it was last heard of (seconds of Unix time), its addresses parted by
//! commas, its name. What the file says is a hint like any other. [`machine_file`] reads and writes it.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::members::{MOST_ADDRESSES, MOST_MEMBERS};
use super::{MachineId, machine_file};

/// The first line.
const HEAD: &str = "# farmhand peers 1";

/// Machines that were not heard of for so long are not remembered.
const REMEMBERED: Duration = Duration::from_secs(30 * 24 * 3600);

/// A machine this one was linked with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Who.
    pub id: MachineId,
    /// When it was last heard of.
    pub heard: SystemTime,
    /// Where it answered.
    pub addresses: Vec<SocketAddr>,
    /// Its name.
    pub name: String,
}

/// Machines in the file at `path`, but for those not heard of for long. A file that is not there is empty.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: &Path, now: SystemTime) -> io::Result<Vec<Remembered>> {
    let mut all = parse(&machine_file::read(path)?);
    // One from the future was written under a clock that was wrong.
    all.retain(|peer| now.duration_since(peer.heard).is_ok_and(|age| age < REMEMBERED) || peer.heard > now);
    Ok(all)
}

/// Writes `peers` to the file at `path`, in place of what it has.
///
/// # Errors
/// When it cannot be written; it is as before then.
pub fn write(path: &Path, peers: &[Remembered]) -> io::Result<()> {
    machine_file::write(path, &to_text(peers))
}

/// The machines of the text of a file.
pub fn parse(text: &str) -> Vec<Remembered> {
    machine_file::parse(text, HEAD, MOST_MEMBERS, parse_line)
}

fn parse_line(id: MachineId, line: &str) -> Option<Remembered> {
    let mut words = line.splitn(3, ' ');
    let heard = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(words.next()?.parse().ok()?))?;
    let addresses = words.next()?.split(',').take(MOST_ADDRESSES).map(str::parse);
    let addresses = addresses.collect::<Result<Vec<SocketAddr>, _>>().ok()?;
    let name = words.next().filter(|name| machine_file::is_name(name))?;
    let is_usable = addresses.iter().all(|address| address.port() != 0 && !address.ip().is_unspecified());
    is_usable.then(|| Remembered { id, heard, addresses, name: name.to_owned() })
}

/// The text of a file of these.
pub fn to_text(peers: &[Remembered]) -> String {
    let mut text = format!("{HEAD}\n");
    for peer in peers {
        let heard = peer.heard.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let addresses: Vec<_> = peer.addresses.iter().map(ToString::to_string).collect();
        let id = const_hex::encode(peer.id.bytes());
        let _ = writeln!(text, "{id} {heard} {} {}", addresses.join(","), peer.name);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    fn peer(number: u8, addresses: &[&str]) -> Remembered {
        Remembered {
            id: MachineId::new([number; 32]),
            heard: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            name: format!("machine-{number}"),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("peers");
        let peers = [peer(1, &["10.0.0.1:8981"]), peer(2, &["[fe80::1%3]:9", "[2001:db8::1]:8981"])];
        let now = peers[0].heard + Duration::from_secs(5);
        assert_eq!(read(&path, now).unwrap(), []);
        write(&path, &peers[..1]).unwrap();
        write(&path, &peers).unwrap();
        assert_eq!(read(&path, now).unwrap(), peers);
        assert_eq!(read(&path, now + REMEMBERED).unwrap(), []);
        assert_eq!(read(&path, SystemTime::UNIX_EPOCH).unwrap(), peers, "a clock that was wrong");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        assert!(write(&directory.path().join("no/such"), &peers).is_err());
    }

    #[test]
    fn lines_that_mean_nothing_are_left_out() {
        let good = to_text(&[peer(1, &["10.0.0.1:1"])]);
        let line = good.lines().nth(1).unwrap();
        for wrong in [
            line.replacen("01", "0", 1),
            line.replace("10.0.0.1:1", "10.0.0.1"),
            line.replace("10.0.0.1:1", "10.0.0.1:0"),
            line.replace("10.0.0.1:1", "0.0.0.0:1"),
            line.replace("10.0.0.1:1", ""),
            line.replace("1800000000", "soon"),
            line.replace("1800000000", "99999999999999999999"),
            line.replace("machine-1", ""),
            line.replace("machine-1", "a\u{7}"),
            line.replace("machine-1", "a b"),
        ] {
            assert_eq!(parse(&format!("{HEAD}\n{wrong}\n")), [], "{wrong}");
        }
        assert_eq!(parse(&format!("{HEAD}\n\nnonsense\n{line}\n{line}\n")).len(), 1);
        assert_eq!(parse(line), [], "a file of another kind");
        let many: String = (0..10_000_u32).map(|number| format!("{number:064x} 1 10.0.0.1:1 a\n")).collect();
        assert_eq!(parse(&format!("{HEAD}\n{many}")).len(), MOST_MEMBERS);
    }

    proptest! {
        #[test]
        fn any_text_parses_to_what_is_written_the_same(text in "(?s).{0,200}") {
            let peers = parse(&format!("{HEAD}\n{text}"));
            prop_assert_eq!(parse(&to_text(&peers)), peers);
        }
    }
}
