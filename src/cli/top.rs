//! `farmhand top`: the dashboard on a node that runs, or what it would show printed once.
//!
//! Here is also what every command with a dashboard shares: how it looks, and [`show`].

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::Arc;

use farmhand_ui::{ColourDepth, Look, Options, Outcome, UiError, View};

use super::error::{CliError, chain};
use super::output::{print, print_json};
use super::target::{self, TargetArgs};
use crate::telemetry;

mod fetcher;

use fetcher::FetchFrom;

/// Columns of `--once` where stdout is no terminal.
const COLUMNS: u16 = 100;

/// Watch the farm
///
/// Shows machines, builds, actions and the cache in this terminal, and why an action waits or was not in the
/// cache. Press ? for the keys, q to leave: the node goes on without it. A node that dies is shown as stale
/// until it is back.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  farmhand top\n  farmhand top --view actions --read-only\n  farmhand top --once             the overview as plain text\n  farmhand top --json | jq '.machines[].name'"
)]
pub(super) struct TopArgs {
    /// Print the overview as plain text and exit
    #[arg(long)]
    once: bool,
    /// Print what the dashboard knows as JSON and exit
    #[arg(long, conflicts_with = "once")]
    json: bool,
    /// Offer nothing that changes anything
    #[arg(long)]
    read_only: bool,
    /// What to show first: overview, builds, actions, action, timeline, machines, cache or logs
    #[arg(long, value_name = "VIEW", default_value = "overview", hide_default_value = true)]
    #[arg(value_parser = parse_view)]
    view: View,
    #[command(flatten)]
    picture: PictureArgs,
    #[command(flatten)]
    look: LookArgs,
    #[command(flatten)]
    target: TargetArgs,
}

/// For the pages that show the dashboard; hidden, as nobody else needs it
#[derive(Debug, clap::Args)]
struct PictureArgs {
    /// Print the view as an SVG picture and exit
    #[arg(long, hide = true, conflicts_with_all = ["once", "json"])]
    svg: bool,
    /// Columns and rows of the picture
    #[arg(long, hide = true, value_name = "COLUMNSxROWS", default_value = "120x36")]
    #[arg(value_parser = parse_size)]
    size: (u16, u16),
    /// Commands to type after `:` first
    #[arg(long = "type", hide = true, value_name = "COMMAND")]
    typed: Vec<String>,
}

/// How the dashboard looks
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct LookArgs {
    /// Theme: the name of one that comes with the program, or a file
    #[arg(long, env = "FARMHAND_THEME", value_name = "NAME|FILE")]
    theme: Option<String>,
    /// Draw with ASCII only; found out from the terminal if not set
    #[arg(long, env = "FARMHAND_ASCII")]
    #[arg(value_parser = clap::builder::BoolishValueParser::new())]
    #[arg(value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ascii: Option<bool>,
}

/// Shows the dashboard, or prints.
pub(super) async fn run(args: TopArgs) -> Result<(), CliError> {
    let socket = args.target.socket()?;
    // A node that was never there is an error; one that goes away later is shown as stale.
    target::connect(&socket).await?;
    let options = Options { read_only: args.read_only, view: args.view, ..options(socket, &args.look) };
    if args.picture.svg {
        let PictureArgs { size: (columns, rows), typed, .. } = args.picture;
        let typed: Vec<&str> = typed.iter().map(String::as_str).collect();
        return print(&farmhand_ui::once_svg(&options, args.view, columns, rows, &typed).await?);
    }
    if args.json {
        print_json(&farmhand_ui::json(&options).await?)
    } else if args.once {
        print(&farmhand_ui::once(&options, columns()).await?)
    } else {
        show(options).await.map(drop)
    }
}

/// The dashboard on the node with this control socket, as it usually is.
pub(super) fn options(socket: PathBuf, look: &LookArgs) -> Options {
    Options {
        fetcher: Some(Arc::new(FetchFrom { socket: socket.clone() })),
        socket,
        look: look.look(),
        read_only: false,
        owns_node: false,
        view: View::default(),
    }
}

/// What there is to show a dashboard on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Screen {
    /// A terminal that can show it.
    Fit,
    /// A terminal without a cursor.
    Dumb,
    /// No terminal: a file or a pipe.
    None,
}

/// Shows a dashboard until the person leaves.
pub(super) async fn show(options: Options) -> Result<Outcome, CliError> {
    tokio::select! {
        outcome = farmhand_ui::run(options) => Ok(outcome?),
        never = panic_when_asked() => match never {},
    }
}

/// Panics at SIGUSR1, so that a test can see what becomes of the terminal.
#[cfg(debug_assertions)]
async fn panic_when_asked() -> std::convert::Infallible {
    use tokio::signal::unix::{SignalKind, signal};
    if let Ok(mut asked) = signal(SignalKind::user_defined1()) {
        asked.recv().await;
        panic!("as asked by SIGUSR1");
    }
    std::future::pending().await
}

#[cfg(not(debug_assertions))]
async fn panic_when_asked() -> std::convert::Infallible {
    std::future::pending().await
}

fn columns() -> u16 {
    rustix::termios::tcgetwinsize(rustix::stdio::stdout())
        .map_or(COLUMNS, |size| if size.ws_col == 0 { COLUMNS } else { size.ws_col })
}

fn parse_view(name: &str) -> Result<View, String> {
    let names = || View::ALL.map(|view| view.title().to_lowercase()).join(", ");
    View::by_name(name).ok_or_else(|| format!("the views are {}", names()))
}

fn parse_size(text: &str) -> Result<(u16, u16), String> {
    let sides = text.split_once('x').and_then(|(columns, rows)| {
        let sides = (columns.parse().ok()?, rows.parse().ok()?);
        (sides.0 > 0 && sides.1 > 0).then_some(sides)
    });
    sides.ok_or_else(|| "not a size such as 120x36".to_owned())
}

// === impl Screen ===

impl Screen {
    /// That of this process.
    pub(super) fn detect() -> Self {
        if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return Self::None;
        }
        match std::env::var("TERM") {
            Ok(term) if !term.is_empty() && term != "dumb" => Self::Fit,
            _ => Self::Dumb,
        }
    }
}

// === impl LookArgs ===

impl LookArgs {
    /// What the variables ask for, for a command that takes no arguments.
    pub(super) fn from_variables() -> Result<Self, clap::Error> {
        use clap::{Args, FromArgMatches};
        let command = Self::augment_args(clap::Command::new("farmhand"));
        Self::from_arg_matches(&command.try_get_matches_from(["farmhand"])?)
    }

    fn look(&self) -> Look {
        let no_colours = !telemetry::colours(true);
        Look {
            theme: self.theme.clone(),
            ascii: self.ascii,
            colours: no_colours.then_some(ColourDepth::None),
        }
    }
}

impl From<UiError> for CliError {
    fn from(error: UiError) -> Self {
        Self::new(chain(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_pictures() {
        assert_eq!(parse_size("120x36"), Ok((120, 36)));
        assert!(["", "x", "120", "0x1", "1x70000"].iter().all(|text| parse_size(text).is_err()));
    }

    #[test]
    fn views_have_names() {
        assert_eq!(parse_view("Actions"), Ok(View::Actions));
        assert!(parse_view("nonsense").unwrap_err().contains("overview, builds, actions"));
    }
}
