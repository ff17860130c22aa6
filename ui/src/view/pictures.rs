//! Pictures of the views that look into one thing: an action, the timeline, machines, cache, logs;
//! and what must hold for them whatever is told and pressed.

use farmhand_proto::control::directory_entry::Kind;
use farmhand_proto::control::log_line::Level;
use farmhand_proto::control::operation::Stage;
use farmhand_proto::control::{self, difference, miss};
use farmhand_proto::reapi;
use farmhand_proto::reapi::command::EnvironmentVariable;
use proptest::prelude::*;
use prost::Message as _;

use crate::message::{Answer, Call, CallId, Command, Failure, FeedEvent, Message, Slot, Todo};
use crate::model::Model;
use crate::options::{ColourDepth, View};
use crate::testing::{self, ago, check, check_view, farm, model, paint, press, screen, send};

/// The calls among what is to be done.
fn calls(todo: &Todo) -> Vec<(CallId, Call)> {
    let call = |command: &Command| match command {
        Command::Call(id, call) => Some((*id, (**call).clone())),
        _ => None,
    };
    todo.commands.iter().filter_map(call).collect()
}

/// Answers calls, and those that follow from the answers, as a node would.
fn serve(model: &mut Model, todo: &Todo) {
    let mut waiting = calls(todo);
    while let Some((id, call)) = waiting.pop() {
        for answer in answers(&call) {
            let todo = send(model, Message::Answer(id, answer));
            waiting.extend(calls(&todo));
        }
    }
}

fn answers(call: &Call) -> Vec<Answer> {
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
        _ => vec![Answer::Failed(Failure { code: 12, text: "this node cannot do that".into() })],
    }
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
        1 => vec![Answer::Failed(Failure { code: 5, text: "none".into() })],
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

/// The action view on the operation of that name.
fn action_view(name: &str, keys: &str) -> Model {
    let mut model = model(View::Overview);
    let todo = press(&mut model, &format!(":action operations/{name}<enter>"));
    serve(&mut model, &todo);
    for key in keys.chars() {
        let text = if key == '>' { "<tab>".to_owned() } else { key.to_string() };
        let todo = press(&mut model, &text);
        serve(&mut model, &todo);
        screen(&mut model, 80, 24);
    }
    model
}

#[test]
fn every_tab_of_an_action() {
    let tabs = ["summary", "command", "inputs", "outputs", "stdout", "stderr", "timing", "cache", "raw"];
    for (number, tab) in tabs.into_iter().enumerate() {
        let mut model = action_view("done2", &">".repeat(number));
        check_view(&format!("action-{tab}"), &mut model);
    }
}

#[test]
fn an_action_that_waits_tells_why() {
    check("action-waiting-80x24", &screen(&mut action_view("wait0", ""), 80, 24));
}

#[test]
fn directories_open_files_are_looked_at_and_escape_goes_back() {
    let mut model = action_view("done2", ">>jjl");
    let picture = screen(&mut model, 80, 24);
    assert!(picture.contains("main.cc") && picture.contains("more; enter reads on"), "{picture}");
    assert!(picture.contains("not stored"), "{picture}");
    for keys in ["jj", "<enter>"] {
        let todo = press(&mut model, keys);
        serve(&mut model, &todo);
    }
    let picture = screen(&mut model, 80, 24);
    assert!(picture.contains("int main() {}") && picture.contains("src/main.cc"), "{picture}");
    press(&mut model, "<esc>");
    assert!(screen(&mut model, 80, 24).contains("(input root)"));
}

#[test]
fn from_a_miss_one_key_leads_to_the_earlier_action_and_one_back() {
    let mut model = action_view("done2", ">>>>>>>");
    let todo = press(&mut model, "<enter>");
    let asked = calls(&todo);
    let Some((_, Call::Action(request))) = asked.first() else { panic!("{asked:?}") };
    assert!(request.digest.starts_with("beef"), "{request:?}");
    serve(&mut model, &todo);
    let todo = press(&mut model, "<esc>");
    assert!(
        calls(&todo)
            .iter()
            .any(|(_, call)| matches!(call, Call::Action(request) if request.digest.contains("done2")))
    );
    assert_eq!(model.view(), View::Action);
}

