//! The terminal dashboard of Farmhand.
//!
//! It is a client of the control API (`farmhand.v1.Control`) and knows nothing else of a node, so
//! it shows any node it can reach, and is tested with made-up streams.
//!
//! State, update and drawing are apart:
//!
//! - what comes in is a [`message::Message`]: a key, a change in the farm, an answer, a tick;
//! - [`update::update`] applies it to the [`model::Model`] and says what is to be done, as
//!   [`message::Command`]s. It does no I/O, and takes the time as an argument;
//! - [`view::draw`] paints the model. It changes nothing; what the mouse may hit and how much of
//!   a list was seen goes back to the model as data ([`canvas::Drawn`]).
//!
//! Around these, [`app`] is the loop, [`feed`] talks to the node, [`terminal`] owns the screen.
//!
//! Where to look: a key, its help or a `:` command in `keymap.rs`; a colour in `theme.rs`; a sign in
//! `glyphs.rs`; what a view knows in `model/<view>.rs`, what it does in `update/<view>.rs`, how it
//! looks in `view/<view>.rs`. Text from outside is made harmless in `sanitize.rs`, where it enters.

mod advice;
mod app;
pub mod bench;
mod canvas;
mod clipboard;
mod feed;
mod format;
mod glyphs;
mod keymap;
mod lanes;
mod logtext;
mod message;
mod model;
mod once;
mod options;
mod rawtext;
mod sanitize;
mod shell;
mod stages;
mod svg;
mod terminal;
mod theme;
mod trace;
mod update;
mod view;

pub use app::run;
pub use once::{json, once, once_svg};
pub use options::{ColourDepth, FetchRequest, Fetched, Fetcher, Look, Options, Outcome, UiError, View};

#[cfg(test)]
mod testing;
