//! A log against a plain list: whatever is done in whichever order, both tell the same.

use farmhand_proto::control::Miss;
use proptest::prelude::*;

use super::super::record::action_mark;
use super::super::record::tests::record;
use super::*;

/// A log and its directory, and the records that must be in it.
struct Case {
    directory: tempfile::TempDir,
    log: Log,
    model: Vec<Record>,
    next: u64,
    limits: Limits,
}

impl Case {
    fn new(limits: Limits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { directory, log: Log::new(limits), model: Vec::new(), next: 1, limits }
    }

    fn push(&mut self, count: u64, step: u64) {
        for _ in 0..count {
            let record = record(self.next, &format!("n{}", self.next % 7));
            self.next += step;
            self.model.push(record.clone());
            assert_eq!(self.log.push(record), 0);
        }
    }

    /// As the writer does it.
    fn write(&mut self) {
        if let Some(done) = self.log.job().run(self.directory.path()).unwrap() {
            self.log.settle(done);
        }
        if let Some(full) = self.log.full() {
            self.log.replace_last(seal(&full).unwrap());
        }
        self.log.drop_oldest().iter().for_each(|path| std::fs::remove_file(path).unwrap());
        assert_eq!(self.log.waiting(), 0);
    }

    fn seal(&mut self) {
        if let Some(open) = self.log.segments.last().filter(|segment| !segment.is_sealed()).cloned() {
            self.log.replace_last(seal(&open).unwrap());
        }
    }

    /// What was not written is lost.
    fn reopen(&mut self) {
        self.model.truncate(self.model.len() - self.log.waiting());
        self.next = self.model.last().map_or(self.next, |record| record.sequence() + 1);
        let found = open(self.directory.path()).unwrap();
        assert!(!found.is_damaged);
        self.log = Log::new(self.limits);
        self.log.begin(found.segments);
    }

    fn walk(&self, before: u64) -> Vec<u64> {
        let mut cursor = self.log.cursor(before);
        let all = std::iter::from_fn(|| cursor.next(&|_| true).unwrap());
        all.map(|record| record.sequence()).collect()
    }

    fn find(&self, name: &str, before: u64) -> Vec<u64> {
        let action = record(0, name).action().unwrap();
        let search = self.log.search(action_mark(action.hash()));
        let mut found: Vec<Record> = search.memory.iter().map(|record| (**record).clone()).collect();
        let visit = |record| {
            found.push(record);
            ControlFlow::Continue(())
        };
        search.on_disk(before, visit).unwrap();
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
        case.write();
    }
    case.check();
    let records: u64 = case.log.segments.iter().map(|segment| segment.records()).sum();
    assert!((9000..9000 + 2 * SEGMENT).contains(&records), "{records}");
    assert!(case.log.segments.iter().rev().skip(1).all(|segment| segment.is_sealed()));
    case.reopen();
    case.check();
    case.push(70, 1);
    case.check();
    let files = std::fs::read_dir(case.directory.path()).unwrap().count();
    assert_eq!(files, case.log.segments.len(), "nothing is left of what was dropped");
}

#[test]
fn bytes_are_a_limit_too() {
    let mut case = Case::new(Limits { records: u64::MAX, bytes: 30_000 });
    for _ in 0..30 {
        case.push(64, 1);
        case.write();
        case.seal();
    }
    case.write();
    let bytes: u64 = case.log.segments.iter().map(|segment| segment.bytes()).sum();
    assert!(bytes <= 30_000 && case.log.segments.len() > 1, "{bytes}");
}

#[test]
fn sealing_saves_room() {
    let mut case = Case::new(Limits { records: 1000, bytes: u64::MAX });
    for _ in 0..100 {
        case.push(1, 1);
        case.write();
    }
    let before = case.log.segments[0].bytes();
    case.seal();
    case.check();
    assert!(case.log.segments[0].bytes() * 2 < before);
}

#[test]
fn a_kill_between_two_steps_of_sealing_leaves_one_segment() {
    let mut case = Case::new(Limits { records: 1000, bytes: u64::MAX });
    case.push(10, 1);
    case.write();
    let open = case.log.segments[0].clone();
    let copy = std::fs::read(open.path()).unwrap();
    case.seal();
    std::fs::write(open.path(), copy).unwrap();
    case.reopen();
    case.check();
    assert_eq!((case.log.segments.len(), open.path().exists()), (1, false));
}

#[test]
fn an_explanation_that_comes_late_is_added_while_the_record_waits() {
    let mut case = Case::new(Limits { records: 1000, bytes: u64::MAX });
    case.push(3, 1);
    let id = case.model[1].id().unwrap();
    let miss = Miss { summary: "because".into(), ..Default::default() };
    assert!(case.log.revise(&id, |record| record.explained(Some(miss.clone()))));
    case.write();
    case.reopen();
    let found: Vec<Record> = case.log.segments[0].read(0).unwrap().unwrap();
    assert_eq!((found[1].id(), &found[1].miss), (Some(id), &Some(miss)));
    assert!(!case.log.revise(&id, |record| record));
}

#[test]
fn memory_is_bounded_while_nothing_is_written() {
    let mut log = Log::new(Limits { records: 1000, bytes: u64::MAX });
    let count = 40_000;
    let lost: usize = (1..=count).map(|n| log.push(record(n, "x"))).sum();
    assert_eq!(log.waiting() + lost, count as usize);
    assert!(lost > 0 && log.waiting_bytes <= MOST_WAITING);
}

#[test]
fn blocks_are_neither_long_nor_large() {
    let mut records: Vec<Arc<Record>> = (1..200).map(|n| Arc::new(record(n, "x"))).collect();
    let mut large = record(200, "y");
    large.result = Some(vec![0; BLOCK_BYTES * 2]);
    records.push(Arc::new(large));
    let blocks = blocks(&records);
    assert_eq!(blocks.iter().map(|block| block.len()).collect::<Vec<_>>(), [64, 64, 64, 7, 1]);
}

#[derive(Clone, Debug)]
enum Step {
    Push(u64, u64),
    Write,
    Seal,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1..150_u64, 1..20_u64).prop_map(|(count, step)| Step::Push(count, step)),
        2 => Just(Step::Write),
        1 => Just(Step::Seal),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_log_tells_what_a_list_tells(steps in prop::collection::vec(step(), 1..16), records in 100..400_u64) {
        let mut case = Case::new(Limits { records, bytes: u64::MAX });
        for step in steps {
            match step {
                Step::Push(count, step) => case.push(count, step),
                Step::Write => case.write(),
                Step::Seal => case.seal(),
                Step::Reopen => case.reopen(),
            }
            case.check();
        }
    }
}
