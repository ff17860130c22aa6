//! Pictures of the views, and what must hold for all of them.

use proptest::prelude::*;

use crate::message::{FeedEvent, Message};
use crate::options::{ColourDepth, View};
use crate::sanitize;
use crate::testing::{self, blank, check, check_view, model, paint, press, screen, send, send_at};

#[test]
fn overview() {
    check_view("overview", &mut model(View::Overview));
}

#[test]
fn builds() {
    check_view("builds", &mut model(View::Builds));
}

#[test]
fn actions() {
    check_view("actions", &mut model(View::Actions));
}

#[test]
fn actions_of_one_build_that_failed() {
    let mut model = model(View::Actions);
    press(&mut model, "2<down><enter>]]]]");
    check_view("actions-failed", &mut model);
}

#[test]
fn a_farm_that_is_not_there() {
    let mut model = blank(View::Overview);
    let reason = "no node is running".to_owned();
    let lost = FeedEvent::Lost { reason, retry_in: std::time::Duration::from_secs(4) };
    send(&mut model, Message::Feed(lost));
    check("no-node-80x24", &screen(&mut model, 80, 24));
}

#[test]
fn a_farm_that_is_idle() {
    let mut model = blank(View::Overview);
    let mut farm = testing::farm();
    farm.operations.clear();
    farm.builds.clear();
    farm.warnings.clear();
    farm.machines.truncate(1);
    farm.machines[0].busy = 0;
    send(&mut model, Message::Feed(FeedEvent::Changes(Box::new(farm))));
    check("idle-80x24", &screen(&mut model, 80, 24));
}

#[test]
fn help() {
    let mut model = model(View::Builds);
    press(&mut model, "?");
    check("help-80x24", &screen(&mut model, 80, 24));
}

#[test]
fn palette() {
    let mut model = model(View::Actions);
    press(&mut model, ":re");
    check("palette-80x24", &screen(&mut model, 80, 24));
}

#[test]
fn filter_line() {
    let mut model = model(View::Actions);
    press(&mut model, "/!/part[0-3]/");
    check("filter-80x24", &screen(&mut model, 80, 24));
}

#[test]
fn question() {
    let mut model = model(View::Overview);
    model.rights.owns_node = true;
    press(&mut model, "q");
    check("question-80x24", &screen(&mut model, 80, 24));
}

#[test]
fn choice_of_a_build() {
    let mut model = model(View::Overview);
    press(&mut model, "b<down>");
    check("choice-80x24", &screen(&mut model, 80, 24));
}

#[test]
fn ascii() {
    let mut model = testing::looking(View::Overview, ColourDepth::None, true);
    testing::show(&mut model);
    let picture = screen(&mut model, 80, 24);
    assert!(picture.is_ascii(), "{picture}");
    check("overview-ascii-80x24", &picture);
    for view in View::ALL {
        press(&mut model, &view.number().to_string());
        let picture = screen(&mut model, 100, 30);
        assert!(picture.is_ascii(), "{view:?}\n{picture}");
    }
    press(&mut model, "7[");
    let picture = screen(&mut model, 80, 24);
    assert!(picture.is_ascii() && picture.contains("2 of 2 on 3 machines"), "{picture}");
}

#[test]
fn sixteen_colours() {
    let mut model = testing::looking(View::Overview, ColourDepth::Ansi16, false);
    testing::show(&mut model);
    screen(&mut model, 80, 24);
    let buffer = paint(&mut model, 80, 24);
    check("overview-16-80x24", &format!("{}\n{}", testing::text(&buffer), testing::looks(&buffer)));
}

#[test]
fn without_colours_there_is_none() {
    for view in View::ALL {
        let mut model = model(view);
        let buffer = paint(&mut model, 100, 30);
        let coloured = buffer
            .content
            .iter()
            .find(|cell| (cell.fg, cell.bg) != (ratatui::style::Color::Reset, ratatui::style::Color::Reset));
        assert!(coloured.is_none(), "{view:?}");
    }
}

#[test]
fn age_is_told() {
    let mut model = model(View::Overview);
    assert!(!screen(&mut model, 80, 24).contains("STALE"));
    send_at(&mut model, 7, Message::Tick);
    assert!(screen(&mut model, 80, 24).contains("STALE: the node has said nothing for 7s"));
    press(&mut model, " ");
    send_at(&mut model, 67, Message::Tick);
    assert!(screen(&mut model, 80, 24).contains("PAUSED 1m ago"));
}

