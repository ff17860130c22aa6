//! What a made-up node answers.

use farmhand_proto::control::directory_entry::Kind;
use farmhand_proto::control::log_line::Level;
use farmhand_proto::control::{self, difference, invite_response, join_response, miss};
use farmhand_proto::reapi;
use farmhand_proto::reapi::command::EnvironmentVariable;
use prost::Message as _;

use crate::message::{Answer, Call, CallId, Command, Failure, Message, Todo};
use crate::model::Model;
use crate::testing::{ago, farm, send};

/// The calls among what is to be done.
pub(super) fn calls(todo: &Todo) -> Vec<(CallId, Call)> {
    let call = |command: &Command| match command {
        Command::Call(id, call) => Some((*id, (**call).clone())),
        _ => None,
    };
    todo.commands.iter().filter_map(call).collect()
}

/// Answers calls, and those that follow from the answers, as a node would.
pub(super) fn serve(model: &mut Model, todo: &Todo) {
    let mut waiting = calls(todo);
    while let Some((id, call)) = waiting.pop() {
        for answer in answers(&call) {
            let todo = send(model, Message::Answer(id, answer));
            waiting.extend(calls(&todo));
        }
    }
}

pub(super) fn answers(call: &Call) -> Vec<Answer> {
    match call {
        Call::Action(request) => vec![Answer::Action(Box::new(action(&request.digest)))],
        Call::Directory(request) => vec![Answer::Directory(directory(request))],
        Call::Miss(_) => vec![Answer::Miss(missed())],
        Call::Output(request) => output(request),
        Call::Blob(_) => {
            vec![Answer::Blob(control::ReadBlobResponse { data: b"int main() {}\n".to_vec() }), Answer::Ended]
        }
        Call::Log(_) => vec![Answer::Log(log())],
        Call::Settings(_) => vec![Answer::Settings(control::GetSettingsResponse {
            settings: vec![
                control::Setting { name: "slots".into(), value: "8".into(), is_default: false },
                control::Setting { name: "lease".into(), value: "3h".into(), is_default: true },
            ],
            files: Vec::new(),
        })],
        Call::Farm(_) => vec![Answer::Farm(Box::new(control::GetFarmResponse {
            name: "lab".into(),
            members: vec![control::FarmMember { name: "kitchen".into(), ..Default::default() }],
            is_shared: true,
            ..Default::default()
        }))],
        Call::Invite(_) => vec![news(invite_response::News::Invitation(control::Invitation {
            code: "482-zoo-abandon".into(),
            addresses: vec!["192.168.1.7:40123".into(), "10.0.0.7:40123".into()],
            farm: "lab".into(),
            expires: ago(-250.0),
        }))],
        Call::Newcomer(_) => vec![Answer::Newcomer(control::AnswerNewcomerResponse {})],
        Call::Join(_) => [
            join_response::News::Trying(control::JoinTrying { address: "192.168.1.9:40123".into() }),
            join_response::News::CheckWords("acid zoo term".into()),
            join_response::News::Pending(control::JoinPending {}),
        ]
        .map(|news| Answer::Join(Box::new(control::JoinResponse { news: Some(news) })))
        .into(),
        _ => vec![Answer::Failed(Failure { code: 12, text: "this node cannot do that".into(), lost: false })],
    }
}

/// News of an invitation.
pub(super) fn news(news: invite_response::News) -> Answer {
    Answer::Invite(Box::new(control::InviteResponse { news: Some(news) }))
}

fn digest(hash: &str, size_bytes: i64) -> Option<reapi::Digest> {
    Some(reapi::Digest { hash: hash.repeat(16), size_bytes })
}