#[test]
fn live_output_is_followed_searched_and_kept() {
    let mut model = action_view("run0", ">>>>>");
    let picture = screen(&mut model, 80, 24);
    assert!(picture.contains("live") && picture.contains("main.cc:3: error: expected ';'"), "{picture}");
    assert!(!picture.contains("owned") && !picture.contains("compiling"), "{picture}");
    let open = model.calls.clone();
    let more = control::ReadOutputResponse { offset: 61, data: b"late\n".to_vec(), ended: true };
    let id =
        (0..50).map(|serial| CallId { slot: Slot::Stderr, serial }).find(|id| open.is_open(*id)).unwrap();
    let known = model.action.stderr.bytes();
    send(
        &mut model,
        Message::Answer(id, Answer::Output(control::ReadOutputResponse { offset: known, ..more })),
    );
    let picture = screen(&mut model, 80, 24);
    assert!(picture.contains("late") && !picture.contains("live"), "{picture}");
    press(&mut model, "/EXPECTED<enter>");
    assert_eq!(model.action.stderr.pager.found(), Some(0));
    press(&mut model, "n");
    assert_eq!(model.action.stderr.pager.found(), Some(0));
}

#[test]
fn streams_are_given_up_when_the_view_is_left() {
    let mut model = action_view("run0", ">>>>>");
    let todo = press(&mut model, "6");
    assert!(todo.commands.contains(&Command::Cancel(Slot::Stderr)), "{todo:?}");
    let todo = press(&mut model, "4");
    let outputs: Vec<_> =
        calls(&todo).into_iter().filter(|(_, call)| matches!(call, Call::Output(_))).collect();
    let [(_, Call::Output(request))] = outputs.as_slice() else { panic!("{outputs:?}") };
    assert_eq!(request.offset, i64::try_from(model.action.stderr.bytes()).unwrap());
}

#[test]
fn what_is_done_to_an_action() {
    let mut model = action_view("run0", "");
    press(&mut model, "x");
    assert!(screen(&mut model, 80, 24).contains("End this action?"));
    let todo = press(&mut model, "y");
    assert!(
        matches!(&calls(&todo)[..], [(_, Call::Kill(request))] if request.operation == "operations/run0")
    );
    press(&mut model, "R");
    let todo = press(&mut model, "<enter>");
    assert!(matches!(&calls(&todo)[..], [(_, Call::Rerun(request))] if request.times == 3));
    let todo = press(&mut model, "y");
    let copied = "cd build && env -i LANG=C.UTF-8 PATH=/usr/bin:/bin /usr/bin/c++ -O2 '-DNAME='\\''a b'\\''' -c src/main.cc -o out/main.o";
    assert_eq!(todo.commands, [Command::Copy(copied.to_owned())]);
    let todo = press(&mut model, "p");
    assert!(matches!(&calls(&todo)[..], [(_, Call::Pin(request))] if !request.unpin));
    let todo = press(&mut model, "F");
    assert!(matches!(&todo.commands[..], [Command::Fetch(_)]), "{todo:?}");
    let todo = press(&mut model, "W");
    assert!(matches!(&calls(&todo)[..], [(_, Call::Miss(_)), ..]), "{todo:?}");
}

#[test]
fn nothing_is_changed_where_one_may_only_read() {
    let mut model = action_view("run0", "");
    model.rights.read_only = true;
    for key in ["x", "r", "R", "@", "p"] {
        let todo = press(&mut model, key);
        assert!(todo.commands.is_empty() && model.modal.is_none(), "{key}");
    }
}

#[test]
fn timeline() {
    check_view("timeline", &mut model(View::Timeline));
    let mut chosen = model(View::Timeline);
    screen(&mut chosen, 80, 24);
    press(&mut chosen, "jm<left>+");
    check("timeline-chosen-80x24", &screen(&mut chosen, 80, 24));
    let mut ascii = testing::looking(View::Timeline, ColourDepth::None, true);
    testing::show(&mut ascii);
    let picture = screen(&mut ascii, 80, 24);
    assert!(picture.is_ascii(), "{picture}");
}

