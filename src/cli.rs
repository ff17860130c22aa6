//! The command line: arguments in, text out.
//!
//! Each command has a file of its own below `cli/`. Data goes to stdout, logs and progress to
//! stderr. What goes wrong becomes one `error:` line and, where there is a remedy, one `hint:`
//! line; the exit code is 1, or 2 when the command line itself is wrong.

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::raw::DEFAULTS;

mod action;
mod action_log;
mod actions;
mod bench;
mod client;
mod copies;
mod demo;
mod doctor;
mod error;
mod fetch;
mod harmless;
mod invite;
mod join;
mod key;
mod logs;
mod machines;
mod output;
mod private_node;
mod remote;
mod rerun;
mod run;
mod scratch;
mod serve;
mod settings;
mod shell;
mod signals;
mod status;
mod steer;
mod target;
mod top;
mod why;

use error::CliError;

/// A personal build farm in one binary
///
/// Farmhand answers the Remote Execution API (REAPI) on localhost: it runs build actions in
/// sandboxes, keeps their results, and serves them again.
///
/// Without a command, in a terminal: the dashboard, on the node that runs or on one that is started and
/// lives as long as it is open. Elsewhere: `serve`.
#[derive(Debug, Parser)]
#[command(name = "farmhand", version, arg_required_else_help = false, max_term_width = 100)]
#[command(
    after_help = "Examples:\n  farmhand                   a node with its dashboard\n  farmhand demo              see one at work\n  farmhand serve             serve the build tools on this machine\n  farmhand client bazel      settings to paste into a .bazelrc\n  farmhand status            what the node is doing"
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// None was given.
    #[command(skip)]
    Alone(Box<serve::ServeArgs>),
    Serve(Box<serve::ServeArgs>),
    Top(top::TopArgs),
    Status(status::StatusArgs),
    Machines(machines::MachinesArgs),
    Pause(steer::PauseArgs),
    Drain(steer::DrainArgs),
    Resume(steer::ResumeArgs),
    Slots(steer::SlotsArgs),
    Invite(invite::InviteArgs),
    Join(join::JoinArgs),
    Key(key::KeyArgs),
    Actions(actions::ActionsArgs),
    Action(action::ActionArgs),
    Logs(logs::LogsArgs),
    Settings(settings::SettingsArgs),
    Client(client::ClientArgs),
    Doctor(Box<doctor::DoctorArgs>),
    Bench(bench::BenchArgs),
    Demo(demo::DemoArgs),
    #[command(hide = true)]
    Drive(bench::drive::DriveArgs),
    Completions(shell::CompletionsArgs),
    Man(shell::ManArgs),
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let command = match parse() {
        Ok(command) => command,
        // Help and version are no failures; clap knows the stream and the code of each.
        Err(error) => error.exit(),
    };
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}

/// Settings of a node that the help of `doctor` lists; it takes all of them.
const DOCTOR_LISTS: [&str; 7] =
    ["config", "listen", "data-dir", "runtime-dir", "disk-budget", "sandbox", "json"];

/// The command line with the defaults of the configuration file shown in its help.
fn command() -> clap::Command {
    let defaults: toml::Table =
        toml::from_str(DEFAULTS).expect("invariant: a test parses the compiled-in defaults");
    let cli = Cli::command().mut_subcommand("doctor", |doctor| {
        doctor.mut_args(|arg| {
            let is_listed = arg.get_long().is_some_and(|long| DOCTOR_LISTS.contains(&long));
            arg.hide(!is_listed)
        })
    });
    cli.mut_subcommand("serve", |serve| {
        serve.mut_args(|arg| match arg.get_long().and_then(|long| defaults.get(long)).and_then(shown) {
            Some(default) => {
                let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                arg.help(format!("{help} [default: {default}]"))
            }
            None => arg,
        })
    })
}

/// A default as a person would type it; `None` for "not set".
fn shown(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Array(items) if !items.is_empty() => {
            Some(items.iter().filter_map(shown).collect::<Vec<_>>().join(","))
        }
        _ => None,
    }
}

/// Reads the arguments; without a command the settings are those of `serve`, so that its variables count.
fn parse() -> Result<Command, clap::Error> {
    let parse = |matches: clap::ArgMatches| Cli::from_arg_matches(&matches).map(|cli| cli.command);
    if let Some(command) = parse(command().try_get_matches()?)? {
        return Ok(command);
    }
    match parse(command().try_get_matches_from(["farmhand", "serve"])?)? {
        Some(Command::Serve(args)) => Ok(Command::Alone(args)),
        _ => unreachable!("invariant: `serve` is a command"),
    }
}

fn run(command: Command) -> Result<(), CliError> {
    match command {
        Command::Alone(args) => run::run(*args),
        Command::Serve(args) => serve::run(*args),
        Command::Top(args) => wait(top::run(args)),
        Command::Status(args) => wait(status::run(args)),
        Command::Machines(args) => wait(machines::run(args)),
        Command::Pause(args) => wait(steer::pause(args)),
        Command::Drain(args) => wait(steer::drain(args)),
        Command::Resume(args) => wait(steer::resume(args)),
        Command::Slots(args) => wait(steer::slots(args)),
        Command::Invite(args) => wait(invite::run(args)),
        Command::Join(args) => wait(join::run(args)),
        Command::Key(args) => wait(key::run(args)),
        Command::Actions(args) => wait(actions::list(args)),
        Command::Action(args) => wait(action::run(args)),
        Command::Logs(args) => wait(logs::run(args)),
        Command::Settings(args) => wait(settings::run(args)),
        Command::Client(args) => wait(client::run(args)),
        Command::Doctor(args) => wait(doctor::run(*args)),
        Command::Bench(args) => wait(bench::run(args)),
        Command::Demo(args) => demo::run(args),
        Command::Drive(args) => wait(bench::drive::run(args)),
        Command::Completions(args) => shell::completions(&args),
        Command::Man(args) => shell::man(&args),
    }
}

/// Runs a short command to its end on this thread.
fn wait(command: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| CliError::new(format!("cannot start: {error}")))?.block_on(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    /// One name for one setting: `--disk-budget`, `FARMHAND_DISK_BUDGET`, `disk-budget`.
    #[test]
    fn flag_variable_and_key_of_a_setting_have_one_name() {
        let command = command();
        let serve = command.find_subcommand("serve").unwrap();
        for arg in serve.get_arguments().filter(|arg| !matches!(arg.get_id().as_str(), "help")) {
            let long = arg.get_long().unwrap();
            let variable = format!("FARMHAND_{}", long.replace('-', "_").to_uppercase());
            assert_eq!(arg.get_env().and_then(|env| env.to_str()), Some(variable.as_str()));
            let is_key = DEFAULTS.lines().any(|line| {
                line.trim_start_matches("# ").split_once(" = ").is_some_and(|(key, _)| key == long)
            });
            assert!(
                is_key || long == "config" || arg.is_hide_set(),
                "{long} is no key of assets/farmhand.toml"
            );
        }
    }

    #[test]
    fn every_command_has_an_example_and_every_argument_help() {
        for command in command().get_subcommands() {
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(after.contains("Example"), "{} has no example", command.get_name());
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "{} {} has no help", command.get_name(), arg.get_id());
            }
        }
    }

    #[test]
    fn serve_shows_the_defaults_of_the_file() {
        let help = command().find_subcommand_mut("serve").unwrap().render_help().to_string();
        let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains("[default: 127.0.0.1:8980]"), "{help}");
        assert!(words.contains("FARMHAND_DISK_BUDGET"), "{help}");
    }
}
