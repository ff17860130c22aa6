//! What a person types after `/`: letters in order, `/regex/`, and `!` before either for all others.

use regex::{Regex, RegexBuilder};

/// Bytes a compiled regular expression may take.
const REGEX_BYTES: usize = 1 << 20;

/// A filter over lines of text.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    text: String,
    inverse: bool,
    pattern: Pattern,
}

#[derive(Clone, Debug)]
enum Pattern {
    /// These letters in this order, in lower case; words may stand in any order.
    Fuzzy(Vec<Vec<char>>),
    Regex(Regex),
}

// === impl Filter ===

impl Filter {
    /// The filter of `text`; `None` when that is empty.
    ///
    /// # Errors
    /// In words, when a regular expression is none.
    pub(crate) fn parse(text: &str) -> Result<Option<Self>, String> {
        let (inverse, rest) = match text.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let pattern = match rest.strip_prefix('/') {
            Some(expression) => {
                let expression = expression.strip_suffix('/').unwrap_or(expression);
                if expression.is_empty() {
                    return Ok(None);
                }
                let regex =
                    RegexBuilder::new(expression).case_insensitive(true).size_limit(REGEX_BYTES).build();
                Pattern::Regex(regex.map_err(|_| format!("{expression:?} is no regular expression"))?)
            }
            None if rest.trim().is_empty() => return Ok(None),
            None => Pattern::Fuzzy(
                rest.split_whitespace().map(|word| word.to_lowercase().chars().collect()).collect(),
            ),
        };
        Ok(Some(Self { text: text.to_owned(), inverse, pattern }))
    }

    /// As it was typed.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Whether a thing that is described by these texts is wanted.
    pub(crate) fn wants(&self, texts: &[&str]) -> bool {
        let found = match &self.pattern {
            Pattern::Fuzzy(words) => {
                words.iter().all(|word| texts.iter().any(|text| has_letters(text, word)))
            }
            Pattern::Regex(regex) => texts.iter().any(|text| regex.is_match(text)),
        };
        found != self.inverse
    }

    /// Where the first match lies in `text`, as bytes; of letters in order, the stretch they span. A
    /// filter for all others finds nothing.
    pub(crate) fn find(&self, text: &str) -> Option<std::ops::Range<usize>> {
        if self.inverse {
            return None;
        }
        match &self.pattern {
            Pattern::Regex(regex) => regex.find(text).map(|found| found.range()),
            Pattern::Fuzzy(words) => words.iter().find_map(|word| span(text, word)),
        }
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

fn has_letters(text: &str, letters: &[char]) -> bool {
    let mut wanted = letters.iter();
    let mut next = wanted.next();
    for c in text.chars() {
        match next {
            None => return true,
            Some(letter) if matches(c, *letter) => next = wanted.next(),
            Some(_) => {}
        }
    }
    next.is_none()
}

/// The letters next to one another where they are, else the stretch from the first to the last.
fn span(text: &str, letters: &[char]) -> Option<std::ops::Range<usize>> {
    let first = *letters.first()?;
    let starts = text.char_indices().filter(|(_, c)| matches(*c, first)).map(|(at, _)| at);
    let whole = starts.clone().find_map(|at| {
        let mut rest = text[at..].char_indices();
        let all = letters.iter().all(|letter| rest.next().is_some_and(|(_, c)| matches(c, *letter)));
        all.then(|| at..rest.next().map_or(text.len(), |(end, _)| at + end))
    });
    whole.or_else(|| {
        let start = starts.clone().next()?;
        let mut wanted = letters.iter().peekable();
        for (at, c) in text[start..].char_indices() {
            if wanted.peek().is_some_and(|letter| matches(c, **letter)) {
                wanted.next();
            }
            if wanted.peek().is_none() {
                return Some(start..start + at + c.len_utf8());
            }
        }
        None
    })
}

fn matches(c: char, lower: char) -> bool {
    c == lower
        || (c.is_ascii_uppercase() && c.to_ascii_lowercase() == lower)
        || (!c.is_ascii() && c.to_lowercase().eq([lower]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wants(filter: &str, text: &str) -> bool {
        Filter::parse(filter).unwrap().unwrap().wants(&[text, "CppCompile"])
    }

    #[test]
    fn letters_in_order_regexes_and_inverses() {
        assert!(wants("lbnm", "//lib:name") && !wants("mnbl", "//lib:name"));
        assert!(wants("name lib", "//lib:name") && wants("LIB cpp", "//lib:name"));
        assert!(wants("/^//l.b/", "//lib:name") && !wants("/^lib/", "//lib:name"));
        assert!(!wants("!lib", "//lib:name") && wants("!/^lib/", "//lib:name"));
        assert!(wants("grö", "GRÖSSE"));
    }

    #[test]
    fn nothing_and_nonsense() {
        assert!(["", "  ", "!", "/", "//", "!/"].iter().all(|text| Filter::parse(text).unwrap().is_none()));
        assert!(Filter::parse("/(/").unwrap_err().contains('('));
    }

    #[test]
    fn matches_are_found() {
        let find = |filter: &str, text: &str| Filter::parse(filter).unwrap().unwrap().find(text);
        assert_eq!(find("lib", "//l/lib:x"), Some(4..7));
        assert_eq!(find("lx", "//l/lib:x"), Some(2..9));
        assert_eq!(find("/i./", "//l/lib:x"), Some(5..7));
        assert_eq!(find("z", "//l/lib:x"), None);
    }

    proptest! {
        #[test]
        fn what_is_found_is_wanted(filter in "[a-cö]{1,3}", text in "[A-Ca-cÖö木 ]{0,12}") {
            let filter = Filter::parse(&filter).unwrap().unwrap();
            let found = filter.find(&text);
            prop_assert_eq!(found.is_some(), filter.wants(&[&text]));
            if let Some(found) = found {
                prop_assert!(text.get(found).is_some());
            }
        }
    }
}
