//! Bits that flip, sectors and files that are lost, in everything the node keeps: found at the latest
//! when they are read, never served, reported, healed by a new upload; and nothing else is lost.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use super::support::book::Demand;
use super::support::load::Mix;
use super::support::node::{Node, Setup};
use super::support::{Book, Dice, Load, rounds};

/// Bytes lost at once.
const SECTOR: u64 = 4096;

/// Something that happens to a data directory. Returns what it may cost.
type Damage = fn(&Path, &mut Dice) -> Cost;

/// Blobs that a damage may cost. The results that name them go with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cost {
    Nothing,
    AtMost(usize),
    Whatever,
}

/// What can happen to packs and blob files; also while the node runs.
const TO_BLOBS: [(&str, Damage); 5] = [
    ("bytes flipped in packs", |data, dice| {
        let packs = files(&data.join("packs"));
        (0..3).for_each(|_| flip(pick(&packs, dice), dice));
        Cost::AtMost(3)
    }),
    ("a sector of a pack zeroed", |data, dice| {
        zero(pick(&files(&data.join("packs")), dice), dice);
        Cost::Whatever
    }),
    ("bytes flipped in blob files", |data, dice| {
        let blobs = files(&data.join("blobs"));
        (0..3).for_each(|_| flip(pick(&blobs, dice), dice));
        Cost::AtMost(3)
    }),
    ("a blob file emptied, one cut, one lost", |data, dice| {
        let blobs = files(&data.join("blobs"));
        truncate(pick(&blobs, dice), 0);
        truncate(pick(&blobs, dice), 1000);
        let _ = std::fs::remove_file(pick(&blobs, dice));
        Cost::AtMost(3)
    }),
    ("a pack cut in the middle of a record", |data, dice| {
        let packs = files(&data.join("packs"));
        let pack = pick(&packs, dice);
        let len = std::fs::metadata(pack).unwrap().len();
        truncate(pack, len / 2 + dice.below(len / 2));
        Cost::Whatever
    }),
];

/// What can happen to the index while the node does not run.
const TO_INDEX: [(&str, Damage); 6] = [
    ("the index deleted", |data, _| {
        std::fs::remove_dir_all(data.join("index")).unwrap();
        Cost::Nothing
    }),
    ("the index emptied", |data, _| {
        std::fs::remove_dir_all(data.join("index")).unwrap();
        std::fs::create_dir(data.join("index")).unwrap();
        Cost::Nothing
    }),
    ("a byte flipped in the index", |data, dice| {
        flip(&data.join("index/db"), dice);
        Cost::Nothing
    }),
    ("a sector of the index zeroed", |data, dice| {
        zero(&data.join("index/db"), dice);
        Cost::Nothing
    }),
    ("the index cut", |data, dice| {
        let db = data.join("index/db");
        truncate(&db, dice.below(std::fs::metadata(&db).unwrap().len()));
        Cost::Nothing
    }),
    ("index deleted and a pack damaged", |data, dice| {
        std::fs::remove_dir_all(data.join("index")).unwrap();
        flip(pick(&files(&data.join("packs")), dice), dice);
        Cost::AtMost(2)
    }),
];

