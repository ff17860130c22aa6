//! [`Comparison`]: in what the runs of one action differ.
//!
//! Compared is what a later action or a person can see of a result: exit code, stdout, stderr, and
//! each output by its content: files by digest and executable bit, symlinks by target, directories by
//! their trees. Times and other properties are not. A run that did not come to an end (timeout,
//! killed, inputs gone) is compared by its end only: what it lacks is no difference.
//!
//! Kept are the first run that came to an end, and of the others only what differs from it, of so many
//! outputs at most; so a hundred runs take little more memory than one.

use std::collections::BTreeMap;
use std::fmt;

use farmhand_proto::reapi;

use super::trees;
use crate::cas::ContentAddressableStorage;
use crate::digest::{Digest, DigestFunction};

/// Outputs that are told to differ at most.
pub const MAX_DIFFERENCES: usize = 1000;

/// Characters shown of a symlink's target.
const MAX_TARGET: usize = 200;

/// Names beside those of outputs.
const NAMES: [&str; 3] = [EXIT_CODE, STDOUT, STDERR];
const EXIT_CODE: &str = "exit code";
const STDOUT: &str = "stdout";
const STDERR: &str = "stderr";

/// An output of which there are several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its path, `stdout`, `stderr` or `exit code`.
    pub path: String,
    /// What each run made of it, in order; empty where there is none.
    pub values: Vec<String>,
}

/// Takes in results one by one.
#[derive(Debug, Default)]
pub struct Comparison {
    /// How each run ended.
    ends: Vec<String>,
    /// Whether each run came to an end.
    complete: Vec<bool>,
    /// What the first of those made that did.
    first: Option<Outputs>,
    /// What each run made of the outputs that are not the same in all.
    differing: BTreeMap<Name, Vec<Value>>,
}

type Outputs = BTreeMap<Name, Value>;

/// What is compared, in the order of showing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Stdout,
    Stderr,
    Output(String),
}

/// What a run made of one output.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// Nothing.
    Absent,
    /// Bytes.
    Blob { digest: Digest, is_executable: bool },
    /// A symbolic link.
    Link(String),
    /// A directory: its Tree, its root, or both.
    Directory { tree: Option<Digest>, root: Option<Digest> },
}

// === impl Comparison ===

impl Comparison {
    /// Takes in the end of the next run. Digests are of `function`.
    pub fn add(&mut self, function: DigestFunction, response: &reapi::ExecuteResponse) {
        let status = response.status.as_ref().map_or(0, |status| status.code);
        match &response.result {
            Some(result) if status == 0 => self.add_result(function, result),
            _ => {
                let code = tonic::Code::from(status);
                self.ends.push(format!("{code:?}"));
                self.add_outputs(None);
            }
        }
    }

    /// Takes in a result.
    pub fn add_result(&mut self, function: DigestFunction, result: &reapi::ActionResult) {
        self.ends.push(result.exit_code.to_string());
        self.add_outputs(Some(outputs(function, result)));
    }

    fn add_outputs(&mut self, outputs: Option<Outputs>) {
        self.complete.push(outputs.is_some());
        let Some(outputs) = outputs else {
            for values in self.differing.values_mut() {
                values.push(Value::Absent);
            }
            return;
        };
        let Some(first) = &self.first else {
            self.first = Some(outputs);
            return;
        };
        for (name, values) in &mut self.differing {
            values.push(outputs.get(name).cloned().unwrap_or(Value::Absent));
        }
        for name in first.keys().chain(outputs.keys().filter(|name| !first.contains_key(name))) {
            let (before, now) = (first.get(name), outputs.get(name));
            let (before, now) = (before.unwrap_or(&Value::Absent), now.unwrap_or(&Value::Absent));
            if before.is_same(now) || self.differing.contains_key(name) {
                continue;
            }
            if self.differing.len() >= MAX_DIFFERENCES {
                break;
            }
            let earlier = self.complete.iter().take(self.complete.len() - 1);
            let earlier = earlier.map(|complete| if *complete { before.clone() } else { Value::Absent });
            self.differing.insert(name.clone(), earlier.chain([now.clone()]).collect());
        }
    }

    /// The differences, the most telling first. In place of a directory that differs stand the
    /// entries below it that do, where its Trees can be read and are not too large.
    pub async fn finish(self, cas: &dyn ContentAddressableStorage) -> Vec<Difference> {
        let mut differences = Vec::new();
        if self.ends.iter().any(|end| *end != self.ends[0]) {
            differences.push(Difference { path: EXIT_CODE.to_owned(), values: self.ends });
        }
        for (name, values) in self.differing {
            let room = MAX_DIFFERENCES.saturating_sub(differences.len());
            if room == 0 {
                break;
            }
            let below = match &name {
                Name::Output(path) => trees::differences(cas, path, &values, &self.complete, room).await,
                Name::Stdout | Name::Stderr => None,
            };
            let rows = below.unwrap_or_else(|| vec![(name.to_string(), values)]);
            differences.extend(rows.into_iter().map(|(path, values)| Difference::new(path, &values)));
        }
        differences
    }
}

