//! One action as the node told it, decoded and harmless.

use std::collections::HashSet;

use farmhand_proto::control::GetActionResponse;
use farmhand_proto::control::directory_entry::Kind;
use farmhand_proto::reapi;
use prost::Message;

use super::tree::{INPUT_ROOT, Node, Source, Tree};
use crate::model::op::Op;
use crate::rawtext::{RawText, symlinks};
use crate::{sanitize, shell};

/// One action.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    /// Its digest, as the node writes it.
    pub(crate) digest: String,
    /// Its instance.
    pub(crate) instance: String,
    /// The Action, while it is stored.
    pub(crate) action: Option<reapi::Action>,
    /// The Command, while it is stored.
    pub(crate) command: Option<reapi::Command>,
    /// The result, if there is one.
    pub(crate) result: Option<reapi::ActionResult>,
    /// Digest of the input root, as the node writes it.
    pub(crate) input_root: Option<String>,
    /// Whether the action cache answers it now.
    pub(crate) in_cache: bool,
    /// Its last operation.
    pub(crate) op: Option<Op>,
    /// Operations before that, the newest first.
    pub(crate) earlier: Vec<Op>,
    /// Digests its result names that are not stored any more.
    pub(crate) missing: HashSet<String>,
    /// Why it waits: machine and reason.
    pub(crate) waiting: Vec<(String, String)>,
    /// Actions that will likely be started before it.
    pub(crate) ahead: Option<u64>,
    /// What could not be read of all this.
    pub(crate) defect: Option<String>,
}

// === impl Loaded ===

impl Loaded {
    /// What the response tells.
    pub(crate) fn of(response: GetActionResponse) -> Self {
        let mut defect = None;
        let mut note = |what: &str, error: prost::DecodeError| {
            defect = Some(format!("the {what} cannot be read: {}", sanitize::line(&error.to_string())));
        };
        let action = decoded::<reapi::Action>(&response.action).map_err(|error| note("Action", error));
        let command = decoded::<reapi::Command>(&response.command).map_err(|error| note("Command", error));
        let result = response.result.as_deref().map(reapi::ActionResult::decode).transpose();
        let result = result.map_err(|error| note("ActionResult", error)).ok().flatten();
        let digest = sanitize::line(&response.digest).into_owned();
        let action = action.ok().flatten();
        let root = action.as_ref().and_then(|action| action.input_root_digest.as_ref());
        let input_root = root.map(|root| digest_text(&digest, root));
        let mut share = sanitize::shared;
        Self {
            instance: sanitize::line(&response.instance_name).into_owned(),
            command: command.ok().flatten(),
            input_root,
            in_cache: response.in_action_cache,
            op: response.operation.as_ref().map(|op| Op::of(op, &mut share)),
            earlier: response.earlier.iter().map(|op| Op::of(op, &mut share)).collect(),
            missing: response.missing_outputs.into_iter().collect(),
            waiting: response
                .waiting
                .iter()
                .map(|reason| {
                    (sanitize::line(&reason.machine).into_owned(), sanitize::line(&reason.text).into_owned())
                })
                .collect(),
            ahead: response.ahead,
            action,
            result,
            digest,
            defect,
        }
    }

    /// The command as a line for a shell.
    pub(crate) fn shell_line(&self) -> Option<String> {
        self.command.as_ref().map(|command| shell::line(command, None))
    }

    /// Platform properties, of the Action or, from old clients, of the Command.
    pub(crate) fn platform(&self) -> Vec<(String, String)> {
        let of_action = self.action.as_ref().and_then(|action| action.platform.as_ref());
        #[expect(deprecated, reason = "clients of version 2.1 and before set only this one")]
        let of_command = self.command.as_ref().and_then(|command| command.platform.as_ref());
        let properties = of_action.or(of_command).map(|platform| platform.properties.as_slice());
        properties
            .unwrap_or_default()
            .iter()
            .map(|property| (property.name.clone(), property.value.clone()))
            .collect()
    }

    /// The tree of its inputs, nothing of it read yet.
    pub(super) fn inputs(&self) -> Tree {
        let root = self.input_root.as_ref().map(|root| {
            Node::root(INPUT_ROOT, Kind::Directory, root.clone(), Some(Source::Directory(root.clone())))
        });
        Tree::new(root.into_iter().collect())
    }

    /// Its outputs: what the result names, and what was asked for and not made.
    pub(super) fn outputs(&self) -> Tree {
        let Some(result) = &self.result else { return Tree::default() };
        let mut roots = Vec::new();
        let text = |digest: Option<&reapi::Digest>| {
            digest.map(|digest| digest_text(&self.digest, digest)).unwrap_or_default()
        };
        for file in &result.output_files {
            let digest = text(file.digest.as_ref());
            let bytes = file.digest.as_ref().map_or(0, |digest| digest.size_bytes);
            let root = Node::root(&file.path, Kind::File, digest.clone(), None);
            roots.push(Node {
                is_executable: file.is_executable,
                is_stored: !self.missing.contains(&digest),
                bytes: u64::try_from(bytes).unwrap_or(0),
                ..root
            });
        }
        for directory in &result.output_directories {
            roots.push(self.output_directory(directory));
        }
        for link in symlinks(result).into_iter().flat_map(|(_, links)| links) {
            let root = Node::root(&link.path, Kind::Symlink, String::new(), None);
            roots.push(Node { target: sanitize::line(&link.target).into_owned(), ..root });
        }
        self.add_absent(&mut roots);
        roots.sort_by(|a, b| a.name.cmp(&b.name));
        Tree::new(roots)
    }

