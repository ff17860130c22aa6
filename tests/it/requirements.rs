//! The table of protocol requirements: row id → the tests that hold it.
//!
//! The ids are those of the requirement groups this project works by: CAP capabilities, DIG digests
//! and instance names, CAS, BS ByteStream, CMP compression, AC action cache, VAL validity of
//! messages, STG staging, RUN running, OUT outputs, ERR errors, EX execution and operations, PRI
//! priorities, META execution metadata, RMD request metadata. A row that cannot be met stays in the
//! table as [`Open`](Coverage::Open), with the reason.
//!
//! [`every_row_is_covered`] fails when a row is missing, doubled, or names a test that does not exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use Coverage::{Open, Tests};

/// Groups and the number of rows in each.
const GROUPS: &[(&str, u32)] = &[
    ("CAP", 14),
    ("DIG", 12),
    ("CAS", 22),
    ("BS", 20),
    ("CMP", 10),
    ("AC", 13),
    ("VAL", 12),
    ("STG", 9),
    ("RUN", 16),
    ("OUT", 20),
    ("ERR", 12),
    ("EX", 19),
    ("PRI", 5),
    ("META", 8),
    ("RMD", 7),
];

/// How a row is held.
#[derive(Debug)]
enum Coverage {
    /// By these tests, each `file.rs: function` with the file relative to `tests/it`, or to the root of
    /// the project when it begins with `src/`.
    Tests(&'static [&'static str]),
    /// Not met, for this reason.
    #[allow(dead_code)]
    Open(&'static str),
}

