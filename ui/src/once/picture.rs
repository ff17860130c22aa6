//! One view as a picture of the real program, for pages that show it.
//!
//! It is the dashboard itself that is painted, without a terminal: it learns the farm, asks what the
//! view asks, and is painted when the answers came.

use std::time::Duration;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use tokio::time::{Instant, timeout_at};

use super::gather;
use crate::app;
use crate::canvas::Canvas;
use crate::feed::{Calls, connect};
use crate::keymap::{self, Place};
use crate::message::{Command, FeedEvent, Message, Todo};
use crate::model::Model;
use crate::model::action::Subject;
use crate::options::{ColourDepth, Look, Options, UiError, View};
use crate::svg::{DARK, LIGHT, svg};
use crate::terminal::Environment;
use crate::update::{act, update};
use crate::{sanitize, view};

/// How long answers may take, and how long a silence means that all came.
const ALL: Duration = Duration::from_secs(5);
const QUIET: Duration = Duration::from_millis(400);

/// Finished operations a picture may show.
const HISTORY: u32 = 2000;

/// A screen of `width` by `height` cells that shows `view`, as an SVG picture. `typed` are commands as a
/// person types them after `:`; they come first. The theme is that of the options; one whose name
/// begins with `light` is shown on white. The action view shows the last action that failed, else
/// the last one, unless a command names another.
///
/// # Errors
/// When no node answers in time, a theme cannot be used, or a command is none.
pub async fn once_svg(
    options: &Options,
    view: View,
    width: u16,
    height: u16,
    typed: &[&str],
) -> Result<String, UiError> {
    let depth = options.look.colours.unwrap_or(ColourDepth::True);
    let look =
        Look { colours: Some(depth), ascii: Some(options.look.ascii == Some(true)), ..options.look.clone() };
    let options = Options { look, view, ..options.clone() };
    let mut model = app::model(&options, &Environment::detect())?;
    model.live = gather(&options.socket, HISTORY, ALL).await?;
    model.size = (width, height);
    let mut todo = update(&mut model, Message::Feed(FeedEvent::Connected), Duration::ZERO);
    prepare(&mut model, view, typed, &mut todo).map_err(|reason| fail(&options, reason))?;
    paint(&mut model);
    answer(&mut model, &options, todo).await?;
    let palette = if model.theme.name().starts_with("light") { &LIGHT } else { &DARK };
    // Twice, as the first painting tells the model how much it may show.
    paint(&mut model);
    Ok(svg(&paint(&mut model), palette))
}

/// Chooses an action where one is wanted, and runs the commands.
fn prepare(model: &mut Model, view: View, typed: &[&str], todo: &mut Todo) -> Result<(), String> {
    if view == View::Action {
        model.action.subject = last_of_interest(model);
        crate::update::enter(model, todo);
    }
    for line in typed {
        let (name, argument) = match line.split_once(' ') {
            Some((name, argument)) => (name, Some(argument)),
            None => (*line, None),
        };
        let places = [Place::In(model.view()), Place::List, Place::Anywhere];
        let binding = keymap::command(&places, name).filter(|binding| !binding.changes);
        let binding =
            binding.ok_or_else(|| format!("there is no command {:?} here", sanitize::line(name)))?;
        act(model, binding.act, argument, todo);
        paint(model);
    }
    Ok(())
}

/// The last operation that failed, else the last one.
fn last_of_interest(model: &Model) -> Option<Subject> {
    let ops = &model.farm().ops;
    let failed = ops.over().find(|(_, op)| op.exit_code != 0);
    let (_, op) = failed.or_else(|| ops.over().next())?;
    Some(Subject { key: op.name.clone(), instance: op.instance.clone() })
}

/// Asks the node what the view asks, until nothing more comes.
async fn answer(model: &mut Model, options: &Options, todo: Todo) -> Result<(), UiError> {
    let client = connect(&options.socket).await.map_err(|reason| fail(options, reason))?;
    let mut calls = Calls::new();
    let mut waiting = todo.commands;
    let end = Instant::now() + ALL;
    loop {
        for command in waiting.drain(..) {
            match command {
                Command::Call(id, call) => calls.ask(Some(client.clone()), id, *call),
                Command::Cancel(slot) => calls.cancel(slot),
                _ => {}
            }
        }
        let until = end.min(Instant::now() + QUIET);
        let Ok(Some((id, answer))) = timeout_at(until, calls.next()).await else { return Ok(()) };
        waiting = update(model, Message::Answer(id, answer), Duration::ZERO).commands;
        paint(model);
    }
}

fn paint(model: &mut Model) -> Buffer {
    let area = Rect::new(0, 0, model.size.0, model.size.1);
    let mut buffer = Buffer::empty(area);
    let mut canvas = Canvas::new(&mut buffer, &model.theme, model.glyphs);
    view::draw(model, &mut canvas, area);
    let drawn = canvas.drawn;
    model.painted(drawn);
    buffer
}

fn fail(options: &Options, reason: String) -> UiError {
    UiError::Unreachable { socket: options.socket.clone(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::fake_node::{FakeNode, Manner};

    fn options(socket: &std::path::Path) -> Options {
        Options {
            socket: socket.to_owned(),
            look: Look { theme: Some("light".to_owned()), ..Look::default() },
            read_only: false,
            owns_node: false,
            fetcher: None,
            view: View::Overview,
        }
    }

    #[tokio::test]
    async fn a_view_becomes_a_picture() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("control.sock");
        let _node = FakeNode::start(&socket, Manner::Tells);
        let picture =
            once_svg(&options(&socket), View::Machines, 100, 30, &["filter kitchen"]).await.unwrap();
        assert!(picture.starts_with("<svg") && picture.contains("kitchen"), "{picture}");
        assert!(picture.contains(LIGHT.background) && !picture.contains("laptop"), "{picture}");
        let error = once_svg(&options(&socket), View::Machines, 100, 30, &["slots 3"]).await.unwrap_err();
        assert!(error.to_string().contains("there is no command"), "{error}");
    }
}
