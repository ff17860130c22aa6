//! For tests: a small made-up farm, and pictures of the screen.
//!
//! A picture is a text file in `ui/tests/snapshots`: the screen as it is read, without looks. Where
//! looks matter, [`looks`] tells them, a letter a cell. To take pictures anew, run the tests with
//! `FARMHAND_REGENERATE=1`, and look at the difference before it is committed.

pub(crate) mod fake_node;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use farmhand_proto::control::machine::State;
use farmhand_proto::control::operation::{Kind, Stage};
use farmhand_proto::control::{self, miss, warning};
use farmhand_proto::protobuf;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier};

use crate::canvas::Canvas;
use crate::glyphs::Glyphs;
use crate::message::{FeedEvent, Message, Todo};
use crate::model::{Model, Rights};
use crate::options::{ColourDepth, View};
use crate::theme::Theme;
use crate::update::update;

/// The clock of the made-up node, in seconds since 1970: 17:00:00 on some day.
pub(crate) const NOW: i64 = 1_700_067_600;

/// A model that shows `view` and knows nothing.
pub(crate) fn blank(view: View) -> Model {
    looking(view, ColourDepth::None, false)
}

/// A model that shows `view` of the made-up farm.
pub(crate) fn model(view: View) -> Model {
    let mut model = blank(view);
    show(&mut model);
    model
}

/// A model that shows `view` of a farm that differs from the made-up one.
pub(crate) fn with(view: View, edit: impl FnOnce(&mut control::WatchResponse)) -> Model {
    let (mut model, mut told) = (blank(view), farm());
    edit(&mut told);
    send(&mut model, Message::Feed(FeedEvent::Connected));
    send(&mut model, Message::Feed(FeedEvent::Changes(Box::new(told))));
    model
}

/// A model with a look of its own that knows nothing.
pub(crate) fn looking(view: View, depth: ColourDepth, ascii: bool) -> Model {
    let rights = Rights { can_fetch: true, ..Rights::default() };
    Model::new(Theme::standard(depth), Glyphs::of(ascii), rights, view)
}

/// Lets the model hear of the made-up farm.
pub(crate) fn show(model: &mut Model) {
    send(model, Message::Feed(FeedEvent::Connected));
    send(model, Message::Feed(FeedEvent::Changes(Box::new(farm()))));
}

/// Applies a message now.
pub(crate) fn send(model: &mut Model, message: Message) -> Todo {
    let now = model.now;
    update(model, message, now)
}

/// Applies messages at a time of the program.
pub(crate) fn send_at(model: &mut Model, seconds: u64, message: Message) -> Todo {
    update(model, message, Duration::from_secs(seconds))
}

/// Presses keys: characters, and names in angle brackets (`<enter>`, `<esc>`, `<tab>`, `<up>` …).
pub(crate) fn press(model: &mut Model, keys: &str) -> Todo {
    let mut todo = Todo::default();
    let mut rest = keys;
    while let Some(c) = rest.chars().next() {
        let named = rest.strip_prefix('<').and_then(|tail| tail.split_once('>'));
        let (code, tail) = match named {
            Some((name, tail)) => (code_of(name), tail),
            None => (crossterm::event::KeyCode::Char(c), &rest[c.len_utf8()..]),
        };
        rest = tail;
        let next = send(model, Message::Key(code.into()));
        todo.redraw |= next.redraw;
        todo.commands.extend(next.commands);
    }
    todo
}

fn code_of(name: &str) -> crossterm::event::KeyCode {
    use crossterm::event::KeyCode;
    match name {
        "enter" => KeyCode::Enter,
        "esc" => KeyCode::Esc,
        "tab" => KeyCode::Tab,
        "backtab" => KeyCode::BackTab,
        "backspace" => KeyCode::Backspace,
        "up" => KeyCode::Up,
        "down" => KeyCode::Down,
        "left" => KeyCode::Left,
        "right" => KeyCode::Right,
        "home" => KeyCode::Home,
        "end" => KeyCode::End,
        "pgup" => KeyCode::PageUp,
        "pgdn" => KeyCode::PageDown,
        _ => panic!("no key {name}"),
    }
}

/// Paints the model, lets it know what the painting told, and returns the cells.
pub(crate) fn paint(model: &mut Model, width: u16, height: u16) -> Buffer {
    model.size = (width, height);
    let area = Rect::new(0, 0, width, height);
    let mut buffer = Buffer::empty(area);
    let (theme, glyphs) = (model.theme.clone(), model.glyphs);
    let mut canvas = Canvas::new(&mut buffer, &theme, glyphs);
    crate::view::draw(model, &mut canvas, area);
    let drawn = canvas.drawn;
    model.painted(drawn);
    buffer
}