#[test]
fn timeline_bars_have_colours() {
    let mut model = testing::looking(View::Timeline, ColourDepth::Ansi16, false);
    testing::show(&mut model);
    paint(&mut model, 80, 24);
    check("timeline-looks-80x24", &testing::looks(&paint(&mut model, 80, 24)));
}

#[test]
fn the_timeline_is_written_as_a_trace() {
    let mut model = model(View::Timeline);
    screen(&mut model, 80, 24);
    let todo = press(&mut model, "e");
    let [Command::WriteFile { name, text }] = todo.commands.as_slice() else { panic!("{todo:?}") };
    assert_eq!(name, "farmhand-trace.json");
    let trace: serde_json::Value = serde_json::from_str(text).unwrap();
    let runs = trace["traceEvents"].as_array().unwrap().iter();
    assert_eq!(runs.filter(|event| event["cat"] == "CppCompile").count(), 10);
}

#[test]
fn the_mouse_drags_zooms_and_opens() {
    use crossterm::event::{KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
    let mut model = model(View::Timeline);
    screen(&mut model, 80, 24);
    let mut mouse = |kind, column, row| {
        let event = MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE };
        let todo = send(&mut model, Message::Mouse(event));
        let window = model.timeline.window(model.node_now().unwrap());
        (window.start(), window.span(), model.timeline.chosen, todo)
    };
    let before = mouse(MouseEventKind::Moved, 40, 6);
    let closer = mouse(MouseEventKind::ScrollUp, 40, 6);
    assert!(closer.1 < before.1);
    let left = MouseButton::Left;
    let chosen = mouse(MouseEventKind::Down(left), 78, 4);
    assert!(chosen.2.is_some() && calls(&chosen.3).is_empty());
    mouse(MouseEventKind::Down(left), 30, 10);
    let dragged = mouse(MouseEventKind::Drag(left), 60, 10);
    assert!(dragged.0 < closer.0 && dragged.1 == closer.1, "{dragged:?} {closer:?}");
    let back = mouse(MouseEventKind::Drag(left), 1, 10);
    assert!(back.0 > dragged.0);
    mouse(MouseEventKind::Up(left), 30, 10);
    mouse(MouseEventKind::Down(left), 78, 4);
    let opened = mouse(MouseEventKind::Down(left), 78, 4);
    assert!(matches!(&calls(&opened.3)[..], [(_, Call::Action(_)), ..]), "{opened:?}");
}

#[test]
fn machines() {
    let mut model = model(View::Machines);
    let todo = press(&mut model, "6");
    serve(&mut model, &todo);
    check_view("machines", &mut model);
    check("machines-200x50", &screen(&mut model, 200, 50));
}

#[test]
fn machines_are_drained_and_get_slots() {
    let mut model = model(View::Machines);
    screen(&mut model, 120, 40);
    let asked = |todo: Todo| match &calls(&todo)[..] {
        [(_, Call::Machine(request))] => (request.machine.clone(), request.state, request.slots),
        other => panic!("{other:?}"),
    };
    press(&mut model, "j");
    assert_eq!(
        asked(press(&mut model, "D")),
        ("kitchen".into(), control::machine::State::Draining.into(), None)
    );
    assert_eq!(asked(press(&mut model, "+")), ("kitchen".into(), 0, Some(13)));
    assert_eq!(asked(press(&mut model, "-")), ("kitchen".into(), 0, Some(11)));
    assert_eq!(asked(press(&mut model, ":slots 3<enter>")), ("kitchen".into(), 0, Some(3)));
    assert_eq!(
        asked(press(&mut model, ":rest shed<enter>")),
        ("shed".into(), control::machine::State::Paused.into(), None)
    );
    press(&mut model, ":drain nobody<enter>");
    assert!(screen(&mut model, 120, 40).contains("there is no machine nobody"));
}

