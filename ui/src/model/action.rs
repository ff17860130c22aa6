//! What the action view knows besides the farm.

use std::sync::Arc;

/// State of the action view.
#[derive(Clone, Debug, Default)]
pub(crate) struct Action {
    /// The action that is shown.
    pub(crate) subject: Option<Subject>,
}

/// The action one looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    /// What the node is asked for: name of the operation, or digest of the action.
    pub(crate) key: Arc<str>,
    /// Instance of the action.
    pub(crate) instance: Arc<str>,
}