#[rustfmt::skip]
const ROWS: &[(&str, Coverage)] = &[
    ("CAP-01", Open("no test yet")),
    ("CAP-02", Open("no test yet")),
    ("CAP-03", Open("no test yet")),
    ("CAP-04", Open("no test yet")),
    ("CAP-05", Open("no test yet")),
    ("CAP-06", Open("no test yet")),
    ("CAP-07", Open("no test yet")),
    ("CAP-08", Open("no test yet")),
    ("CAP-09", Open("no test yet")),
    ("CAP-10", Open("no test yet")),
    ("CAP-11", Open("no test yet")),
    ("CAP-12", Open("no test yet")),
    ("CAP-13", Open("no test yet")),
    ("CAP-14", Open("no test yet")),
    ("DIG-01", Open("no test yet")),
    ("DIG-02", Open("no test yet")),
    ("DIG-03", Open("no test yet")),
    ("DIG-04", Open("no test yet")),
    ("DIG-05", Open("no test yet")),
    ("DIG-06", Open("no test yet")),
    ("DIG-07", Open("no test yet")),
    ("DIG-08", Open("no test yet")),
    ("DIG-09", Open("no test yet")),
    ("DIG-10", Open("no test yet")),
    ("DIG-11", Open("no test yet")),
    ("DIG-12", Open("no test yet")),
    ("CAS-01", Open("no test yet")),
    ("CAS-02", Open("no test yet")),
    ("CAS-03", Open("no test yet")),
    ("CAS-04", Open("no test yet")),
    ("CAS-05", Open("no test yet")),
    ("CAS-06", Open("no test yet")),
    ("CAS-07", Open("no test yet")),
    ("CAS-08", Open("no test yet")),
    ("CAS-09", Open("no test yet")),
    ("CAS-10", Open("no test yet")),
    ("CAS-11", Open("no test yet")),
    ("CAS-12", Open("no test yet")),
    ("CAS-13", Open("no test yet")),
    ("CAS-14", Open("no test yet")),
    ("CAS-15", Open("no test yet")),
    ("CAS-16", Open("no test yet")),
    ("CAS-17", Open("no test yet")),
    ("CAS-18", Open("no test yet")),
    ("CAS-19", Open("no test yet")),
    ("CAS-20", Open("no test yet")),
    ("CAS-21", Open("no test yet")),
    ("CAS-22", Open("no test yet")),
    ("BS-01", Open("no test yet")),
    ("BS-02", Open("no test yet")),
    ("BS-03", Open("no test yet")),
    ("BS-04", Open("no test yet")),
    ("BS-05", Open("no test yet")),
    ("BS-06", Open("no test yet")),
    ("BS-07", Open("no test yet")),
    ("BS-08", Open("no test yet")),
    ("BS-09", Open("no test yet")),
    ("BS-10", Open("no test yet")),
    ("BS-11", Open("no test yet")),
    ("BS-12", Open("no test yet")),
    ("BS-13", Open("no test yet")),
    ("BS-14", Open("no test yet")),
    ("BS-15", Open("no test yet")),
    ("BS-16", Open("no test yet")),
    ("BS-17", Open("no test yet")),
    ("BS-18", Open("no test yet")),
    ("BS-19", Open("no test yet")),
    ("BS-20", Open("no test yet")),
    ("CMP-01", Open("no test yet")),
    ("CMP-02", Open("no test yet")),
    ("CMP-03", Open("no test yet")),
    ("CMP-04", Open("no test yet")),
    ("CMP-05", Open("no test yet")),
    ("CMP-06", Open("no test yet")),
    ("CMP-07", Open("no test yet")),
    ("CMP-08", Open("no test yet")),
    ("CMP-09", Open("no test yet")),
    ("CMP-10", Open("no test yet")),
    ("AC-01", Open("no test yet")),
    ("AC-02", Open("no test yet")),
    ("AC-03", Open("no test yet")),
    ("AC-04", Open("no test yet")),
    ("AC-05", Open("no test yet")),
    ("AC-06", Open("no test yet")),
    ("AC-07", Open("no test yet")),
    ("AC-08", Open("no test yet")),
    ("AC-09", Open("no test yet")),
    ("AC-10", Open("no test yet")),
    ("AC-11", Open("no test yet")),
    ("AC-12", Open("no test yet")),
    ("AC-13", Open("no test yet")),
    ("VAL-01", Open("no test yet")),
    ("VAL-02", Open("no test yet")),
    ("VAL-03", Open("no test yet")),
    ("VAL-04", Open("no test yet")),
    ("VAL-05", Open("no test yet")),
    ("VAL-06", Open("no test yet")),
    ("VAL-07", Open("no test yet")),
    ("VAL-08", Open("no test yet")),
    ("VAL-09", Open("no test yet")),
    ("VAL-10", Open("no test yet")),
    ("VAL-11", Open("no test yet")),
    ("VAL-12", Open("no test yet")),
    ("STG-01", Open("no test yet")),
    ("STG-02", Open("no test yet")),
    ("STG-03", Open("no test yet")),
    ("STG-04", Open("no test yet")),
    ("STG-05", Open("no test yet")),
    ("STG-06", Open("no test yet")),
    ("STG-07", Open("no test yet")),
    ("STG-08", Open("no test yet")),
    ("STG-09", Open("no test yet")),
    ("RUN-01", Open("no test yet")),
    ("RUN-02", Open("no test yet")),
    ("RUN-03", Open("no test yet")),
    ("RUN-04", Open("no test yet")),
    ("RUN-05", Open("no test yet")),
    ("RUN-06", Open("no test yet")),
    ("RUN-07", Open("no test yet")),
    ("RUN-08", Open("no test yet")),
    ("RUN-09", Open("no test yet")),
    ("RUN-10", Open("no test yet")),
    ("RUN-11", Open("no test yet")),
    ("RUN-12", Open("no test yet")),
    ("RUN-13", Open("no test yet")),
    ("RUN-14", Open("no test yet")),
    ("RUN-15", Open("no test yet")),
    ("RUN-16", Open("no test yet")),
    ("OUT-01", Open("no test yet")),
    ("OUT-02", Open("no test yet")),
    ("OUT-03", Open("no test yet")),
    ("OUT-04", Open("no test yet")),
    ("OUT-05", Open("no test yet")),
    ("OUT-06", Open("no test yet")),
    ("OUT-07", Open("no test yet")),
    ("OUT-08", Open("no test yet")),
    ("OUT-09", Open("no test yet")),
    ("OUT-10", Open("no test yet")),
    ("OUT-11", Open("no test yet")),
    ("OUT-12", Open("no test yet")),
    ("OUT-13", Open("no test yet")),
    ("OUT-14", Open("no test yet")),
    ("OUT-15", Open("no test yet")),
    ("OUT-16", Open("no test yet")),
    ("OUT-17", Open("no test yet")),
    ("OUT-18", Open("no test yet")),
    ("OUT-19", Open("no test yet")),
    ("OUT-20", Open("no test yet")),
    ("ERR-01", Open("no test yet")),
    ("ERR-02", Open("no test yet")),
    ("ERR-03", Open("no test yet")),
    ("ERR-04", Open("no test yet")),
    ("ERR-05", Open("no test yet")),
    ("ERR-06", Open("no test yet")),
    ("ERR-07", Open("no test yet")),
    ("ERR-08", Open("no test yet")),
    ("ERR-09", Open("no test yet")),
    ("ERR-10", Open("no test yet")),
    ("ERR-11", Open("no test yet")),
    ("ERR-12", Open("no test yet")),
    ("EX-01", Open("no test yet")),
    ("EX-02", Open("no test yet")),
    ("EX-03", Open("no test yet")),
    ("EX-04", Open("no test yet")),
    ("EX-05", Open("no test yet")),
    ("EX-06", Open("no test yet")),
    ("EX-07", Open("no test yet")),
    ("EX-08", Open("no test yet")),
    ("EX-09", Open("no test yet")),
    ("EX-10", Open("no test yet")),
    ("EX-11", Open("no test yet")),
    ("EX-12", Open("no test yet")),
    ("EX-13", Open("no test yet")),
    ("EX-14", Open("no test yet")),
    ("EX-15", Open("no test yet")),
    ("EX-16", Open("no test yet")),
    ("EX-17", Open("no test yet")),
    ("EX-18", Open("no test yet")),
    ("EX-19", Open("no test yet")),
    ("PRI-01", Open("no test yet")),
    ("PRI-02", Open("no test yet")),
    ("PRI-03", Open("no test yet")),
    ("PRI-04", Open("no test yet")),
    ("PRI-05", Open("no test yet")),
    ("META-01", Open("no test yet")),
    ("META-02", Open("no test yet")),
    ("META-03", Open("no test yet")),
    ("META-04", Open("no test yet")),
    ("META-05", Open("no test yet")),
    ("META-06", Open("no test yet")),
    ("META-07", Open("no test yet")),
    ("META-08", Open("no test yet")),
    ("RMD-01", Open("no test yet")),
    ("RMD-02", Open("no test yet")),
    ("RMD-03", Open("no test yet")),
    ("RMD-04", Open("no test yet")),
    ("RMD-05", Open("no test yet")),
    ("RMD-06", Open("no test yet")),
    ("RMD-07", Open("no test yet")),
];

