//! The sentences. They are stored with the operation, so times in them count from the miss.

use std::time::Duration;

use farmhand_proto::control::{Difference, difference::Kind};

use super::{Earlier, Ended, Subject};
use crate::action_cache::fate::Fate;

/// Characters of a name, and of a value.
const MAX_NAME: usize = 160;
const MAX_VALUE: usize = 96;

/// Characters kept in front of what differs.
const CONTEXT: usize = 16;

/// Digits of a hash that people compare.
const HASH: usize = 8;

pub(super) fn do_not_cache() -> String {
    "the action says that its result must not be kept (do_not_cache)".to_owned()
}

pub(super) fn skipped() -> String {
    "the client asked for a new run (skip_cache_lookup), although there was a result".to_owned()
}

pub(super) fn hit() -> String {
    "it was no miss: the action cache answered".to_owned()
}

pub(super) fn first(name: &str) -> String {
    match name {
        "" => "nothing like it was built here before, as far as the history goes back".to_owned(),
        name => format!("{name} was not built here before, as far as the history goes back"),
    }
}

pub(super) fn other_instance(instance: &str) -> String {
    match instance {
        "" => "the same action ran before, in the instance without a name".to_owned(),
        name => format!("the same action ran before, in the instance {name}"),
    }
}

/// Of an action that ran before and left no result.
pub(super) fn left_nothing(ended: &Ended) -> String {
    match ended {
        Ended::Failed(code) => format!("the last run failed with exit code {code}, so nothing was kept"),
        Ended::Error(_, message) if message.is_empty() => {
            "the last run did not come to its end, so nothing was kept".to_owned()
        }
        Ended::Error(_, message) => {
            let line = message.lines().next().unwrap_or_default();
            format!("the last run did not come to its end ({}), so nothing was kept", shortened(line))
        }
        Ended::Kept | Ended::NotKept => "the result of the last run was not kept".to_owned(),
    }
}

/// Of a result that was there.
pub(super) fn gone(subject: &Subject, earlier: &Earlier, fate: Option<Fate>) -> String {
    let lacking = fate.and_then(|fate| fate.lacking);
    let what = match lacking {
        None => "its result".to_owned(),
        Some(digest) => {
            let output = earlier.outputs.iter().find(|(_, output)| *output == digest);
            output.map_or_else(
                || format!("a blob of its result ({})", digest_text(&digest.to_string())),
                |(path, _)| format!("its output {}", shortened(path)),
            )
        }
    };
    let how = if fate.is_some_and(|fate| fate.damaged) {
        "was damaged on the disk and dropped"
    } else {
        "was evicted"
    };
    match fate.and_then(|fate| fate.at) {
        Some(at) => {
            let before = subject.at.duration_since(at).unwrap_or_default();
            format!("{what} {how} {} before", span(before))
        }
        None => {
            let since = subject.at.duration_since(earlier.finished).unwrap_or_default();
            format!("{what} {how} in the {} since it was last seen", span(since))
        }
    }
}

/// Of a nearest action that cannot be compared any more.
pub(super) fn forgotten(subject: &Subject, earlier: &Earlier) -> String {
    let what = match (subject.parts, earlier.parts) {
        (Some(new), Some(old)) if new.command == old.command => "its inputs changed",
        (Some(new), Some(old)) if new.input_root == old.input_root => "its command changed",
        (Some(_), Some(_)) => "its command and its inputs changed",
        _ => "it changed",
    };
    let since = subject.at.duration_since(earlier.finished).unwrap_or_default();
    format!("{what} since the run {} before, of which not enough is stored to tell more", span(since))
}

/// Of an action that differs from the nearest one.
pub(super) fn changed(differences: &[Difference], total: u32, is_whole: bool) -> String {
    let Some(first) = differences.first() else { return "something changed".to_owned() };
    let more = total.saturating_sub(1);
    let is_same_kind = differences.iter().all(|other| other.kind == first.kind) && is_whole;
    let what = match first.kind() {
        Kind::Input if is_same_kind => "input",
        Kind::Argument if is_same_kind => "argument",
        Kind::Variable if is_same_kind => "variable",
        _ => "difference",
    };
    let least = if is_whole { "" } else { "at least " };
    match (more, is_whole) {
        (0, true) => sentence(first),
        (0, false) => format!("{}, and perhaps more that cannot be read any more", sentence(first)),
        (1, _) => format!("{}, and {least}1 more {what}", sentence(first)),
        _ => format!("{}, and {least}{more} more {what}s", sentence(first)),
    }
}

/// One difference in words.
fn sentence(difference: &Difference) -> String {
    let Difference { name, old, new, .. } = difference;
    let change = |what: &str| match (old.is_empty(), new.is_empty()) {
        (true, false) => format!("{what} is new: {new}"),
        (false, true) => format!("{what} is gone; it was {old}"),
        _ => format!("{what} changed: {old} became {new}"),
    };
    match difference.kind() {
        Kind::Input => match (old.is_empty(), new.is_empty()) {
            (true, false) => format!("{name} was added"),
            (false, true) => format!("{name} was removed"),
            _ => format!("{name} changed ({} → {})", digest_text(old), digest_text(new)),
        },
        Kind::Argument => match (old.is_empty(), new.is_empty()) {
            (true, false) => format!("the argument {new} was added"),
            (false, true) => format!("the argument {old} was removed"),
            _ => format!("the argument {old} became {new}"),
        },
        Kind::Variable => change(&format!("the variable {name}")),
        Kind::Platform => change(&format!("the platform property {name}")),
        Kind::Output if old.is_empty() => format!("{name} was asked for as an output"),
        Kind::Output if new.is_empty() => format!("{name} is no output any more"),
        Kind::Output => change(&format!("the output {name}")),
        Kind::WorkingDirectory => change("the working directory"),
        Kind::Timeout => change("the time limit"),
        Kind::Salt => change("the salt"),
        Kind::DoNotCache => change("do_not_cache"),
        Kind::Other if name == "encoding" => "the client encoded the same action in another way".to_owned(),
        Kind::Other if name == "order of inputs" => {
            "the client listed the same inputs in another order".to_owned()
        }
        Kind::Other | Kind::Unspecified => change(&format!("the {name}")),
    }
}

