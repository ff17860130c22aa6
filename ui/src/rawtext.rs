//! Messages of the Remote Execution API in the text form of protocol buffers, as far as they make
//! up an action and its result.

use std::fmt::Write as _;

use farmhand_proto::protobuf::{Duration, Timestamp};
use farmhand_proto::reapi;

/// Bytes of raw output shown.
const MOST_RAW: usize = 4096;

/// A message being written.
#[derive(Debug, Default)]
pub(crate) struct RawText {
    text: String,
    depth: usize,
}

// === impl RawText ===

impl RawText {
    /// What was written.
    pub(crate) fn into_text(self) -> String {
        self.text
    }

    /// A line of its own, as a comment.
    pub(crate) fn comment(&mut self, text: &str) {
        let _ = writeln!(self.text, "# {text}");
    }

    /// An Action.
    pub(crate) fn action(&mut self, action: &reapi::Action) {
        self.digest("command_digest", action.command_digest.as_ref());
        self.digest("input_root_digest", action.input_root_digest.as_ref());
        self.duration("timeout", action.timeout.as_ref());
        self.flag("do_not_cache", action.do_not_cache);
        self.bytes("salt", &action.salt);
        self.platform(action.platform.as_ref());
    }

    /// A Command.
    pub(crate) fn command(&mut self, command: &reapi::Command) {
        for argument in &command.arguments {
            self.string("arguments", argument);
        }
        for variable in &command.environment_variables {
            self.block("environment_variables", |text| {
                text.string("name", &variable.name);
                text.string("value", &variable.value);
            });
        }
        self.old_outputs(command);
        self.strings("output_paths", &command.output_paths);
        self.string_if("working_directory", &command.working_directory);
        self.strings("output_node_properties", &command.output_node_properties);
        if command.output_directory_format != 0 {
            self.line("output_directory_format", command.output_directory_format().as_str_name());
        }
    }

    /// An ActionResult.
    pub(crate) fn result(&mut self, result: &reapi::ActionResult) {
        for file in &result.output_files {
            self.block("output_files", |text| {
                text.string("path", &file.path);
                text.digest("digest", file.digest.as_ref());
                text.flag("is_executable", file.is_executable);
            });
        }
        for (name, links) in symlinks(result) {
            for link in links {
                self.block(name, |text| {
                    text.string("path", &link.path);
                    text.string("target", &link.target);
                });
            }
        }
        for directory in &result.output_directories {
            self.block("output_directories", |text| {
                text.string("path", &directory.path);
                text.digest("tree_digest", directory.tree_digest.as_ref());
                text.digest("root_directory_digest", directory.root_directory_digest.as_ref());
                text.flag("is_topologically_sorted", directory.is_topologically_sorted);
            });
        }
        self.number("exit_code", result.exit_code.into());
        self.bytes("stdout_raw", &result.stdout_raw);
        self.digest("stdout_digest", result.stdout_digest.as_ref());
        self.bytes("stderr_raw", &result.stderr_raw);
        self.digest("stderr_digest", result.stderr_digest.as_ref());
        if let Some(metadata) = &result.execution_metadata {
            self.block("execution_metadata", |text| text.metadata(metadata));
        }
    }

    fn metadata(&mut self, metadata: &reapi::ExecutedActionMetadata) {
        self.string_if("worker", &metadata.worker);
        for (name, stamp) in [
            ("queued_timestamp", &metadata.queued_timestamp),
            ("worker_start_timestamp", &metadata.worker_start_timestamp),
            ("worker_completed_timestamp", &metadata.worker_completed_timestamp),
            ("input_fetch_start_timestamp", &metadata.input_fetch_start_timestamp),
            ("input_fetch_completed_timestamp", &metadata.input_fetch_completed_timestamp),
            ("execution_start_timestamp", &metadata.execution_start_timestamp),
            ("execution_completed_timestamp", &metadata.execution_completed_timestamp),
            ("output_upload_start_timestamp", &metadata.output_upload_start_timestamp),
            ("output_upload_completed_timestamp", &metadata.output_upload_completed_timestamp),
        ] {
            self.timestamp(name, stamp.as_ref());
        }
        self.duration("virtual_execution_duration", metadata.virtual_execution_duration.as_ref());
        for message in &metadata.auxiliary_metadata {
            self.block("auxiliary_metadata", |text| {
                text.string("type_url", &message.type_url);
                text.bytes("value", &message.value);
            });
        }
    }

    #[expect(deprecated, reason = "commands of clients of version 2.0 have these")]
    fn old_outputs(&mut self, command: &reapi::Command) {
        self.strings("output_files", &command.output_files);
        self.strings("output_directories", &command.output_directories);
        self.platform(command.platform.as_ref());
    }

    fn platform(&mut self, platform: Option<&reapi::Platform>) {
        let Some(platform) = platform else { return };
        self.block("platform", |text| {
            for property in &platform.properties {
                text.block("properties", |text| {
                    text.string("name", &property.name);
                    text.string("value", &property.value);
                });
            }
        });
    }

    fn digest(&mut self, name: &str, digest: Option<&reapi::Digest>) {
        let Some(digest) = digest else { return };
        self.block(name, |text| {
            text.string("hash", &digest.hash);
            text.number("size_bytes", digest.size_bytes);
        });
    }

