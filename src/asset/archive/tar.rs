//! Tar: POSIX, GNU and older. The library splits it into entries; what extends them (long names) is read
//! here, since the library takes names of any length.

use std::io::Read;

use tar::{Archive, Entry, EntryType, PaxExtensions};

use super::super::error::FetchError;
use super::super::tree::TreeBuilder;
use super::{Unpacked, unusable};

/// Bytes of the extensions of one entry.
const EXTENSION: u64 = 1 << 20;

/// What the entries before an entry say of it.
#[derive(Debug, Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

/// Unpacks what comes out of `source`.
pub(super) fn unpack(source: &mut dyn Read, unpacked: &mut Unpacked<'_>) -> Result<(), FetchError> {
    let mut archive = Archive::new(source);
    let mut extended = Extended::default();
    for entry in archive.entries().map_err(unusable)?.raw(true) {
        let mut entry = entry.map_err(unusable)?;
        if !extended.take(&mut entry)? {
            add(&mut entry, &std::mem::take(&mut extended), unpacked)?;
        }
    }
    Ok(())
}

fn add<R: Read>(
    entry: &mut Entry<'_, R>,
    extended: &Extended,
    unpacked: &mut Unpacked<'_>,
) -> Result<(), FetchError> {
    let header = entry.header();
    let name = extended.path.clone().unwrap_or_else(|| header.path_bytes().into_owned());
    let path = TreeBuilder::place(&name)?;
    let target = || {
        let target = extended.link.clone();
        target
            .or_else(|| header.link_name_bytes().map(Into::into))
            .ok_or_else(|| unusable("a link to nothing"))
    };
    match header.entry_type() {
        EntryType::Directory => unpacked.tree.add_directory(&path)?,
        EntryType::Symlink => unpacked.tree.add_link(&path, &target()?)?,
        EntryType::Link => unpacked.tree.add_hard_link(&path, &TreeBuilder::place(&target()?)?)?,
        // Before there was a type for them, directories had a slash.
        EntryType::Regular if name.ends_with(b"/") => unpacked.tree.add_directory(&path)?,
        EntryType::Regular | EntryType::Continuous => {
            let is_executable = header.mode().is_ok_and(|mode| mode & 0o111 != 0);
            let size = header.entry_size().map_err(unusable)?;
            let mut content = entry.take(size);
            unpacked.file(&path, is_executable, &mut content)?;
            if content.limit() > 0 {
                return Err(unusable(format!("{path} is cut off")));
            }
        }
        other => {
            let reason = format!("{path} is neither file, directory nor link, but of type {other:?}");
            return Err(unusable(reason));
        }
    }
    Ok(())
}

// === impl Extended ===

impl Extended {
    /// Whether `entry` is about the one that follows it, or about all; what it says is kept.
    fn take<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> Result<bool, FetchError> {
        match entry.header().entry_type() {
            EntryType::GNULongName => self.path = Some(until_nul(content(entry)?)),
            EntryType::GNULongLink => self.link = Some(until_nul(content(entry)?)),
            EntryType::XHeader => self.pax(&content(entry)?)?,
            // Comments, for the most part: git writes the commit there.
            EntryType::XGlobalHeader => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Reads records of POSIX.
    fn pax(&mut self, data: &[u8]) -> Result<(), FetchError> {
        for record in PaxExtensions::new(data) {
            let record = record.map_err(unusable)?;
            match record.key_bytes() {
                b"path" => self.path = Some(record.value_bytes().to_vec()),
                b"linkpath" => self.link = Some(record.value_bytes().to_vec()),
                b"size" => return Err(unusable("files of more than 8 GiB are not taken")),
                key if key.starts_with(b"GNU.sparse") => return Err(unusable("sparse files are not taken")),
                _ => {}
            }
        }
        Ok(())
    }
}

/// All of a small entry.
fn content<R: Read>(entry: &mut Entry<'_, R>) -> Result<Vec<u8>, FetchError> {
    let mut data = Vec::new();
    entry.take(EXTENSION + 1).read_to_end(&mut data).map_err(unusable)?;
    if data.len() as u64 > EXTENSION { Err(unusable("a name is too long")) } else { Ok(data) }
}

fn until_nul(mut data: Vec<u8>) -> Vec<u8> {
    let end = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    data.truncate(end);
    data
}
