//! Which elements of a list changed: a longest common subsequence, so that one flag more is one
//! difference and not fifty.

/// Cells of the table up to which lists are aligned; longer ones are compared place by place.
const MAX_CELLS: usize = 1 << 18;

/// One change between two lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Edit<'a> {
    /// Where it is in the new list, or where it was in the old one.
    pub(super) position: usize,
    /// What it was; `None` for an addition.
    pub(super) old: Option<&'a str>,
    /// What it is; `None` for a removal.
    pub(super) new: Option<&'a str>,
}

/// The changes that make `new` of `old`, in order. Neighbouring removals and additions are paired.
pub(super) fn edits<'a>(old: &'a [String], new: &'a [String]) -> Vec<Edit<'a>> {
    let head = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    let (old, new) = (&old[head..], &new[head..]);
    let tail = old.iter().rev().zip(new.iter().rev()).take_while(|(old, new)| old == new).count();
    let (old, new) = (&old[..old.len() - tail], &new[..new.len() - tail]);
    let mut edits = Vec::new();
    let mut from = (0, 0);
    for (in_old, in_new) in common(old, new).into_iter().chain([(old.len(), new.len())]) {
        hunk(&mut edits, (from.0 + head, from.1 + head), &old[from.0..in_old], &new[from.1..in_new]);
        from = (in_old + 1, in_new + 1);
    }
    edits
}

/// What lies between two common elements.
fn hunk<'a>(edits: &mut Vec<Edit<'a>>, at: (usize, usize), old: &'a [String], new: &'a [String]) {
    for n in 0..old.len().max(new.len()) {
        let position = if n < new.len() { at.1 + n } else { at.0 + n };
        let text = |list: &'a [String]| list.get(n).map(String::as_str);
        edits.push(Edit { position, old: text(old), new: text(new) });
    }
}

/// Positions in both lists of a longest common subsequence; none where that would be too long a search.
fn common(old: &[String], new: &[String]) -> Vec<(usize, usize)> {
    let width = new.len() + 1;
    if old.is_empty() || new.is_empty() || (old.len() + 1).saturating_mul(width) > MAX_CELLS {
        return Vec::new();
    }
    // At (i, j): the length of a longest common subsequence of what follows.
    let mut lengths = vec![0_u32; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            lengths[i * width + j] = if old[i] == new[j] {
                lengths[(i + 1) * width + j + 1] + 1
            } else {
                lengths[(i + 1) * width + j].max(lengths[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut pairs = Vec::new();
    while i < old.len() && j < new.len() {
        if old[i] == new[j] {
            pairs.push((i, j));
            (i, j) = (i + 1, j + 1);
        } else if lengths[(i + 1) * width + j] >= lengths[i * width + j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn told(old: &str, new: &str) -> Vec<String> {
        let (old, new) = (list(old), list(new));
        edits(&old, &new)
            .into_iter()
            .map(|edit| {
                format!("{}: {} > {}", edit.position, edit.old.unwrap_or("-"), edit.new.unwrap_or("-"))
            })
            .collect()
    }

    #[test]
    fn one_flag_is_one_difference() {
        assert_eq!(told("cc -O2 -c a.c", "cc -O3 -c a.c"), ["1: -O2 > -O3"]);
        assert_eq!(told("cc -c a.c -o a.o", "cc -g -c a.c -o a.o"), ["1: - > -g"]);
        assert_eq!(told("cc -g -c a.c", "cc -c a.c"), ["1: -g > -"]);
        assert_eq!(told("cc -a -b x -c", "cc -b y -c -d"), ["1: -a > -", "2: x > y", "4: - > -d"]);
        assert_eq!(told("same", "same"), [""; 0]);
    }

    #[test]
    fn endless_lists_are_compared_place_by_place() {
        let old: Vec<String> = (0..2000).map(|n| format!("a{n}")).collect();
        let new: Vec<String> = (0..2001).map(|n| format!("b{n}")).collect();
        assert_eq!(edits(&old, &new).len(), 2001);
    }

    proptest! {
        /// Removals and additions, done to the old list, give the new one; and equal lists differ nowhere.
        #[test]
        fn edits_make_the_new_list(
            old in prop::collection::vec("[abc]", 0..12),
            new in prop::collection::vec("[abc]", 0..12),
        ) {
            let edits = edits(&old, &new);
            let removed = edits.iter().filter(|edit| edit.old.is_some()).count();
            let added: Vec<_> = edits.iter().filter_map(|edit| edit.new.map(|text| (edit.position, text))).collect();
            prop_assert_eq!(old.len() + added.len(), new.len() + removed);
            prop_assert_eq!(edits.is_empty(), old == new);
            for (position, text) in &added {
                prop_assert_eq!(&new[*position], text);
            }
            let is_added = |at: usize| added.iter().any(|(position, _)| *position == at);
            let kept: Vec<&String> = (0..new.len()).filter(|at| !is_added(*at)).map(|at| &new[at]).collect();
            let mut rest = old.iter();
            prop_assert!(kept.into_iter().all(|text| rest.any(|old| old == text)), "what stays keeps its order");
        }
    }
}
