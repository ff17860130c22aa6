//! What is built where there is no C compiler: lists of words, sorted, merged and counted by programs every
//! machine has.

use std::collections::BTreeMap;

use super::job::{Job, Project, Step};
use crate::digest::{Digest, DigestFunction};

/// Shelves of lists, and lists on each.
const SHELVES: usize = 8;
const LISTS: usize = 8;

/// Words of a list.
const WORDS: usize = 4000;

/// What words are made of.
const SYLLABLES: [&str; 16] =
    ["ba", "co", "di", "fu", "ga", "hu", "ke", "lo", "mi", "ne", "pa", "ri", "so", "tu", "ve", "zo"];

/// Lists that are changed, in this order and then again: shelf and list; `None` changes nothing.
const CHANGES: [Option<(usize, usize)>; 4] = [Some((2, 3)), Some((5, 1)), None, Some((7, 8))];

/// The lists as they stand.
#[derive(Default)]
pub(super) struct Words {
    /// How often a list was changed.
    revisions: BTreeMap<(usize, usize), u64>,
    changes: usize,
}

// === impl Project ===

impl Project for Words {
    fn describe(&self) -> String {
        format!("{} lists of {WORDS} words, sorted, merged and counted", SHELVES * LISTS)
    }

    fn change(&mut self) -> String {
        let change = CHANGES[self.changes % CHANGES.len()];
        self.changes += 1;
        let Some((shelf, list)) = change else { return "nothing changed".to_owned() };
        *self.revisions.entry((shelf, list)).or_default() += 1;
        format!("{} changed", list_path(shelf, list))
    }

    fn job(&self) -> Job {
        let mut job = Job::default();
        let shelves: Vec<String> = (1..=SHELVES).map(|shelf| self.add_shelf(&mut job, shelf)).collect();
        job.steps.push(Step {
            target: "//demo:words".to_owned(),
            mnemonic: "MergeWords",
            arguments: [words("sort -m -o out/words.txt"), shelves.clone()].concat(),
            variables: plain_order(),
            inputs: shelves,
            outputs: vec!["out/words.txt".to_owned()],
            ..Step::default()
        });
        job.steps.push(Step {
            target: "//demo:words_test".to_owned(),
            mnemonic: "TestRunner",
            arguments: words("sha256sum out/words.txt"),
            inputs: vec!["out/words.txt".to_owned()],
            must_say: Some(format!("{}  out/words.txt", self.sum())),
            ..Step::default()
        });
        job
    }
}

// === impl Words ===

impl Words {
    /// Sorts the lists of a shelf, and merges them; returns the path of what comes of it.
    fn add_shelf(&self, job: &mut Job, shelf: usize) -> String {
        let mut sorted = Vec::new();
        for list in 1..=LISTS {
            let (path, output) = (list_path(shelf, list), format!("out/shelf_{shelf}/list_{list:02}.sorted"));
            let mut text = self.list(shelf, list).join("\n");
            text.push('\n');
            job.add_source(&path, text);
            job.steps.push(Step {
                target: format!("//demo/shelf_{shelf}:list_{list:02}"),
                mnemonic: "SortWords",
                arguments: [words("sort -o"), vec![output.clone(), path.clone()]].concat(),
                variables: plain_order(),
                inputs: vec![path],
                outputs: vec![output.clone()],
                ..Step::default()
            });
            sorted.push(output);
        }
        let merged = format!("out/shelf_{shelf}/words.txt");
        job.steps.push(Step {
            target: format!("//demo/shelf_{shelf}"),
            mnemonic: "MergeWords",
            arguments: [words("sort -m -o"), vec![merged.clone()], sorted.clone()].concat(),
            variables: plain_order(),
            inputs: sorted,
            outputs: vec![merged.clone()],
            ..Step::default()
        });
        merged
    }

    fn list(&self, shelf: usize, list: usize) -> Vec<String> {
        let revision = self.revisions.get(&(shelf, list)).copied().unwrap_or(0);
        let mut state = (shelf * 100 + list) as u64 + 10_000 * revision;
        let mut word = || {
            // Knuth's linear congruential generator; its upper bits are the good ones.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let syllables = 2 + (state >> 62) as usize;
            (0..syllables).map(|place| SYLLABLES[(state >> (40 + 4 * place)) as usize % 16]).collect()
        };
        (0..WORDS).map(|_| word()).collect()
    }

    /// SHA-256 of all words in their order.
    fn sum(&self) -> String {
        let lists = (1..=SHELVES).flat_map(|shelf| (1..=LISTS).map(move |list| (shelf, list)));
        let mut all: Vec<String> = lists.flat_map(|(shelf, list)| self.list(shelf, list)).collect();
        all.sort_unstable();
        let mut text = all.join("\n");
        text.push('\n');
        Digest::of(DigestFunction::Sha256, text.as_bytes()).hash_hex()
    }
}

fn list_path(shelf: usize, list: usize) -> String {
    format!("shelf_{shelf}/list_{list:02}.txt")
}

/// The order of bytes, wherever this runs.
fn plain_order() -> Vec<(String, String)> {
    vec![("LC_ALL".to_owned(), "C".to_owned())]
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(ToOwned::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_job_is_whole_and_a_change_reaches_its_end() {
        let mut project = Words::default();
        let before = project.job();
        before.check();
        assert_eq!(before.steps.len(), SHELVES * (LISTS + 1) + 2);
        assert_eq!(project.change(), "shelf_2/list_03.txt changed");
        let after = project.job();
        let differ = before.sources.iter().filter(|(path, blob)| after.sources[*path].digest != blob.digest);
        assert_eq!(differ.count(), 1);
        let test = |job: &Job| job.steps.last().and_then(|step| step.must_say.clone());
        assert_ne!(test(&before), test(&after));
    }
}