fn action(name: &str) -> control::GetActionResponse {
    let variable = |name: &str, value: &str| EnvironmentVariable { name: name.into(), value: value.into() };
    let arguments = ["/usr/bin/c++", "-O2", "-DNAME='a b'", "-c", "src/main.cc", "-o", "out/main.o"];
    let command = reapi::Command {
        arguments: arguments.map(String::from).to_vec(),
        environment_variables: vec![variable("LANG", "C.UTF-8"), variable("PATH", "/usr/bin:/bin")],
        output_paths: vec!["out/main.d".into(), "out/main.o".into(), "out/report".into()],
        working_directory: "build".into(),
        ..Default::default()
    };
    let define = reapi::Action {
        input_root_digest: digest("ab12", 340),
        timeout: Some(farmhand_proto::protobuf::Duration { seconds: 600, nanos: 0 }),
        ..Default::default()
    };
    let file = |path: &str, hash: &str, size| reapi::OutputFile {
        path: path.into(),
        digest: digest(hash, size),
        ..Default::default()
    };
    let result = reapi::ActionResult {
        output_files: vec![file("out/main.o", "c0de", 48_213), file("out/main.d", "d00d", 1_204)],
        execution_metadata: Some(reapi::ExecutedActionMetadata {
            worker: "kitchen".into(),
            queued_timestamp: ago(4000.0),
            worker_start_timestamp: ago(3999.0),
            input_fetch_start_timestamp: ago(3999.0),
            input_fetch_completed_timestamp: ago(3998.6),
            execution_start_timestamp: ago(3998.6),
            execution_completed_timestamp: ago(3990.0),
            output_upload_start_timestamp: ago(3990.0),
            output_upload_completed_timestamp: ago(3989.8),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut earlier = farm().operations.into_iter().find(|op| op.name == "operations/done0");
    if let Some(op) = &mut earlier {
        op.name = "operations/before".into();
    }
    control::GetActionResponse {
        digest: format!("{}/142", "f00d".repeat(16)),
        action: define.encode_to_vec(),
        command: command.encode_to_vec(),
        result: Some(result.encode_to_vec()),
        operation: farm().operations.into_iter().find(|op| op.name == name),
        missing_outputs: vec![format!("{}/1204", "d00d".repeat(16))],
        earlier: earlier.into_iter().collect(),
        waiting: match name {
            "operations/wait0" => vec![
                control::WaitReason { machine: "attic".into(), text: "all its slots are taken".into() },
                control::WaitReason { machine: "shed".into(), text: "it does not answer".into() },
            ],
            _ => Vec::new(),
        },
        ahead: (name == "operations/wait0").then_some(3),
        ..Default::default()
    }
}

fn directory(request: &control::ListDirectoryRequest) -> control::ListDirectoryResponse {
    let entry = |name: &str, kind: Kind, bytes| control::DirectoryEntry {
        name: name.into(),
        kind: kind.into(),
        digest: format!("{}{}/9", name.len(), "e".repeat(63)),
        is_stored: name != "lost.h",
        size_bytes: bytes,
        files: (kind == Kind::Directory).then_some(2),
        target: if kind == Kind::Symlink { "../include".into() } else { String::new() },
        is_executable: name == "tool",
    };
    let entries = match request.digest.starts_with("ab12") {
        true => vec![
            entry("include", Kind::Directory, 5_000),
            entry("src", Kind::Directory, 9_000_000),
            entry("tool", Kind::File, 1_200_000),
            entry("inc", Kind::Symlink, 0),
        ],
        false => vec![entry("lost.h", Kind::File, 120), entry("main.cc", Kind::File, 4_100)],
    };
    let next_page_token = if request.digest.starts_with("ab12") { String::new() } else { "more".into() };
    control::ListDirectoryResponse { entries, next_page_token }
}

fn missed() -> control::Miss {
    let difference = |kind: difference::Kind, name: &str, old: &str, new: &str| control::Difference {
        kind: kind.into(),
        name: name.into(),
        old: old.into(),
        new: new.into(),
    };
    control::Miss {
        kind: miss::Kind::Changed.into(),
        summary: "An input and an argument changed since the build of an hour ago.".into(),
        earlier_digest: format!("{}/142", "beef".repeat(16)),
        earlier_finished: ago(3600.0),
        differences: vec![
            difference(difference::Kind::Input, "src/main.cc", "1111/80", "2222/94"),
            difference(difference::Kind::Argument, "1", "-O0", "-O2"),
            difference(difference::Kind::Variable, "SEED", "", "7"),
        ],
        total_differences: 12,
    }
}

fn output(request: &control::ReadOutputRequest) -> Vec<Answer> {
    let text =
        "compiling\r\x1b[Kmain.cc:3: \x1b[1;31merror:\x1b[0m expected ';'\n\x1b]0;owned\x07  3 | int x\n";
    let piece = control::ReadOutputResponse { offset: 0, data: text.into(), ended: false };
    match request.stream {
        1 => vec![Answer::Failed(Failure { code: 5, text: "none".into(), lost: false })],
        _ => vec![Answer::Output(piece)],
    }
}

fn log() -> control::WatchLogResponse {
    let line = |sequence, level: Level, module: &str, text: &str| control::LogLine {
        at: ago(30.0 - sequence as f64),
        level: level.into(),
        module: module.into(),
        text: text.into(),
        sequence,
    };
    control::WatchLogResponse {
        lines: vec![
            line(1, Level::Info, "farmhand::node", "ready reapi=127.0.0.1:8980"),
            line(2, Level::Debug, "farmhand::cas", "opened blobs=123456"),
            line(3, Level::Warn, "farmhand::worker", "the action wrote \x1b[31mred\x1b[0m"),
            line(4, Level::Error, "farmhand::cas", "the disk is full free=0"),
        ],
    }
}
