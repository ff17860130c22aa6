//! Ways into the farm, as far as this dashboard takes part: the invitation that was opened from here, the
//! farm this machine joins, and which newcomers were shown. What stands open is told by the node, see
//! [`Farm::entrance`](super::farm::Farm).

use std::time::Duration;

use farmhand_proto::control::invitation_end::Reason;
use farmhand_proto::control::{
    Invitation, InvitationEnd, InviteResponse, JoinResponse, invite_response, join_response,
};

use super::Stamp;
use crate::message::Failure;
use crate::sanitize;

/// Addresses of an invitation that are kept.
const ADDRESSES: usize = 4;

/// State of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entrance {
    /// The invitation that was opened from here, until its end was seen.
    pub(crate) inviting: Option<Inviting>,
    /// The farm that is joined from here, until its end was seen.
    pub(crate) joining: Option<Joining>,
    /// What was typed after the command to join, while it is asked whether that can be.
    pub(crate) typed: Option<String>,
    /// The start of the node, and its latest newcomer that popped up.
    shown: (u64, u64),
}

/// An invitation that was opened from here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Inviting {
    /// The code; empty while the node has not told it.
    pub(crate) code: String,
    /// Where it can be used, the likeliest first.
    pub(crate) addresses: Vec<String>,
    /// Name of the farm.
    pub(crate) farm: String,
    /// When it is over.
    pub(crate) expires: Option<Stamp>,
    /// Where the last wrong code came from, and the tries that are left.
    pub(crate) wrong: Option<(String, u32)>,
    /// How it ended.
    pub(crate) end: Option<Ending>,
}

/// A farm that is joined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Joining {
    /// The address that is tried.
    pub(crate) trying: String,
    /// The words both screens show; empty before the other side has shown that it knows the code.
    pub(crate) check_words: String,
    /// A person over there is asked.
    pub(crate) is_pending: bool,
    /// Whether an address was typed.
    pub(crate) has_address: bool,
    /// How it ended.
    pub(crate) end: Option<Ending>,
}

/// How something ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    /// In a sentence.
    pub(crate) text: String,
    /// What to do about it; may be empty.
    pub(crate) remedy: &'static str,
    /// Whether it came to what it was for.
    pub(crate) is_good: bool,
}

// === impl Entrance ===

impl Entrance {
    /// Whether this newcomer of that start of the node is shown for the first time.
    pub(crate) fn is_new(&mut self, boot_epoch: u64, number: u64) -> bool {
        let is_new = (boot_epoch, number) > self.shown;
        if is_new {
            self.shown = (boot_epoch, number);
        }
        is_new
    }
}

// === impl Inviting ===

impl Inviting {
    /// Takes what the node tells of it.
    pub(crate) fn take(&mut self, response: InviteResponse) {
        match response.news {
            Some(invite_response::News::Invitation(invitation)) => self.opened(invitation),
            Some(invite_response::News::WrongCode(wrong)) => {
                self.wrong = Some((clean(&wrong.from), wrong.left));
            }
            Some(invite_response::News::End(end)) => self.end = Some(ended(&end)),
            // Newcomers that wait are told to all dashboards by the stream of changes.
            Some(invite_response::News::Pending(_) | invite_response::News::Gone(_)) | None => {}
        }
    }

    /// The node refused, or the call broke.
    pub(crate) fn failed(&mut self, failure: &Failure) {
        let remedy = match failure.code {
            _ if failure.lost => "the invitation ended with it: invite again when the node is back",
            9 => "end the other one first: it is that of `farmhand invite` or of another dashboard",
            14 => "`peer-listen` says where others may call; see `farmhand settings`",
            _ => "",
        };
        self.end = Some(Ending { text: failure.text.clone(), remedy, is_good: false });
    }

    /// The node tells no more of it.
    pub(crate) fn over(&mut self) {
        self.end.get_or_insert_with(Ending::without_a_word);
    }

    /// The command to type on the other machine.
    pub(crate) fn command(&self) -> String {
        format!("farmhand join {}", self.code)
    }

    /// The same for networks on which machines do not find each other.
    pub(crate) fn command_with_address(&self) -> Option<String> {
        let address = self.addresses.first()?;
        Some(format!("farmhand join {} --from {address}", self.code))
    }

    fn opened(&mut self, invitation: Invitation) {
        self.code = clean(&invitation.code);
        self.farm = clean(&invitation.farm);
        self.addresses = invitation.addresses.iter().take(ADDRESSES).map(|address| clean(address)).collect();
        self.expires = Stamp::of(invitation.expires.as_ref());
    }
}

// === impl Joining ===

impl Joining {
    /// Takes what the node tells of it.
    pub(crate) fn take(&mut self, response: JoinResponse) {
        match response.news {
            Some(join_response::News::Trying(trying)) => {
                self.trying = clean(&trying.address);
                self.check_words.clear();
            }
            Some(join_response::News::CheckWords(words)) => self.check_words = clean(&words),
            Some(join_response::News::Pending(_)) => self.is_pending = true,
            Some(join_response::News::Joined(joined)) => {
                let text = format!("This machine is in the farm \"{}\" now.", clean(&joined.farm));
                self.end = Some(Ending { text, remedy: "", is_good: true });
            }
            None => {}
        }
    }

