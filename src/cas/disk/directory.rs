//! The data directory itself: who may use it, and which format it has.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use rustix::fs::FlockOperation;

use super::OpenError;
use super::packs::{VERSION, pack_id, read_pack_header};
use super::record::{Magic, is_lost};

const NAME: &str = "farmhand-store";

/// Makes the directory and takes it for this process, for as long as the file is open.
pub(super) fn take(directory: &Path) -> Result<File, OpenError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            OpenError::ReadOnly { directory: directory.to_owned(), source }
        }
        _ => OpenError::io(directory, source),
    };
    std::fs::create_dir_all(directory).map_err(failed)?;
    let path = directory.join("lock");
    let opened = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    let mut lock = opened.map_err(failed)?;
    if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut pid = String::new();
        // The holder may not have written it yet.
        let _ = lock.read_to_string(&mut pid);
        let pid = if pid.trim().is_empty() { "unknown".to_owned() } else { pid.trim().to_owned() };
        return Err(OpenError::InUse { directory: directory.to_owned(), pid });
    }
    let written =
        lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| writeln!(lock, "{}", std::process::id()));
    // On a full disk the number is missing; the lock holds all the same.
    let _ = written;
    Ok(lock)
}

/// Checks the format of the directory, or makes it. Returns the magic of its records.
pub(super) fn check_format(directory: &Path) -> Result<Magic, OpenError> {
    let path = directory.join("FORMAT");
    match std::fs::read(&path) {
        Ok(text) => {
            let read = read_format(&path, &String::from_utf8_lossy(&text));
            match (read, magic_of_packs(&directory.join("packs"))?) {
                (Err(newer @ OpenError::Newer { .. }), _) => Err(newer),
                (read, None) => read,
                (Ok(magic), Some(in_pack)) if magic == in_pack => Ok(magic),
                // Heads of packs have a checksum: they are to be believed.
                (_, Some(magic)) => {
                    tracing::warn!(path = %path.display(), "damaged, and mended from the head of a pack");
                    renew_format(directory, &path, magic)
                }
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let magic = magic_of_packs(&directory.join("packs"))?.unwrap_or_else(random_magic);
            renew_format(directory, &path, magic)
        }
        Err(error) => Err(OpenError::io(path, error)),
    }
}

fn renew_format(directory: &Path, path: &Path, magic: Magic) -> Result<Magic, OpenError> {
    write_format(directory, path, &magic).map_err(|error| OpenError::io(path, error))?;
    Ok(magic)
}

fn read_format(path: &Path, text: &str) -> Result<Magic, OpenError> {
    let malformed = |reason: &str| OpenError::Malformed { path: path.to_owned(), reason: reason.to_owned() };
    let mut words = text.split_whitespace();
    if words.next() != Some(NAME) {
        return Err(malformed("it does not name a farmhand store"));
    }
    let found: u32 =
        words.next().and_then(|word| word.parse().ok()).ok_or_else(|| malformed("it has no version"))?;
    if found > VERSION {
        return Err(OpenError::Newer { path: path.to_owned(), found, known: VERSION });
    }
    let mut magic = Magic::default();
    let hex = words.next().ok_or_else(|| malformed("it has no mark"))?;
    const_hex::decode_to_slice(hex, &mut magic).map_err(|_| malformed("its mark is not 16 hex digits"))?;
    Ok(magic)
}

fn write_format(directory: &Path, path: &Path, magic: &Magic) -> io::Result<()> {
    let temporary = directory.join("FORMAT.new");
    let mut file = File::create(&temporary)?;
    writeln!(file, "{NAME} {VERSION} {}", const_hex::encode(magic))?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()
}

fn random_magic() -> Magic {
    let mut magic = Magic::default();
    magic.copy_from_slice(&uuid::Uuid::new_v4().as_bytes()[8..]);
    // The first byte of that half has two fixed bits; the version nibble is in the other half.
    magic[0] ^= uuid::Uuid::new_v4().as_bytes()[0];
    magic
}

/// The magic in the first whole pack, for a directory that lost its format file.
fn magic_of_packs(packs: &Path) -> Result<Option<Magic>, OpenError> {
    let entries = match std::fs::read_dir(packs) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(OpenError::io(packs, error)),
    };
    for entry in entries {
        let path = entry.map_err(|error| OpenError::io(packs, error))?.path();
        let named = path.file_name().and_then(|name| name.to_str()).and_then(pack_id).is_some();
        let header =
            if named { File::open(&path).and_then(|file| read_pack_header(&file)) } else { Ok(None) };
        let header = header.or_else(|error| if is_lost(&error) { Ok(None) } else { Err(error) });
        match header.map_err(|error| OpenError::io(&path, error))? {
            Some((found, _)) if found > VERSION => {
                return Err(OpenError::Newer { path, found, known: VERSION });
            }
            Some((_, magic)) => return Ok(Some(magic)),
            None => {}
        }
    }
    Ok(None)
}
