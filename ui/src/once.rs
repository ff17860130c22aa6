//! The farm printed once: as plain text, and as JSON.

use crate::options::{Options, UiError};

/// The overview as plain text, `width` columns wide.
///
/// # Errors
/// When no node answers in time.
pub async fn once(_options: &Options, _width: u16) -> Result<String, UiError> {
    Ok(String::new())
}

/// The farm as JSON, with `schema: 1`.
///
/// # Errors
/// When no node answers in time.
pub async fn json(_options: &Options) -> Result<serde_json::Value, UiError> {
    Ok(serde_json::json!({ "schema": 1 }))
}
