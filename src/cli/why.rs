//! `farmhand action DIGEST why`: what changed since the nearest earlier run, for people and scripts.

use std::fmt::Write as _;

use farmhand_proto::control::{Difference, Miss, difference, miss};
use farmhand_proto::time::system_time;
use serde::Serialize;

use super::error::CliError;
use super::output::{Paint, count, print, print_json, visible};

/// What `why --json` prints.
#[derive(Debug, Serialize)]
struct MissJson<'a> {
    action: &'a str,
    miss: &'static str,
    summary: &'a str,
    earlier: Option<&'a str>,
    earlier_finished: Option<String>,
    differences: Vec<DifferenceJson<'a>>,
    total_differences: u32,
}

#[derive(Debug, Serialize)]
struct DifferenceJson<'a> {
    kind: &'static str,
    name: &'a str,
    old: &'a str,
    new: &'a str,
}

/// Prints why the action that was named `digest` missed.
pub(super) fn run(digest: &str, miss: &Miss, json: bool) -> Result<(), CliError> {
    if json {
        return print_json(&miss_json(digest, miss));
    }
    print(&text(digest, miss, Paint::stdout()))
}

/// A miss in one word; `None` when nothing is known of one.
pub(super) fn miss_word(kind: miss::Kind) -> Option<&'static str> {
    Some(match kind {
        miss::Kind::Unspecified => return None,
        miss::Kind::Hit => "hit",
        miss::Kind::First => "first",
        miss::Kind::Changed => "changed",
        miss::Kind::Evicted => "evicted",
        miss::Kind::FailedBefore => "failed before",
        miss::Kind::DoNotCache => "not cached",
        miss::Kind::Skipped => "skipped",
        miss::Kind::OtherInstance => "other instance",
        miss::Kind::Damaged => "damaged",
        miss::Kind::Forgotten => "forgotten",
    })
}

fn kind_word(kind: difference::Kind) -> &'static str {
    match kind {
        difference::Kind::Unspecified | difference::Kind::Other => "other",
        difference::Kind::Input => "input",
        difference::Kind::Argument => "argument",
        difference::Kind::Variable => "variable",
        difference::Kind::Platform => "platform",
        difference::Kind::Output => "output",
        difference::Kind::WorkingDirectory => "directory",
        difference::Kind::Timeout => "time limit",
        difference::Kind::Salt => "salt",
        difference::Kind::DoNotCache => "do_not_cache",
    }
}

fn finished(miss: &Miss) -> Option<String> {
    let time = miss.earlier_finished.as_ref().and_then(system_time)?;
    Some(humantime::format_rfc3339_seconds(time).to_string())
}

fn miss_json<'a>(digest: &'a str, miss: &'a Miss) -> MissJson<'a> {
    let difference = |difference: &'a Difference| DifferenceJson {
        kind: kind_word(difference.kind()),
        name: &difference.name,
        old: &difference.old,
        new: &difference.new,
    };
    MissJson {
        action: digest,
        miss: miss_word(miss.kind()).unwrap_or("unknown"),
        summary: &miss.summary,
        earlier: Some(miss.earlier_digest.as_str()).filter(|digest| !digest.is_empty()),
        earlier_finished: finished(miss),
        differences: miss.differences.iter().map(difference).collect(),
        total_differences: miss.total_differences,
    }
}

fn text(digest: &str, miss: &Miss, paint: Paint) -> String {
    let mut text = format!("{} {}\n", paint.bold("Action"), visible(digest));
    let mut line = |label: &str, value: &str| {
        let _ = writeln!(text, "  {} {value}", paint.dim(&format!("{label:<12}")));
    };
    line("why", &paint.bold(&visible(&miss.summary)));
    line("in a word", miss_word(miss.kind()).unwrap_or("unknown"));
    if !miss.earlier_digest.is_empty() {
        let ended = finished(miss).map(|time| format!("  (ended {time})")).unwrap_or_default();
        line("compared", &format!("{}{ended}", visible(&miss.earlier_digest)));
    }
    for difference in &miss.differences {
        line(kind_word(difference.kind()), &difference_text(difference, paint));
    }
    let more = miss.total_differences.saturating_sub(miss.differences.len() as u32);
    if more > 0 {
        line("", &format!("and {} more", count(more.into())));
    }
    text
}

fn difference_text(difference: &Difference, paint: Paint) -> String {
    let is_place = difference.kind() == difference::Kind::Argument;
    let name = match (is_place, difference.name.as_str()) {
        (_, "") => String::new(),
        (true, place) => format!("[{}] ", visible(place)),
        (false, name) => format!("{}  ", visible(name)),
    };
    let (old, new) = (visible(&difference.old), visible(&difference.new));
    let change = match (old.is_empty(), new.is_empty()) {
        (true, true) => return name.trim_end().to_owned(),
        (true, false) => paint.green(&format!("+ {new}")),
        (false, true) => paint.red(&format!("- {old}")),
        (false, false) => format!("{} \u{2192} {}", paint.red(&old), paint.green(&new)),
    };
    format!("{name}{change}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(kind: difference::Kind, name: &str, old: &str, new: &str) -> Difference {
        Difference { kind: kind.into(), name: name.into(), old: old.into(), new: new.into() }
    }

    #[test]
    fn a_miss_as_people_read_it() {
        let miss = Miss {
            kind: miss::Kind::Changed.into(),
            summary: "the argument -O2 became -O3, and 4 more differences".into(),
            earlier_digest: "abc/1".into(),
            earlier_finished: Some(farmhand_proto::protobuf::Timestamp { seconds: 0, nanos: 0 }),
            differences: vec![
                difference(difference::Kind::Argument, "1", "-O2", "-O3"),
                difference(difference::Kind::Input, "src/new\u{1b}.h", "", "def/2"),
                difference(difference::Kind::Input, "src/old.h", "def/2", ""),
                difference(difference::Kind::Other, "encoding", "", ""),
            ],
            total_differences: 5,
        };
        let expected = "Action 9f86/1
  why          the argument -O2 became -O3, and 4 more differences
  in a word    changed
  compared     abc/1  (ended 1970-01-01T00:00:00Z)
  argument     [1] -O2 \u{2192} -O3
  input        src/new\u{fffd}.h  + def/2
  input        src/old.h  - def/2
  other        encoding
               and 1 more
";
        assert_eq!(text("9f86/1", &miss, Paint::plain()), expected);
        let json = serde_json::to_value(miss_json("9f86/1", &miss)).unwrap();
        assert_eq!(json["miss"], "changed");
        assert_eq!(json["differences"][0]["old"], "-O2");
    }
}