    /// It came to nothing.
    pub(crate) fn failed(&mut self, failure: &Failure) {
        let remedy = match failure.code {
            _ if failure.lost => "once the node is back, `farmhand status` names the farm of this machine",
            5 if !self.has_address => "type the address that the other screen shows after the code",
            5 | 7 => "look at the code again, or let the other machine give out another",
            14 => "is the invitation still open there, and does a firewall let its port through?",
            3 => "a code is three digits and two words; an address is HOST:PORT",
            _ => "",
        };
        self.end = Some(Ending { text: failure.text.clone(), remedy, is_good: false });
    }

    /// The node tells no more of it.
    pub(crate) fn over(&mut self) {
        self.end.get_or_insert_with(Ending::without_a_word);
    }
}

// === impl Ending ===

impl Ending {
    /// The node ended it and did not say how.
    fn without_a_word() -> Self {
        let text = "The node ended it without a word.".to_owned();
        Self { text, remedy: "8 Logs may say why", is_good: false }
    }
}

/// The time that is left until `expires`.
pub(crate) fn left(expires: Option<Stamp>, now: Option<Stamp>) -> Option<Duration> {
    Some(expires?.since(now?))
}

/// A time that is left, as on a clock: `4:07`.
pub(crate) fn clock(left: Duration) -> String {
    format!("{}:{:02}", left.as_secs() / 60, left.as_secs() % 60)
}

/// A code and an address, as they were typed: whatever has a colon is the address.
pub(crate) fn code_and_address(typed: &str) -> (String, String) {
    let (addresses, words): (Vec<&str>, Vec<&str>) = typed
        .split_whitespace()
        .filter(|word| !matches!(*word, "farmhand" | "join" | "--from"))
        .partition(|word| word.contains(':'));
    (words.join(" "), addresses.last().map(ToString::to_string).unwrap_or_default())
}

fn ended(end: &InvitationEnd) -> Ending {
    let name = end.newcomer.as_ref().map(|newcomer| clean(&newcomer.name)).unwrap_or_default();
    let words = end.newcomer.as_ref().map(|newcomer| clean(&newcomer.check_words)).unwrap_or_default();
    let (text, remedy) = match end.reason() {
        Reason::Joined => (format!("{name} has joined the farm. Its check words are {words}."), ""),
        Reason::Unsure => (
            format!("{name} was sent the key, and did not say that it has it."),
            "if it does not appear here, invite it again",
        ),
        Reason::Refused => (format!("{name} was turned away."), ""),
        Reason::Expired => ("Nobody came in five minutes.".to_owned(), "invite again for another code"),
        Reason::Tries => (
            "The code was tried wrongly five times, and is worth nothing now.".to_owned(),
            "if that was not you, look who is on your network; then invite again",
        ),
        Reason::Stopped | Reason::Unspecified => {
            ("The node ended the invitation.".to_owned(), "8 Logs says why")
        }
    };
    Ending { text, remedy, is_good: end.reason() == Reason::Joined }
}

fn clean(text: &str) -> String {
    sanitize::line(text).into_owned()
}

#[cfg(test)]
mod tests {
    use farmhand_proto::control::Newcomer;

    use super::*;

    #[test]
    fn what_is_typed_may_be_the_whole_command() {
        let read = |typed: &str| code_and_address(typed);
        assert_eq!(read(" 482 zoo abandon "), ("482 zoo abandon".into(), String::new()));
        let whole = "farmhand join 482-zoo-abandon --from 192.168.1.7:4000";
        assert_eq!(read(whole), ("482-zoo-abandon".into(), "192.168.1.7:4000".into()));
        assert_eq!(read("[fe80::1]:4000"), (String::new(), "[fe80::1]:4000".into()));
    }

    #[test]
    fn a_newcomer_pops_up_once_and_again_after_a_restart() {
        let mut entrance = Entrance::default();
        let seen: Vec<bool> = [(1, 1), (1, 1), (1, 3), (1, 2), (2, 1)]
            .map(|(boot, number)| entrance.is_new(boot, number))
            .into();
        assert_eq!(seen, [true, false, true, false, true]);
    }

    #[test]
    fn every_end_has_words_and_only_one_is_good() {
        let newcomer = Some(Newcomer { name: "attic\u{1b}".into(), ..Default::default() });
        let ends = (0..7).map(|reason| ended(&InvitationEnd { reason, newcomer: newcomer.clone() }));
        let ends: Vec<_> = ends.collect();
        assert!(ends.iter().all(|end| !end.text.is_empty() && !end.text.contains('\u{1b}')), "{ends:?}");
        assert_eq!(ends.iter().filter(|end| end.is_good).count(), 1);
    }

    #[test]
    fn what_failed_tells_what_to_do() {
        let failure = |code| Failure { code, text: "no".into(), lost: false };
        let mut joining = Joining::default();
        joining.failed(&failure(5));
        assert!(joining.end.as_ref().unwrap().remedy.contains("address"));
        joining.has_address = true;
        joining.failed(&failure(5));
        assert!(joining.end.as_ref().unwrap().remedy.contains("code"));
        let mut inviting = Inviting::default();
        inviting.failed(&failure(9));
        assert!(!inviting.end.unwrap().remedy.is_empty());
    }
}