    fn output_directory(&self, directory: &reapi::OutputDirectory) -> Node {
        let tree = directory.tree_digest.as_ref().map(|digest| digest_text(&self.digest, digest));
        let root = directory.root_directory_digest.as_ref().map(|digest| digest_text(&self.digest, digest));
        let (digest, source) = match (tree, root) {
            (Some(tree), _) => (tree.clone(), Some(Source::Tree(tree, String::new()))),
            (None, Some(root)) => (root.clone(), Some(Source::Directory(root))),
            (None, None) => (String::new(), None),
        };
        let is_stored = !self.missing.contains(&digest);
        Node { is_stored, ..Node::root(&directory.path, Kind::Directory, digest, source) }
    }

    /// Adds what the command was to make and the result does not have.
    fn add_absent(&self, roots: &mut Vec<Node>) {
        let Some(command) = &self.command else { return };
        #[expect(deprecated, reason = "commands of clients of version 2.0 have the last two")]
        let wanted = [&command.output_paths, &command.output_files, &command.output_directories];
        for path in wanted.into_iter().flatten() {
            let path = path.trim_end_matches('/');
            if !roots.iter().any(|root| root.name == *sanitize::line(path)) {
                let absent = Node::root(path, Kind::Unspecified, String::new(), None);
                roots.push(Node { is_stored: false, ..absent });
            }
        }
    }

    /// The messages, as text.
    pub(super) fn raw_text(&self) -> String {
        let mut text = RawText::default();
        match &self.action {
            Some(action) => {
                text.comment(&format!("build.bazel.remote.execution.v2.Action {}", self.digest));
                text.action(action);
            }
            None => text.comment("the Action is not stored any more"),
        }
        text.comment("");
        match &self.command {
            Some(command) => {
                text.comment("build.bazel.remote.execution.v2.Command");
                text.command(command);
            }
            None => text.comment("the Command is not stored any more"),
        }
        text.comment("");
        match &self.result {
            Some(result) => {
                text.comment("build.bazel.remote.execution.v2.ActionResult");
                text.result(result);
            }
            None => text.comment("there is no ActionResult"),
        }
        text.into_text()
    }
}

/// The message, unless there is none.
fn decoded<M: Message + Default>(bytes: &[u8]) -> Result<Option<M>, prost::DecodeError> {
    if bytes.is_empty() { Ok(None) } else { M::decode(bytes).map(Some) }
}

/// `digest` as the node writes it: digests of one action are of one function, and that of the
/// action tells which.
fn digest_text(of_action: &str, digest: &reapi::Digest) -> String {
    let function =
        of_action.rsplitn(3, '/').nth(2).map(|function| format!("{function}/")).unwrap_or_default();
    sanitize::line(&format!("{function}{}/{}", digest.hash, digest.size_bytes)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::tree::TreeRow;
    use super::*;

    fn digest(hash: &str) -> Option<reapi::Digest> {
        Some(reapi::Digest { hash: hash.into(), size_bytes: 3 })
    }

    fn response() -> GetActionResponse {
        let command = reapi::Command {
            arguments: vec!["cc".into(), "-o".into(), "a b".into()],
            output_paths: vec!["a b".into(), "map".into(), "dir".into()],
            ..Default::default()
        };
        let action = reapi::Action { input_root_digest: digest("aa"), ..Default::default() };
        let file = reapi::OutputFile { path: "a b".into(), digest: digest("bb"), ..Default::default() };
        let directory =
            reapi::OutputDirectory { path: "dir".into(), tree_digest: digest("cc"), ..Default::default() };
        let result = reapi::ActionResult {
            output_files: vec![file],
            output_directories: vec![directory],
            ..Default::default()
        };
        GetActionResponse {
            digest: "blake3/ff/9".into(),
            action: action.encode_to_vec(),
            command: command.encode_to_vec(),
            result: Some(result.encode_to_vec()),
            missing_outputs: vec!["blake3/bb/3".into()],
            ..Default::default()
        }
    }

    #[test]
    fn digests_keep_their_function() {
        let loaded = Loaded::of(response());
        assert_eq!(loaded.input_root.as_deref(), Some("blake3/aa/3"));
        assert_eq!(digest_text("ff/9", &digest("aa").unwrap()), "aa/3");
        assert_eq!(loaded.shell_line().as_deref(), Some("env -i cc -o 'a b'"));
        assert_eq!(loaded.defect, None);
    }

    #[test]
    fn outputs_that_are_missing_or_were_not_made_are_marked() {
        let outputs = Loaded::of(response()).outputs();
        let told: Vec<_> = outputs
            .rows()
            .iter()
            .map(|row| match row {
                TreeRow::Node(id) => outputs.node(*id),
                TreeRow::Rest(_) => panic!("nothing is open"),
            })
            .map(|node| (node.name.as_str(), node.kind, node.is_stored))
            .collect();
        assert_eq!(
            told,
            [("a b", Kind::File, false), ("dir", Kind::Directory, true), ("map", Kind::Unspecified, false)]
        );
    }

    #[test]
    fn bytes_that_are_no_message_are_told() {
        let broken = GetActionResponse { action: vec![0xff], ..response() };
        let loaded = Loaded::of(broken);
        assert!(loaded.action.is_none() && loaded.defect.unwrap().contains("Action"));
        let gone = Loaded::of(GetActionResponse { action: Vec::new(), command: Vec::new(), ..response() });
        assert!(gone.defect.is_none() && gone.shell_line().is_none());
        assert!(gone.raw_text().contains("not stored any more"));
        assert!(gone.inputs().rows().is_empty());
    }
}
