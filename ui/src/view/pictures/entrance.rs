//! How a machine comes into the farm by the dashboard: keys, calls and pictures.

use crossterm::event::{KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
use farmhand_proto::control::{self, Entrance, WatchResponse, invite_response};
use ratatui::layout::Rect;

use super::answers::{calls, news, serve};
use crate::canvas::Hit;
use crate::keymap::Act;
use crate::message::{Answer, Call, CallId, Command, Failure, FeedEvent, Message, Slot, Todo};
use crate::model::Model;
use crate::model::modal::Modal;
use crate::options::View;
use crate::testing::{self, ago, check, model, press, screen, send};

fn told(model: &mut Model, entrance: Entrance) -> Todo {
    let changes = WatchResponse { now: ago(0.0), entrance: Some(entrance), ..Default::default() };
    send(model, Message::Feed(FeedEvent::Changes(Box::new(changes))))
}

fn waiting(model: &mut Model) {
    told(model, Entrance { waiting: vec![testing::newcomer()], ..Default::default() });
}

fn click(model: &mut Model, column: u16, row: u16) -> Todo {
    let kind = MouseEventKind::Down(MouseButton::Left);
    send(model, Message::Mouse(MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE }))
}

fn open_invitation() -> control::OpenInvitation {
    control::OpenInvitation { farm: "lab".into(), expires: ago(-250.0), tries_left: 5, ..Default::default() }
}

/// A dashboard with an invitation, and the call that holds it open.
fn inviting() -> (Model, CallId) {
    let mut model = model(View::Machines);
    let todo = press(&mut model, "I");
    let asked = calls(&todo);
    let [(id, Call::Invite(request))] = asked.as_slice() else { panic!("{asked:?}") };
    assert!(request.ask, "a person has the last word");
    serve(&mut model, &todo);
    told(&mut model, Entrance { invitation: Some(open_invitation()), ..Default::default() });
    (model, *id)
}

/// A dashboard that joins another farm, and the call that does.
fn joining() -> (Model, CallId) {
    let mut model = model(View::Machines);
    let todo = press(&mut model, ":join 482-zoo-abandon<enter>");
    serve(&mut model, &todo);
    let todo = press(&mut model, "y");
    let asked = calls(&todo);
    let [(id, Call::Join(_))] = asked.as_slice() else { panic!("{asked:?}") };
    serve(&mut model, &todo);
    (model, *id)
}

#[test]
fn an_invitation_tells_what_to_type() {
    let (mut model, id) = inviting();
    check("invite-80x24", &screen(&mut model, 80, 24));
    check("invite-120x40", &screen(&mut model, 120, 40));
    let todo = press(&mut model, "y");
    assert_eq!(todo.commands, [Command::Copy("farmhand join 482-zoo-abandon".into())]);
    let wrong = control::WrongCode { from: "192.168.1.66".into(), left: 4 };
    send(&mut model, Message::Answer(id, news(invite_response::News::WrongCode(wrong))));
    let picture = screen(&mut model, 80, 24);
    assert!(picture.contains("192.168.1.66; tries left: 4"), "{picture}");
}

#[test]
fn a_closed_invitation_stays_open_until_it_is_withdrawn() {
    let (mut model, _) = inviting();
    let todo = press(&mut model, "<esc>");
    assert!(todo.commands.is_empty() && model.modal.is_none());
    assert!(screen(&mut model, 80, 24).contains("invitation 482-zoo-abandon is open; I shows it, 4:10 left"));
    let todo = press(&mut model, "I");
    assert!(calls(&todo).is_empty() && model.modal == Some(Modal::Invitation));
    let todo = press(&mut model, "x");
    assert_eq!(todo.commands, [Command::Cancel(Slot::Invite)]);
    assert!(model.entrance.inviting.is_none() && model.modal.is_none());
}

#[test]
fn another_one_is_not_opened_beside_that_of_somebody_else() {
    let mut model = model(View::Machines);
    told(&mut model, Entrance { invitation: Some(open_invitation()), ..Default::default() });
    let todo = press(&mut model, "I");
    assert!(todo.commands.is_empty() && model.modal.is_none());
    assert!(screen(&mut model, 80, 24).contains("who opened it sees its code"));
}

#[test]
fn a_newcomer_pops_up_everywhere_and_is_let_in_after_a_question() {
    for view in View::ALL {
        let mut model = model(view);
        waiting(&mut model);
        assert!(matches!(model.modal, Some(Modal::Newcomer(_))), "{view:?}");
    }
    let mut model = model(View::Overview);
    waiting(&mut model);
    check("newcomer-80x24", &screen(&mut model, 80, 24));
    check("newcomer-120x40", &screen(&mut model, 120, 40));
    // A key that was meant for the view does nothing here.
    assert!(press(&mut model, "y<enter>").commands.is_empty());
    press(&mut model, "a");
    assert!(screen(&mut model, 80, 24).contains("acid zoo term"));
    let todo = press(&mut model, "y");
    let asked = calls(&todo);
    let [(_, Call::Newcomer(answer))] = asked.as_slice() else { panic!("{asked:?}") };
    assert_eq!((answer.number, answer.accept), (3, true));
}

