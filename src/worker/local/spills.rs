//! [`Spills`]: the kinds of commands that write more than memory is for.
//!
//! Such a command is killed and runs again with its layers on the disk. So that this happens once,
//! and not to every link of a build, the next command of its kind begins there.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use farmhand_proto::reapi;

/// Kinds remembered; then all are forgotten, which costs each one more killed run.
const MAX_KINDS: usize = 1024;

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct Spills(Mutex<HashSet<u64>>);

impl Spills {
    /// Whether a command of this kind has written too much before.
    pub(super) fn expects(&self, command: &reapi::Command) -> bool {
        self.kinds().contains(&kind_of(command))
    }

    /// This command wrote too much.
    pub(super) fn note(&self, command: &reapi::Command) {
        let mut kinds = self.kinds();
        if kinds.len() >= MAX_KINDS {
            kinds.clear();
        }
        kinds.insert(kind_of(command));
    }

    fn kinds(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Commands of one kind run the same program for outputs of the same extension: compiling and
/// linking are two.
#[expect(deprecated, reason = "older clients fill the older fields")]
fn kind_of(command: &reapi::Command) -> u64 {
    let outputs = command.output_paths.iter().chain(&command.output_files).chain(&command.output_directories);
    let extension = outputs.map(|path| Path::new(path).extension()).next();
    let mut hasher = DefaultHasher::new();
    (command.arguments.first(), extension).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(program: &str, output: &str) -> reapi::Command {
        reapi::Command {
            arguments: vec![program.into()],
            output_paths: vec![output.into()],
            ..Default::default()
        }
    }

    #[test]
    fn remembers_the_program_and_the_kind_of_its_outputs() {
        let spills = Spills::default();
        spills.note(&command("cc", "bin/a.so"));
        assert!(spills.expects(&command("cc", "other/b.so")));
        assert!(!spills.expects(&command("cc", "bin/a.o")));
        assert!(!spills.expects(&command("ld", "bin/a.so")));
    }

    #[test]
    fn the_memory_is_bounded() {
        let spills = Spills::default();
        for n in 0..=MAX_KINDS {
            spills.note(&command(&n.to_string(), "x"));
        }
        assert!(spills.kinds().len() <= MAX_KINDS);
        assert!(spills.expects(&command(&MAX_KINDS.to_string(), "x")));
    }
}