#[test]
fn advice_is_given_to_who_does_nothing() {
    let mut model = model(View::Overview);
    send_at(&mut model, 3, Message::Tick);
    assert!(!screen(&mut model, 80, 24).contains("--jobs=40"));
    send_at(&mut model, 9, Message::Tick);
    assert!(screen(&mut model, 80, 24).contains("» the client keeps 9 of 20 slots busy: --jobs=40"));
    press(&mut model, "j");
    assert!(!screen(&mut model, 80, 24).contains("--jobs=40"));
}

#[test]
fn what_waits_does_not_age_while_the_node_is_silent() {
    let mut model = model(View::Actions);
    let before = screen(&mut model, 80, 24);
    let age = |picture: &str| picture.lines().find(|line| line.contains("level0")).unwrap().to_owned();
    send_at(&mut model, 600, Message::Tick);
    let after = screen(&mut model, 80, 24);
    assert!(age(&before).contains("9.0s"), "{before}");
    assert!(age(&after).contains("10s") || age(&after).contains("10.5s"), "{after}");
}

#[test]
fn a_small_screen_is_told_what_is_needed() {
    for (width, height) in [(38, 7), (20, 10)] {
        let screen = screen(&mut model(View::Overview), width, height);
        let parts = ["needs 40x8", &format!("has {width}x{height}")];
        assert!(parts.iter().all(|part| screen.contains(part)), "{screen}");
    }
}

#[test]
fn hostile_names_stay_harmless() {
    let mut model = blank(View::Overview);
    let mut farm = testing::farm();
    let evil = "\u{1b}[31m\u{202e}evil\u{0}\u{9b}2J\u{200b}\n".repeat(200);
    for machine in &mut farm.machines {
        machine.name.clone_from(&evil);
        machine.state = 99;
    }
    for op in &mut farm.operations {
        op.target.clone_from(&evil);
        op.mnemonic.clone_from(&evil);
        op.machine.clone_from(&evil);
        op.message.clone_from(&evil);
    }
    for build in &mut farm.builds {
        build.user.clone_from(&evil);
        build.tool.clone_from(&evil);
    }
    for warning in &mut farm.warnings {
        warning.text.clone_from(&evil);
    }
    if let Some(node) = &mut farm.node {
        node.farm.clone_from(&evil);
    }
    send(&mut model, Message::Feed(FeedEvent::Changes(Box::new(farm))));
    for view in View::ALL {
        press(&mut model, &view.number().to_string());
        for cell in &paint(&mut model, 120, 40).content {
            assert_eq!(sanitize::line(cell.symbol()), cell.symbol(), "{view:?}");
        }
    }
}

/// Keys that are pressed at random: all that mean something, and some that do not.
fn some_key() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-zA-Z0-9 :/?+@!=-]",
        2 => prop::sample::select(vec![
            "<enter>", "<esc>", "<tab>", "<backtab>", "<up>", "<down>", "<left>", "<right>", "<home>", "<end>",
            "<pgup>", "<pgdn>", "<backspace>",
        ])
        .prop_map(str::to_owned),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_view_fits_every_screen(width in 1..260_u16, height in 1..90_u16, ascii: bool) {
        let mut model = testing::looking(View::Overview, ColourDepth::Ansi256, ascii);
        testing::show(&mut model);
        for view in View::ALL {
            press(&mut model, &view.number().to_string());
            paint(&mut model, width, height);
            for modal in ["?", ":", "/", "b", " "] {
                press(&mut model, modal);
                paint(&mut model, width, height);
                press(&mut model, "<esc>");
            }
        }
    }

    #[test]
    fn no_order_of_keys_breaks_it(
        keys in prop::collection::vec(some_key(), 0..60),
        width in 1..140_u16,
        height in 1..50_u16,
    ) {
        let mut model = model(View::Overview);
        for key in keys {
            press(&mut model, &key);
            paint(&mut model, width, height);
            for list in &model.drawn.viewports {
                let state = &model.lists[list.list];
                prop_assert!(state.selected < state.len.max(1), "{:?}", state);
            }
        }
    }
}