#[test]
fn one_may_think_about_a_newcomer_and_turn_it_away_later() {
    let mut model = model(View::Machines);
    waiting(&mut model);
    press(&mut model, "<esc>");
    waiting(&mut model);
    assert!(model.modal.is_none(), "it pops up once");
    check("machines-newcomer-80x24", &screen(&mut model, 80, 24));
    press(&mut model, "a");
    let todo = press(&mut model, "ry");
    assert!(matches!(&calls(&todo)[..], [(_, Call::Newcomer(answer))] if !answer.accept), "{todo:?}");
}

#[test]
fn a_newcomer_that_leaves_takes_its_question_along() {
    for keys in ["", "a", "r"] {
        let mut model = model(View::Builds);
        waiting(&mut model);
        press(&mut model, keys);
        told(&mut model, Entrance::default());
        assert!(model.modal.is_none(), "{keys}");
    }
}

#[test]
fn what_is_typed_is_not_interrupted() {
    let mut model = model(View::Actions);
    press(&mut model, "/eng");
    waiting(&mut model);
    assert!(matches!(model.modal, Some(Modal::Filter(..))));
    press(&mut model, "<enter>");
    send(&mut model, Message::Tick);
    assert!(matches!(model.modal, Some(Modal::Newcomer(_))));
}

#[test]
fn where_one_may_only_read_nobody_is_let_in() {
    let mut model = model(View::Machines);
    model.rights.read_only = true;
    waiting(&mut model);
    assert!(model.modal.is_none());
    for keys in ["I", "a", "J", ":invite<enter>", ":join 1 a b<enter>"] {
        assert!(press(&mut model, keys).commands.is_empty() && model.modal.is_none(), "{keys}");
    }
    let picture = screen(&mut model, 80, 24);
    assert!(picture.contains("annex asks to come in") && !picture.contains("a answers"), "{picture}");
}

#[test]
fn where_one_may_only_read_the_mouse_lets_nobody_in_either() {
    let mut model = model(View::Machines);
    model.rights.read_only = true;
    let invitation = Some(open_invitation());
    told(&mut model, Entrance { waiting: vec![testing::newcomer()], invitation });
    let picture = screen(&mut model, 80, 24);
    let lines = picture.lines().enumerate();
    let lines: Vec<_> = lines
        .filter(|(_, line)| line.contains("asks to come in") || line.contains("an invitation is open"))
        .map(|(row, _)| row as u16)
        .collect();
    assert_eq!(lines.len(), 2, "{picture}");
    for row in lines {
        let todo = click(&mut model, 10, row);
        assert!(todo.commands.is_empty() && model.modal.is_none(), "{todo:?}");
    }
    // Nor does what was painted before.
    for act in [Act::Answer, Act::Invite, Act::Join, Act::Drain] {
        model.notice = None;
        model.drawn.hits = vec![(Rect::new(0, 0, 1, 1), Hit::Act(act))];
        let todo = click(&mut model, 0, 0);
        assert!(todo.commands.is_empty() && model.modal.is_none(), "{act:?}");
        assert!(model.notice.as_ref().is_some_and(|notice| notice.text.contains("read-only")), "{act:?}");
    }
}

#[test]
fn the_mouse_answers_where_one_may() {
    let mut model = model(View::Machines);
    waiting(&mut model);
    press(&mut model, "<esc>");
    let picture = screen(&mut model, 80, 24);
    let row = picture.lines().position(|line| line.contains("asks to come in")).unwrap();
    click(&mut model, 10, row as u16);
    assert!(matches!(model.modal, Some(Modal::Newcomer(_))));
}

#[test]
fn on_a_paused_screen_newcomers_and_the_time_that_is_left_go_on() {
    let (mut model, _) = inviting();
    press(&mut model, "<esc> ");
    let later = WatchResponse {
        now: ago(-10.0),
        entrance: Some(Entrance { waiting: vec![testing::newcomer()], invitation: Some(open_invitation()) }),
        ..Default::default()
    };
    send(&mut model, Message::Feed(FeedEvent::Changes(Box::new(later))));
    assert!(matches!(model.modal, Some(Modal::Newcomer(_))));
    press(&mut model, "<esc>");
    let picture = screen(&mut model, 80, 24);
    assert!(picture.contains("PAUSED") && picture.contains("annex asks to come in"), "{picture}");
    assert!(picture.contains("I shows it, 4:00 left"), "{picture}");
    press(&mut model, "I");
    let picture = screen(&mut model, 80, 24);
    assert!(picture.contains("4:00 left"), "{picture}");
}

