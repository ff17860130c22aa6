//! [`About`]: what is remembered of an action once nobody needs its Command any more.

use farmhand_proto::reapi;

use super::action::PreparedAction;
use crate::digest::Digest;

/// Characters kept of a path or program.
const MAX_TEXT: usize = 512;

/// What an operation wanted run, for those who tell people of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Digest of the Command.
    pub command: Digest,
    /// Digest of the root Directory of its inputs.
    pub input_root: Digest,
    /// Path of its first output; empty if it has none.
    pub first_output: String,
    /// Its first argument.
    pub program: String,
    /// Where it runs.
    pub working_directory: String,
    /// Whether its result is never kept.
    pub do_not_cache: bool,
    /// Whether the client wanted no result out of the action cache.
    pub skip_cache_lookup: bool,
}

impl About {
    /// What is worth remembering of `action`.
    pub fn new(action: &PreparedAction, skip_cache_lookup: bool) -> Self {
        let command = &action.command;
        Self {
            command: action.command_digest,
            input_root: action.input_root,
            first_output: shortened(first_output(command)),
            program: shortened(command.arguments.first().map_or("", String::as_str)),
            working_directory: shortened(&command.working_directory),
            do_not_cache: action.do_not_cache,
            skip_cache_lookup,
        }
    }
}

/// The first output a Command names, in whichever field its client fills.
#[expect(deprecated, reason = "clients before API version 2.1 fill only these fields")]
pub fn first_output(command: &reapi::Command) -> &str {
    let outputs = [&command.output_paths, &command.output_files, &command.output_directories];
    outputs.into_iter().find_map(|paths| paths.first()).map_or("", String::as_str)
}

fn shortened(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

#[cfg(test)]
#[expect(deprecated, reason = "the old output fields are still served")]
mod tests {
    use super::*;

    #[test]
    fn the_first_output_is_that_of_the_field_in_use() {
        let mut command = reapi::Command { output_directories: vec!["d".into()], ..Default::default() };
        assert_eq!(first_output(&command), "d");
        command.output_files = vec!["f".into(), "g".into()];
        assert_eq!(first_output(&command), "f");
        command.output_paths = vec!["p".into()];
        assert_eq!(first_output(&command), "p");
        assert_eq!(first_output(&reapi::Command::default()), "");
    }

    #[test]
    fn long_paths_are_cut_between_characters() {
        assert_eq!(shortened(&"\u{20ac}".repeat(1000)).len(), 3 * MAX_TEXT);
        assert_eq!(shortened("a/b"), "a/b");
    }
}
