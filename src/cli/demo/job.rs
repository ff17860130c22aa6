//! What is built: source files, and steps that make outputs of them.

use std::collections::BTreeMap;

use super::super::remote::Blob;

/// Something that can be built, and changes from build to build.
pub(super) trait Project {
    /// What it is, in a few words.
    fn describe(&self) -> String;

    /// Changes it as a person would who works on it, in one way after the other. Returns what was done, in
    /// a few words.
    fn change(&mut self) -> String;

    /// How it is built as it stands.
    fn job(&self) -> Job;
}

/// One build.
#[derive(Debug, Default)]
pub(super) struct Job {
    /// Files by their paths.
    pub(super) sources: BTreeMap<String, Blob>,
    /// What is done: each after those whose outputs it needs.
    pub(super) steps: Vec<Step>,
}

/// One action.
#[derive(Clone, Debug, Default)]
pub(super) struct Step {
    /// What it builds, as a build tool names it.
    pub(super) target: String,
    /// What kind of action it is.
    pub(super) mnemonic: &'static str,
    /// Program and arguments.
    pub(super) arguments: Vec<String>,
    /// Environment, beside `PATH`.
    pub(super) variables: Vec<(String, String)>,
    /// Paths of sources, and of outputs of earlier steps.
    pub(super) inputs: Vec<String>,
    /// Paths of the files it makes.
    pub(super) outputs: Vec<String>,
    /// The last line it must print.
    pub(super) must_say: Option<String>,
    /// There is a mistake in it, and it must fail.
    pub(super) must_fail: bool,
}

// === impl Job ===

impl Job {
    /// Adds a source file.
    pub(super) fn add_source(&mut self, path: impl Into<String>, text: impl Into<Vec<u8>>) {
        self.sources.insert(path.into(), Blob::new(text.into()));
    }

    /// Checks that every input is a source or an output of an earlier step, and that no two steps make the
    /// same file.
    #[cfg(test)]
    pub(super) fn check(&self) {
        use std::collections::BTreeSet;
        let mut made = BTreeSet::new();
        for step in &self.steps {
            for input in &step.inputs {
                assert!(self.sources.contains_key(input) || made.contains(input), "{input}: {step:?}");
            }
            for output in &step.outputs {
                assert!(made.insert(output) && !self.sources.contains_key(output), "{output} is made twice");
            }
        }
    }
}
