//! [`InputFile`]: the files of an input root one by one, for those who have to name them.

use std::sync::Arc;

use super::closure::Closure;
use crate::digest::Digest;
use crate::merkle::{Directory, NodeProperties};

/// The node property by which Bazel marks what a tool is made of, with any value.
const TOOL: &str = "bazel_tool_input";

/// A regular file of an input root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputFile {
    /// Where it is, from the root on; parts are divided by `/`.
    pub path: String,
    /// Its bytes.
    pub digest: Digest,
    /// Whether it may be executed.
    pub is_executable: bool,
    /// Whether it is marked as a part of the tool that the action runs.
    pub is_tool: bool,
}

/// All files of the root, by path.
pub(super) fn files(closure: &Closure) -> Vec<InputFile> {
    let mut files = Vec::new();
    let root: (String, &Arc<Directory>, bool) = (String::new(), closure.directory(&closure.root), false);
    let mut open = vec![root];
    while let Some((path, directory, is_tool)) = open.pop() {
        let is_tool = is_tool || is_marked(&directory.properties);
        files.extend(directory.files.iter().map(|file| InputFile {
            path: format!("{path}{}", file.name.as_str()),
            digest: file.digest,
            is_executable: file.is_executable,
            is_tool: is_tool || is_marked(&file.properties),
        }));
        open.extend(directory.directories.iter().map(|child| {
            (format!("{path}{}/", child.name.as_str()), closure.directory(&child.digest), is_tool)
        }));
    }
    files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    files
}

fn is_marked(properties: &NodeProperties) -> bool {
    properties.strings.iter().any(|(name, _)| name == TOOL)
}
