//! `farmhand logs`: the log of the node.

use clap::ValueEnum;
use farmhand_proto::control::log_line::Level;
use farmhand_proto::control::{LogLine, WatchLogRequest};
use farmhand_proto::time::system_time;
use serde::Serialize;

use super::error::{CliError, Explain};
use super::harmless::harmless;
use super::output::{Paint, print};
use super::target::TargetArgs;

/// Show the log of the node
///
/// The node keeps the last 2,000 lines, from the level `info` on, wherever its log goes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  farmhand logs\n  farmhand logs --follow --level warn")]
pub(super) struct LogsArgs {
    /// Go on with what follows
    #[arg(long, short)]
    follow: bool,
    /// Only lines of this level and worse
    #[arg(long, value_name = "LEVEL", default_value = "trace", hide_default_value = true)]
    level: LevelArg,
    /// Print JSON: one object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LevelArg {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// What `--json` prints for each line.
#[derive(Debug, Serialize)]
struct LineJson<'a> {
    time: Option<String>,
    level: &'static str,
    module: &'a str,
    text: &'a str,
    sequence: u64,
}

/// Asks and prints.
pub(super) async fn run(args: LogsArgs) -> Result<(), CliError> {
    let mut control = args.target.connect().await?;
    let request = WatchLogRequest { after: 0, level: args.level.to_wire().into(), follow: args.follow };
    let mut pages = control.watch_log(request).await?.into_inner();
    let paint = Paint::stdout();
    while let Some(page) = pages.message().await? {
        let mut text = String::new();
        for line in &page.lines {
            text.push_str(&if args.json { json(line)? } else { shown(line, paint) });
            text.push('\n');
        }
        print(&text)?;
    }
    Ok(())
}

fn json(line: &LogLine) -> Result<String, CliError> {
    let line = LineJson {
        time: time_of(line),
        level: level_name(line.level()),
        module: &line.module,
        text: &line.text,
        sequence: line.sequence,
    };
    serde_json::to_string(&line).explain("cannot write JSON")
}

fn shown(line: &LogLine, paint: Paint) -> String {
    let level = format!("{:>5}", level_name(line.level()).to_uppercase());
    let level = match line.level() {
        Level::Error => paint.red(&level),
        Level::Warn => paint.yellow(&level),
        Level::Info => paint.green(&level),
        _ => paint.dim(&level),
    };
    let (module, text) = (harmless(&line.module), harmless(&line.text).replace('\n', "␊"));
    format!("{} {level} {} {text}", time_of(line).unwrap_or_default(), paint.dim(&format!("{module}:")))
}

fn time_of(line: &LogLine) -> Option<String> {
    let at = line.at.as_ref().and_then(system_time)?;
    Some(humantime::format_rfc3339_millis(at).to_string())
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::Unspecified => "unknown",
        Level::Trace => "trace",
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
    }
}

// === impl LevelArg ===

impl LevelArg {
    fn to_wire(self) -> Level {
        match self {
            Self::Error => Level::Error,
            Self::Warn => Level::Warn,
            Self::Info => Level::Info,
            Self::Debug => Level::Debug,
            Self::Trace => Level::Trace,
        }
    }
}

#[cfg(test)]
mod tests {
    use farmhand_proto::protobuf::Timestamp;

    use super::*;

    #[test]
    fn a_line_is_one_line_whatever_is_in_it() {
        let line = LogLine {
            at: Some(Timestamp { seconds: 1_700_000_000, nanos: 5_000_000 }),
            level: Level::Warn.into(),
            module: "farmhand::cas".into(),
            text: "broken\n\x1b[2J count=3".into(),
            sequence: 7,
        };
        let text = "2023-11-14T22:13:20.005Z  WARN farmhand::cas: broken␊␛[2J count=3";
        assert_eq!(shown(&line, Paint::plain()), text);
        let value: serde_json::Value = serde_json::from_str(&json(&line).unwrap()).unwrap();
        assert_eq!((&value["level"], &value["sequence"]), (&"warn".into(), &7.into()));
        assert_eq!(value["text"], "broken\n\x1b[2J count=3");
    }
}
