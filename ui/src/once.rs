//! The farm printed once: as plain text, and as JSON.
//!
//! Both take the first snapshot of the stream of changes, which a node sends at once.

mod json;
mod picture;

pub use picture::once_svg;

use std::path::Path;
use std::time::Duration;

use farmhand_proto::control::{self, WatchRequest, WatchResponse};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use tokio::time::{Instant, timeout_at};
use tonic::Streaming;

use crate::app;
use crate::canvas::Canvas;
use crate::feed::connect;
use crate::model::copies::{self, told};
use crate::model::farm::Farm;
use crate::model::overview::Pane;
use crate::model::{Link, Model};
use crate::options::{ColourDepth, Look, Options, UiError, View};
use crate::terminal::Environment;
use crate::{format, sanitize, view};

/// How long a node may take to say anything.
const FIRST: Duration = Duration::from_secs(2);

/// How long it may take from then on to say everything.
const REST: Duration = Duration::from_millis(80);

/// Finished operations that are asked for where they are not shown: 0 would leave it to the node.
const NO_HISTORY: u32 = 1;

/// The least columns the text is made for, and the most.
const WIDTHS: (u16, u16) = (60, 300);

/// The overview as plain text, `width` columns wide.
///
/// # Errors
/// When no node answers in time.
pub async fn once(options: &Options, width: u16) -> Result<String, UiError> {
    let farm = gather(&options.socket, NO_HISTORY, REST).await?;
    let look = Look { colours: Some(ColourDepth::None), ..options.look.clone() };
    let options = Options { look, view: View::Overview, ..options.clone() };
    let mut model = app::model(&options, &Environment::detect())?;
    model.live = farm;
    model.link = Link::Up;
    Ok(text(&mut model, width))
}

/// What the dashboard knows as JSON. The schema is stable: keys are added, never renamed or removed,
/// and `schema` grows when a meaning changes. Sizes are bytes, lengths are seconds, times are
/// RFC 3339; what is not known is null.
///
/// # Errors
/// When no node answers in time.
pub async fn json(options: &Options) -> Result<serde_json::Value, UiError> {
    Ok(json::farm(&gather(&options.socket, NO_HISTORY, REST).await?))
}

/// The farm as the node first tells it, with the last `finished` operations. What is not told in `rest`
/// after the first of it is left out.
async fn gather(socket: &Path, finished: u32, rest: Duration) -> Result<Farm, UiError> {
    let fail = |reason: String| UiError::Unreachable { socket: socket.to_owned(), reason };
    let mut client = connect(socket).await.map_err(fail)?;
    let first = Instant::now() + FIRST;
    let silent = || fail("it says nothing".to_owned());
    let request = WatchRequest { finished, ..WatchRequest::default() };
    let stream = timeout_at(first, client.watch(request)).await.map_err(|_| silent())?;
    let mut stream =
        stream.map_err(|status| fail(sanitize::line(status.message()).into_owned()))?.into_inner();
    let mut farm = Farm::default();
    let mut until = first;
    while !farm.complete {
        match next(&mut stream, until).await {
            Ok(message) => {
                if farm.version == 0 {
                    until = Instant::now() + rest;
                }
                farm.apply(message, Duration::ZERO);
            }
            // What was told is better than nothing.
            Err(_) if farm.version > 0 => break,
            Err(reason) => return Err(fail(reason)),
        }
    }
    Ok(farm)
}

async fn next(stream: &mut Streaming<WatchResponse>, until: Instant) -> Result<WatchResponse, String> {
    match timeout_at(until, stream.message()).await {
        Ok(Ok(Some(message))) => Ok(message),
        Ok(Ok(None)) => Err("it hung up".to_owned()),
        Ok(Err(status)) => Err(sanitize::line(status.message()).into_owned()),
        Err(_) => Err("it says nothing".to_owned()),
    }
}

/// The header, the boxes of the overview in full, and what a person should know.
fn text(model: &mut Model, width: u16) -> String {
    // That box is not printed, so that no row is marked as chosen.
    model.overview.pane = Pane::Events;
    let width = width.clamp(WIDTHS.0, WIDTHS.1);
    let area = Rect::new(0, 0, width, view::height_of_text(model, width));
    let mut buffer = Buffer::empty(area);
    let mut canvas = Canvas::new(&mut buffer, &model.theme, model.glyphs);
    view::draw_text(model, &mut canvas, area);
    let mut text = view::text_of(&buffer);
    for line in copies_in_words(model) {
        text.push_str(&format!(" {line}\n"));
    }
    for newcomer in &model.farm().entrance.waiting {
        let control::Newcomer { name, check_words, .. } = newcomer;
        text.push_str(&format!(" {} {name} asks to come in: {check_words}\n", model.glyphs.alarm));
    }
    for warning in &model.farm().warnings {
        let sign = if warning.level > 1 { model.glyphs.alarm } else { model.glyphs.advice };
        text.push_str(&format!(" {sign} {}\n", warning.text));
        if !warning.remedy.is_empty() {
            text.push_str(&format!("   {}\n", warning.remedy));
        }
    }
    text
}

/// How the copies on other machines stand; nothing where the node does not tell.
fn copies_in_words(model: &Model) -> Vec<String> {
    let Some(told) = told(model.farm()) else { return Vec::new() };
    let mut lines = vec![
        format!("copies: {}", copies::count_words(told).0),
        format!("owed: {}", copies::behind_words(told).0),
        copies::sole_words(model.farm(), told).0,
    ];
    if let Some(share) = copies::compared(told) {
        lines.push(format!("compared: {}", format::share(share)));
    }
    lines.extend(copies::trouble(model.farm()).map(|(text, _)| format!("{} {text}", model.glyphs.alarm)));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use crate::testing::fake_node::{FakeNode, Manner};

    fn options(socket: &Path) -> Options {
        Options {
            socket: socket.to_owned(),
            look: Look { ascii: Some(true), ..Look::default() },
            read_only: false,
            owns_node: false,
            fetcher: None,
            view: View::Logs,
        }
    }

    #[tokio::test]
    async fn a_node_is_asked_once() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("control.sock");
        let error = once(&options(&socket), 80).await.unwrap_err();
        assert!(error.to_string().contains("no node is running"), "{error}");
        let _node = FakeNode::start(&socket, Manner::Tells);
        let text = once(&options(&socket), 80).await.unwrap();
        assert!(text.is_ascii() && text.contains("kitchen"), "{text}");
        assert_eq!(json(&options(&socket)).await.unwrap()["node"]["name"], "attic");
    }

    #[test]
    fn the_text_has_all_machines_and_warnings() {
        let text = text(&mut testing::model(View::Overview), 80);
        for part in ["lab", "attic", "kitchen", "laptop", "lost 12s", "ann@attic", "--jobs=40"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(text.lines().all(|line| sanitize::width(line) <= 80), "{text}");
        testing::check("once-80", &text);
    }
}
