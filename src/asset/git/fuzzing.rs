//! A door for fuzzers and tests: whole packs.

use std::io::Cursor;

use super::super::archive::Stop;
use super::super::tree::TreeBuilder;
use super::PackShelf;
use super::pack::Pack;

/// The trees of all commits in a pack whose objects have `limit` bytes at most; none where it is refused.
pub(crate) fn trees(data: &[u8], shelf: &dyn PackShelf, limit: u64) -> Vec<TreeBuilder> {
    let Ok(pack) = Pack::read(&mut Cursor::new(data), shelf, limit, &Stop::default()) else {
        return Vec::new();
    };
    pack.commits().iter().filter_map(|commit| pack.tree(commit, shelf).ok()).collect()
}