#[tokio::test(flavor = "multi_thread")]
async fn damage_done_while_stopped_is_found_and_healed() {
    let mut dice = Dice::new("damage while stopped");
    let mut case = Case::new(&mut dice).await;
    for _ in 0..rounds(1, 20) {
        for (name, damage) in TO_BLOBS.iter().chain(&TO_INDEX) {
            let kill = dice.below(2) == 0;
            case.stop(kill);
            let cost = damage(&case.setup.data, &mut dice);
            case.node = case.setup.start();
            case.check(&format!("{name}, killed: {kill}"), cost, &mut dice).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_done_while_it_runs_is_found_and_healed() {
    let mut dice = Dice::new("damage while it runs");
    let mut case = Case::new(&mut dice).await;
    for _ in 0..rounds(1, 20) {
        for (name, damage) in &TO_BLOBS {
            // So that what is damaged is not in the memory of the node.
            case.stop(false);
            case.node = case.setup.start();
            let cost = damage(&case.setup.data, &mut dice);
            case.check(name, cost, &mut dice).await;
        }
    }
}

/// Reads of one blob file, and all reads of one pack, fail with EIO.
#[tokio::test(flavor = "multi_thread")]
async fn read_errors_cost_only_what_cannot_be_read() {
    let mut dice = Dice::new("read errors");
    if Command::new("strace").arg("-V").output().is_err() {
        println!("SKIPPED read errors: strace is not installed");
        return;
    }
    let mut case = Case::new(&mut dice).await;
    for (without_index, folder) in [(false, "blobs"), (false, "packs"), (true, "packs")] {
        case.stop(false);
        if without_index {
            std::fs::remove_dir_all(case.setup.data.join("index")).unwrap();
        }
        let file = pick(&files(&case.setup.data.join(folder)), &mut dice).to_owned();
        let path = file.to_str().unwrap();
        let inject = "inject=read,pread64,preadv2:error=EIO";
        case.setup = case.setup.wrapper(&["strace", "-D", "-f", "-o", "/dev/null", "-P", path, "-e", inject]);
        case.node = case.setup.start();
        let cost = if folder == "blobs" { Cost::AtMost(1) } else { Cost::Whatever };
        case.lost(&format!("{path} cannot be read"), cost).await;
        case.stop(false);
        case.setup = case.setup.wrapper(&[]);
        case.node = case.setup.start();
        case.heal(&mut dice).await;
    }
}

/// A node with something in it.
struct Case {
    setup: Setup,
    node: Node,
    book: Arc<Book>,
}

impl Case {
    async fn new(dice: &mut Dice) -> Self {
        let setup = Setup::with_own_data("disk-budget = \"2GB\"\nsandbox = \"off\"\n");
        let node = setup.start();
        let book = Arc::new(Book::default());
        let mix = Mix { actions: false, ..Mix::default() };
        let load = Load::start(node.address, &book, dice, mix).await;
        tokio::time::sleep(dice.between(1500, 2500)).await;
        load.end().await;
        Self { setup, node, book }
    }

    fn stop(&mut self, kill: bool) {
        if kill { self.node.kill() } else { assert!(self.node.stop().success()) }
    }

    async fn check(&mut self, what: &str, cost: Cost, dice: &mut Dice) {
        self.lost(what, cost).await;
        self.heal(dice).await;
    }

    /// What is lost is lost for everybody, no more than may be, and reported.
    async fn lost(&mut self, what: &str, cost: Cost) {
        let client = self.node.client().await;
        let (seen, lost) = self.book.find_lost(&client).await;
        println!("{what}: {seen:?}, lost {lost}");
        let (log, status) = (self.node.log(), self.node.status().unwrap());
        match cost {
            Cost::Nothing => assert_eq!((lost, seen.gone), (0, 0), "{what}\n{log}"),
            Cost::AtMost(most) => assert!(lost <= most, "{what}\n{log}"),
            Cost::Whatever => assert!(lost < seen.blobs + seen.gone || seen.blobs == 0, "{what}\n{log}"),
        }
        let damaged = status["storage"]["damaged"].as_u64().unwrap();
        let reported = damaged > 0 || log.contains("WARN") || log.contains("ERROR");
        assert!(lost == 0 || reported, "{what}: {lost} blobs are lost, and nobody is told\n{log}");
    }

    async fn heal(&mut self, dice: &mut Dice) {
        let client = self.node.client().await;
        self.book.upload_lost(&client).await;
        self.book.check(&client, Demand::All, usize::MAX, dice).await;
    }
}

/// All files below `directory` that have something in them, in an order that does not change.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.metadata().unwrap().len() > SECTOR {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn pick<'a>(paths: &'a [PathBuf], dice: &mut Dice) -> &'a Path {
    &paths[dice.below(paths.len() as u64) as usize]
}

fn open(path: &Path) -> std::fs::File {
    std::fs::File::options().read(true).write(true).open(path).unwrap()
}

fn truncate(path: &Path, len: u64) {
    open(path).set_len(len).unwrap();
}

fn flip(path: &Path, dice: &mut Dice) {
    let file = open(path);
    let at = dice.below(file.metadata().unwrap().len().max(1));
    let mut byte = [0];
    if file.read_at(&mut byte, at).unwrap() == 1 {
        file.write_all_at(&[byte[0] ^ (1 << dice.below(8))], at).unwrap();
    }
}

fn zero(path: &Path, dice: &mut Dice) {
    let file = open(path);
    let sectors = file.metadata().unwrap().len() / SECTOR;
    file.write_all_at(&[0; SECTOR as usize], dice.below(sectors) * SECTOR).unwrap();
}
