//! `STATE`: the few facts that decide how a start goes. Was the last stop clean, on which boot of the
//! machine did it run, and which epoch was the last to be closed.
//!
//! Two slots, written in turn in place and synced: one is always whole, and no write needs room on
//! a full disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MARK: &[u8; 8] = b"FHSTATE\n";
const SLOT: u64 = 4096;
const BOOT_ID: usize = 64;
const LEN: usize = 8 + 8 + 8 + 8 + 1 + 1 + BOOT_ID + 4;

/// The facts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    /// All records of epochs up to this one are on the disk.
    pub(super) closed: u64,
    /// The store was closed, and nothing was changed since.
    pub(super) clean: bool,
    /// Commits the index had seen when the store was closed.
    pub(super) index_generation: u64,
    /// The boot of the machine that wrote this.
    pub(super) boot_id: String,
}

/// The file, with what it holds.
pub(super) struct StateFile {
    file: File,
    turn: u64,
    state: State,
}

impl StateFile {
    /// Opens or makes the file. The state is `None` if there was none, or no slot of it is whole.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Option<State>)> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        if file.metadata()?.len() < 2 * SLOT {
            // Every byte, so that both slots have their room even on a disk that is full later.
            file.write_all_at(&[0; 2 * SLOT as usize], 0)?;
        }
        let newest =
            [0, 1].into_iter().filter_map(|slot| read_slot(&file, slot)).max_by_key(|(turn, _)| *turn);
        let (turn, state) = newest.map_or((0, None), |(turn, state)| (turn, Some(state)));
        Ok((Self { file, turn, state: state.clone().unwrap_or_default() }, state))
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// Replaces the facts; they are on the disk when this returns.
    pub(super) fn write(&mut self, state: State) -> io::Result<()> {
        let turn = self.turn + 1;
        self.file.write_all_at(&encode(turn, &state), turn % 2 * SLOT)?;
        self.file.sync_data()?;
        self.turn = turn;
        self.state = state;
        Ok(())
    }
}

fn encode(turn: u64, state: &State) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    bytes[..8].copy_from_slice(MARK);
    bytes[8..16].copy_from_slice(&turn.to_le_bytes());
    bytes[16..24].copy_from_slice(&state.closed.to_le_bytes());
    bytes[24..32].copy_from_slice(&state.index_generation.to_le_bytes());
    bytes[32] = u8::from(state.clean);
    let boot_id = &state.boot_id.as_bytes()[..state.boot_id.len().min(BOOT_ID)];
    bytes[33] = boot_id.len() as u8;
    bytes[34..34 + boot_id.len()].copy_from_slice(boot_id);
    let crc = crc32fast::hash(&bytes[..LEN - 4]);
    bytes[LEN - 4..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn read_slot(file: &File, slot: u64) -> Option<(u64, State)> {
    let mut bytes = [0; LEN];
    file.read_exact_at(&mut bytes, slot * SLOT).ok()?;
    let word = |at: usize| Some(u64::from_le_bytes(bytes[at..at + 8].try_into().ok()?));
    if bytes[..8] != MARK[..] || bytes[LEN - 4..] != crc32fast::hash(&bytes[..LEN - 4]).to_le_bytes() {
        return None;
    }
    let boot_id = bytes.get(34..34 + usize::from(bytes[33]))?;
    let state = State {
        closed: word(16)?,
        clean: bytes[32] == 1,
        index_generation: word(24)?,
        boot_id: String::from_utf8(boot_id.to_vec()).ok()?,
    };
    Some((word(8)?, state))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(closed: u64) -> State {
        State {
            closed,
            clean: closed.is_multiple_of(2),
            index_generation: closed + 1,
            boot_id: "b-1".to_owned(),
        }
    }

    #[test]
    fn the_newest_whole_slot_counts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("STATE");
        let (mut file, found) = StateFile::open(&path).unwrap();
        assert_eq!(found, None);
        for closed in 1..=3 {
            file.write(state(closed)).unwrap();
            assert_eq!(StateFile::open(&path).unwrap().1, Some(state(closed)));
        }
        let raw = File::options().write(true).open(&path).unwrap();
        raw.write_all_at(&[0xff], SLOT + 20).unwrap();
        assert_eq!(StateFile::open(&path).unwrap().1, Some(state(2)), "the third write was torn");
        raw.write_all_at(&[0xff], 20).unwrap();
        assert_eq!(StateFile::open(&path).unwrap().1, None);
    }
}
