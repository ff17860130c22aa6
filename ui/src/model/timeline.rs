//! What the timeline view knows besides the farm.

/// State of the timeline view.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timeline {}
