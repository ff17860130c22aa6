//! How the model changes, seen from outside: keys and messages in, state and commands out.

use std::time::Duration;

use crossterm::event::{KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
use farmhand_proto::control::operation::Stage;
use farmhand_proto::control::{self, WatchResponse};

use crate::canvas::Hit;
use crate::message::{Answer, Call, Command, Failure, FeedEvent, Message, Slot, Todo};
use crate::model::actions::Section;
use crate::model::modal::Modal;
use crate::model::overview::Pane;
use crate::model::{Link, ListId, Model};
use crate::options::{Outcome, View};
use crate::testing::{BUILDS, ago, blank, farm, model, paint, press, send, send_at};

fn changes(model: &mut Model, changes: WatchResponse) -> Todo {
    send(model, Message::Feed(FeedEvent::Changes(Box::new(changes))))
}

fn click(model: &mut Model, hit: impl Fn(&Hit) -> bool) -> Todo {
    paint(model, 100, 30);
    let place = model.drawn.hits.iter().rev().find(|(_, what)| hit(what)).expect("it is on the screen").0;
    mouse(model, MouseEventKind::Down(MouseButton::Left), place.x, place.y)
}

fn mouse(model: &mut Model, kind: MouseEventKind, column: u16, row: u16) -> Todo {
    send(model, Message::Mouse(MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE }))
}

fn calls(todo: &Todo) -> Vec<&Call> {
    let calls = todo.commands.iter().filter_map(|command| match command {
        Command::Call(_, call) => Some(&**call),
        _ => None,
    });
    calls.collect()
}

#[test]
fn number_keys_lead_to_views() {
    let mut model = model(View::Overview);
    for view in View::ALL {
        press(&mut model, &view.number().to_string());
        assert_eq!(model.view(), view);
    }
}

#[test]
fn enter_on_a_build_narrows_everything_and_esc_widens_it_again() {
    let mut model = model(View::Builds);
    press(&mut model, "<down><enter>");
    assert_eq!((model.view(), model.build.as_deref()), (View::Actions, Some(BUILDS[0])));
    let farm = model.farm();
    let of_build = farm.ops.all().filter(|(_, op)| &*op.invocation == BUILDS[0]).count();
    assert_eq!(model.actions.len(), of_build);
    press(&mut model, "<esc>");
    assert_eq!((model.view(), model.build.is_some()), (View::Builds, true));
    press(&mut model, "<esc>");
    assert_eq!((model.view(), model.build.is_some()), (View::Builds, false));
    press(&mut model, "<esc>");
    assert_eq!(model.view(), View::Overview);
}

#[test]
fn the_boxes_of_the_overview_lead_on() {
    let mut model = model(View::Overview);
    paint(&mut model, 100, 40);
    press(&mut model, "<tab><down><enter>");
    assert_eq!((model.view(), model.build.as_deref()), (View::Actions, Some(BUILDS[1])));
    press(&mut model, "<esc><esc><tab><down><enter>");
    let subject = model.action.subject.clone().unwrap();
    assert_eq!((model.view(), &*subject.key), (View::Action, "operations/run1"));
    press(&mut model, "<esc>/engine<enter>");
    assert_eq!((model.view(), model.actions.len()), (View::Actions, 9));
}

#[test]
fn the_sections_add_up() {
    let mut model = model(View::Actions);
    let mut counts = Vec::new();
    for tab in 0..Section::ALL.len() {
        let todo = &mut Todo::default();
        super::actions::tab(&mut model, tab, todo);
        counts.push((model.actions.section, model.actions.len()));
    }
    let of = |section| counts.iter().find(|(known, _)| *known == section).unwrap().1;
    assert_eq!(of(Section::All), of(Section::Queue) + of(Section::Running) + of(Section::Finished));
    assert_eq!((of(Section::Queue), of(Section::Running), of(Section::Finished)), (14, 9, 12));
    assert_eq!((of(Section::Failed), of(Section::Slow), of(Section::Retried)), (2, 1, 1));
}

#[test]
fn a_filter_works_while_it_is_typed_and_goes_with_esc() {
    let mut model = model(View::Actions);
    press(&mut model, "/game");
    assert_eq!(model.actions.len(), 14);
    press(&mut model, "<enter>/");
    assert!(matches!(&model.modal, Some(Modal::Filter(input, _)) if input.text() == "game"));
    press(&mut model, "x<esc>");
    assert_eq!((model.actions.len(), model.modal.is_none()), (14, true));
    press(&mut model, "<esc>");
    assert_eq!(model.actions.len(), 35);
    press(&mut model, "/!/game|engine/");
    assert_eq!(model.actions.len(), 12);
    press(&mut model, "(");
    assert!(model.notice.as_ref().is_some_and(|notice| notice.is_bad));
    assert_eq!(model.actions.len(), 12);
}