#[test]
fn cache() {
    check_view("cache", &mut model(View::Cache));
    let mut builds = model(View::Cache);
    press(&mut builds, "<tab>");
    check("cache-builds-80x24", &screen(&mut builds, 80, 24));
}

#[test]
fn logs() {
    let mut model = model(View::Overview);
    let todo = press(&mut model, "8");
    serve(&mut model, &todo);
    check_view("logs", &mut model);
    press(&mut model, "vv");
    let picture = screen(&mut model, 80, 24);
    assert!(picture.contains("disk is full") && !picture.contains("ready reapi"), "{picture}");
    press(&mut model, "/full<enter>");
    let picture = screen(&mut model, 80, 24);
    assert!(picture.contains("1 of 4 lines") && !picture.contains("red"), "{picture}");
}

#[test]
fn views_say_so_when_nothing_is_known() {
    for view in [View::Action, View::Timeline, View::Machines, View::Cache, View::Logs] {
        let mut blank = testing::blank(view);
        let picture = screen(&mut blank, 80, 24);
        assert!(picture.lines().filter(|line| !line.is_empty()).count() > 3, "{view:?}\n{picture}");
    }
}

/// Text that may do harm.
fn hostile() -> impl Strategy<Value = String> {
    prop_oneof!["\\PC{0,12}", "[\\x00-\\xff]{0,12}", "[\u{202e}\u{200b}界a\u{301}\x1b]{0,8}"]
}

fn any_op() -> impl Strategy<Value = control::Operation> {
    (
        hostile(),
        hostile(),
        0..4_i32,
        any::<bool>(),
        prop::array::uniform5(prop::option::of(-10.0..40.0_f64)),
        any::<u64>(),
    )
        .prop_map(|(name, text, stage, cached, times, sequence)| {
            let at = |i: usize| times[i].and_then(ago);
            control::Operation {
                name: format!("operations/{}", name.len() % 5),
                target: text.clone(),
                machine: if sequence % 3 == 0 { name } else { "attic".into() },
                mnemonic: text.clone(),
                message: text,
                stage: Stage::try_from(stage).unwrap_or_default().into(),
                cached,
                queued: at(0),
                started: at(1),
                command_started: at(2),
                command_ended: at(3),
                finished: at(4),
                sequence,
                ..Default::default()
            }
        })
}

fn any_machine() -> impl Strategy<Value = control::Machine> {
    (hostile(), 0..7_i32, 0..40_u32, any::<f64>(), any::<[u64; 4]>()).prop_map(
        |(name, state, slots, cpu, bytes)| control::Machine {
            name,
            state,
            slots,
            busy: slots / 2,
            used_bytes: bytes[0],
            budget_bytes: bytes[1],
            load: Some(control::Load {
                cpu,
                memory_total: bytes[2],
                memory_available: bytes[3],
                cpu_pressure: Some(cpu),
                received: bytes[0],
                sent: bytes[1],
                disk_free: bytes[2],
                disk_total: bytes[3],
                measured: ago(3.0),
                ..Default::default()
            }),
            ..Default::default()
        },
    )
}

/// Something that can happen to the dashboard.
#[derive(Clone, Debug)]
enum Deed {
    Keys(String),
    Told(Box<control::WatchResponse>),
    Answer(u8, String),
    Size(u16, u16),
}

fn any_deed() -> impl Strategy<Value = Deed> {
    let keys =
        "(<tab>|<enter>|<esc>|<left>|<right>|<up>|<down>|<pgdn>|<end>|[4-8xrRfwvm+<>,.nNeyDs/?:a-c ]){1,3}"
            .prop_filter("angle brackets name keys", |keys| {
                let named =
                    ["<tab>", "<enter>", "<esc>", "<left>", "<right>", "<up>", "<down>", "<pgdn>", "<end>"];
                !named.iter().fold(keys.clone(), |rest, name| rest.replace(name, "")).contains(['<', '>'])
            });
    let told = (prop::collection::vec(any_op(), 0..6), prop::collection::vec(any_machine(), 0..4)).prop_map(
        |(operations, machines)| {
            Deed::Told(Box::new(control::WatchResponse {
                now: ago(0.0),
                operations,
                machines,
                ..Default::default()
            }))
        },
    );
    prop_oneof![
        4 => keys.prop_map(Deed::Keys),
        2 => told,
        3 => (any::<u8>(), hostile()).prop_map(|(what, text)| Deed::Answer(what, text)),
        2 => (1..140_u16, 1..50_u16).prop_map(|(width, height)| Deed::Size(width, height)),
    ]
}