fn outputs(function: DigestFunction, result: &reapi::ActionResult) -> Outputs {
    let digest = |wire: Option<&reapi::Digest>| Digest::from_field(function, wire).ok();
    let log = |wire: Option<&reapi::Digest>, raw: &[u8]| Value::Blob {
        digest: digest(wire).unwrap_or_else(|| Digest::of(function, raw)),
        is_executable: false,
    };
    let mut outputs = Outputs::from([
        (Name::Stdout, log(result.stdout_digest.as_ref(), &result.stdout_raw)),
        (Name::Stderr, log(result.stderr_digest.as_ref(), &result.stderr_raw)),
    ]);
    for file in &result.output_files {
        let value = digest(file.digest.as_ref())
            .map_or(Value::Absent, |digest| Value::Blob { digest, is_executable: file.is_executable });
        outputs.insert(Name::Output(file.path.clone()), value);
    }
    for directory in &result.output_directories {
        let (tree, root) =
            (digest(directory.tree_digest.as_ref()), digest(directory.root_directory_digest.as_ref()));
        outputs.insert(Name::Output(directory.path.clone()), Value::Directory { tree, root });
    }
    #[expect(deprecated, reason = "results of clients of version 2.0 have these two")]
    let links = [&result.output_symlinks, &result.output_file_symlinks, &result.output_directory_symlinks];
    for link in links.into_iter().flatten() {
        outputs.insert(Name::Output(link.path.clone()), Value::Link(link.target.clone()));
    }
    outputs
}

// === impl Difference ===

impl Difference {
    fn new(path: String, values: &[Value]) -> Self {
        Self { path, values: values.iter().map(ToString::to_string).collect() }
    }
}

// === impl Name ===

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str(STDOUT),
            Self::Stderr => f.write_str(STDERR),
            Self::Output(path) if NAMES.contains(&path.as_str()) => write!(f, "./{path}"),
            Self::Output(path) => f.write_str(path),
        }
    }
}

// === impl Value ===

