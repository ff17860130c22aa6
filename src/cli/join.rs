//! `farmhand join`: takes this machine into another farm.

use std::io::{self, IsTerminal};

use farmhand_proto::client::Client;
use farmhand_proto::control::{GetFarmRequest, JoinRequest, join_response};
use serde::Serialize;

use super::error::{CliError, Explain};
use super::invite::prompt;
use super::output::{Paint, print};
use super::target::TargetArgs;
use crate::peer::trust::join::{Code, CodeError};

/// Join the farm of another machine
///
/// The code comes from `farmhand invite` on a machine of that farm. Without one it is asked for; `-`
/// reads it from stdin, so that nobody sees it in the list of processes.
///
/// With --json each line of the output is an object with the key `event`: trying, check-words, pending
/// or joined.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  farmhand join 482-amber-falcon\n  farmhand join 482-amber-falcon --from 192.168.1.7:40123\n  echo 482-amber-falcon | farmhand join -"
)]
pub(super) struct JoinArgs {
    /// The code; in any case, with or without hyphens
    #[arg(value_name = "CODE", num_args = 0..=3)]
    code: Vec<String>,
    /// Where the invitation is, as it shows on the other screen; needed where machines do not find each
    /// other
    #[arg(long, value_name = "HOST:PORT")]
    from: Option<String>,
    /// Leave the farm this machine is in, although other machines are in it
    #[arg(long)]
    leave: bool,
    /// Print JSON, an object for each event
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: TargetArgs,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum EventJson<'a> {
    Trying { address: &'a str },
    CheckWords { words: &'a str },
    Pending,
    Joined { farm: &'a str, tag: &'a str },
}

/// Joins.
pub(super) async fn run(args: JoinArgs) -> Result<(), CliError> {
    let code = read_code(&args.code)?;
    let mut control = args.target.connect().await?;
    check(&mut control, args.leave).await?;
    let request = JoinRequest {
        code: code.text().to_owned(),
        from: args.from.clone().unwrap_or_default(),
        leave: args.leave,
    };
    let is_somewhere = args.from.is_some();
    let failed = |status| explain(status, is_somewhere);
    let mut news = control.join(request).await.map_err(failed)?.into_inner();
    while let Some(response) = news.message().await.map_err(failed)? {
        let Some(news) = response.news else { continue };
        tell(&news, args.json, Paint::stdout())?;
        if matches!(news, join_response::News::Joined(_)) {
            return Ok(());
        }
    }
    Err(CliError::new("the node gave up without a word").hint("farmhand logs says why"))
}

/// The code that was typed, now or before.
fn read_code(words: &[String]) -> Result<Code, CliError> {
    let typed = match words {
        [] if !io::stdin().is_terminal() => {
            return Err(CliError::new("which code?").hint("farmhand join - reads it from stdin"));
        }
        [] => prompt("Code: ")?,
        [dash] if dash == "-" => {
            let mut line = String::new();
            io::stdin().read_line(&mut line).explain("cannot read the code")?;
            line
        }
        words => words.join(" "),
    };
    typed.parse().map_err(|error: CodeError| {
        CliError::new(error.to_string()).hint("farmhand invite on a machine of the farm gives one out")
    })
}

/// What would keep the node from joining, said before anybody is called.
async fn check(control: &mut Client, leave: bool) -> Result<(), CliError> {
    let farm = control.get_farm(GetFarmRequest {}).await?.into_inner();
    if !farm.key_file.is_empty() {
        let error = format!("the farm of this machine is set by the key in {}", farm.key_file);
        return Err(CliError::new(error)
            .hint("put the other farm's key there (farmhand key show, on one of its machines), or unset farm-key-file"));
    }
    if farm.is_shared && !leave {
        let error = format!("this machine is in the farm \"{}\" with others", farm.name);
        return Err(CliError::new(error)
            .hint("--leave leaves it for the other one; or bring that machine here: farmhand invite"));
    }
    Ok(())
}

fn explain(status: tonic::Status, is_somewhere: bool) -> CliError {
    let code = status.code();
    let error = CliError::from(status);
    match code {
        tonic::Code::NotFound | tonic::Code::Unavailable if !is_somewhere => {
            error.hint("name the address that farmhand invite shows: --from HOST:PORT")
        }
        tonic::Code::NotFound | tonic::Code::PermissionDenied => {
            error.hint("look at the code again, or let farmhand invite give out another")
        }
        tonic::Code::Unavailable => {
            error.hint("does farmhand invite still run there, and does a firewall let its port through?")
        }
        tonic::Code::Aborted => error.hint("join when farmhand key rotate is done here, by another code"),
        tonic::Code::InvalidArgument => error.hint("--from takes HOST:PORT, as farmhand invite shows it"),
        _ => error,
    }
}

fn tell(news: &join_response::News, json: bool, paint: Paint) -> Result<(), CliError> {
    if json {
        let line = serde_json::to_string(&to_json(news));
        return print(&format!("{}\n", line.explain("cannot write JSON")?));
    }
    match news {
        join_response::News::Trying(trying) => print(&format!("asking {} …\n", trying.address)),
        join_response::News::CheckWords(words) => {
            print(&format!("check words: {} (the other screen shows the same)\n", paint.bold(words)))
        }
        join_response::News::Pending(_) => print("waiting until somebody lets this machine in …\n"),
        join_response::News::Joined(joined) => {
            print(&format!("this machine is in the farm \"{}\" now\n", joined.farm))
        }
    }
}

fn to_json(news: &join_response::News) -> EventJson<'_> {
    match news {
        join_response::News::Trying(trying) => EventJson::Trying { address: &trying.address },
        join_response::News::CheckWords(words) => EventJson::CheckWords { words },
        join_response::News::Pending(_) => EventJson::Pending,
        join_response::News::Joined(joined) => EventJson::Joined { farm: &joined.farm, tag: &joined.tag },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(ToOwned::to_owned).collect()
    }

    #[test]
    fn a_code_may_be_one_word_or_three() {
        for text in ["482-zoo-abandon", "482 zoo abandon", "482-Zoo Abandon"] {
            assert_eq!(read_code(&words(text)).unwrap().text(), "482-zoo-abandon");
        }
        let error = read_code(&words("482-zoo-farmhand")).unwrap_err();
        assert!(error.to_string().contains("word 2"), "{error}");
        assert!(!error.to_string().contains("zoo"), "{error}");
    }

    #[test]
    fn json_for_programs() {
        let joined = farmhand_proto::control::Joined { farm: "zoo zoo".into(), tag: "00".into() };
        let json = serde_json::to_value(to_json(&join_response::News::Joined(joined))).unwrap();
        assert_eq!((&json["event"], &json["farm"]), (&"joined".into(), &"zoo zoo".into()));
        let json = serde_json::to_value(to_json(&join_response::News::CheckWords("a b c".into()))).unwrap();
        assert_eq!((&json["event"], &json["words"]), (&"check-words".into(), &"a b c".into()));
    }
}
