//! The command of an action as one line for a shell: what a person pastes to run it by hand.
//!
//! The line holds no byte that a terminal would act on, whatever the action has in its words, so
//! it may be shown as it is and copied as it is.

use std::fmt::Write as _;

use farmhand_proto::reapi;

use crate::sanitize;

/// `command` as `cd … && env -i NAME=value … argument …`, to be run in its input root at `root`.
/// Without a root the line starts where the inputs are.
pub(crate) fn line(command: &reapi::Command, root: Option<&str>) -> String {
    let mut line = String::new();
    if let Some(place) = place(&command.working_directory, root) {
        let _ = write!(line, "cd {} && ", word(&place));
    }
    line.push_str("env -i");
    for variable in &command.environment_variables {
        let _ = write!(line, " {}", word(&format!("{}={}", variable.name, variable.value)));
    }
    for argument in &command.arguments {
        let _ = write!(line, " {}", word(argument));
    }
    line
}

fn place(working_directory: &str, root: Option<&str>) -> Option<String> {
    match (root, working_directory) {
        (None, "") => None,
        (Some(root), "") => Some(root.to_owned()),
        (None, directory) => Some(below_here(directory)),
        (Some(root), directory) => Some(format!("{}/{directory}", root.trim_end_matches('/'))),
    }
}

/// A relative path that `cd` cannot take for an option.
fn below_here(directory: &str) -> String {
    if directory.starts_with('-') { format!("./{directory}") } else { directory.to_owned() }
}

/// One word of a shell line: as it is, in quotes, or in `$'…'` where it holds what a terminal
/// might act on or hide.
pub(crate) fn word(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    if word.chars().any(sanitize::is_hostile) {
        return escaped(word);
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The dollar quotes of POSIX 2024, known to bash, zsh, ksh and busybox: bytes in octal, always
/// three digits, so that a digit behind them is not taken for one more.
fn escaped(word: &str) -> String {
    let mut text = String::from("$'");
    for c in word.chars() {
        match c {
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            '\'' => text.push_str("\\'"),
            '\\' => text.push_str("\\\\"),
            c if sanitize::is_hostile(c) => {
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    let _ = write!(text, "\\{byte:03o}");
                }
            }
            c => text.push(c),
        }
    }
    text.push('\'');
    text
}

#[cfg(test)]
mod tests {
    use farmhand_proto::reapi::command::EnvironmentVariable;
    use proptest::prelude::*;

    use super::*;

    fn command(directory: &str, variables: &[(&str, &str)], arguments: &[&str]) -> reapi::Command {
        let variable =
            |&(name, value): &(&str, &str)| EnvironmentVariable { name: name.into(), value: value.into() };
        reapi::Command {
            working_directory: directory.into(),
            environment_variables: variables.iter().map(variable).collect(),
            arguments: arguments.iter().map(|&argument| argument.into()).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn a_line_has_place_variables_and_arguments() {
        let compile = command("src", &[("PATH", "/usr/bin"), ("A", "b c")], &["cc", "-DX='y'", "a.c"]);
        assert_eq!(line(&compile, None), r"cd src && env -i PATH=/usr/bin 'A=b c' cc '-DX='\''y'\''' a.c");
        assert!(line(&compile, Some("/tmp/x y/")).starts_with("cd '/tmp/x y/src' && env -i "));
        let plain = command("", &[], &["true"]);
        assert_eq!(line(&plain, None), "env -i true");
        assert_eq!(line(&plain, Some("/r")), "cd /r && env -i true");
        assert_eq!(line(&command("-x", &[], &["true"]), None), "cd ./-x && env -i true");
    }

    #[test]
    fn nothing_a_terminal_acts_on_is_in_a_word() {
        assert_eq!(word(""), "''");
        assert_eq!(word("a\x1b[2J1'\\"), r"$'a\033[2J1\'\\'");
        assert_eq!(word("a\nb\tc"), r"$'a\nb\tc'");
        assert_eq!(word("a\u{202e}b"), r"$'a\342\200\256b'");
        assert_eq!(word("é ü"), "'é ü'");
    }

    proptest! {
        #[test]
        fn no_word_is_hostile(text in "\\PC{0,8}[\\x00-\\xff\\u{200b}-\\u{2070}]{0,8}") {
            prop_assert!(!word(&text).chars().any(sanitize::is_hostile));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn a_shell_reads_back_what_was_quoted(text in "[\\x01-\\xff\\u{200e}-\\u{202f}'\\\\ 0-9]{0,12}") {
            let script = format!("printf %s {}", word(&text));
            let output = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
            prop_assert_eq!(String::from_utf8(output.stdout).unwrap(), text);
        }
    }
}