impl Value {
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Absent, Self::Absent) => true,
            (
                Self::Blob { digest, is_executable },
                Self::Blob { digest: other, is_executable: is_other_executable },
            ) => digest == other && is_executable == is_other_executable,
            (Self::Link(target), Self::Link(other)) => target == other,
            (Self::Directory { tree, root }, Self::Directory { tree: other_tree, root: other_root }) => {
                (root.is_some() && root == other_root) || (tree.is_some() && tree == other_tree)
            }
            _ => false,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent | Self::Directory { tree: None, root: None } => Ok(()),
            Self::Blob { digest, is_executable: false }
            | Self::Directory { root: Some(digest), .. }
            | Self::Directory { tree: Some(digest), root: None } => write!(f, "{digest}"),
            Self::Blob { digest, is_executable: true } => write!(f, "{digest} (executable)"),
            Self::Link(target) => {
                let shown: String = target.chars().take(MAX_TARGET).collect();
                write!(f, "-> {shown}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use farmhand_proto::rpc;
    use prost::Message;

    use super::*;
    use crate::cas::memory::MemoryCas;
    use crate::digest::DigestFunction::Sha256;

    fn result(stdout: &str, files: &[(&str, &str, bool)]) -> reapi::ActionResult {
        let file = |(path, content, is_executable): &(&str, &str, bool)| reapi::OutputFile {
            path: (*path).into(),
            digest: Some(Digest::of(Sha256, content.as_bytes()).to_wire()),
            is_executable: *is_executable,
            ..Default::default()
        };
        reapi::ActionResult {
            stdout_digest: Some(Digest::of(Sha256, stdout.as_bytes()).to_wire()),
            output_files: files.iter().map(file).collect(),
            ..Default::default()
        }
    }

    async fn compared(results: &[reapi::ActionResult]) -> Vec<Difference> {
        let mut comparison = Comparison::default();
        for result in results {
            comparison.add_result(Sha256, result);
        }
        comparison.finish(&MemoryCas::default()).await
    }

    fn text(content: &str) -> String {
        Digest::of(Sha256, content.as_bytes()).to_string()
    }

    #[tokio::test]
    async fn equal_results_have_no_differences_however_they_are_told() {
        let told = result("out", &[("a", "1", true)]);
        let raw = reapi::ActionResult { stdout_digest: None, stdout_raw: b"out".to_vec(), ..told.clone() };
        let twice = reapi::ActionResult { execution_metadata: Some(Default::default()), ..told.clone() };
        assert_eq!(compared(&[told, raw, twice]).await, []);
        assert_eq!(compared(&[]).await, []);
    }

    #[tokio::test]
    async fn each_kind_of_output_is_compared() {
        let base = result("one", &[("same", "s", false), ("mode", "m", false), ("stdout", "x", false)]);
        let mut other = result("two", &[("same", "s", false), ("mode", "m", true), ("new", "n", false)]);
        other.exit_code = 3;
        let link = |target: &str| reapi::OutputSymlink {
            path: "link".into(),
            target: target.into(),
            ..Default::default()
        };
        let base = reapi::ActionResult { output_symlinks: vec![link("a")], ..base };
        other.output_symlinks = vec![link("b")];
        let differences = compared(&[base.clone(), other, base]).await;
        let expected = [
            ("exit code", ["0".into(), "3".into(), "0".into()]),
            ("stdout", [text("one"), text("two"), text("one")]),
            ("link", ["-> a".into(), "-> b".into(), "-> a".into()]),
            ("mode", [text("m"), format!("{} (executable)", text("m")), text("m")]),
            ("new", [String::new(), text("n"), String::new()]),
            ("./stdout", [text("x"), String::new(), text("x")]),
        ];
        let expected = expected.map(|(path, values)| Difference { path: path.into(), values: values.into() });
        assert_eq!(differences, expected);
    }

    #[tokio::test]
    async fn what_was_cut_short_differs_by_its_end_only() {
        let status = rpc::Status { code: tonic::Code::DeadlineExceeded as i32, ..Default::default() };
        let late = reapi::ExecuteResponse {
            result: Some(result("half", &[])),
            status: Some(status),
            ..Default::default()
        };
        let mut comparison = Comparison::default();
        comparison.add(Sha256, &late);
        comparison.add_result(Sha256, &result("a", &[("f", "1", false)]));
        comparison.add(Sha256, &reapi::ExecuteResponse { status: None, ..late });
        comparison.add(Sha256, &reapi::ExecuteResponse::default());
        let differences = comparison.finish(&MemoryCas::default()).await;
        let rows: Vec<_> = differences.iter().map(|row| (row.path.as_str(), row.values.clone())).collect();
        let none = String::new;
        assert_eq!(
            rows,
            [
                ("exit code", vec!["DeadlineExceeded".into(), "0".into(), "0".into(), "Ok".into()]),
                ("stdout", vec![none(), text("a"), text("half"), none()]),
                ("f", vec![none(), text("1"), none(), none()]),
            ]
        );
    }

    #[tokio::test]
    async fn what_is_told_and_kept_is_bounded() {
        let many = |content: &str| {
            let names: Vec<_> = (0..2 * MAX_DIFFERENCES).map(|number| number.to_string()).collect();
            let files: Vec<_> = names.iter().map(|name| (name.as_str(), content, false)).collect();
            result("", &files)
        };
        let differences = compared(&[many("a"), many("b"), many("c")]).await;
        assert_eq!(differences.len(), MAX_DIFFERENCES);
        assert!(differences.iter().all(|row| row.values == [text("a"), text("b"), text("c")]));
    }

    #[tokio::test]
    async fn a_directory_is_told_by_what_differs_in_it() {
        let cas = MemoryCas::default();
        let tree = |content: &str| {
            let file = reapi::FileNode {
                name: "f".into(),
                digest: Some(Digest::of(Sha256, content.as_bytes()).to_wire()),
                ..Default::default()
            };
            let root = reapi::Directory { files: vec![file], ..Default::default() };
            cas.insert(Sha256, reapi::Tree { root: Some(root), children: Vec::new() }.encode_to_vec())
        };
        let with = |tree: Digest| reapi::ActionResult {
            output_directories: vec![reapi::OutputDirectory {
                path: "d".into(),
                tree_digest: Some(tree.to_wire()),
                ..Default::default()
            }],
            ..Default::default()
        };
        let (one, two) = (tree("1"), tree("2"));
        let mut comparison = Comparison::default();
        for tree in [one, two] {
            comparison.add_result(Sha256, &with(tree));
        }
        let expected = Difference { path: "d/f".into(), values: vec![text("1"), text("2")] };
        assert_eq!(comparison.finish(&cas).await, [expected]);
        let unread = Difference { path: "d".into(), values: vec![one.to_string(), two.to_string()] };
        assert_eq!(compared(&[with(one), with(two)]).await, [unread]);
    }
}