/// The screen as text, without spaces at the ends of lines.
pub(crate) fn screen(model: &mut Model, width: u16, height: u16) -> String {
    // Twice, as the first painting tells the model how much it may show.
    paint(model, width, height);
    text(&paint(model, width, height))
}

/// Cells as text, without spaces at the ends of lines.
pub(crate) fn text(buffer: &Buffer) -> String {
    crate::view::text_of(buffer)
}

/// The looks of cells, a letter each: of the colour, in upper case where it is bold or reversed.
pub(crate) fn looks(buffer: &Buffer) -> String {
    let mut looks = String::new();
    for line in buffer.content.chunks(usize::from(buffer.area.width).max(1)) {
        let letters: String = line.iter().map(|cell| look_of(cell.fg, cell.bg, cell.modifier)).collect();
        let _ = writeln!(looks, "{}", letters.trim_end_matches('.'));
    }
    looks
}

fn look_of(fg: Color, bg: Color, modifier: Modifier) -> char {
    let letter = match (fg, bg) {
        (Color::Reset, Color::Reset) => '.',
        (Color::Reset, _) => 's',
        (Color::Red | Color::LightRed, _) => 'r',
        (Color::Green | Color::LightGreen, _) => 'g',
        (Color::Yellow | Color::LightYellow, _) => 'y',
        (Color::Blue | Color::LightBlue, _) => 'b',
        (Color::Magenta | Color::LightMagenta, _) => 'm',
        (Color::Cyan | Color::LightCyan, _) => 'c',
        (Color::Gray | Color::DarkGray, _) => 'd',
        (Color::Black | Color::White, _) => 'w',
        _ => 'x',
    };
    match letter {
        '.' if modifier.contains(Modifier::REVERSED) => '#',
        '.' if modifier.contains(Modifier::BOLD) => '*',
        letter if modifier.intersects(Modifier::BOLD | Modifier::REVERSED) => letter.to_ascii_uppercase(),
        letter => letter,
    }
}

