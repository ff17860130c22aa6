//! What must hold whatever is told and pressed, and whatever size the screen has.

use farmhand_proto::control;
use farmhand_proto::control::operation::Stage;
use farmhand_proto::control::{invite_response, join_response};
use farmhand_proto::reapi;
use proptest::prelude::*;
use prost::Message as _;

use super::action_view;
use super::answers::{answers, calls, news};
use crate::message::{Answer, Call, Failure, FeedEvent, Message, Todo};
use crate::options::View;
use crate::testing::{self, ago, model, paint, press, send};

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
    (hostile(), 0..9_i32, 0..40_u32, any::<f64>(), prop::array::uniform4(any_number()), any::<[bool; 2]>())
        .prop_map(|(name, state, slots, cpu, bytes, keeps)| control::Machine {
            caches_because: if keeps[0] { String::new() } else { name.clone() },
            keeps_copies: keeps[0],
            safe_to_leave: keeps[1],
            is_self: keeps[0] && keeps[1],
            owed_copies: bytes[0],
            owed_bytes: bytes[1],
            sole_entries: bytes[2],
            sole_bytes: bytes[3],
            last_heard: testing::seconds(7.0),
            name,
            state,
            slots,
            busy: slots / 2,
            used_bytes: bytes[0],
            budget_bytes: bytes[1],
            guests: (slots % 3 == 0).then_some(slots),
            tenancies: vec![control::Tenancy { running: slots, person: "界".into(), ..Default::default() }],
            round_trip: testing::seconds(0.001),
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
        })
}

fn any_number() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(1), Just(u64::MAX), any::<u64>(), 0..1_000_000_u64]
}

fn any_length() -> impl Strategy<Value = Option<farmhand_proto::protobuf::Duration>> {
    prop::option::of(
        (any::<i64>(), any::<i32>())
            .prop_map(|(seconds, nanos)| farmhand_proto::protobuf::Duration { seconds, nanos }),
    )
}

fn any_storage() -> impl Strategy<Value = control::Storage> {
    let numbers = prop::collection::vec(any_number(), 20);
    (numbers, any::<[u32; 3]>(), any::<f64>(), any_length(), any_length()).prop_map(
        |(numbers, counts, share, lag, remaining)| control::Storage {
            used_bytes: numbers[0],
            budget_bytes: numbers[1],
            damaged: numbers[2],
            scrub_progress: share,
            replication: (counts[0] % 5 > 0).then(|| control::Replication {
                copies_wanted: counts[0],
                copies: counts[1],
                keepers: counts[2] % 3,
                owed_copies: numbers[3],
                owed_bytes: numbers[4],
                repair_copies: numbers[5],
                repair_bytes: numbers[6],
                lag,
                bytes_per_second: numbers[7],
                remaining,
                compared: share,
                sole_entries: numbers[8],
                sole_bytes: numbers[9],
                counted_entries: numbers[10],
                counted_bytes: numbers[11],
                spare_entries: numbers[12],
                spare_bytes: numbers[13],
                sent_copies: numbers[14],
                sent_bytes: numbers[15],
                fetched_entries: numbers[16],
                fetched_bytes: numbers[17],
                healed: numbers[18],
                refused_copies: numbers[19],
            }),
            ..Default::default()
        },
    )
}

fn any_entrance() -> impl Strategy<Value = control::Entrance> {
    (hostile(), 0..4_u64, any::<bool>()).prop_map(|(text, number, is_open)| control::Entrance {
        invitation: is_open.then(|| control::OpenInvitation {
            addresses: vec![text.clone()],
            farm: text.clone(),
            expires: ago(-60.0),
            wrong_codes: 2,
            ..Default::default()
        }),
        waiting: (0..number)
            .map(|number| control::Newcomer {
                number,
                name: text.clone(),
                machine_id: text.clone(),
                check_words: text.clone(),
            })
            .collect(),
    })
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
        "(<tab>|<enter>|<esc>|<left>|<right>|<up>|<down>|<pgdn>|<end>|[4-8xrRfwvm+<>,.nNeyDIJas/?:a-c ]){1,3}"
            .prop_filter("angle brackets name keys", |keys| {
                let named =
                    ["<tab>", "<enter>", "<esc>", "<left>", "<right>", "<up>", "<down>", "<pgdn>", "<end>"];
                !named.iter().fold(keys.clone(), |rest, name| rest.replace(name, "")).contains(['<', '>'])
            });
    let told = (
        prop::collection::vec(any_op(), 0..6),
        prop::collection::vec(any_machine(), 0..4),
        prop::option::of(any_entrance()),
        prop::option::of(any_storage()),
        -100_000..100_000_i32,
    )
        .prop_map(|(operations, machines, entrance, storage, at)| {
            Deed::Told(Box::new(control::WatchResponse {
                storage,
                now: ago(at.into()),
                operations,
                machines,
                entrance,
                ..Default::default()
            }))
        });
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
            lost: what > 128,
        })],
        (1, Call::Invite(_)) => vec![news(invite_response::News::Invitation(control::Invitation {
            code: text.into(),
            farm: text.into(),
            addresses: vec![text.into()],
            expires: ago(-100.0),
        }))],
        (2, Call::Invite(_)) => vec![news(invite_response::News::End(control::InvitationEnd {
            reason: i32::from(what % 9),
            newcomer: Some(control::Newcomer { name: text.into(), ..Default::default() }),
        }))],
        (1, Call::Join(_)) => vec![Answer::Join(Box::new(control::JoinResponse {
            news: Some(join_response::News::CheckWords(text.into())),
        }))],
        (1, Call::Farm(_)) => vec![Answer::Farm(Box::new(control::GetFarmResponse {
            name: text.into(),
            key_file: if what > 128 { text.into() } else { String::new() },
            is_shared: what.is_multiple_of(3),
            ..Default::default()
        }))],
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
