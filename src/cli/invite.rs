//! `farmhand invite`: lets one machine into the farm.

use std::io::{self, IsTerminal, Write};

use farmhand_proto::client::Client;
use farmhand_proto::control::invitation_end::Reason;
use farmhand_proto::control::{
    AnswerNewcomerRequest, Invitation, InvitationEnd, InviteRequest, InviteResponse, Newcomer,
    invite_response,
};
use farmhand_proto::time::system_time;
use serde::Serialize;
use tokio::sync::mpsc;
use tonic::Streaming;

use super::error::{CliError, Explain};
use super::output::{Paint, print, visible};
use super::target::TargetArgs;

/// Let another machine into the farm
///
/// Prints a code, to be typed there after `farmhand join`. It is good for one machine and five minutes,
/// and for as long as this command runs. Both screens show the same three words when nobody is in
/// between.
///
/// With --json each line of the output is an object with the key `event`: invitation, wrong-code,
/// pending, gone or end. With --ask too, a line `yes` on stdin lets in whoever is pending, any other
/// turns it away.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  farmhand invite          then, on the other machine: farmhand join CODE\n  farmhand invite --ask    look at the check words before it is let in"
)]
pub(super) struct InviteArgs {
    /// Ask, before a machine that knows the code is let in
    #[arg(long)]
    ask: bool,
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
    Invitation { code: &'a str, addresses: &'a [String], farm: &'a str, expires_unix: Option<u64> },
    WrongCode { from: &'a str, tries_left: u32 },
    Pending(NewcomerJson<'a>),
    Gone(NewcomerJson<'a>),
    End { reason: &'static str, newcomer: Option<NewcomerJson<'a>> },
}

#[derive(Debug, Serialize)]
struct NewcomerJson<'a> {
    number: u64,
    name: &'a str,
    machine_id: &'a str,
    check_words: &'a str,
}

/// An invitation and the one who gave it out.
struct Host {
    control: Client,
    json: bool,
    paint: Paint,
    /// What is typed, where somebody is asked.
    typed: Option<mpsc::Receiver<String>>,
    /// Number of the one who waits for an answer.
    pending: Option<u64>,
}

/// Invites until somebody came.
pub(super) async fn run(args: InviteArgs) -> Result<(), CliError> {
    if args.ask && !args.json && !io::stdin().is_terminal() {
        return Err(CliError::new("--ask needs a terminal to ask on")
            .hint("leave it out: whoever does not know the code is not let in anyway"));
    }
    let mut control = args.target.connect().await?;
    let news = control.invite(InviteRequest { ask: args.ask }).await.map_err(explain)?.into_inner();
    let typed = args.ask.then(typed_lines);
    Host { control, json: args.json, paint: Paint::stdout(), typed, pending: None }.follow(news).await
}

fn explain(status: tonic::Status) -> CliError {
    let code = status.code();
    let error = CliError::from(status);
    match code {
        tonic::Code::FailedPrecondition => error.hint("end the other farmhand invite first"),
        tonic::Code::Unavailable => {
            error.hint("peer-listen says where others may call; see farmhand settings")
        }
        _ => error,
    }
}

// === impl Host ===

impl Host {
    async fn follow(mut self, mut news: Streaming<InviteResponse>) -> Result<(), CliError> {
        loop {
            let response = tokio::select! {
                response = news.message() => response?,
                typed = line(&mut self.typed) => {
                    self.answer(typed).await?;
                    continue;
                }
            };
            let Some(response) = response else { break };
            let Some(news) = response.news else { continue };
            self.tell(&news)?;
            match news {
                invite_response::News::Pending(newcomer) => {
                    self.pending = Some(newcomer.number);
                    self.ask().await?;
                }
                invite_response::News::Gone(_) => self.pending = None,
                invite_response::News::End(end) => return outcome(&end),
                _ => {}
            }
        }
        Err(CliError::new("the node ended the invitation without a word").hint("farmhand logs says why"))
    }

    fn tell(&self, news: &invite_response::News) -> Result<(), CliError> {
        if self.json {
            let line = serde_json::to_string(&to_json(news));
            return print(&format!("{}\n", line.explain("cannot write JSON")?));
        }
        match news {
            invite_response::News::Invitation(invitation) => print(&how_to(invitation, self.paint)),
            invite_response::News::WrongCode(wrong) => {
                let left = wrong.left;
                print(&format!("a wrong code came from {}; {left} tries are left\n", visible(&wrong.from)))
            }
            invite_response::News::Pending(newcomer) => print(&format!(
                "{} knows the code. Does its screen show the words {}?\n",
                self.paint.bold(&visible(&newcomer.name)),
                self.paint.bold(&newcomer.check_words),
            )),
            invite_response::News::Gone(newcomer) => {
                print(&format!("{} is gone again\n", visible(&newcomer.name)))
            }
            invite_response::News::End(end) => print(&told_end(end)),
        }
    }

    /// Asks the person about who is pending; where he has closed stdin already, that is his answer.
    async fn ask(&mut self) -> Result<(), CliError> {
        match &self.typed {
            _ if self.json => Ok(()),
            Some(_) => ask("Let it in? [y/N] "),
            None => self.answer(None).await,
        }
    }

    /// Hands on what the person has typed; `None` when he has closed stdin, which a program may have done
    /// that answers in another way.
    async fn answer(&mut self, typed: Option<String>) -> Result<(), CliError> {
        if typed.is_none() {
            self.typed = None;
        }
        let is_answer = typed.is_some() || !self.json;
        let Some(number) = self.pending.take_if(|_| is_answer) else { return Ok(()) };
        let typed = typed.unwrap_or_default().trim().to_ascii_lowercase();
        let accept = matches!(typed.as_str(), "y" | "yes");
        match self.control.answer_newcomer(AnswerNewcomerRequest { number, accept }).await {
            // It left, or time is over, or somebody else has answered: the news that follow say so.
            Err(status) if status.code() == tonic::Code::NotFound => Ok(()),
            answered => answered.map(drop).map_err(CliError::from),
        }
    }
}

/// The next line that is typed; never, where nobody is asked.
async fn line(typed: &mut Option<mpsc::Receiver<String>>) -> Option<String> {
    match typed {
        Some(typed) => typed.recv().await,
        None => std::future::pending().await,
    }
}

/// Lines of stdin. The thread that reads them ends with the process: nothing wakes it from a read.
fn typed_lines() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

fn how_to(invitation: &Invitation, paint: Paint) -> String {
    let command = paint.bold(&format!("farmhand join {}", invitation.code));
    let mut text = format!(
        "An invitation into the farm \"{}\", for one machine and five minutes. Type there:\n\n  {command}\n",
        invitation.farm
    );
    if let Some(address) = invitation.addresses.first() {
        text.push_str("\nor, if it finds nothing:\n\n");
        text.push_str(&format!("  farmhand join {} --from {address}\n", invitation.code));
    }
    if let Some(others @ [_, ..]) = invitation.addresses.get(1..) {
        text.push_str(&format!("  (this machine is also {})\n", others.join(", ")));
    }
    text.push('\n');
    text
}

fn told_end(end: &InvitationEnd) -> String {
    let Some(newcomer) = &end.newcomer else { return String::new() };
    if end.reason() != Reason::Joined {
        return String::new();
    }
    let (name, words) = (visible(&newcomer.name), &newcomer.check_words);
    format!("{name} has joined the farm. Its check words are {words}.\n")
}

/// Whether the command did what it is for.
fn outcome(end: &InvitationEnd) -> Result<(), CliError> {
    let name = end.newcomer.as_ref().map(|newcomer| visible(&newcomer.name)).unwrap_or_default();
    let again = "farmhand invite gives out another code";
    let failed = match end.reason() {
        Reason::Joined => return Ok(()),
        Reason::Unsure => CliError::new(format!("{name} was sent the key, and did not say that it has it"))
            .hint("see farmhand machines; if it is not there, invite it again"),
        Reason::Refused => CliError::new(format!("{name} was turned away")).hint(again),
        Reason::Expired => CliError::new("nobody came in five minutes").hint(again),
        Reason::Tries => CliError::new("the code was tried wrongly five times, and is worth nothing now")
            .hint("if that was not you, look who is on your network; farmhand invite gives out another code"),
        Reason::Stopped | Reason::Unspecified => {
            CliError::new("the node ended the invitation").hint("farmhand logs says why")
        }
    };
    Err(failed)
}

fn to_json(news: &invite_response::News) -> EventJson<'_> {
    match news {
        invite_response::News::Invitation(invitation) => EventJson::Invitation {
            code: &invitation.code,
            addresses: &invitation.addresses,
            farm: &invitation.farm,
            expires_unix: invitation
                .expires
                .as_ref()
                .and_then(system_time)
                .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok())
                .map(|since| since.as_secs()),
        },
        invite_response::News::WrongCode(wrong) => {
            EventJson::WrongCode { from: &wrong.from, tries_left: wrong.left }
        }
        invite_response::News::Pending(newcomer) => EventJson::Pending(newcomer_json(newcomer)),
        invite_response::News::Gone(newcomer) => EventJson::Gone(newcomer_json(newcomer)),
        invite_response::News::End(end) => EventJson::End {
            reason: reason_name(end.reason()),
            newcomer: end.newcomer.as_ref().map(newcomer_json),
        },
    }
}

fn newcomer_json(newcomer: &Newcomer) -> NewcomerJson<'_> {
    let Newcomer { number, name, machine_id, check_words } = newcomer;
    NewcomerJson { number: *number, name, machine_id, check_words }
}

