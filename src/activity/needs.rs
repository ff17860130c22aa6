//! [`Vocabulary`]: platform properties as text, each list of them kept once.
//!
//! Nearly all actions of a build ask for the same, so a few lists serve thousands of operations.

use std::collections::HashSet;

use super::entry::Needs;
use crate::platform::Requirements;

/// Lists that were seen.
#[derive(Debug)]
pub(super) struct Vocabulary {
    lists: HashSet<Needs>,
    kept: usize,
}

// === impl Vocabulary ===

impl Vocabulary {
    /// Nothing yet; `kept` lists are shared, further ones are not.
    pub(super) fn new(kept: usize) -> Self {
        Self { lists: HashSet::from([Needs::default()]), kept }
    }

    /// What `requirements` ask for, as `name=value` in the order of names.
    pub(super) fn needs(&mut self, requirements: &Requirements) -> Needs {
        let properties = requirements.properties.iter();
        let each = properties.flat_map(|(name, values)| values.iter().map(move |v| format!("{name}={v}")));
        let list: Vec<String> = each.collect();
        if let Some(known) = self.lists.get(list.as_slice()) {
            return Needs::clone(known);
        }
        let needs = Needs::from(list);
        if self.lists.len() < self.kept {
            self.lists.insert(Needs::clone(&needs));
        }
        needs
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn equal_lists_are_one_and_their_number_is_bounded() {
        let mut vocabulary = Vocabulary::new(2);
        let of = |names: &[&str]| Requirements {
            properties: names.iter().map(|name| ((*name).to_owned(), vec!["1".into(), "2".into()])).collect(),
            ..Requirements::default()
        };
        let first = vocabulary.needs(&of(&["b", "a"]));
        assert_eq!(*first, ["a=1", "a=2", "b=1", "b=2"]);
        assert!(Arc::ptr_eq(&first, &vocabulary.needs(&of(&["a", "b"]))));
        let beyond = vocabulary.needs(&of(&["c"]));
        assert!(!Arc::ptr_eq(&beyond, &vocabulary.needs(&of(&["c"]))));
        assert!(vocabulary.needs(&of(&[])).is_empty());
    }
}
