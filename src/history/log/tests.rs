//! A log against a plain list: whatever is done in whichever order, both tell the same.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::super::record::tests::record;
use super::super::record::{action_mark, marks};
use super::*;

const LETTER: u8 = b'r';

fn open_index(path: &Path) -> Index {
    Index::open(path, 1 << 20, Duration::from_secs(30)).unwrap()
}

/// A log and its index, and the records that must be in it.
struct Case {
    directory: tempfile::TempDir,
    index: Option<Index>,
    log: Log,
    model: Vec<Record>,
    next: u64,
    /// Sequence from which on records must be there.
    limits: Limits,
}

impl Case {
    fn new(limits: Limits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let index = open_index(&directory.path().join("index"));
        let log = Log::open(LETTER, limits, &index).unwrap();
        Self { directory, index: Some(index), log, model: Vec::new(), next: 1, limits }
    }

    fn index(&self) -> &Index {
        self.index.as_ref().unwrap()
    }

    fn push(&mut self, count: u64, step: u64) {
        for _ in 0..count {
            let record = record(self.next, &format!("n{}", self.next % 7));
            self.next += step;
            self.model.push(record.clone());
            assert_eq!(self.log.push(record), 0);
        }
    }

    fn commit(&mut self) {
        let mut batch = Batch::default();
        let staged = self.log.stage(&mut batch, self.index()).unwrap();
        self.index().commit(batch).unwrap();
        self.log.settle(staged);
        assert!(!self.log.is_dirty() && self.log.unwritten() == 0);
    }

    /// What was not committed is lost.
    fn reopen(&mut self) {
        self.model.truncate(self.model.len() - self.log.unwritten());
        self.next = self.model.last().map_or(self.next, |record| record.sequence() + 1);
        self.index.take().unwrap().close();
        let index = open_index(&self.directory.path().join("index"));
        self.log = Log::open(LETTER, self.limits, &index).unwrap();
        self.index = Some(index);
    }

    fn walk(&self, before: u64) -> Vec<u64> {
        let mut cursor = self.log.cursor(before);
        let all = std::iter::from_fn(|| cursor.next(Some(self.index()), &|_| true).unwrap());
        all.map(|record| record.sequence()).collect()
    }

    fn find(&self, name: &str, before: u64) -> Vec<u64> {
        let action = record(0, name).action().unwrap();
        let search = self.log.search(action_mark(action.hash()), before);
        let memory = search.memory.iter().map(|record| (**record).clone());
        let mut found: Vec<Record> = memory.collect();
        let visit = |record| {
            found.push(record);
            ControlFlow::Continue(())
        };
        search.on_disk(self.index(), visit).unwrap();
        found.retain(|record| record.action() == Some(action) && record.sequence() < before);
        found.iter().map(Record::sequence).collect()
    }

    fn check(&self) {
        assert_eq!(self.log.last(), self.model.last().map_or(0, Record::sequence));
        let kept = usize::try_from(self.limits.records).unwrap();
        for before in [u64::MAX, self.next / 2, self.next.saturating_sub(3)] {
            let below = |record: &&Record| record.sequence() < before;
            let expected: Vec<u64> = self.model.iter().rev().filter(below).map(Record::sequence).collect();
            let walked = self.walk(before);
            assert!(expected.starts_with(&walked), "{walked:?} of {expected:?}");
            let oldest =
                self.model[self.model.len().saturating_sub(kept)..].first().map_or(0, Record::sequence);
            let must = expected.iter().filter(|sequence| **sequence >= oldest).count();
            assert!(walked.len() >= must, "{} of {must} before {before}", walked.len());
            for name in ["n3", "n0"] {
                let action = record(0, name).action();
                let is_it =
                    |record: &&Record| record.action() == action && walked.contains(&record.sequence());
                let expected: Vec<u64> =
                    self.model.iter().rev().filter(is_it).map(Record::sequence).collect();
                assert_eq!(self.find(name, before), expected, "{name} before {before}");
            }
        }
    }
}