#[test]
fn every_row_is_covered() {
    let wanted: BTreeSet<String> = GROUPS
        .iter()
        .flat_map(|(group, rows)| (1..=*rows).map(move |row| format!("{group}-{row:02}")))
        .collect();
    let mut seen = BTreeSet::new();
    for (id, coverage) in ROWS {
        assert!(wanted.contains(*id), "{id} is no row of any group");
        assert!(seen.insert((*id).to_owned()), "{id} stands in the table twice");
        match coverage {
            Tests(tests) => {
                assert!(!tests.is_empty(), "{id} names no test");
                tests.iter().for_each(|test| assert_exists(id, test));
            }
            Open(reason) => assert!(reason.len() > 20, "{id} is open without a real reason: {reason:?}"),
        }
    }
    let missing: Vec<_> = wanted.difference(&seen).collect();
    assert!(missing.is_empty(), "rows without coverage: {missing:?}");
}

fn assert_exists(id: &str, test: &str) {
    let (file, function) =
        test.split_once(": ").unwrap_or_else(|| panic!("{id}: {test:?} is not `file.rs: function`"));
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = if file.starts_with("src/") { root.join(file) } else { root.join("tests/it").join(file) };
    let source =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{id}: {}: {error}", path.display()));
    assert!(source.contains(&format!("fn {function}(")), "{id}: {file} has no test {function}");
}
