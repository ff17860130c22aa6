//! [`RequestMetadata`]: who is asking, as far as a build tool tells.
//!
//! For logs, fairness and the dashboard, and never for rights or cache keys.

use std::sync::Arc;

use farmhand_proto::reapi;

/// Bytes kept of each text: a hundred thousand actions may wait, each with these.
pub const MAX_FIELD: usize = 1024;

/// What a client tells about itself (`build.bazel.remote.execution.v2.RequestMetadata`). Empty
/// where it does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestMetadata {
    /// Name of the build tool (`bazel`).
    pub tool_name: String,
    /// Its version.
    pub tool_version: String,
    /// One run of the tool: one build.
    pub tool_invocation_id: String,
    /// What ties several runs together: a CI job.
    pub correlated_invocations_id: String,
    /// Usually the hash of the action, sometimes a word (`capabilities`): not a digest.
    pub action_id: String,
    /// Kind of action, such as `CppCompile`.
    pub action_mnemonic: String,
    /// The target that is built.
    pub target_id: String,
    /// Its configuration.
    pub configuration_id: String,
}

impl RequestMetadata {
    /// What slots are shared out by: one build, or whatever names the caller best.
    pub fn share(&self) -> Arc<str> {
        self.build().into()
    }

    /// The name of the build it belongs to: that of the run of the tool, or what stands in for it.
    /// Empty when nothing does.
    pub fn build(&self) -> &str {
        [&self.tool_invocation_id, &self.correlated_invocations_id, &self.tool_name]
            .into_iter()
            .find(|text| !text.is_empty())
            .map_or("", String::as_str)
    }

    /// The tool with its version.
    pub fn tool(&self) -> String {
        format!("{} {}", self.tool_name, self.tool_version).trim().to_owned()
    }

    /// Whether it tells anything of the action the call is about.
    pub fn names_action(&self) -> bool {
        [&self.action_mnemonic, &self.target_id, &self.action_id].iter().any(|text| !text.is_empty())
    }

    /// Whether the tool takes the input root for the root of the file system, without saying so in
    /// any platform property.
    pub fn expects_root_as_slash(&self) -> bool {
        self.tool_name.to_ascii_lowercase().contains("buildstream")
    }
}

impl From<reapi::RequestMetadata> for RequestMetadata {
    fn from(wire: reapi::RequestMetadata) -> Self {
        let tool = wire.tool_details.unwrap_or_default();
        Self {
            tool_name: shortened(tool.tool_name),
            tool_version: shortened(tool.tool_version),
            tool_invocation_id: shortened(wire.tool_invocation_id),
            correlated_invocations_id: shortened(wire.correlated_invocations_id),
            action_id: shortened(wire.action_id),
            action_mnemonic: shortened(wire.action_mnemonic),
            target_id: shortened(wire.target_id),
            configuration_id: shortened(wire.configuration_id),
        }
    }
}

/// As a client would tell it.
impl From<&RequestMetadata> for reapi::RequestMetadata {
    fn from(metadata: &RequestMetadata) -> Self {
        let tool = reapi::ToolDetails {
            tool_name: metadata.tool_name.clone(),
            tool_version: metadata.tool_version.clone(),
        };
        Self {
            tool_details: Some(tool),
            action_id: metadata.action_id.clone(),
            tool_invocation_id: metadata.tool_invocation_id.clone(),
            correlated_invocations_id: metadata.correlated_invocations_id.clone(),
            action_mnemonic: metadata.action_mnemonic.clone(),
            target_id: metadata.target_id.clone(),
            configuration_id: metadata.configuration_id.clone(),
        }
    }
}

/// The first [`MAX_FIELD`] bytes of `text`, or a little less.
pub fn shortened(mut text: String) -> String {
    if text.len() > MAX_FIELD {
        let end = (0..=MAX_FIELD).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
        text.truncate(end);
        text.shrink_to_fit();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters() {
        let target_id = format!("x{}", "\u{e9}".repeat(10_000));
        let metadata = RequestMetadata::from(reapi::RequestMetadata { target_id, ..Default::default() });
        assert_eq!(metadata.target_id, format!("x{}", "\u{e9}".repeat(511)));
    }

    #[test]
    fn slots_are_shared_out_by_build_first() {
        let mut metadata = RequestMetadata { tool_name: "bazel".into(), ..Default::default() };
        assert_eq!(&*metadata.share(), "bazel");
        metadata.correlated_invocations_id = "ci-1".into();
        assert_eq!(&*metadata.share(), "ci-1");
        metadata.tool_invocation_id = "build-7".into();
        assert_eq!(&*metadata.share(), "build-7");
    }
}