#[test]
fn thousands_of_records_are_found_and_the_oldest_go() {
    let mut case = Case::new(Limits { records: 9000, bytes: u64::MAX });
    for _ in 0..40 {
        case.push(500, 3);
        case.commit();
    }
    case.check();
    assert!(
        (9000..9000 + 2 * BLOCK as u64).contains(&case.log.on_disk().records),
        "{:?}",
        case.log.on_disk()
    );
    assert!(!case.log.chapters.is_empty());
    case.reopen();
    case.check();
    case.push(70, 1);
    case.check();
    // Nothing is left of what was dropped.
    let mut first = None;
    let everything = [LETTER, 0]..[LETTER, u8::MAX];
    case.index()
        .visit(&everything.start[..]..&everything.end[..], |key, _| {
            if key[1] != b'm' {
                let oldest = first_of(key).unwrap();
                first = Some(first.map_or(oldest, |first: u64| first.min(oldest)));
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    let oldest_chapter = case.log.chapters[0];
    assert_eq!(first, Some(oldest_chapter));
}

#[test]
fn bytes_are_a_limit_too() {
    let mut case = Case::new(Limits { records: u64::MAX, bytes: 20_000 });
    for _ in 0..50 {
        case.push(64, 1);
        case.commit();
    }
    let on_disk = case.log.on_disk();
    assert!(on_disk.bytes <= 20_000 && on_disk.records > 64, "{on_disk:?}");
    assert_eq!(case.walk(u64::MAX).len() as u64, on_disk.records);
}

#[test]
fn an_explanation_that_comes_late_is_added_while_the_block_is_open() {
    let mut case = Case::new(Limits { records: 1000, bytes: u64::MAX });
    case.push(3, 1);
    case.commit();
    let id = case.model[1].id().unwrap();
    let miss = Miss { summary: "because".into(), ..Default::default() };
    assert!(case.log.explain(&id, miss.clone()));
    case.commit();
    case.reopen();
    let mut cursor = case.log.cursor(3);
    let found = cursor.next(Some(case.index()), &|_| true).unwrap().unwrap();
    assert_eq!((found.id(), &found.miss), (Some(id), &Some(miss)));
    assert!(!case.log.explain(&OperationId::random(), Miss::default()));
}

#[test]
fn without_an_index_memory_is_bounded() {
    let mut log = Log::new(LETTER, Limits { records: 1000, bytes: u64::MAX });
    let count = 10_000;
    let lost: usize = (1..=count).map(|n| log.push(record(n, "x"))).sum();
    assert_eq!(log.unwritten() + lost, count as usize);
    assert!(log.blocks.len() <= MOST_WAITING);
}

#[test]
fn a_new_index_gets_what_is_in_memory() {
    let mut case = Case::new(Limits { records: 1000, bytes: u64::MAX });
    case.push(100, 1);
    case.commit();
    case.push(5, 1);
    case.index = Some(open_index(&case.directory.path().join("other")));
    case.log.lose_disk();
    case.commit();
    assert_eq!(case.walk(u64::MAX), (65..=105).rev().collect::<Vec<u64>>());
}

#[test]
fn every_mark_of_a_record_falls_into_a_bucket() {
    let record = record(1, "x");
    assert_eq!(marks(&record).count(), 3);
    assert!(marks(&record).all(|mark| bucket_of(mark) < BUCKETS));
}

#[derive(Clone, Debug)]
enum Step {
    Push(u64, u64),
    Commit,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1..150_u64, 1..20_u64).prop_map(|(count, step)| Step::Push(count, step)),
        2 => Just(Step::Commit),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_log_tells_what_a_list_tells(steps in prop::collection::vec(step(), 1..14), records in 100..400_u64) {
        let mut case = Case::new(Limits { records, bytes: u64::MAX });
        for step in steps {
            match step {
                Step::Push(count, step) => case.push(count, step),
                Step::Commit => case.commit(),
                Step::Reopen => case.reopen(),
            }
            case.check();
        }
    }
}