/// A digest as people compare them; any other text as it is.
fn digest_text(text: &str) -> String {
    let hash = text.strip_prefix("blake3/").unwrap_or(text).split('/').next().unwrap_or_default();
    if hash.len() == 2 * crate::digest::HASH_LEN && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return format!("{}…", &hash[..HASH]);
    }
    text.to_owned()
}

/// `14 min`, `2 h`, `3 days`.
pub fn span(length: Duration) -> String {
    let seconds = length.as_secs();
    let (number, unit) = match seconds {
        0 => return "less than a second".to_owned(),
        1..120 => (seconds, "s"),
        120..7200 => (seconds / 60, "min"),
        7200..172_800 => (seconds / 3600, "h"),
        _ => (seconds / 86_400, "days"),
    };
    format!("{number} {unit}")
}

/// The end of a long name tells more than its middle: that is what goes.
pub(super) fn shortened(name: &str) -> String {
    let length = name.chars().count();
    if length <= MAX_NAME {
        return name.to_owned();
    }
    let head: String = name.chars().take(MAX_NAME / 4).collect();
    let tail: String = name.chars().skip(length - (MAX_NAME - MAX_NAME / 4 - 1)).collect();
    format!("{head}…{tail}")
}

/// Two values, cut so that the first place where they differ is seen.
pub(super) fn shortened_pair(old: &str, new: &str) -> (String, String) {
    let is_short = |text: &str| text.chars().count() <= MAX_VALUE;
    if is_short(old) && is_short(new) {
        return (old.to_owned(), new.to_owned());
    }
    let common = old.chars().zip(new.chars()).take_while(|(old, new)| old == new).count();
    let from = common.saturating_sub(CONTEXT);
    let cut = |text: &str| {
        let front = if from > 0 && !text.is_empty() { "…" } else { "" };
        let kept: String = text.chars().skip(from).take(MAX_VALUE).collect();
        let back = if text.chars().count() > from + MAX_VALUE { "…" } else { "" };
        format!("{front}{kept}{back}")
    };
    (cut(old), cut(new))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(kind: Kind, name: &str, old: &str, new: &str) -> Difference {
        Difference { kind: kind.into(), name: name.into(), old: old.into(), new: new.into() }
    }

    #[test]
    fn sentences_a_person_understands() {
        let digest = |letter: &str| format!("{}/3", letter.repeat(64));
        let input = difference(Kind::Input, "src/foo.h", &digest("a"), &digest("b"));
        let one = [input.clone()];
        assert_eq!(changed(&one, 1, true), "src/foo.h changed (aaaaaaaa… → bbbbbbbb…)");
        assert_eq!(changed(&one, 3, true), "src/foo.h changed (aaaaaaaa… → bbbbbbbb…), and 2 more inputs");
        assert_eq!(
            changed(&one, 3, false),
            "src/foo.h changed (aaaaaaaa… → bbbbbbbb…), and at least 2 more differences"
        );
        let flag = difference(Kind::Argument, "3", "-O2", "-O3");
        assert_eq!(changed(std::slice::from_ref(&flag), 1, true), "the argument -O2 became -O3");
        assert_eq!(changed(&[flag, input], 2, true), "the argument -O2 became -O3, and 1 more difference");
        let added = difference(Kind::Variable, "PATH", "", "/bin");
        assert_eq!(changed(&[added], 1, true), "the variable PATH is new: /bin");
        assert_eq!(
            left_nothing(&Ended::Failed(1)),
            "the last run failed with exit code 1, so nothing was kept"
        );
    }

    #[test]
    fn long_texts_are_cut_where_they_tell_least() {
        let script = |end: &str| format!("{}{end}{}", "x".repeat(500), "y".repeat(500));
        let (old, new) = shortened_pair(&script("-O2"), &script("-O3"));
        assert!(old.starts_with("…x") && old.contains("x-O2y") && old.ends_with("y…"), "{old}");
        assert!(new.contains("x-O3y") && new.chars().count() <= MAX_VALUE + 2, "{new}");
        assert_eq!(shortened_pair("a", "b"), ("a".into(), "b".into()));
        assert_eq!(shortened_pair("", &"z".repeat(200)).0, "");
        let path = format!("{}/end.o", "deep/".repeat(100));
        assert!(shortened(&path).ends_with("/end.o") && shortened(&path).chars().count() == MAX_NAME);
    }

    #[test]
    fn spans_of_time() {
        let spans = [0, 5, 840, 7200, 400_000].map(|seconds| span(Duration::from_secs(seconds)));
        assert_eq!(spans, ["less than a second", "5 s", "14 min", "2 h", "4 days"]);
    }
}