/// An answer to `call`, good or bad, that holds `text`.
fn any_answer(call: &Call, what: u8, text: &str) -> Vec<Answer> {
    match (what % 4, call) {
        (0, _) => vec![Answer::Failed(Failure {
            code: i32::from(what % 17),
            text: crate::sanitize::line(text).into_owned(),
        })],
        (1, Call::Output(_)) => vec![Answer::Output(control::ReadOutputResponse {
            offset: u64::from(what),
            data: text.into(),
            ended: what > 128,
        })],
        (1, Call::Log(_)) => vec![Answer::Log(control::WatchLogResponse {
            lines: vec![control::LogLine {
                text: text.into(),
                module: text.into(),
                sequence: what.into(),
                ..Default::default()
            }],
        })],
        (1, Call::Action(_)) => vec![Answer::Action(Box::new(control::GetActionResponse {
            digest: text.into(),
            action: text.into(),
            command: reapi::Command { arguments: vec![text.into()], ..Default::default() }.encode_to_vec(),
            result: Some(text.into()),
            ..Default::default()
        }))],
        (1, Call::Directory(_)) => vec![Answer::Directory(control::ListDirectoryResponse {
            entries: vec![control::DirectoryEntry {
                name: text.into(),
                kind: i32::from(what % 5),
                ..Default::default()
            }],
            next_page_token: if what > 128 { "x".into() } else { String::new() },
        })],
        _ => answers(call),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn nothing_that_is_told_or_pressed_panics_or_harms(
        first in 4..9_u8,
        deeds in prop::collection::vec(any_deed(), 1..24),
    ) {
        let view = View::ALL[usize::from(first) - 1];
        let mut model = model(view);
        let (mut width, mut height) = (80, 24);
        let mut open = Vec::new();
        for deed in deeds {
            let todo = match deed {
                Deed::Keys(keys) => press(&mut model, &keys),
                Deed::Told(message) => send(&mut model, Message::Feed(FeedEvent::Changes(message))),
                Deed::Answer(what, text) => match open.pop() {
                    Some((id, call)) => any_answer(&call, what, &text)
                        .into_iter()
                        .map(|answer| send(&mut model, Message::Answer(id, answer)))
                        .fold(Todo::default(), |mut all, todo| {
                            all.commands.extend(todo.commands);
                            all
                        }),
                    None => Todo::default(),
                },
                Deed::Size(columns, rows) => {
                    (width, height) = (columns, rows);
                    send(&mut model, Message::Resize(columns, rows))
                }
            };
            open.extend(calls(&todo));
            let buffer = paint(&mut model, width, height);
            for cell in &buffer.content {
                prop_assert!(!cell.symbol().chars().any(crate::sanitize::is_hostile), "{:?}", cell.symbol());
            }
        }
    }

    #[test]
    fn every_size_can_be_painted(width in 1..200_u16, height in 1..60_u16, view in 4..9_u8, tab in 0..9_usize) {
        let mut model = match View::ALL[usize::from(view) - 1] {
            View::Action => action_view("done2", &">".repeat(tab)),
            view => model(view),
        };
        paint(&mut model, width, height);
        let mut buffer = ratatui::buffer::Buffer::empty(ratatui::layout::Rect::new(0, 0, width, height));
        let (theme, glyphs) = (model.theme.clone(), model.glyphs);
        let mut canvas = crate::canvas::Canvas::new(&mut buffer, &theme, glyphs);
        crate::view::view(&model, &mut canvas, ratatui::layout::Rect::new(0, 0, width, height));
    }
}
