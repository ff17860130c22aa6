//! What the cache view knows besides the farm.

/// Columns one can sort by.
pub(crate) const COLUMNS: &[&str] = &[];

/// State of the cache view.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cache {}
