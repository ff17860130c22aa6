//! What the machines view knows besides the farm.

/// Columns one can sort by.
pub(crate) const COLUMNS: &[&str] = &[];

/// State of the machines view.
#[derive(Clone, Debug, Default)]
pub(crate) struct Machines {}
