//! [`Spool`]: bytes that are only ever added to: in memory at first, in a file without a name once they are many.
//!
//! The calls of a spool with a file wait for the disk.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use uuid::Uuid;

/// Bytes kept in memory.
const IN_MEMORY: usize = 64 << 10;

/// Bytes of one stream.
#[derive(Debug, Default)]
pub(super) struct Spool {
    memory: Vec<u8>,
    file: Option<File>,
    len: u64,
}

// === impl Spool ===

impl Spool {
    /// Adds bytes; a file for them is made in `directory`, and goes with the spool. When this fails, nothing
    /// was added.
    pub(super) fn append(&mut self, directory: &Path, data: &[u8]) -> io::Result<()> {
        if self.file.is_none() && self.memory.len() + data.len() > IN_MEMORY {
            let file = nameless(directory)?;
            file.write_all_at(&self.memory, 0)?;
            (self.file, self.memory) = (Some(file), Vec::new());
        }
        match &self.file {
            Some(file) => file.write_all_at(data, self.len)?,
            None => self.memory.extend_from_slice(data),
        }
        self.len += data.len() as u64;
        Ok(())
    }

    /// Bytes it has.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// At most `most` bytes from `at` on.
    pub(super) fn read(&self, at: u64, most: usize) -> io::Result<Vec<u8>> {
        let left = usize::try_from(self.len.saturating_sub(at)).unwrap_or(usize::MAX).min(most);
        let mut data = vec![0; left];
        match &self.file {
            Some(file) => file.read_exact_at(&mut data, at)?,
            None if left > 0 => data.copy_from_slice(&self.memory[at as usize..][..left]),
            None => {}
        }
        Ok(data)
    }
}

/// A file that is gone with the last who has it open.
fn nameless(directory: &Path) -> io::Result<File> {
    fs::create_dir_all(directory)?;
    let path = directory.join(Uuid::new_v4().to_string());
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_from_memory_and_from_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("streams");
        let (mut spool, mut all) = (Spool::default(), Vec::new());
        for number in 0..40_u8 {
            let data = vec![number; 1 + usize::from(number) * 200];
            spool.append(&place, &data).unwrap();
            all.extend(data);
            assert_eq!(spool.len(), all.len() as u64);
            for at in [0, all.len() / 2, all.len() - 1, all.len(), all.len() + 1] {
                let expected = &all[at.min(all.len())..];
                assert_eq!(spool.read(at as u64, usize::MAX).unwrap(), expected);
                assert_eq!(spool.read(at as u64, 3).unwrap(), &expected[..expected.len().min(3)]);
            }
        }
        assert!(spool.file.is_some() && spool.memory.is_empty());
        assert_eq!(fs::read_dir(&place).unwrap().count(), 0, "its file has no name");
    }
}