    fn timestamp(&mut self, name: &str, stamp: Option<&Timestamp>) {
        let Some(stamp) = stamp else { return };
        self.block(name, |text| {
            text.number("seconds", stamp.seconds);
            text.number("nanos", stamp.nanos.into());
        });
    }

    fn duration(&mut self, name: &str, length: Option<&Duration>) {
        let Some(length) = length else { return };
        self.block(name, |text| {
            text.number("seconds", length.seconds);
            text.number("nanos", length.nanos.into());
        });
    }

    fn block(&mut self, name: &str, inside: impl FnOnce(&mut Self)) {
        self.indent();
        let _ = writeln!(self.text, "{name} {{");
        self.depth += 1;
        inside(self);
        self.depth -= 1;
        self.indent();
        self.text.push_str("}\n");
    }

    fn strings(&mut self, name: &str, values: &[String]) {
        values.iter().for_each(|value| self.string(name, value));
    }

    fn string_if(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.string(name, value);
        }
    }

    fn string(&mut self, name: &str, value: &str) {
        self.line(name, &quoted(value.as_bytes(), true));
    }

    fn bytes(&mut self, name: &str, value: &[u8]) {
        if value.is_empty() {
            return;
        }
        let shown = &value[..value.len().min(MOST_RAW)];
        self.line(name, &quoted(shown, false));
        if shown.len() < value.len() {
            let rest = value.len() - shown.len();
            self.indent();
            let _ = writeln!(self.text, "# {rest} more bytes");
        }
    }

    fn flag(&mut self, name: &str, value: bool) {
        if value {
            self.line(name, "true");
        }
    }

    fn number(&mut self, name: &str, value: i64) {
        if value != 0 {
            self.line(name, &value.to_string());
        }
    }

    fn line(&mut self, name: &str, value: &str) {
        self.indent();
        let _ = writeln!(self.text, "{name}: {value}");
    }

    fn indent(&mut self) {
        self.text.extend(std::iter::repeat_n("  ", self.depth));
    }
}

/// Symlinks by the field they stand in.
#[expect(deprecated, reason = "results of clients of version 2.0 have the first two")]
pub(crate) fn symlinks(result: &reapi::ActionResult) -> [(&'static str, &[reapi::OutputSymlink]); 3] {
    [
        ("output_file_symlinks", &result.output_file_symlinks),
        ("output_symlinks", &result.output_symlinks),
        ("output_directory_symlinks", &result.output_directory_symlinks),
    ]
}

/// A string literal of the text form. Letters beyond ASCII stay when they are text.
fn quoted(bytes: &[u8], is_text: bool) -> String {
    let mut quoted = String::with_capacity(bytes.len() + 2);
    quoted.push('"');
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => quoted.extend(['\\', char::from(byte)]),
            b'\n' => quoted.push_str("\\n"),
            b'\r' => quoted.push_str("\\r"),
            b'\t' => quoted.push_str("\\t"),
            b' '..=b'~' => quoted.push(char::from(byte)),
            _ if is_text && byte >= 0x80 => return quoted_letters(bytes),
            _ => {
                let _ = write!(quoted, "\\{byte:03o}");
            }
        }
    }
    quoted.push('"');
    quoted
}

/// The same for text with letters beyond ASCII.
fn quoted_letters(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            c if !c.is_ascii() => quoted.push(c),
            c => {
                let one = self::quoted(&[c as u8], false);
                quoted.push_str(&one[1..one.len() - 1]);
            }
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use farmhand_proto::reapi::command::EnvironmentVariable;

    use super::*;

    fn digest() -> Option<reapi::Digest> {
        Some(reapi::Digest { hash: "ab".into(), size_bytes: 5 })
    }

    #[test]
    fn an_action() {
        let mut text = RawText::default();
        text.comment("Action");
        text.action(&reapi::Action {
            command_digest: digest(),
            do_not_cache: true,
            salt: vec![0, 255],
            ..Default::default()
        });
        assert_eq!(
            text.into_text(),
            "# Action\ncommand_digest {\n  hash: \"ab\"\n  size_bytes: 5\n}\ndo_not_cache: true\nsalt: \"\\000\\377\"\n"
        );
    }

    #[test]
    fn a_command() {
        let mut text = RawText::default();
        text.command(&reapi::Command {
            arguments: vec!["sh".into(), "a\"b\n\u{1b}é".into()],
            environment_variables: vec![EnvironmentVariable { name: "A".into(), value: "b".into() }],
            ..Default::default()
        });
        assert_eq!(
            text.into_text(),
            "arguments: \"sh\"\narguments: \"a\\\"b\\n\\033é\"\nenvironment_variables {\n  name: \"A\"\n  value: \"b\"\n}\n"
        );
    }

    #[test]
    fn a_result() {
        let mut text = RawText::default();
        text.result(&reapi::ActionResult {
            exit_code: 3,
            stdout_raw: vec![b'x'; MOST_RAW + 7],
            output_directories: vec![reapi::OutputDirectory {
                path: "d".into(),
                tree_digest: digest(),
                ..Default::default()
            }],
            ..Default::default()
        });
        let text = text.into_text();
        assert!(text.contains("output_directories {\n  path: \"d\"\n  tree_digest {\n    hash: \"ab\"\n"));
        assert!(text.contains("exit_code: 3\n") && text.contains("# 7 more bytes\n"), "{text}");
    }
}
