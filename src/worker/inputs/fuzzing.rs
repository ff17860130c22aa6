//! The door of the fuzz targets to the closure of an input root.

use super::InputError;
use super::closure::Closure;
use super::directories::Directories;
use crate::cas::ContentAddressableStorage;
use crate::digest::Digest;

/// Entries of the input root `root`; `None` if there are more than `limit`.
pub(crate) async fn entries(
    cas: &dyn ContentAddressableStorage,
    root: Digest,
    limit: u64,
) -> Result<Option<u64>, InputError> {
    match Closure::load(cas, &Directories::default(), root, limit).await {
        Ok(closure) => Ok(Some(closure.entries)),
        Err(InputError::TooManyEntries { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
