//! The rules a Command must keep (`build.bazel.remote.execution.v2.Command`): pure checks, no I/O.
//!
//! Order is never checked: clients send unsorted variables and outputs, and the bytes they sent are
//! what is digested.

use std::collections::HashSet;

use farmhand_proto::reapi;

use super::ActionError;
use crate::execution::OUTPUT_NODE_PROPERTIES;
use crate::path::RootPath;

/// Checks everything about `command` that can be told without its inputs. Returns its working
/// directory.
pub(super) fn check(command: &reapi::Command) -> Result<RootPath, ActionError> {
    check_arguments(&command.arguments)?;
    check_environment(&command.environment_variables)?;
    let directory = working_directory(command)?;
    check_outputs(command, &directory)?;
    match command.output_node_properties.iter().find(|name| !OUTPUT_NODE_PROPERTIES.contains(&name.as_str()))
    {
        Some(unknown) => Err(ActionError::NodeProperty(unknown.clone())),
        None => Ok(directory),
    }
}

fn check_arguments(arguments: &[String]) -> Result<(), ActionError> {
    match arguments.first() {
        None => Err(ActionError::Arguments("the list is empty")),
        Some(program) if program.is_empty() => Err(ActionError::Arguments("the program is empty")),
        _ if arguments.iter().any(|argument| argument.contains('\0')) => {
            Err(ActionError::Arguments("one contains NUL"))
        }
        _ => Ok(()),
    }
}

fn check_environment(variables: &[reapi::command::EnvironmentVariable]) -> Result<(), ActionError> {
    let is_bad = |variable: &&reapi::command::EnvironmentVariable| {
        variable.name.is_empty() || variable.name.contains(['=', '\0']) || variable.value.contains('\0')
    };
    match variables.iter().find(is_bad) {
        Some(variable) => Err(ActionError::Environment(variable.name.clone())),
        None => Ok(()),
    }
}

/// The working directory. A trailing slash is forgiven, as clients that print directories send it.
fn working_directory(command: &reapi::Command) -> Result<RootPath, ActionError> {
    let text = &command.working_directory;
    let trimmed = if text.starts_with('/') { text } else { text.trim_end_matches('/') };
    RootPath::root().join(trimmed).map_err(ActionError::WorkingDirectory)
}

#[expect(deprecated, reason = "clients before API version 2.1 fill only these fields")]
fn check_outputs(command: &reapi::Command, directory: &RootPath) -> Result<(), ActionError> {
    let check = |path: &String| directory.join(path).map_err(ActionError::OutputPath);
    if !command.output_paths.is_empty() {
        return command.output_paths.iter().try_for_each(|path| check(path).map(drop));
    }
    let mut seen = HashSet::new();
    for path in command.output_files.iter().chain(&command.output_directories) {
        if !seen.insert(check(path)?) {
            return Err(ActionError::DuplicateOutput(path.clone()));
        }
    }
    Ok(())
}

#[cfg(test)]
#[expect(deprecated, reason = "the old output fields are still served")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn command() -> reapi::Command {
        reapi::Command { arguments: vec!["true".into()], ..Default::default() }
    }

    fn variable(name: &str, value: &str) -> reapi::command::EnvironmentVariable {
        reapi::command::EnvironmentVariable { name: name.into(), value: value.into() }
    }

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn arguments() {
        for arguments in [&[][..], &[""], &["a\0b"], &["a", "b\0"]] {
            let command = reapi::Command { arguments: strings(arguments), ..Default::default() };
            assert!(matches!(check(&command), Err(ActionError::Arguments(_))), "{arguments:?}");
        }
        let command = reapi::Command { arguments: strings(&["a", ""]), ..Default::default() };
        assert!(check(&command).is_ok());
    }

    #[test]
    fn environment() {
        for (name, value) in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "x\0")] {
            let command = reapi::Command { environment_variables: vec![variable(name, value)], ..command() };
            assert!(matches!(check(&command), Err(ActionError::Environment(_))), "{name:?}");
        }
        let unsorted = vec![variable("B", ""), variable("A", "=")];
        assert!(check(&reapi::Command { environment_variables: unsorted, ..command() }).is_ok());
    }

    #[test]
    fn working_directories() {
        for directory in ["", ".", "a/./b", "no/such/dir", "a/..", "a/"] {
            let command = reapi::Command { working_directory: directory.into(), ..command() };
            assert!(check(&command).is_ok(), "{directory:?}");
        }
        for directory in ["/", "/a", "../x", "a/../..", "a\0"] {
            let command = reapi::Command { working_directory: directory.into(), ..command() };
            assert!(matches!(check(&command), Err(ActionError::WorkingDirectory(_))), "{directory:?}");
        }
    }

    #[test]
    fn output_paths_stay_inside_the_input_root() {
        let inside = |path: &str| {
            check(&reapi::Command {
                working_directory: "a/b".into(),
                output_paths: strings(&[path]),
                ..command()
            })
        };
        for path in ["o", "../o", "../../o", ".", "x/y"] {
            assert!(inside(path).is_ok(), "{path:?}");
        }
        for path in ["/o", "o/", "../../../o", "o\0"] {
            assert!(matches!(inside(path), Err(ActionError::OutputPath(_))), "{path:?}");
        }
    }

    #[test]
    fn duplicates_count_only_in_the_old_fields() {
        let both = reapi::Command {
            output_files: strings(&["a"]),
            output_directories: strings(&["a"]),
            ..command()
        };
        assert!(matches!(check(&both), Err(ActionError::DuplicateOutput(_))));
        let ignored = reapi::Command { output_paths: strings(&["a", "a"]), ..both };
        assert!(check(&ignored).is_ok());
        let nested = reapi::Command { output_directories: strings(&["a", "a/b", ""]), ..command() };
        assert!(check(&nested).is_ok());
    }

    #[test]
    fn node_properties() {
        let with = |name: &str| reapi::Command { output_node_properties: strings(&[name]), ..command() };
        assert!(check(&with("mtime")).is_ok());
        assert!(check(&with("unix_mode")).is_ok());
        assert!(matches!(check(&with("frobnicate")), Err(ActionError::NodeProperty(_))));
    }

    proptest! {
        #[test]
        fn an_accepted_output_never_leaves_the_root(directory in "[a./]{0,8}", path in "[a./]{0,12}") {
            let command = reapi::Command {
                working_directory: directory.clone(),
                output_paths: vec![path.clone()],
                ..command()
            };
            if check(&command).is_ok() {
                let mut depth = 0_i32;
                for segment in format!("{directory}/{path}").split('/') {
                    depth += match segment { "" | "." => 0, ".." => -1, _ => 1 };
                    prop_assert!(depth >= 0);
                }
            }
        }
    }
}
