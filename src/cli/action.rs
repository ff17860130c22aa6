//! `farmhand action`: what one action was, and what came of it.

use std::fmt::Write as _;
use std::path::PathBuf;

use farmhand_proto::any;
use farmhand_proto::client::Client;
use farmhand_proto::control::{
    ExplainMissRequest, GetActionRequest, GetActionResponse, Operation, PinActionRequest,
};
use farmhand_proto::protobuf::Timestamp;
use farmhand_proto::reapi;
use farmhand_proto::time::{std_duration, system_time};
use prost::Message;

use super::action_log::{self, LogArgs};
use super::actions::{state, took};
use super::error::{CliError, Explain};
use super::fetch::{self, FetchRequest};
use super::output::{Paint, bytes, duration, one_line, plural, print, shell_word, visible};
use super::rerun::{self, RerunOptions};
use super::target::TargetArgs;
use super::why::{self, miss_word};
use crate::instance::InstanceName;
use crate::worker::local::PersistentWorker;

/// Look at one action, run it again, or end it
#[derive(Debug, clap::Args)]
#[command(
    arg_required_else_help = false,
    after_help = "Examples:\n  farmhand action 9f86d0…/142 show\n  farmhand action 9f86d0… why               what changed since the last run\n  farmhand action 9f86d0… log --follow      what it writes, while it runs\n  farmhand action 9f86d0… fetch ./repro     inputs, and the command to run on them\n  farmhand action 9f86d0… rerun -n 5        does the same come of it each time?\n  farmhand action 9f86d0… kill"
)]
pub(super) struct ActionArgs {
    /// Digest of the action: HASH/SIZE, blake3/HASH/SIZE, or HASH alone while it is in the history; or the
    /// name of an operation
    #[arg(value_name = "DIGEST")]
    digest: String,
    /// Instance of the action
    #[arg(long, value_name = "NAME", default_value = "", global = true)]
    #[arg(value_parser = |name: &str| InstanceName::parse(name))]
    instance: InstanceName,
    #[command(flatten)]
    target: TargetArgs,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Show its command, its platform, its result and its times
    Show,
    /// Say why the action cache had no result for it
    Why {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write its input tree into a directory and print the command that reproduces it
    Fetch {
        /// Directory to fill; must be empty or not there
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// Write its outputs in place of its inputs
        #[arg(long)]
        outputs: bool,
    },
    /// Run it again, past the action cache, and compare what comes of it
    ///
    /// The runs leave no trace in the action cache, give way to builds, and end when this command does.
    /// Exit code, stdout, stderr and all outputs are compared, with the cached result too where there is
    /// one. The exit code is 1 when runs differ or fail.
    Rerun {
        /// How often, 1 to 100
        #[arg(short = 'n', long, value_name = "N", default_value_t = 1)]
        #[arg(value_parser = clap::value_parser!(u32).range(1..=100))]
        times: u32,
        /// Machine to run on; any by default
        #[arg(long, value_name = "NAME")]
        on: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// End it, for every client that waits for it; what it wrote is kept
    Kill,
    /// Print what it wrote to stdout, or writes while it runs
    Log(LogArgs),
    /// Keep its result, outputs and logs from eviction until it is unpinned
    Pin,
    /// Let go of its result
    Unpin,
}

/// An action as it was defined, and its result, decoded.
pub(super) struct Decoded {
    /// The Action.
    pub(super) action: reapi::Action,
    /// The Command.
    pub(super) command: reapi::Command,
    /// The result, if there is one.
    pub(super) result: Option<reapi::ActionResult>,
}

/// Shows or fetches an action.
pub(super) async fn run(args: ActionArgs) -> Result<(), CliError> {
    let mut control = args.target.connect().await?;
    let (digest, instance) = (args.digest, args.instance.as_str().to_owned());
    match args.what {
        What::Show => print(&show(&look_up(&mut control, digest, instance).await?, Paint::stdout())?),
        What::Why { json } => {
            let request = ExplainMissRequest { digest: digest.clone(), instance_name: instance };
            let miss = control.explain_miss(request).await.map_err(explain_lookup)?.into_inner();
            why::run(&digest, &miss, json)
        }
        What::Kill => rerun::kill(control, digest).await,
        What::Rerun { times, on, json } => {
            let machine = on.unwrap_or_default();
            rerun::rerun(control, RerunOptions { digest, instance, times, machine, json }).await
        }
        What::Fetch { directory, outputs } => {
            let found = look_up(&mut control, digest, instance).await?;
            let decoded = decode(&found)?;
            let (digest, instance) = (found.digest, found.instance_name);
            fetch::run(control, FetchRequest { digest, instance, directory, outputs, decoded }).await
        }
        What::Log(log) => action_log::run(control, digest, log).await,
        What::Pin => pin(control, PinActionRequest { digest, instance_name: instance, unpin: false }).await,
        What::Unpin => pin(control, PinActionRequest { digest, instance_name: instance, unpin: true }).await,
    }
}

/// What the node knows of an action.
pub(super) async fn look_up(
    control: &mut Client,
    digest: String,
    instance_name: String,
) -> Result<GetActionResponse, CliError> {
    let request = GetActionRequest { digest, instance_name };
    Ok(control.get_action(request).await.map_err(explain_lookup)?.into_inner())
}

async fn pin(mut control: Client, request: PinActionRequest) -> Result<(), CliError> {
    let pinned = control.pin_action(request).await.map_err(explain_pin)?.into_inner();
    match pinned.pinned {
        true => print(&format!("pinned: {} stay until it is unpinned\n", bytes(pinned.bytes))),
        false => print("not pinned: what it made goes when room is needed\n"),
    }
}

fn explain_pin(status: tonic::Status) -> CliError {
    let hint = match status.code() {
        tonic::Code::NotFound => "run the action again: only the results of actions that succeeded are kept",
        tonic::Code::ResourceExhausted => "unpin another result, or raise disk-budget",
        _ => return explain_lookup(status),
    };
    CliError::from(status).hint(hint)
}

fn explain_lookup(status: tonic::Status) -> CliError {
    let hint = match status.code() {
        tonic::Code::NotFound => {
            Some("farmhand actions lists those of the history; --instance names another instance")
        }
        tonic::Code::InvalidArgument => {
            Some("the digest of an action is in the log of the build tool, or in farmhand actions")
        }
        _ => None,
    };
    let error = CliError::from(status);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// Decodes all parts; an action whose definition is gone cannot be fetched.
pub(super) fn decode(found: &GetActionResponse) -> Result<Decoded, CliError> {
    if found.action.is_empty() || found.command.is_empty() {
        return Err(CliError::new(format!(
            "the definition of {} is not in the store any more",
            found.digest
        ))
        .hint("run the build again: the tool uploads it again"));
    }
    Ok(Decoded {
        action: reapi::Action::decode(found.action.as_slice()).explain("cannot read the Action")?,
        command: reapi::Command::decode(found.command.as_slice()).explain("cannot read the Command")?,
        result: decode_result(found)?,
    })
}

fn decode_result(found: &GetActionResponse) -> Result<Option<reapi::ActionResult>, CliError> {
    let result = found.result.as_deref().map(reapi::ActionResult::decode);
    result.transpose().explain("cannot read the ActionResult")
}

// === show ===

fn show(found: &GetActionResponse, paint: Paint) -> Result<String, CliError> {
    let mut text = format!("{} {}\n", paint.bold("Action"), found.digest);
    let mut line = |label: &str, value: &str| {
        let _ = writeln!(text, "  {} {}", paint.dim(&format!("{label:<12}")), visible(value));
    };
    if !found.instance_name.is_empty() {
        line("instance", &found.instance_name);
    }
    if let Some(operation) = &found.operation {
        operation_lines(&mut line, operation);
    }
    waiting_lines(&mut line, found);
    line("cached", if found.in_action_cache { "yes" } else { "no" });
    if found.pinned {
        line("pinned", "yes");
    }
    match decode(found) {
        Ok(decoded) => definition_lines(&mut line, &decoded),
        Err(_) => line("definition", "not in the store any more"),
    }
    match decode_result(found)? {
        Some(result) => result_lines(&mut line, &result),
        None => line("result", "none"),
    }
    for operation in &found.earlier {
        line("earlier", &earlier_text(operation));
    }
    if let Some(first) = found.missing_outputs.first() {
        let number = plural(found.missing_outputs.len() as u64, "blob");
        line("missing", &format!("{number} of the result, the first is {first}"));
    }
    Ok(text)
}

/// One that came before, on a line.
fn earlier_text(operation: &Operation) -> String {
    let finished = operation.finished.as_ref().and_then(system_time);
    let finished = finished.map(|time| humantime::format_rfc3339_seconds(time).to_string());
    let took = took(operation).map(duration).unwrap_or_default();
    let parts = [finished.unwrap_or_default(), state(operation), took, operation.machine.clone()];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("  ")
}

fn operation_lines(line: &mut impl FnMut(&str, &str), operation: &Operation) {
    line("operation", &operation.name);
    line("state", &state(operation));
    if let Some(word) = miss_word(operation.miss()) {
        line("miss", word);
    }
    for (label, value) in [
        ("target", &operation.target),
        ("mnemonic", &operation.mnemonic),
        ("tool", &operation.tool),
        ("invocation", &operation.invocation),
        ("machine", &operation.machine),
        ("message", &operation.message),
    ] {
        if !value.is_empty() {
            line(label, value);
        }
    }
}

fn waiting_lines(line: &mut impl FnMut(&str, &str), found: &GetActionResponse) {
    if let Some(ahead) = found.ahead {
        let before = match ahead {
            0 => "nothing: it is the next to begin".to_owned(),
            _ => format!("{} will likely begin before it", plural(ahead, "action")),
        };
        line("ahead", &before);
    }
    for reason in &found.waiting {
        line("waits", &format!("{}: {}", reason.machine, one_line(&reason.text)));
    }
}

fn definition_lines(line: &mut impl FnMut(&str, &str), decoded: &Decoded) {
    let Decoded { action, command, .. } = decoded;
    line("command", &command_line(&command.arguments));
    for variable in &command.environment_variables {
        line("environment", &format!("{}={}", variable.name, variable.value));
    }
    if !command.working_directory.is_empty() {
        line("directory", &command.working_directory);
    }
    let platform = action.platform.as_ref().or({
        #[expect(deprecated, reason = "clients of version 2.1 and before set only this one")]
        command.platform.as_ref()
    });
    for property in platform.map(|platform| platform.properties.as_slice()).unwrap_or_default() {
        line("property", &format!("{}={}", property.name, property.value));
    }
    if let Some(limit) = action.timeout.as_ref().and_then(std_duration) {
        line("time limit", &duration(limit));
    }
    if action.do_not_cache {
        line("cache", "never (do_not_cache)");
    }
    if let Some(root) = &action.input_root_digest {
        line("input root", &format!("{}/{}", root.hash, root.size_bytes));
    }
}

fn result_lines(line: &mut impl FnMut(&str, &str), result: &reapi::ActionResult) {
    line("exit code", &result.exit_code.to_string());
    #[expect(deprecated, reason = "results of clients of version 2.0 have these two")]
    let links = [&result.output_file_symlinks, &result.output_directory_symlinks, &result.output_symlinks];
    for file in &result.output_files {
        line("output", &format!("{}  {}", file.path, sized(file.digest.as_ref())));
    }
    for directory in &result.output_directories {
        line("output", &format!("{}/  (directory)", directory.path));
    }
    for link in links.into_iter().flatten() {
        line("output", &format!("{} -> {}", link.path, link.target));
    }
    for (name, digest, raw) in [
        ("stdout", &result.stdout_digest, &result.stdout_raw),
        ("stderr", &result.stderr_digest, &result.stderr_raw),
    ] {
        match digest {
            Some(digest) => line(name, &sized(Some(digest))),
            None if !raw.is_empty() => line(name, &bytes(raw.len() as u64)),
            None => {}
        }
    }
    if let Some(metadata) = &result.execution_metadata {
        timing_lines(line, metadata);
    }
}

fn timing_lines(line: &mut impl FnMut(&str, &str), metadata: &reapi::ExecutedActionMetadata) {
    line("ran on", &metadata.worker);
    if let Some(worker) = metadata.auxiliary_metadata.iter().find_map(any::unpack::<PersistentWorker>) {
        line("worker", &format!("persistent, {} requests before this one", worker.requests_before));
    }
    for (label, from, to) in [
        ("queued", &metadata.queued_timestamp, &metadata.worker_start_timestamp),
        ("inputs", &metadata.input_fetch_start_timestamp, &metadata.input_fetch_completed_timestamp),
        ("run", &metadata.execution_start_timestamp, &metadata.execution_completed_timestamp),
        ("outputs", &metadata.output_upload_start_timestamp, &metadata.output_upload_completed_timestamp),
    ] {
        if let Some(took) = between(from.as_ref(), to.as_ref()) {
            line(label, &duration(took));
        }
    }
}

fn between(from: Option<&Timestamp>, to: Option<&Timestamp>) -> Option<std::time::Duration> {
    system_time(to?)?.duration_since(system_time(from?)?).ok()
}

fn sized(digest: Option<&reapi::Digest>) -> String {
    let Some(digest) = digest else { return "(no digest)".to_owned() };
    let size = u64::try_from(digest.size_bytes).unwrap_or(0);
    format!("{}/{} ({})", digest.hash, digest.size_bytes, bytes(size))
}

/// The arguments as one shell line.
pub(super) fn command_line(arguments: &[String]) -> String {
    arguments.iter().map(|argument| shell_word(argument)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use farmhand_proto::control::WaitReason;

    use super::*;

    fn found() -> GetActionResponse {
        let command = reapi::Command {
            arguments: vec!["sh".into(), "-c".into(), "echo 'hi'".into()],
            environment_variables: vec![reapi::command::EnvironmentVariable {
                name: "PATH".into(),
                value: "/bin".into(),
            }],
            ..Default::default()
        };
        let result = reapi::ActionResult {
            exit_code: 2,
            output_files: vec![reapi::OutputFile {
                path: "out/a".into(),
                digest: Some(reapi::Digest { hash: "ab".into(), size_bytes: 2048 }),
                ..Default::default()
            }],
            execution_metadata: Some(reapi::ExecutedActionMetadata {
                worker: "attic".into(),
                auxiliary_metadata: vec![any::pack(&PersistentWorker { requests_before: 3 })],
                execution_start_timestamp: Some(Timestamp { seconds: 5, nanos: 0 }),
                execution_completed_timestamp: Some(Timestamp { seconds: 6, nanos: 500_000_000 }),
                ..Default::default()
            }),
            ..Default::default()
        };
        GetActionResponse {
            digest: "abc/1".into(),
            action: reapi::Action { do_not_cache: true, ..Default::default() }.encode_to_vec(),
            command: command.encode_to_vec(),
            result: Some(result.encode_to_vec()),
            ..Default::default()
        }
    }

    #[test]
    fn shows_command_result_and_times() {
        let text = show(&found(), Paint::plain()).unwrap();
        for part in [
            "Action abc/1",
            r"sh -c 'echo '\''hi'\'''",
            "PATH=/bin",
            "exit code    2",
            "out/a  ab/2048 (2.0 KiB)",
            "ran on       attic",
            "worker       persistent, 3 requests before this one",
            "run          1.50 s",
            "never (do_not_cache)",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[test]
    fn why_it_waits_is_told_for_each_machine() {
        let reason = |machine: &str, text: &str| WaitReason { machine: machine.into(), text: text.into() };
        let waiting = vec![reason("attic", "paused for 3m"), reason("cellar", "bad\x1b[31m\ntext")];
        let text = show(&GetActionResponse { waiting, ahead: Some(2), ..found() }, Paint::plain()).unwrap();
        for part in [
            "ahead        2 actions will likely begin before it\n",
            "waits        attic: paused for 3m\n",
            "waits        cellar: bad [31m text\n",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        let next = show(&GetActionResponse { ahead: Some(0), ..found() }, Paint::plain()).unwrap();
        assert!(next.contains("it is the next"), "{next}");
    }

    #[test]
    fn a_definition_that_is_gone_is_told() {
        let gone = GetActionResponse { action: Vec::new(), ..found() };
        assert!(show(&gone, Paint::plain()).unwrap().contains("not in the store any more"));
        assert!(decode(&gone).is_err());
    }
}