#[test]
fn the_chosen_operation_stays_chosen_while_rows_move() {
    let mut model = model(View::Actions);
    paint(&mut model, 100, 30);
    press(&mut model, "<down><down><down>");
    let chosen = model.actions.chosen.unwrap();
    let mut before = farm().operations;
    let mut done = before.remove(12);
    assert!(done.name.ends_with("run0"));
    done.set_stage(Stage::Done);
    done.sequence = 99;
    changes(&mut model, WatchResponse { operations: vec![done], ..Default::default() });
    assert_eq!(model.actions.chosen, Some(chosen));
    assert_eq!(model.lists[ListId::Actions].selected, 2);
}

#[test]
fn columns_sort() {
    let mut model = model(View::Actions);
    press(&mut model, ":sort target<enter>");
    let labels = |model: &Model| -> Vec<String> {
        let ops = (0..model.actions.len()).filter_map(|row| model.farm().ops.get(model.actions.row(row)?));
        ops.map(|op| op.label().to_owned()).collect()
    };
    let upwards = labels(&model);
    assert!(upwards.is_sorted(), "{upwards:?}");
    press(&mut model, "i");
    assert!(labels(&model).iter().rev().is_sorted());
    click(&mut model, |hit| matches!(hit, Hit::Column(ListId::Actions, 4)));
    let now = model.node_now();
    let times: Vec<_> = (0..model.actions.len())
        .filter_map(|row| model.farm().ops.get(model.actions.row(row)?)?.elapsed(now))
        .collect();
    assert_eq!(times.len(), 35);
}

#[test]
fn a_paused_screen_stands_still_and_catches_up() {
    let mut model = model(View::Actions);
    press(&mut model, " ");
    changes(
        &mut model,
        WatchResponse { snapshot: true, complete: true, now: ago(-5.0), ..Default::default() },
    );
    assert_eq!(model.actions.len(), 35);
    press(&mut model, " ");
    assert_eq!(model.actions.len(), 0);
}

#[test]
fn the_history_is_loaded_page_by_page_when_one_looks_for_it() {
    let mut model = model(View::Actions);
    paint(&mut model, 100, 30);
    let todo = press(&mut model, "G");
    let Some(Command::Call(id, call)) = todo.commands.first() else { panic!("{todo:?}") };
    assert!(matches!(&**call, Call::Actions(request) if request.page_token.is_empty()));
    assert!(calls(&press(&mut model, "G")).is_empty());
    let mut older = farm().operations.remove(0);
    older.name = "older".to_owned();
    older.sequence = 77;
    let page = control::ListActionsResponse { operations: vec![older], next_page_token: "t".to_owned() };
    send(&mut model, Message::Answer(*id, Answer::Actions(page)));
    assert_eq!(model.actions.len(), 36);
    let todo = press(&mut model, "G");
    assert!(matches!(calls(&todo)[..], [Call::Actions(request)] if request.page_token == "t"));
}

#[test]
fn of_the_history_no_more_is_loaded_than_is_shown() {
    use farmhand_proto::control::action_filter::Outcome;
    let mut model = model(View::Builds);
    press(&mut model, "<down><enter>]]]]");
    assert_eq!(model.actions.section, Section::Failed);
    paint(&mut model, 100, 30);
    let todo = press(&mut model, "G");
    let [Call::Actions(request)] = calls(&todo)[..] else { panic!("{todo:?}") };
    let filter = request.filter.clone().unwrap();
    assert_eq!(filter.invocation, BUILDS[0]);
    assert_eq!(filter.outcomes, [Outcome::Failed as i32, Outcome::Error as i32]);
}

#[test]
fn an_answer_that_is_not_wanted_any_more_changes_nothing() {
    let mut model = model(View::Actions);
    paint(&mut model, 100, 30);
    let todo = press(&mut model, "G");
    let Some(Command::Call(id, _)) = todo.commands.first() else { panic!("{todo:?}") };
    let id = *id;
    let todo = press(&mut model, "1");
    assert!(todo.commands.contains(&Command::Cancel(Slot::History)));
    let failure = Failure { code: 14, text: "late".to_owned(), lost: false };
    send(&mut model, Message::Answer(id, Answer::Failed(failure)));
    assert_eq!(model.notice, None);
}

#[test]
fn a_read_only_dashboard_changes_nothing() {
    let mut model = model(View::Machines);
    model.rights.read_only = true;
    paint(&mut model, 100, 30);
    let todo = press(&mut model, "D:drain attic<enter>");
    assert!(calls(&todo).is_empty() && model.modal.is_none());
    assert!(model.notice.as_ref().is_some_and(|notice| notice.text.contains("read-only")));
}