#[test]
fn how_an_invitation_ended_is_told_with_or_without_its_dialog() {
    let joined = || {
        news(invite_response::News::End(control::InvitationEnd {
            reason: control::invitation_end::Reason::Joined.into(),
            newcomer: Some(testing::newcomer()),
        }))
    };
    let (mut model, id) = inviting();
    send(&mut model, Message::Answer(id, joined()));
    assert!(screen(&mut model, 80, 24).contains("annex has joined the farm."));
    press(&mut model, "<esc>");
    assert!(model.entrance.inviting.is_none());
    let (mut model, id) = inviting();
    press(&mut model, "<esc>");
    send(&mut model, Message::Answer(id, joined()));
    assert!(model.notice.as_ref().is_some_and(|notice| !notice.is_bad && notice.text.contains("annex")));
    let (mut model, id) = inviting();
    let failure = Failure { code: 14, text: "no address can be listened at".into(), lost: false };
    send(&mut model, Message::Answer(id, Answer::Failed(failure)));
    assert!(screen(&mut model, 80, 24).contains("farmhand settings"));
}

#[test]
fn a_lost_connection_is_not_blamed_on_ports() {
    let lost = || {
        Answer::Failed(Failure { code: 14, text: "the connection to the node was lost".into(), lost: true })
    };
    let (mut model, id) = inviting();
    send(&mut model, Message::Answer(id, lost()));
    let picture = screen(&mut model, 80, 24);
    assert!(
        picture.contains("invite again when the node is back") && !picture.contains("peer-listen"),
        "{picture}"
    );
    let (mut model, id) = joining();
    send(&mut model, Message::Answer(id, lost()));
    let picture = screen(&mut model, 80, 24);
    assert!(picture.contains("`farmhand status`") && !picture.contains("firewall"), "{picture}");
}

#[test]
fn a_stream_that_ends_without_a_word_is_told() {
    const WORDS: &str = "The node ended it without a word.";
    let (mut model, id) = inviting();
    send(&mut model, Message::Answer(id, Answer::Ended));
    let picture = screen(&mut model, 80, 24);
    assert!(picture.contains(WORDS) && picture.contains("8 Logs may say why"), "{picture}");
    press(&mut model, "<esc>");
    told(&mut model, Entrance::default());
    assert!(matches!(&calls(&press(&mut model, "I"))[..], [(_, Call::Invite(_))]), "another one is opened");
    let (mut model, id) = inviting();
    press(&mut model, "<esc>");
    send(&mut model, Message::Answer(id, Answer::Ended));
    assert!(model.notice.as_ref().is_some_and(|notice| notice.is_bad && notice.text.contains(WORDS)));
    let (mut model, id) = joining();
    send(&mut model, Message::Answer(id, Answer::Ended));
    assert!(screen(&mut model, 80, 24).contains(WORDS));
    press(&mut model, "<esc>");
    assert!(model.entrance.joining.is_none() && model.modal.is_none());
}

#[test]
fn a_stream_that_ends_after_its_outcome_changes_nothing() {
    let (mut model, id) = joining();
    let joined = control::JoinResponse {
        news: Some(control::join_response::News::Joined(control::Joined {
            farm: "lab".into(),
            ..Default::default()
        })),
    };
    send(&mut model, Message::Answer(id, Answer::Join(Box::new(joined))));
    send(&mut model, Message::Answer(id, Answer::Ended));
    assert!(screen(&mut model, 80, 24).contains("is in the farm \"lab\" now"));
}

#[test]
fn joining_asks_before_a_farm_is_left_and_shows_the_words() {
    let mut model = model(View::Machines);
    let todo = press(&mut model, "J");
    assert!(matches!(&calls(&todo)[..], [(_, Call::Farm(_))]), "{todo:?}");
    serve(&mut model, &todo);
    let picture = screen(&mut model, 80, 24);
    assert!(picture.contains("Leave this farm?") && picture.contains("kitchen"), "{picture}");
    press(&mut model, "y");
    check("join-80x24", &screen(&mut model, 80, 24));
    let todo = press(&mut model, "482 zoo abandon 192.168.1.9:40123<enter>");
    let asked = calls(&todo);
    let [(id, Call::Join(request))] = asked.as_slice() else { panic!("{asked:?}") };
    assert_eq!(
        (request.code.as_str(), request.from.as_str(), request.leave),
        ("482 zoo abandon", "192.168.1.9:40123", true)
    );
    let id = *id;
    serve(&mut model, &todo);
    check("joining-80x24", &screen(&mut model, 80, 24));
    let failure = Failure { code: 7, text: "the code is wrong".into(), lost: false };
    send(&mut model, Message::Answer(id, Answer::Failed(failure)));
    let picture = screen(&mut model, 80, 24);
    assert!(picture.contains("the code is wrong") && picture.contains("look at the code again"), "{picture}");
    press(&mut model, "<esc>");
    assert!(model.entrance.joining.is_none() && model.modal.is_none());
}

#[test]
fn joining_is_given_up_with_its_dialog() {
    let mut model = model(View::Machines);
    let todo = press(&mut model, ":join 482-zoo-abandon<enter>");
    serve(&mut model, &todo);
    let todo = press(&mut model, "y");
    assert!(matches!(&calls(&todo)[..], [(_, Call::Join(request))] if request.code == "482-zoo-abandon"));
    let todo = press(&mut model, "<esc>");
    assert_eq!(todo.commands, [Command::Cancel(Slot::Join)]);
    assert!(model.notice.as_ref().unwrap().text.contains("given up"));
}
