//! `farmhand settings`: the settings a node runs with.

use std::fmt::Write as _;

use farmhand_proto::control::{GetSettingsRequest, GetSettingsResponse};
use serde::Serialize;

use super::error::CliError;
use super::harmless::harmless;
use super::output::{Paint, print, print_json};
use super::target::TargetArgs;

/// Show the settings the node runs with
///
/// They are printed as a configuration file has them; those that are the default are in comments.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  farmhand settings\n  farmhand settings --json | jq '.settings.lease'")]
pub(super) struct SettingsArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: TargetArgs,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct SettingsJson<'a> {
    settings: Vec<SettingJson<'a>>,
    files: &'a [String],
}

#[derive(Debug, Serialize)]
struct SettingJson<'a> {
    name: &'a str,
    /// As the configuration file has it; null where there is none.
    value: Option<&'a str>,
    is_default: bool,
}

/// Asks and prints.
pub(super) async fn run(args: SettingsArgs) -> Result<(), CliError> {
    let mut control = args.target.connect().await?;
    let settings = control.get_settings(GetSettingsRequest {}).await?.into_inner();
    if args.json { print_json(&to_json(&settings)) } else { print(&to_text(&settings, Paint::stdout())) }
}

fn to_json(response: &GetSettingsResponse) -> SettingsJson<'_> {
    let settings = response.settings.iter().map(|setting| SettingJson {
        name: &setting.name,
        value: (!setting.value.is_empty()).then_some(setting.value.as_str()),
        is_default: setting.is_default,
    });
    SettingsJson { settings: settings.collect(), files: &response.files }
}

fn to_text(response: &GetSettingsResponse, paint: Paint) -> String {
    let mut text = String::new();
    for file in &response.files {
        let _ = writeln!(text, "{}", paint.dim(&format!("# read from {}", harmless(file))));
    }
    for setting in &response.settings {
        let line = harmless(&match setting.value.as_str() {
            "" => format!("{} is not set", setting.name),
            value => format!("{} = {value}", setting.name),
        });
        let line = if setting.is_default { paint.dim(&format!("# {line}")) } else { line };
        let _ = writeln!(text, "{line}");
    }
    text
}

#[cfg(test)]
mod tests {
    use farmhand_proto::control::Setting;

    use super::*;

    #[test]
    fn what_is_printed_is_a_configuration_file() {
        let setting = |name: &str, value: &str, is_default| Setting {
            name: name.into(),
            value: value.into(),
            is_default,
        };
        let response = GetSettingsResponse {
            settings: vec![
                setting("farm-key-file", "", true),
                setting("lease", "\"3h\"", true),
                setting("slots", "2", false),
            ],
            files: vec!["/etc/f.toml".into()],
        };
        let text = "# read from /etc/f.toml\n# farm-key-file is not set\n# lease = \"3h\"\nslots = 2\n";
        assert_eq!(to_text(&response, Paint::plain()), text);
        let json = serde_json::to_value(to_json(&response)).unwrap();
        assert_eq!(json["settings"][0]["value"], serde_json::Value::Null);
        assert_eq!(json["settings"][2]["is_default"], false);
    }
}