fn reason_name(reason: Reason) -> &'static str {
    match reason {
        Reason::Joined => "joined",
        Reason::Unsure => "unsure",
        Reason::Refused => "refused",
        Reason::Expired => "expired",
        Reason::Tries => "tries",
        Reason::Stopped | Reason::Unspecified => "stopped",
    }
}

/// Asks on stderr.
fn ask(question: &str) -> Result<(), CliError> {
    let mut stderr = io::stderr().lock();
    stderr.write_all(question.as_bytes()).and_then(|()| stderr.flush()).explain("cannot ask")
}

/// Asks on stderr; the line that is typed.
pub(super) fn prompt(question: &str) -> Result<String, CliError> {
    ask(question)?;
    let mut line = String::new();
    io::stdin().read_line(&mut line).explain("cannot read what was typed")?;
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invitation(addresses: &[&str]) -> Invitation {
        Invitation {
            code: "482-zoo-abandon".into(),
            addresses: addresses.iter().map(ToString::to_string).collect(),
            farm: "term forward".into(),
            expires: None,
        }
    }

    fn newcomer(name: &str) -> Newcomer {
        Newcomer { number: 1, name: name.into(), machine_id: "ab".into(), check_words: "a b c".into() }
    }

    #[test]
    fn what_to_type_stands_on_a_line_of_its_own() {
        let text = how_to(&invitation(&["192.168.1.7:4000", "10.0.0.7:4000"]), Paint::plain());
        let expected = "\
An invitation into the farm \"term forward\", for one machine and five minutes. Type there:

  farmhand join 482-zoo-abandon

or, if it finds nothing:

  farmhand join 482-zoo-abandon --from 192.168.1.7:4000
  (this machine is also 10.0.0.7:4000)

";
        assert_eq!(text, expected);
        assert!(!how_to(&invitation(&[]), Paint::plain()).contains("--from"));
    }

    #[test]
    fn only_a_machine_that_joined_is_a_success() {
        let end = |reason: Reason| InvitationEnd {
            reason: reason.into(),
            newcomer: Some(newcomer("attic\u{1b}[2J")),
        };
        assert_eq!(outcome(&end(Reason::Joined)), Ok(()));
        let told = told_end(&end(Reason::Joined));
        assert_eq!(told, "attic\u{fffd}[2J has joined the farm. Its check words are a b c.\n");
        for reason in [Reason::Unsure, Reason::Refused, Reason::Expired, Reason::Tries, Reason::Stopped] {
            assert!(outcome(&end(reason)).is_err());
            assert_eq!(told_end(&end(reason)), "");
        }
    }

    #[test]
    fn json_for_programs() {
        let events = [
            invite_response::News::Invitation(invitation(&["h:1"])),
            invite_response::News::End(InvitationEnd {
                reason: Reason::Joined.into(),
                newcomer: Some(newcomer("attic")),
            }),
        ];
        let [first, last] = events.map(|event| serde_json::to_value(to_json(&event)).unwrap());
        assert_eq!((&first["event"], &first["code"]), (&"invitation".into(), &"482-zoo-abandon".into()));
        assert_eq!((&last["event"], &last["reason"]), (&"end".into(), &"joined".into()));
        assert_eq!(last["newcomer"]["check_words"], "a b c");
    }
}