/// Compares with the picture of that name.
pub(crate) fn check(name: &str, picture: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/snapshots/{name}.txt"));
    if std::env::var_os("FARMHAND_REGENERATE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, picture).unwrap();
        return;
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(known == picture, "{name} looks different now:\n{picture}\nbefore:\n{known}");
}

/// Compares a view of the made-up farm with its pictures at 80x24 and 120x40.
pub(crate) fn check_view(name: &str, model: &mut Model) {
    for (width, height) in [(80, 24), (120, 40)] {
        let picture = screen(model, width, height);
        check(&format!("{name}-{width}x{height}"), &picture);
    }
}

/// `seconds` before [`NOW`].
pub(crate) fn ago(seconds: f64) -> Option<protobuf::Timestamp> {
    let millis = NOW * 1000 - (seconds * 1000.0).round() as i64;
    let nanos = (millis.rem_euclid(1000) * 1_000_000) as i32;
    Some(protobuf::Timestamp { seconds: millis.div_euclid(1000), nanos })
}

/// A length on the wire.
pub(crate) fn seconds(seconds: f64) -> Option<protobuf::Duration> {
    Some(farmhand_proto::time::duration(Duration::from_secs_f64(seconds)))
}

/// The made-up farm: three machines of which one is lost and one on battery, two builds under way
/// and one over, 9 actions that run, 14 that wait, 12 that are over in every way there is.
pub(crate) fn farm() -> control::WatchResponse {
    control::WatchResponse {
        snapshot: true,
        position: Some(control::WatchPosition { boot_epoch: 7, sequence: 100 }),
        now: ago(0.0),
        node: Some(node()),
        machines: machines(),
        execution: Some(control::Execution {
            queued: 14,
            running: 9,
            executed: 1204,
            cached: 310,
            failed: 3,
            errors: 1,
            recent_hits: 62,
            recent_lookups: 80,
            hits: 4100,
            lookups: 5400,
        }),
        storage: Some(storage()),
        warnings: vec![warning(warning::Level::Advice, "the client keeps 9 of 20 slots busy", "--jobs=40")],
        has_warnings: true,
        operations: operations(),
        builds: builds(),
        mnemonics: mnemonics(),
        samples: samples(),
        complete: true,
        entrance: Some(control::Entrance::default()),
    }
}

/// Machines in all the states a machine can be in, beside those of the made-up farm.
pub(crate) fn crowd() -> Vec<control::Machine> {
    let mut all = machines();
    let stranger = |name: &str, state: State, reason: &str| control::Machine {
        name: name.into(),
        state: state.into(),
        reason: reason.into(),
        address: "192.168.1.9:8981".into(),
        found_by: "mdns".into(),
        ..Default::default()
    };
    all.push(stranger("nas", State::Connecting, "it is being dialled"));
    all.push(stranger("cousin", State::Refused, "it has another farm key; it must join again"));
    let misfit = "it speaks protocol 3 to 4 (0.9.0), this machine 1 to 2 (0.1.0)";
    all.push(control::Machine { version: "0.9.0".into(), ..stranger("tower", State::Incompatible, misfit) });
    all.push(control::Machine { slots: 4, ..stranger("barn", State::Draining, "") });
    all.push(control::Machine { slots: 4, busy: 2, ..stranger("garage", State::Paused, "") });
    all
}

/// A machine that asks to come in.
pub(crate) fn newcomer() -> control::Newcomer {
    control::Newcomer {
        number: 3,
        name: "annex".into(),
        machine_id: "0123456789abcdef".repeat(4),
        check_words: "acid zoo term".into(),
    }
}

fn node() -> control::Node {
    control::Node {
        name: "attic".into(),
        version: "0.1.0".into(),
        protocol_version: 1,
        pid: 4242,
        started: ago(7500.0),
        uptime: seconds(7500.0),
        boot_epoch: 7,
        endpoints: Some(control::Endpoints { reapi: "127.0.0.1:8980".into(), ..Default::default() }),
        data_dir: "/var/lib/farmhand".into(),
        sandbox: "namespaces".into(),
        farm: "lab".into(),
    }
}

fn machines() -> Vec<control::Machine> {
    let mut attic = machine("attic", State::Active, 8, 6, 8);
    attic.tenancies = vec![
        tenancy("", "ann", [5, 5, 0, 11]),
        tenancy("kitchen", "bob", [2, 1, 1, 30]),
        tenancy("laptop", "laptop", [0, 0, 0, 3]),
    ];
    let mut kitchen = machine("kitchen", State::Active, 12, 4, 12);
    kitchen.links_back = true;
    kitchen.round_trip = seconds(0.0004);
    kitchen.clock_ahead = seconds(7.0);
    let mut laptop = machine("laptop", State::Yielding, 4, 0, 8);
    laptop.reason = "takes no guests: it runs on battery".into();
    laptop.keeps_copies = false;
    laptop.caches_because = "it runs on battery".into();
    laptop.used_bytes = 3 << 30;
    laptop.guest_slots = Some(0);
    if let Some(load) = &mut laptop.load {
        load.on_battery = Some(true);
    }
    let mut shed = machine("shed", State::Lost, 4, 0, 4);
    shed.reason = "it was silent for 3 s".into();
    shed.last_heard = seconds(12.0);
    (attic.owed_copies, attic.owed_bytes) = (12, 4 << 20);
    (attic.sole_entries, attic.sole_bytes) = (12, 3 << 20);
    (kitchen.used_bytes, kitchen.budget_bytes) = (47 << 30, 50 << 30);
    vec![attic, kitchen, laptop, shed]
}

/// A machine of which nothing is out of the ordinary.
fn machine(name: &str, state: State, slots: u32, busy: u32, cpus: u32) -> control::Machine {
    let is_self = name == "attic";
    control::Machine {
        name: name.into(),
        state: state.into(),
        is_self,
        slots,
        busy,
        last_heard: if is_self { None } else { seconds(0.4) },
        version: "0.1.0".into(),
        os: "linux".into(),
        arch: "x86-64".into(),
        cpus,
        load: Some(load(f64::from(busy) / f64::from(slots))),
        found_by: if is_self { "self".into() } else { "mdns".into() },
        used_bytes: 12 << 30,
        budget_bytes: 50 << 30,
        id: format!("{:016x}", name.bytes().map(u64::from).sum::<u64>()),
        address: format!("192.168.1.{cpus}:8981"),
        linked: !is_self && state != State::Lost,
        keeps_copies: true,
        guest_slots: (!is_self).then_some(slots),
        guests: Some(u32::from(is_self)),
        ..Default::default()
    }
}

fn load(cpu: f64) -> control::Load {
    control::Load {
        measured: ago(1.0),
        cpu,
        memory_total: 32 << 30,
        memory_available: 20 << 30,
        cpu_pressure: Some(0.05),
        memory_pressure: Some(0.0),
        io_pressure: Some(0.01),
        received: 1 << 20,
        sent: 300 << 10,
        disk_free: 200 << 30,
        disk_total: 500 << 30,
        load1: 3.5,
        on_battery: None,
    }
}

fn tenancy(owner: &str, person: &str, [granted, running, ahead, waiting]: [u32; 4]) -> control::Tenancy {
    control::Tenancy { owner: owner.into(), person: person.into(), granted, running, ahead, waiting }
}

fn storage() -> control::Storage {
    control::Storage {
        used_bytes: 12 << 30,
        budget_bytes: 50 << 30,
        blobs: 123_456,
        leased_bytes: 2 << 30,
        evictions: 1200,
        youngest_victim: seconds(30_000.0),
        action_results: 5100,
        scrub_progress: 0.42,
        scrub_passes: 1,
        pinned: 2,
        replication: Some(replication()),
        ..Default::default()
    }
}

/// Copies that keep up, with one machine away for a moment.
fn replication() -> control::Replication {
    control::Replication {
        copies_wanted: 2,
        copies: 2,
        keepers: 3,
        owed_copies: 12,
        owed_bytes: 4 << 20,
        lag: seconds(3.0),
        bytes_per_second: 12 << 20,
        compared: 1.0,
        sole_entries: 12,
        sole_bytes: 3 << 20,
        counted_entries: 98_000,
        counted_bytes: 10 << 30,
        spare_entries: 25_000,
        spare_bytes: 2 << 30,
        sent_copies: 5000,
        sent_bytes: 3 << 30,
        fetched_entries: 30,
        fetched_bytes: 4 << 20,
        ..Default::default()
    }
}

/// Changes what the node tells of copies.
pub(crate) fn copies(told: &mut control::WatchResponse, edit: impl FnOnce(&mut control::Replication)) {
    let storage = told.storage.get_or_insert_default();
    edit(storage.replication.get_or_insert_default());
}

fn warning(level: warning::Level, text: &str, remedy: &str) -> control::Warning {
    control::Warning { level: level.into(), text: text.into(), remedy: remedy.into() }
}

fn operation(name: &str, target: &str, mnemonic: &str, build: &str) -> control::Operation {
    control::Operation {
        name: format!("operations/{name}"),
        action_digest: format!("{:064x}/142", name.bytes().map(u64::from).sum::<u64>()),
        target: target.into(),
        mnemonic: mnemonic.into(),
        invocation: build.into(),
        tool: if build == BUILDS[1] { "buck2 2026-01".into() } else { "bazel 8.1.0".into() },
        kind: Kind::Execute.into(),
        first_output: format!("out/{name}.o"),
        callers: 1,
        needs: vec!["OSFamily=linux".into()],
        ..Default::default()
    }
}

/// Invocations of the made-up builds.
pub(crate) const BUILDS: [&str; 3] =
    ["5f1c2d3e-0000-4000-8000-000000000001", "9a8b7c6d-0000-4000-8000-000000000002", "old-build"];

fn operations() -> Vec<control::Operation> {
    let mut all = over();
    for i in 0..9_u32 {
        let (build, machine) = (BUILDS[usize::from(i % 3 == 2)], if i < 5 { "attic" } else { "kitchen" });
        let mut op = operation(&format!("run{i}"), &format!("//src/engine:part{i}"), "CppCompile", build);
        op.set_stage(Stage::Running);
        op.machine = machine.into();
        op.queued = ago(20.0 - f64::from(i));
        op.started = ago(12.5 - f64::from(i));
        op.command_started = (i != 8).then(|| ago(12.0 - f64::from(i))).flatten();
        op.expected = seconds(8.0);
        op.attempts = 1 + u32::from(i == 1);
        if i == 1 {
            op.losses = vec![control::Loss { machine: "shed".into(), reason: "its link broke".into() }];
        }
        op.set_miss(miss::Kind::Changed);
        all.push(op);
    }
    for i in 0..14_u32 {
        let build = BUILDS[usize::from(i % 4 == 3)];
        let mut op = operation(&format!("wait{i}"), &format!("//src/game/level{i}:all"), "CppCompile", build);
        op.set_stage(Stage::Queued);
        op.queued = ago(9.0 - f64::from(i) / 2.0);
        op.expected = seconds(4.0);
        all.push(op);
    }
    all
}

fn over() -> Vec<control::Operation> {
    let kinds: [(&str, &str, i32, i32, Kind); 12] = [
        ("done0", "//base:strings", 0, 0, Kind::Execute),
        ("done1", "//base:files", 0, 0, Kind::Execute),
        ("done2", "//base:broken", 1, 0, Kind::Execute),
        ("done3", "//base:strings_test", 0, 0, Kind::Lookup),
        ("done4", "//net:http", 0, 0, Kind::Lookup),
        ("done5", "//net:tls", 0, 0, Kind::Upload),
        ("done6", "//net:dns", 0, 4, Kind::Execute),
        ("done7", "//net:quic", 0, 0, Kind::Execute),
        ("done8", "//ui:widgets", 0, 0, Kind::Lookup),
        ("done9", "//ui:fonts", 0, 0, Kind::Execute),
        ("done10", "//ui:slow", 0, 0, Kind::Execute),
        ("done11", "//ui:icons", 0, 0, Kind::Rerun),
    ];
    let made = kinds.into_iter().enumerate().map(|(i, (name, target, exit, code, kind))| {
        let age = 120.0 - i as f64 * 8.0;
        let mut op = operation(name, target, if i % 2 == 0 { "CppCompile" } else { "GoLink" }, BUILDS[0]);
        op.set_stage(Stage::Done);
        op.set_kind(kind);
        op.exit_code = exit;
        op.status_code = code;
        op.sequence = i as u64 + 1;
        op.queued = ago(age + 5.0);
        op.finished = ago(age);
        op.cached = kind == Kind::Lookup;
        if matches!(kind, Kind::Execute | Kind::Rerun) {
            op.machine = "attic".into();
            op.started = ago(age + 4.0);
            op.command_started = ago(age + 3.5);
            op.command_ended = ago(age + 0.5);
            op.expected = seconds(if target == "//ui:slow" { 1.0 } else { 3.0 });
            op.cpu_time = seconds(2.75);
            op.peak_memory = 180 << 20;
            op.attempts = 1;
            op.set_miss(miss::Kind::First);
        }
        if code != 0 {
            op.message = "the time limit of 60 s was reached".into();
        }
        op
    });
    made.collect()
}

fn builds() -> Vec<control::Build> {
    let build = |at: usize, tool: &str, user: &str, machine: &str, age: f64| control::Build {
        invocation: BUILDS[at].into(),
        tool: tool.into(),
        user: user.into(),
        machine: machine.into(),
        first_seen: ago(age),
        last_seen: ago(if at == 2 { age - 100.0 } else { 0.5 }),
        ..Default::default()
    };
    vec![
        control::Build {
            queued: 11,
            running: 6,
            executed: 420,
            failed: 2,
            lookups: 900,
            hits: 480,
            uploaded_bytes: 310 << 20,
            downloaded_bytes: 45 << 20,
            ..build(0, "bazel 8.1.0", "ann", "attic", 95.0)
        },
        control::Build {
            queued: 3,
            running: 3,
            executed: 12,
            lookups: 30,
            hits: 4,
            uploaded_bytes: 2 << 20,
            ..build(1, "buck2 2026-01", "bob", "kitchen", 14.0)
        },
        control::Build {
            executed: 772,
            failed: 1,
            lookups: 4470,
            hits: 3616,
            uploads: 8,
            ..build(2, "recc 1.3", "ann", "attic", 4000.0)
        },
    ]
}

fn mnemonics() -> Vec<control::Mnemonic> {
    let mnemonic = |name: &str, lookups, hits, executed, failed| control::Mnemonic {
        name: name.into(),
        lookups,
        hits,
        executed,
        failed,
        run_time: seconds(executed as f64 * 2.5),
        saved_time: seconds(hits as f64 * 2.0),
    };
    vec![
        mnemonic("CppCompile", 4000, 3300, 700, 2),
        mnemonic("GoLink", 900, 600, 300, 1),
        mnemonic("", 500, 200, 204, 0),
    ]
}

fn samples() -> Vec<control::Sample> {
    let wave = |i: i64, swing: f64| ((i as f64 / swing).sin() + 1.0) / 2.0;
    let sample = |i: i64| {
        let executed = (wave(i, 9.0) * 24.0) as u32;
        control::Sample {
            at: ago((119 - i) as f64),
            executed,
            lookups: executed + 10,
            hits: (wave(i, 17.0) * f64::from(executed + 10)) as u32,
            queued: 14,
            running: 9,
            slots: 20,
            uploaded_bytes: 3 << 20,
            downloaded_bytes: 1 << 20,
            used_bytes: 12 << 30,
            evicted: 0,
        }
    };
    (0..120).map(sample).collect()
}
