//! `farmhand completions` and `farmhand man`: made from the same definition as the parser.

use clap_complete::Shell;

use super::error::{CliError, Explain};
use super::output::print;

/// Print the completions of a shell
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  farmhand completions bash > ~/.local/share/bash-completion/completions/farmhand"
)]
pub(super) struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Print the manual page of a command
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  farmhand man serve | man -l -\n  farmhand man action fetch")]
pub(super) struct ManArgs {
    /// The command, with the one below it if need be; without any, the page of farmhand itself
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
}

/// Writes the completions.
pub(super) fn completions(args: &CompletionsArgs) -> Result<(), CliError> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut super::command(), "farmhand", &mut text);
    print(&String::from_utf8_lossy(&text))
}

/// Writes the page.
pub(super) fn man(args: &ManArgs) -> Result<(), CliError> {
    let mut root = super::command();
    root.build();
    let mut page = &root;
    for name in &args.command {
        page = page.find_subcommand(name).ok_or_else(|| {
            CliError::new(format!("there is no command {name:?}")).hint("farmhand --help lists them")
        })?;
    }
    let mut text = Vec::new();
    clap_mangen::Man::new(without_help(page)).render(&mut text).explain("cannot render the page")?;
    print(&String::from_utf8_lossy(&text))
}

/// The same without the command `help`, which has no page.
fn without_help(page: &clap::Command) -> clap::Command {
    let page = page.clone();
    if page.find_subcommand("help").is_some() {
        return page.mut_subcommand("help", |help| help.hide(true));
    }
    page
}
