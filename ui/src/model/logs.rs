//! What the logs view knows besides the farm.

/// State of the logs view.
#[derive(Clone, Debug, Default)]
pub(crate) struct Logs {}
