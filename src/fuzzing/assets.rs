//! What servers on the web send, and what clients say of it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{Cursor, Read};

use bytes::Bytes;

use super::input::Input;
use crate::asset::archive::{Shelf, Stop, unpack};
use crate::asset::error::{FetchError, OriginError};
use crate::asset::git::{self, PackShelf};
use crate::asset::integrity::{Checker, Integrity};
use crate::asset::qualifiers::Qualifiers;
use crate::asset::tree::TreeBuilder;
use crate::asset::uri::{AssetUri, Place};
use crate::digest::{Digest, DigestFunction};
use crate::merkle::Directory;
use crate::path::RootPath;

/// Bytes that may come out.
const LIMIT: u64 = 1 << 20;

/// Blobs in memory.
#[derive(Default)]
struct Memory {
    blobs: RefCell<HashMap<Digest, Bytes>>,
}

impl Shelf for Memory {
    fn shelve(&self, content: &mut dyn Read, limit: u64) -> Result<Digest, FetchError> {
        let mut data = Vec::new();
        let read = content.take(limit + 1).read_to_end(&mut data);
        read.map_err(|error| OriginError::Unusable(error.to_string()))?;
        if data.len() as u64 > limit {
            return Err(OriginError::TooLarge(limit).into());
        }
        let digest = Digest::of(DigestFunction::Sha256, &data);
        self.blobs.borrow_mut().insert(digest, data.into());
        Ok(digest)
    }
}

impl PackShelf for Memory {
    fn take(&self, digest: &Digest) -> Result<Bytes, FetchError> {
        Ok(self.blobs.borrow()[digest].clone())
    }
}

impl Memory {
    /// A tree is made of Directories that can be read, and of files that are there.
    fn check(&self, tree: &TreeBuilder) {
        let store = |data: &[u8]| {
            let directory = Directory::parse(data, DigestFunction::Sha256).expect("what is made can be read");
            assert!(directory.files.iter().all(|file| self.blobs.borrow().contains_key(&file.digest)));
            for link in &directory.symlinks {
                assert!(!link.target.starts_with('/'), "{:?} leads out", link.target);
            }
            Ok::<_, FetchError>(Digest::of(DigestFunction::Sha256, data))
        };
        tree.finish(&RootPath::root(), store).expect("there is a root");
    }
}

/// Whatever an archive is, no more comes out than may, and what comes out is a tree that leads nowhere else.
///
/// # Panics
/// When that does not hold.
pub fn asset_archive(data: &[u8]) {
    let memory = Memory::default();
    let unpacked = unpack(&mut Cursor::new(data), &memory, LIMIT, &Stop::default());
    let bytes: u64 = memory.blobs.borrow().keys().map(Digest::size).sum();
    assert!(bytes <= LIMIT, "{bytes} bytes came out");
    if let Ok(tree) = unpacked {
        memory.check(&tree);
    }
}

/// The same for a pack of git.
///
/// # Panics
/// When that does not hold.
pub fn asset_pack(data: &[u8]) {
    let memory = Memory::default();
    for tree in git::fuzzing::trees(data, &memory, LIMIT) {
        memory.check(&tree);
    }
    let bytes: u64 = memory.blobs.borrow().keys().map(Digest::size).sum();
    assert!(bytes <= LIMIT, "{bytes} bytes came out");
}

/// Names, checksums and qualifiers: what parses is written as what parses to the same, and no secret is shown.
///
/// # Panics
/// When that does not hold.
pub fn asset_request(data: &[u8]) {
    let mut input = Input(data);
    let cut = input.below(64);
    let Ok(text) = std::str::from_utf8(input.0) else { return };
    if let Ok(integrity) = Integrity::parse(text) {
        assert_eq!(Integrity::parse(&integrity.to_string()), Ok(integrity.clone()));
        let mut checker = Checker::new(Some(&integrity));
        checker.update(data);
        assert!(integrity.fitting(&checker.finish()).is_empty(), "bytes that hold their own hash");
    }
    if let Ok(uri) = AssetUri::parse(text)
        && let Place::Web(url) = uri.place()
    {
        assert!(!url.host().is_empty() && url.port() != 0);
        assert!(url.target().starts_with('/') && url.target().bytes().all(|byte| byte.is_ascii_graphic()));
        assert!(url.is_same_origin(&url.join("/x").expect("a path is an address")));
    }
    let (name, value) = text.split_at_checked(cut).unwrap_or((text, ""));
    let header = ("http_header:authorization".to_owned(), format!("hidden{value}"));
    if let Ok(qualifiers) = Qualifiers::parse([(name.to_owned(), value.to_owned()), header], 3) {
        assert!(qualifiers.keyed().all(|(keyed, _)| keyed == name));
        assert!(!format!("{:?}", qualifiers.headers(0)).contains("hidden"));
    }
}
