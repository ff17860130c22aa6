//! Pictures of the views that look into one thing: an action, the timeline, machines, cache, logs;
//! and what must hold for them whatever is told and pressed.

mod answers;
mod anything;
mod entrance;

use farmhand_proto::control;

use crate::message::{Answer, Call, CallId, Command, FeedEvent, Message, Slot, Todo};
use crate::model::Model;
use crate::options::{ColourDepth, View};
use crate::testing::{self, ago, check, check_view, model, paint, press, screen, seconds, send};
use answers::{calls, serve};

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
fn an_action_that_ran_elsewhere_before_tells_where() {
    let picture = screen(&mut action_view("run1", ""), 80, 24);
    assert!(
        picture.contains("on shed: its link broke") && picture.contains("runs again on attic"),
        "{picture}"
    );
    check("action-lost-80x24", &picture);
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
fn tabs_have_names() {
    let mut model = action_view("done2", "");
    let todo = press(&mut model, ":tab std<enter>");
    assert!(matches!(&calls(&todo)[..], [(_, Call::Output(request))] if request.stream == 1), "{todo:?}");
    press(&mut model, ":tab nothing<enter>");
    assert!(screen(&mut model, 80, 24).contains("tabs: summary, command"));
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
fn machines_in_every_state() {
    let mut model = testing::with(View::Machines, |farm| farm.machines = testing::crowd());
    check_view("machines-states", &mut model);
    for (row, name) in ["laptop", "shed", "nas", "cousin", "tower"].into_iter().enumerate() {
        press(&mut model, if row == 0 { "jj" } else { "j" });
        let picture = screen(&mut model, 80, 24);
        assert!(picture.contains(&format!("── {name} ─")), "{picture}");
        check(&format!("machines-{name}-80x24"), &picture);
    }
}

#[test]
fn only_the_own_machine_is_told_what_to_do() {
    let mut model = model(View::Machines);
    screen(&mut model, 120, 40);
    press(&mut model, "j");
    for keys in ["D", "P", "U", "S", "+", "-", ":rest shed<enter>"] {
        model.notice = None;
        let todo = press(&mut model, keys);
        assert!(todo.commands.is_empty() && model.modal.is_none(), "{keys}");
        assert!(model.notice.as_ref().unwrap().text.contains("alone: do it there"), "{keys}");
    }
}

#[test]
fn machines_are_drained_and_get_slots() {
    let mut model = model(View::Machines);
    screen(&mut model, 120, 40);
    let asked = |todo: Todo| match &calls(&todo)[..] {
        [(_, Call::Machine(request))] => (request.machine.clone(), request.state, request.slots),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        asked(press(&mut model, "D")),
        ("attic".into(), control::machine::State::Draining.into(), None)
    );
    assert_eq!(asked(press(&mut model, "+")), ("attic".into(), 0, Some(9)));
    assert_eq!(asked(press(&mut model, "-")), ("attic".into(), 0, Some(7)));
    assert_eq!(asked(press(&mut model, ":slots 3<enter>")), ("attic".into(), 0, Some(3)));
    assert_eq!(
        asked(press(&mut model, ":rest attic<enter>")),
        ("attic".into(), control::machine::State::Paused.into(), None)
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

/// The copies tab of a farm that differs from the made-up one.
fn copies_of(edit: impl FnOnce(&mut control::WatchResponse)) -> Model {
    let mut model = testing::with(View::Cache, edit);
    press(&mut model, ":tab copies<enter>");
    model
}

#[test]
fn copies() {
    check_view("copies", &mut copies_of(|_| {}));
    let mut model = copies_of(|_| {});
    let todo = press(&mut model, "j<enter>");
    assert_eq!((model.view(), model.machines.chosen.as_deref()), (View::Machines, Some("kitchen")));
    assert!(matches!(&calls(&todo)[..], [(_, Call::Settings(_))]), "{todo:?}");
}

#[test]
fn copies_while_a_machine_is_replaced() {
    let mut model = copies_of(|farm| {
        farm.machines.pop();
        testing::copies(farm, |told| {
            (told.repair_copies, told.repair_bytes) = (2000, 8 << 30);
            (told.owed_copies, told.owed_bytes) = (2012, 9 << 30);
            told.keepers = 2;
        });
    });
    let mut later = testing::farm();
    later.machines.pop();
    later.now = ago(-60.0);
    later.storage.as_mut().unwrap().damaged = 2;
    testing::copies(&mut later, |told| {
        (told.repair_copies, told.repair_bytes) = (500, 2 << 30);
        (told.owed_copies, told.owed_bytes) = (512, 3 << 30);
        (told.lag, told.remaining, told.compared) = (seconds(40.0), seconds(190.0), 0.42);
        (told.keepers, told.healed, told.refused_copies) = (2, 1, 7);
    });
    send(&mut model, Message::Feed(FeedEvent::Changes(Box::new(later))));
    check_view("copies-repair", &mut model);
    press(&mut model, "1");
    let picture = screen(&mut model, 80, 24);
    assert!(picture.contains("no machine has room for 7; repair: 500 copies"), "{picture}");
    check("overview-repair-80x24", &picture);
}

#[test]
fn copies_of_one_machine_of_many_and_of_an_old_node() {
    let mut one = copies_of(|farm| {
        farm.machines.truncate(1);
        farm.storage.as_mut().unwrap().replication = None;
    });
    check("copies-one-80x24", &screen(&mut one, 80, 24));
    let mut old = copies_of(|farm| {
        farm.storage.as_mut().unwrap().replication = None;
        for machine in &mut farm.machines {
            (machine.keeps_copies, machine.caches_because) = (false, String::new());
            (machine.owed_copies, machine.sole_entries) = (0, 0);
        }
    });
    check("copies-old-80x24", &screen(&mut old, 80, 24));
    let mut many = copies_of(|farm| {
        for number in 4..32_u64 {
            let name = format!("node{number}");
            let used_bytes = number << 30;
            farm.machines.push(control::Machine { name, used_bytes, ..farm.machines[1].clone() });
        }
        testing::copies(farm, |told| told.keepers = 31);
    });
    check("copies-many-80x24", &screen(&mut many, 80, 24));
    press(&mut many, "<tab>");
    check("cache-many-120x40", &screen(&mut many, 120, 40));
}

#[test]
fn a_machine_that_leaves_says_how_much_is_left() {
    let left = |safe: bool| {
        let mut model = testing::with(View::Machines, |farm| {
            let own = &mut farm.machines[0];
            own.state = control::machine::State::Draining.into();
            (own.busy, own.keeps_copies) = (0, false);
            own.tenancies.clear();
            own.caches_because = "it is leaving".into();
            if safe {
                (own.owed_copies, own.owed_bytes, own.sole_entries, own.sole_bytes) = (0, 0, 0, 0);
                own.safe_to_leave = true;
            }
        });
        screen(&mut model, 80, 24)
    };
    assert!(left(false).contains("drained, but 12 blobs and results"), "{}", left(false));
    assert!(left(true).contains("safe to leave"), "{}", left(true));
    check("machines-leaving-80x24", &left(false));
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
