//! Completion of `:` commands and of what they take.

use crate::keymap::{self, Place, Takes};
use crate::model::Model;
use crate::theme::BUILT_IN;

/// Arguments proposed at most.
const MOST: usize = 50;

/// A way the line could go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// The whole line then.
    pub(crate) text: String,
    /// What it does.
    pub(crate) help: String,
}

/// The ways `line` could go on, in the order of the table.
pub(crate) fn candidates(model: &Model, line: &str) -> Vec<Candidate> {
    let places = [Place::In(model.view()), Place::List, Place::Anywhere];
    let line = line.trim_start();
    let Some((name, argument)) = line.split_once(' ') else {
        let fits = keymap::commands(&places).filter(|binding| binding.name.starts_with(line));
        let allowed = fits.filter(|binding| !(binding.changes && model.rights.read_only));
        return allowed
            .map(|binding| Candidate { text: binding.name.to_owned(), help: binding.help.to_owned() })
            .collect();
    };
    let Some(binding) = keymap::command(&places, name) else { return Vec::new() };
    let argument = argument.trim_start().to_lowercase();
    let fits = arguments(model, binding.takes)
        .into_iter()
        .filter(|(value, _)| value.to_lowercase().starts_with(&argument));
    fits.take(MOST).map(|(value, help)| Candidate { text: format!("{name} {value}"), help }).collect()
}

/// `line` as far as there is one way only to go on; the first way when there are several at once.
pub(super) fn complete(model: &Model, line: &str) -> String {
    let candidates = candidates(model, line);
    let Some(first) = candidates.first() else { return line.to_owned() };
    let common = candidates.iter().fold(first.text.as_str(), |common, next| shared(common, &next.text));
    if candidates.len() == 1 || common.len() <= line.trim_start().len() {
        let takes = keymap::BINDINGS.iter().any(|row| row.name == first.text && row.takes != Takes::Nothing);
        return format!("{}{}", first.text, if takes { " " } else { "" });
    }
    common.to_owned()
}

/// What a command may take, with what is known of it.
fn arguments(model: &Model, takes: Takes) -> Vec<(String, String)> {
    let farm = model.farm();
    match takes {
        Takes::Nothing | Takes::Text | Takes::Number => Vec::new(),
        Takes::Theme => BUILT_IN.iter().map(|(name, _)| ((*name).to_owned(), String::new())).collect(),
        Takes::Column => {
            let titles = super::columns(super::acts::list_of(model)).iter();
            titles.map(|title| (title.to_lowercase(), String::new())).collect()
        }
        Takes::Machine => {
            farm.machines.iter().map(|machine| (machine.name.clone(), machine.os.clone())).collect()
        }
        Takes::Build => {
            let mut builds: Vec<_> = farm.builds.all().collect();
            builds.sort_unstable_by_key(|build| std::cmp::Reverse(build.number));
            builds.into_iter().map(|build| (build.invocation.to_string(), build.label())).collect()
        }
    }
}

/// What both begin with.
fn shared<'a>(a: &'a str, b: &str) -> &'a str {
    let end = a.char_indices().zip(b.chars()).find(|((_, a), b)| a != b).map(|((at, _), _)| at);
    &a[..end.unwrap_or_else(|| a.len().min(b.len()))]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::View;
    use crate::testing;

    #[test]
    fn commands_and_arguments_are_completed() {
        let model = testing::model(View::Actions);
        assert_eq!(complete(&model, "over"), "overview");
        assert_eq!(complete(&model, "run-on k"), "run-on kitchen");
        assert_eq!(complete(&model, "sort mn"), "sort mnemonic");
        assert_eq!(complete(&model, "the"), "theme ");
        assert_eq!(complete(&model, "re"), "retry");
        assert_eq!(complete(&model, "xyz"), "xyz");
        assert!(complete(&model, "build 5f").starts_with("build 5f1c2d3e"));
    }

    #[test]
    fn what_is_not_allowed_is_not_proposed() {
        let mut model = testing::model(View::Machines);
        let proposes = |model: &Model| candidates(model, "").iter().any(|way| way.text == "drain");
        assert!(proposes(&model));
        model.rights.read_only = true;
        assert!(!proposes(&model));
    }

    #[test]
    fn what_is_shared_ends_between_letters() {
        assert_eq!(shared("größe", "grüße"), "gr");
        assert_eq!(shared("ab", "abc"), "ab");
        assert_eq!(shared("abc", "ab"), "ab");
    }
}