#[test]
fn runs_asked_for_one_after_the_other_do_not_end_one_another() {
    let mut model = model(View::Actions);
    let mut todo = Todo::default();
    for machine in ["attic", "kitchen"] {
        let deed = crate::model::modal::Deed::Rerun {
            digest: "d".into(),
            instance: "".into(),
            times: 2,
            machine: machine.into(),
        };
        super::perform(&mut model, deed, &mut todo);
    }
    let slots: Vec<Slot> = todo
        .commands
        .iter()
        .filter_map(|command| if let Command::Call(id, _) = command { Some(id.slot) } else { None })
        .collect();
    assert_eq!(slots.len(), 2);
    assert_ne!(slots[0], slots[1]);
}

#[test]
fn leaving_a_node_with_work_is_asked_about() {
    let mut model = model(View::Overview);
    assert_eq!(press(&mut model, "q").commands, [Command::Quit(Outcome::Quit)]);
    model.rights.owns_node = true;
    assert!(press(&mut model, "q").commands.is_empty());
    assert!(press(&mut model, "n").commands.is_empty() && model.modal.is_none());
    assert_eq!(press(&mut model, "qy").commands, [Command::Quit(Outcome::Quit)]);
    let mut idle = blank(View::Overview);
    idle.rights.owns_node = true;
    assert_eq!(press(&mut idle, "q").commands, [Command::Quit(Outcome::Quit)]);
}

#[test]
fn a_node_in_this_program_is_not_stopped_with_it() {
    let mut model = model(View::Overview);
    let stop = Message::Key(crossterm::event::KeyEvent::new(
        crossterm::event::KeyCode::Char('z'),
        KeyModifiers::CONTROL,
    ));
    model.rights.owns_node = true;
    assert!(send(&mut model, stop).commands.is_empty());
}

#[test]
fn the_link_is_told_and_heals() {
    let mut model = blank(View::Overview);
    let lost = FeedEvent::Lost { reason: "gone".to_owned(), retry_in: Duration::from_secs(2) };
    send_at(&mut model, 3, Message::Feed(lost));
    assert_eq!(model.link, Link::Down { reason: "gone".to_owned(), retry_at: Duration::from_secs(5) });
    send(&mut model, Message::Feed(FeedEvent::Connected));
    assert_eq!(model.link, Link::Up);
    assert_eq!(press(&mut model, ":reconnect<enter>").commands, [Command::Reconnect]);
}

#[test]
fn clicks_choose_open_and_lead_elsewhere() {
    let mut model = model(View::Builds);
    click(&mut model, |hit| *hit == Hit::Row(ListId::Builds, 1));
    assert_eq!((model.view(), model.lists[ListId::Builds].selected), (View::Builds, 1));
    click(&mut model, |hit| *hit == Hit::Row(ListId::Builds, 1));
    assert_eq!((model.view(), model.build.as_deref()), (View::Actions, Some(BUILDS[0])));
    click(&mut model, |hit| *hit == Hit::Tab(1));
    assert_eq!(model.actions.section, Section::Queue);
    click(&mut model, |hit| *hit == Hit::View(View::Overview));
    assert_eq!(model.view(), View::Overview);
    click(&mut model, |hit| *hit == Hit::Row(ListId::OverviewQueue, 2));
    assert_eq!(model.overview.pane, Pane::Queue);
}

#[test]
fn the_wheel_scrolls_what_is_under_it_and_not_what_is_below_a_dialog() {
    let mut model = model(View::Actions);
    paint(&mut model, 100, 20);
    mouse(&mut model, MouseEventKind::ScrollDown, 5, 8);
    assert_eq!(model.lists[ListId::Actions].offset, 3);
    press(&mut model, "b");
    paint(&mut model, 100, 20);
    let before = model.lists[ListId::Actions];
    mouse(&mut model, MouseEventKind::ScrollDown, 5, 4);
    assert_eq!(model.lists[ListId::Actions], before);
}

#[test]
fn commands_are_remembered() {
    let mut model = model(View::Overview);
    press(&mut model, ":builds<enter>:logs<enter>:<up><up>");
    assert!(matches!(&model.modal, Some(Modal::Palette(input)) if input.text() == "builds"));
    press(&mut model, "<down><down>");
    assert!(matches!(&model.modal, Some(Modal::Palette(input)) if input.text().is_empty()));
    press(&mut model, "nonsense<enter>");
    assert!(model.notice.as_ref().is_some_and(|notice| notice.is_bad));
}

#[test]
fn unknown_themes_are_refused_and_known_ones_taken() {
    let mut model = model(View::Overview);
    press(&mut model, ":theme nope<enter>");
    assert!(model.notice.as_ref().is_some_and(|notice| notice.is_bad));
    press(&mut model, ":theme default<enter>");
    assert_eq!(model.theme.name(), "default");
}
