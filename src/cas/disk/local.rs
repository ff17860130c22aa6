//! [`LocalBlobs`] of the disk store: files for staging, and outputs taken in without a second hash.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::DiskCas;
use super::files::TempFile;
use super::map::{LargeFile, Use};
use super::record::{Key, Kind};
use super::store::Store;
use super::sums::{PIECE, Sums, SumsBuilder};
use crate::cas::{CasError, LocalBlobs, Pins};
use crate::digest::Digest;

impl LocalBlobs for DiskCas {
    /// Checks the length of the file, and its content once after each start; what came in later was
    /// checked on its way.
    fn file(&self, digest: &Digest, executable: bool) -> Result<Option<PathBuf>, CasError> {
        if digest.is_empty_blob() {
            return Ok(None);
        }
        let store = self.inner();
        let key = Key::from(digest);
        let found = store.map.touch(&key, store.now()).ok_or(CasError::NotFound(*digest))?;
        if found.kind != Kind::Note {
            return Ok(None);
        }
        if executable {
            return store.make_twin(digest, &found).map(Some);
        }
        let path = store.files.path(digest, false);
        if !std::fs::metadata(&path).is_ok_and(|meta| meta.len() == digest.size()) {
            store.drop_corrupt(&key, found.place);
            return Err(CasError::NotFound(*digest));
        }
        if !store.map.is_right(&key, LargeFile::Plain) {
            store.each_piece(digest, &found, |_| {})?;
            store.map.set_right(&key, LargeFile::Plain);
        }
        Ok(Some(path))
    }

    fn load(&self, digest: &Digest) -> Result<Bytes, CasError> {
        if digest.is_empty_blob() { Ok(Bytes::new()) } else { self.inner().load(digest, Use::Here) }
    }

    fn adopt(&self, digest: &Digest, path: &Path) -> Result<(), CasError> {
        let failed = |error| CasError::io(path, error);
        let store = self.inner();
        if store.is_small(digest.size()) {
            return self.store(digest, &std::fs::read(path).map_err(failed)?);
        }
        store.check_size(digest)?;
        let origin = store.here(&Key::from(digest));
        let reservation = store.admit_blocking(store.cost(digest))?;
        let source = File::open(path).map_err(failed)?;
        let target = store.files.temporary().map_err(|(path, error)| CasError::io(path, error))?;
        let same_device = source.metadata().map_err(failed)?.dev()
            == target.file.metadata().map_err(|error| CasError::io(target.path(), error))?.dev();
        let (temp, sums) = if same_device {
            let sums = sums_of(&source, None).map_err(failed)?;
            (TempFile::take_over(source, path.to_owned()), sums)
        } else {
            let sums = sums_of(&source, Some(&target.file)).map_err(failed)?;
            (target, sums)
        };
        check_length(store, digest, &temp)?;
        let epoch = store.install(digest, temp, &sums, reservation, origin)?;
        store.settle_blocking(epoch)
    }

    fn store(&self, digest: &Digest, data: &[u8]) -> Result<(), CasError> {
        let store = self.inner();
        if digest.size() != data.len() as u64 {
            let actual = Digest::of(digest.function(), data);
            return Err(CasError::Mismatch { expected: *digest, actual });
        }
        if data.is_empty() {
            return Ok(());
        }
        store.check_size(digest)?;
        let origin = store.here(&Key::from(digest));
        let reservation = store.admit_blocking(store.cost(digest))?;
        let epoch = if store.is_small(digest.size()) {
            store.append_blob(store.packs.appender(), digest, data, reservation, origin)?
        } else {
            let temp = store.files.temporary().map_err(|(path, error)| CasError::io(path, error))?;
            (&temp.file).write_all(data).map_err(|error| CasError::io(temp.path(), error))?;
            let mut sums = SumsBuilder::default();
            sums.update(data);
            store.install(digest, temp, &sums.finish(), reservation, origin)?
        };
        store.settle_blocking(epoch)
    }

    fn pin(&self, digests: &[Digest]) -> Pins {
        Pins::new(self.inner().pin(digests.iter().map(Key::from).collect()))
    }
}

/// Reads `source` to its end and takes its checksums, copying it to `target` on the way.
fn sums_of(mut source: &File, mut target: Option<&File>) -> io::Result<Sums> {
    let mut sums = SumsBuilder::default();
    let mut buffer = vec![0; PIECE];
    loop {
        let n = source.read(&mut buffer)?;
        if n == 0 {
            return Ok(sums.finish());
        }
        sums.update(&buffer[..n]);
        if let Some(target) = &mut target {
            target.write_all(&buffer[..n])?;
        }
    }
}

/// The caller vouches for the content; a wrong length shows that it changed since.
fn check_length(store: &Store, digest: &Digest, temp: &TempFile) -> Result<(), CasError> {
    let len = temp.file.metadata().map_err(|error| CasError::io(temp.path(), error))?.len();
    if len != digest.size() {
        let path = store.files.path(digest, false);
        let source = io::Error::new(io::ErrorKind::InvalidData, format!("{len} bytes came for {digest}"));
        return Err(CasError::Io { path, source });
    }
    Ok(())
}
