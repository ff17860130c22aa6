use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use prost::Message;
use rustix::fs::{CWD, Mode};

use super::*;
use crate::cas::memory::MemoryCas;

const SHA256: DigestFunction = DigestFunction::Sha256;
const LARGE: usize = 100_000;

/// An upper layer made by hand over input directories.
struct Fixture {
    cas: MemoryCas,
    dir: tempfile::TempDir,
    lower: Option<Digest>,
    links: LinkRoot,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("upper")).unwrap();
        Self { cas: MemoryCas::default(), dir, lower: None, links: LinkRoot::At("/build".into()) }
    }

    /// Over a root with `in/{keep,gone,changed}`, `in/sub/deep`, `f`, and `link -> in`.
    fn over_inputs() -> Self {
        let mut fixture = Self::new();
        let file = |name: &str| reapi::FileNode {
            name: name.into(),
            digest: Some(fixture.cas.insert(SHA256, format!("input {name}")).to_wire()),
            ..Default::default()
        };
        let put = |directory: reapi::Directory| fixture.cas.insert(SHA256, directory.encode_to_vec());
        let node = |name: &str, digest: Digest| reapi::DirectoryNode {
            name: name.into(),
            digest: Some(digest.to_wire()),
        };
        let sub = put(reapi::Directory { files: vec![file("deep")], ..Default::default() });
        let inner = put(reapi::Directory {
            files: vec![file("keep"), file("changed"), file("gone")],
            directories: vec![node("sub", sub)],
            ..Default::default()
        });
        let link = reapi::SymlinkNode { name: "link".into(), target: "in".into(), ..Default::default() };
        let root = put(reapi::Directory {
            files: vec![file("f")],
            directories: vec![node("in", inner)],
            symlinks: vec![link],
            ..Default::default()
        });
        fixture.lower = Some(root);
        fixture
    }

    fn upper(&self, path: &str) -> PathBuf {
        self.dir.path().join("upper").join(path)
    }

    fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        fs::create_dir_all(self.upper(path).parent().unwrap()).unwrap();
        fs::write(self.upper(path), content).unwrap();
    }

    fn mkdir(&self, path: &str) {
        fs::create_dir_all(self.upper(path)).unwrap();
    }

    fn link(&self, path: &str, target: &str) {
        symlink(target, self.upper(path)).unwrap();
    }

    fn mode(&self, path: &str, mode: u32) {
        fs::set_permissions(self.upper(path), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn root(&self) -> MergedRoot {
        let blobs = Arc::new(self.cas.clone());
        MergedRoot::new(self.upper(""), self.lower, blobs, self.links.clone())
    }

    fn collect(&self, command: &reapi::Command) -> Result<Collected, OutputError> {
        self.collect_up_to(command, 1000)
    }

    fn collect_up_to(&self, command: &reapi::Command, max_entries: u64) -> Result<Collected, OutputError> {
        let spool = tempfile::tempdir_in(self.dir.path()).unwrap();
        let collection = Collection {
            blobs: Arc::new(self.cas.clone()),
            function: SHA256,
            spool: spool.path().to_owned(),
            max_entries,
            are_open: false,
        };
        let collected = collect(&self.root(), &OutputRequest::parse(command).unwrap(), collection);
        assert_eq!(fs::read_dir(spool.path()).unwrap().count(), 0, "nothing is left in the spool");
        collected
    }

    fn get(&self, digest: &Option<reapi::Digest>) -> bytes::Bytes {
        let digest = Digest::from_field(SHA256, digest.as_ref()).unwrap();
        self.cas.load(&digest).unwrap()
    }

    fn tree(&self, directory: &reapi::OutputDirectory) -> reapi::Tree {
        reapi::Tree::decode(self.get(&directory.tree_digest)).unwrap()
    }
}

fn paths(names: &[&str]) -> reapi::Command {
    reapi::Command { output_paths: names.iter().map(|n| (*n).into()).collect(), ..Default::default() }
}

#[expect(deprecated)]
fn old_lists(files: &[&str], directories: &[&str]) -> reapi::Command {
    let owned = |names: &[&str]| names.iter().map(|n| (*n).into()).collect();
    reapi::Command {
        output_files: owned(files),
        output_directories: owned(directories),
        ..Default::default()
    }
}

fn names(directory: &reapi::Directory) -> (Vec<&str>, Vec<&str>, Vec<&str>) {
    (
        directory.files.iter().map(|n| n.name.as_str()).collect(),
        directory.directories.iter().map(|n| n.name.as_str()).collect(),
        directory.symlinks.iter().map(|n| n.name.as_str()).collect(),
    )
}

/// What any reader of a sorted Tree relies on.
fn check_tree(tree: &reapi::Tree, bytes: &[u8]) {
    let root = tree.root.as_ref().unwrap();
    let mut named: Vec<String> = Vec::new();
    let mut seen = HashSet::new();
    let mut expected_size = 0;
    for (i, directory) in std::iter::once(root).chain(&tree.children).enumerate() {
        let encoded = directory.encode_to_vec();
        expected_size += encoded.len() + prost::length_delimiter_len(encoded.len()) + 1;
        let digest = Digest::of(SHA256, &encoded).hash_hex();
        assert!(seen.insert(digest.clone()), "each Directory stands once");
        assert!(i == 0 || named.contains(&digest), "parents come first");
        named.extend(directory.directories.iter().map(|d| d.digest.as_ref().unwrap().hash.clone()));
        let (files, directories, symlinks) = names(directory);
        assert!(files.is_sorted() && directories.is_sorted() && symlinks.is_sorted());
    }
    assert!(named.iter().all(|hash| seen.contains(hash)), "every child is there");
    assert_eq!(bytes.len(), expected_size, "records and nothing else");
}

#[test]
fn kinds_are_found_after_the_run_and_paths_come_back_as_asked() {
    let fixture = Fixture::new();
    fixture.write("wd/file", "x");
    fixture.write("wd/tool", vec![1; LARGE]);
    fixture.mode("wd/tool", 0o755);
    fixture.write("wd/dir/inner", "y");
    fixture.link("wd/link", "file");
    fixture.write("top", "z");
    let mut command = paths(&["file", "./tool", "dir", "link", "../top", "absent", "absent/below"]);
    command.working_directory = "wd".into();
    let collected = fixture.collect(&command).unwrap();
    let result = &collected.result;
    let files: Vec<_> = result.output_files.iter().map(|f| (f.path.as_str(), f.is_executable)).collect();
    assert_eq!(files, [("file", false), ("./tool", true), ("../top", false)]);
    assert_eq!(fixture.get(&result.output_files[1].digest), vec![1; LARGE]);
    assert_eq!(result.output_directories[0].path, "dir");
    assert_eq!(result.output_symlinks[0].path, "link");
    assert_eq!((collected.refused, collected.notes.len()), (None, 0));
}

#[test]
fn the_whole_working_directory() {
    let fixture = Fixture::over_inputs();
    fixture.write("in/new", "new");
    let mut command = old_lists(&[], &[""]);
    command.working_directory = "in".into();
    let collected = fixture.collect(&command).unwrap();
    let directory = &collected.result.output_directories[0];
    assert_eq!(directory.path, "");
    let tree = fixture.tree(directory);
    assert_eq!(names(tree.root.as_ref().unwrap()).0, ["changed", "gone", "keep", "new"]);
    check_tree(&tree, &fixture.get(&directory.tree_digest));
}

#[test]
fn an_empty_directory_is_two_bytes() {
    let fixture = Fixture::new();
    fixture.mkdir("out");
    let collected = fixture.collect(&paths(&["out"])).unwrap();
    let directory = &collected.result.output_directories[0];
    assert_eq!(fixture.get(&directory.tree_digest), &b"\x0a\x00"[..]);
    assert!(directory.is_topologically_sorted);
    assert_eq!(directory.root_directory_digest, Some(Digest::empty(SHA256).to_wire()));
}

#[test]
fn equal_content_gives_equal_trees_whatever_the_order() {
    let build = |order: [&str; 6]| {
        let fixture = Fixture::new();
        for path in order {
            fixture.write(&format!("out/{path}"), if path.ends_with('1') { "1" } else { "2" });
        }
        fixture.mkdir("out/empty");
        fixture.link("out/dangling", "no/where");
        let collected = fixture.collect(&paths(&["out"])).unwrap();
        let directory = collected.result.output_directories[0].clone();
        let tree = fixture.tree(&directory);
        check_tree(&tree, &fixture.get(&directory.tree_digest));
        // d, empty, and c, which equals d/e.
        assert_eq!(tree.children.len(), 3);
        for child in tree.children.iter().chain(&tree.root) {
            let digest = Digest::of(SHA256, &child.encode_to_vec());
            assert!(fixture.cas.load(&digest).is_ok(), "Directories are blobs of their own");
        }
        assert_eq!(names(tree.root.as_ref().unwrap()).2, ["dangling"]);
        directory
    };
    let first = build(["a1", "b2", "c/1", "c/2", "d/e/1", "d/e/2"]);
    let second = build(["d/e/2", "d/e/1", "c/2", "c/1", "b2", "a1"]);
    assert_eq!(first, second);
}

#[test]
fn the_root_directory_is_the_first_of_the_tree() {
    let fixture = Fixture::new();
    fixture.write("out/x/y", "1");
    let collected = fixture.collect(&paths(&["out"])).unwrap();
    let directory = &collected.result.output_directories[0];
    let root = fixture.tree(directory).root.unwrap().encode_to_vec();
    assert_eq!(directory.root_directory_digest, Some(Digest::of(SHA256, &root).to_wire()));
    assert_eq!(fixture.get(&directory.root_directory_digest), root);
}

#[test]
#[expect(deprecated)]
fn links_are_told_in_both_generations() {
    let fixture = Fixture::new();
    fixture.write("file", "x");
    fixture.mkdir("dir");
    for (name, target) in
        [("to-file", "file"), ("to-dir", "./dir/"), ("dangling", "none"), ("abs", "/build/dir")]
    {
        fixture.link(name, target);
    }
    fixture.link("out", "/etc/passwd");
    fixture.link("up", "../../../etc");
    let command = paths(&["to-file", "to-dir", "dangling", "abs", "out", "up"]);
    let result = fixture.collect(&command).unwrap().result;
    let told = |links: &[reapi::OutputSymlink]| -> Vec<String> {
        links.iter().map(|l| format!("{}>{}", l.path, l.target)).collect()
    };
    let files = ["to-file>file", "dangling>none", "out>/etc/passwd", "up>../../../etc"];
    let directories = ["to-dir>./dir/", "abs>/build/dir"];
    assert_eq!(told(&result.output_file_symlinks), files);
    assert_eq!(told(&result.output_directory_symlinks), directories);
    let mut new = told(&result.output_symlinks);
    new.sort();
    let mut both = [&files[..], &directories[..]].concat();
    both.sort();
    assert_eq!(new, both);

    let old = fixture.collect(&old_lists(&["to-file", "dangling"], &["to-dir"])).unwrap().result;
    assert!(old.output_symlinks.is_empty());
    assert_eq!(told(&old.output_file_symlinks), ["to-file>file", "dangling>none"]);
    assert_eq!(told(&old.output_directory_symlinks), ["to-dir>./dir/"]);
}

#[test]
fn older_lists_insist_on_their_kind() {
    let fixture = Fixture::new();
    fixture.write("file", "x");
    fixture.mkdir("dir");
    fixture.link("to-file", "file");
    fixture.link("to-dir", "dir");
    for (files, directories) in
        [(&["dir"][..], &[][..]), (&[], &["file"]), (&["to-dir"], &[]), (&[], &["to-file"])]
    {
        let collected = fixture.collect(&old_lists(files, directories)).unwrap();
        let text = collected.refused.expect("a wrong kind");
        let name = files.iter().chain(directories).next().unwrap();
        assert!(text.contains(name), "{text}");
    }
}

#[test]
fn unchanged_inputs_keep_their_digest_and_are_listed() {
    let fixture = Fixture::over_inputs();
    fixture.write("in/changed", "new bytes");
    let collected = fixture.collect(&paths(&["in", "f"])).unwrap();
    let input = |name: &str| Digest::of(SHA256, format!("input {name}").as_bytes());
    assert_eq!(collected.reused, HashSet::from([input("keep"), input("gone"), input("deep"), input("f")]));
    let tree = fixture.tree(&collected.result.output_directories[0]);
    let root = tree.root.as_ref().unwrap();
    assert_eq!(names(root).1, ["sub"]);
    let digests: Vec<_> = root.files.iter().map(|f| f.digest.clone().unwrap()).collect();
    let expected = [Digest::of(SHA256, b"new bytes"), input("gone"), input("keep")].map(|d| d.to_wire());
    assert_eq!(digests, expected);
    assert_eq!(collected.result.output_files[0].digest, Some(input("f").to_wire()));
}

#[test]
fn deletions_and_replaced_directories() {
    let fixture = Fixture::over_inputs();
    fixture.mkdir("in");
    let whiteout = rustix::fs::mknodat(
        CWD,
        fixture.upper("in/gone"),
        rustix::fs::FileType::CharacterDevice,
        Mode::empty(),
        0,
    );
    if whiteout.is_err() {
        eprintln!("skipped: this user may not make whiteouts");
        return;
    }
    fixture.write("in/keep", "");
    rustix::fs::setxattr(
        fixture.upper("in/keep"),
        "user.overlay.whiteout",
        b"",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    fixture.write("in/empty", "");
    fixture.write("in/sub/fresh", "1");
    rustix::fs::setxattr(
        fixture.upper("in/sub"),
        "user.overlay.opaque",
        b"y",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    let collected = fixture.collect(&paths(&["in", "in/gone", "in/keep", "in/sub/deep"])).unwrap();
    assert!(collected.result.output_files.is_empty(), "{:?}", collected.result.output_files);
    let tree = fixture.tree(&collected.result.output_directories[0]);
    assert_eq!(names(tree.root.as_ref().unwrap()).0, ["changed", "empty"]);
    assert_eq!(names(&tree.children[0]).0, ["fresh"]);
}

/// The kernel's own layers, held against this reading of them.
#[test]
fn layers_written_by_a_real_overlay() {
    let fixture = Fixture::over_inputs();
    let base = fixture.dir.path();
    fs::create_dir_all(base.join("lower/in/sub")).unwrap();
    for (path, name) in [("f", "f"), ("in/keep", "keep"), ("in/changed", "changed"), ("in/gone", "gone")] {
        fs::write(base.join("lower").join(path), format!("input {name}")).unwrap();
    }
    fs::write(base.join("lower/in/sub/deep"), "input deep").unwrap();
    symlink("in", base.join("lower/link")).unwrap();
    for name in ["work", "merged"] {
        fs::create_dir(base.join(name)).unwrap();
    }
    let script = "set -e; mount -t overlay none merged -o userxattr,lowerdir=lower,upperdir=upper,workdir=work; \
        cd merged; rm in/gone; rm -r in/sub; mkdir in/sub; echo 1 > in/sub/fresh; echo new > in/changed; \
        : > in/empty; mv in/keep in/kept; rm link; mkdir link; chmod 700 f; mv in moved";
    let ran =
        std::process::Command::new("unshare").args(["-rm", "sh", "-c", script]).current_dir(base).output();
    match ran {
        Ok(output) if output.status.success() => {}
        other => {
            eprintln!("skipped: no overlay mounts here: {other:?}");
            return;
        }
    }
    let collected = fixture.collect(&paths(&["."])).unwrap();
    let tree = fixture.tree(&collected.result.output_directories[0]);
    let root = tree.root.as_ref().unwrap();
    assert_eq!(names(root), (vec!["f"], vec!["link", "moved"], vec![]));
    let moved = tree.children.iter().find(|child| child.files.len() == 3).unwrap();
    assert_eq!(names(moved), (vec!["changed", "empty", "kept"], vec!["sub"], vec![]));
    assert!(tree.children.iter().any(|child| names(child).0 == ["fresh"]));
    assert!(root.files[0].is_executable);
    assert_eq!(fixture.get(&moved.files[0].digest), "new\n");
    assert_eq!(fixture.get(&moved.files[2].digest), "input keep");
}

#[test]
fn a_renamed_directory_that_only_a_mount_can_follow_is_an_error() {
    let fixture = Fixture::over_inputs();
    fixture.mkdir("moved");
    rustix::fs::setxattr(
        fixture.upper("moved"),
        "user.overlay.redirect",
        b"/in",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    assert!(matches!(fixture.collect(&paths(&["moved"])), Err(OutputError::Io { .. })));
}

#[test]
fn parents_may_be_links_inside_the_root_but_never_lead_out() {
    let fixture = Fixture::over_inputs();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    fixture.link("escape", outside.path().to_str().unwrap());
    fixture.link("climb", &format!("../../../../../../..{}", outside.path().display()));
    fixture.link("loop", "loop");
    let command = paths(&["link/keep", "escape/secret", "climb/secret", "loop/x", "f/x"]);
    let result = fixture.collect(&command).unwrap().result;
    let found: Vec<_> = result.output_files.iter().map(|f| f.path.as_str()).collect();
    assert_eq!(found, ["link/keep"]);
}

#[test]
fn in_a_whole_file_system_absolute_links_start_at_the_root() {
    let mut fixture = Fixture::over_inputs();
    fixture.links = LinkRoot::Filesystem;
    fixture.link("abs", "/in");
    fixture.link("climb", "../../../in/sub");
    let result = fixture.collect(&paths(&["abs/keep", "climb/deep"])).unwrap().result;
    assert_eq!(result.output_files.len(), 2);
}

#[test]
fn overlapping_outputs_and_hardlinks() {
    let fixture = Fixture::new();
    fixture.write("out/a/tool", vec![3; LARGE]);
    fixture.mode("out/a/tool", 0o755);
    fs::hard_link(fixture.upper("out/a/tool"), fixture.upper("out/twin")).unwrap();
    fixture.write("out/a/big", vec![4; LARGE]);
    let collected =
        fixture.collect(&paths(&["out", "out/a", "out/a/tool", "out/a/big", "out/twin"])).unwrap();
    let result = &collected.result;
    assert_eq!(result.output_directories.len(), 2);
    let executable: Vec<_> = result.output_files.iter().map(|f| f.is_executable).collect();
    assert_eq!(executable, [true, false, true]);
    let tree = fixture.tree(&result.output_directories[0]);
    assert_eq!(Some(&tree.children[0]), fixture.tree(&result.output_directories[1]).root.as_ref());
}

#[test]
fn special_files_and_shut_modes() {
    let fixture = Fixture::new();
    fixture.mkdir("out/shut");
    fixture.write("out/shut/f", "x");
    fixture.write("out/g", "y");
    rustix::fs::mknodat(CWD, fixture.upper("out/pipe"), rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
    rustix::fs::mknodat(CWD, fixture.upper("fifo"), rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
    fixture.mode("out/shut/f", 0o000);
    fixture.mode("out/shut", 0o000);
    fixture.mode("out/g", 0o200);
    let mut command = paths(&["out", "fifo", "out/g"]);
    command.output_node_properties = vec!["unix_mode".into()];
    let collected = fixture.collect(&command).unwrap();
    assert_eq!(collected.notes.len(), 2, "{:?}", collected.notes);
    assert!(collected.notes.iter().all(|note| note.contains("pipe")), "{:?}", collected.notes);
    let tree = fixture.tree(&collected.result.output_directories[0]);
    let mode = |properties: &Option<reapi::NodeProperties>| {
        properties.as_ref().unwrap().unix_mode.as_ref().unwrap().value
    };
    assert_eq!(mode(&tree.children[0].node_properties), 0o000);
    assert_eq!(mode(&tree.children[0].files[0].node_properties), 0o000);
    assert_eq!(mode(&collected.result.output_files[0].node_properties) & 0o200, 0o200);
}

#[test]
fn requested_properties_are_filled() {
    let fixture = Fixture::over_inputs();
    fixture.write("new", "x");
    let time = rustix::fs::Timespec { tv_sec: 1234, tv_nsec: 5678 };
    let cursor = crate::worker::scratch::Cursor::open(&fixture.upper("")).unwrap();
    crate::worker::scratch::set_mtime(cursor.fd(), c"new", time).unwrap();
    let mut command = paths(&["new", "f", "link"]);
    assert!(fixture.collect(&command).unwrap().result.output_files[0].node_properties.is_none());
    command.output_node_properties = vec!["mtime".into()];
    let result = fixture.collect(&command).unwrap().result;
    let times: Vec<_> = (result.output_files.iter().map(|f| &f.node_properties))
        .chain(result.output_symlinks.iter().map(|l| &l.node_properties))
        .map(|properties| properties.as_ref().unwrap().mtime.as_ref().unwrap())
        .map(|time| (time.seconds, time.nanos))
        .collect();
    let fixed = (crate::worker::inputs::FIXED_MTIME.tv_sec, 0);
    assert_eq!(times, [(1234, 5678), fixed, fixed]);
}

#[test]
fn the_number_of_entries_is_bounded() {
    let fixture = Fixture::new();
    for i in 0..20 {
        fixture.write(&format!("out/{i}"), "x");
    }
    assert!(fixture.collect_up_to(&paths(&["out"]), 20).is_ok());
    let error = fixture.collect_up_to(&paths(&["out"]), 19).unwrap_err();
    assert!(matches!(error, OutputError::TooManyEntries { limit: 19 }), "{error}");
}

#[test]
fn thousands_of_levels() {
    let fixture = Fixture::new();
    let mut cursor = crate::worker::scratch::Cursor::open(&fixture.upper("")).unwrap();
    for _ in 0..3000 {
        rustix::fs::mkdirat(cursor.fd(), c"d", Mode::RWXU).unwrap();
        cursor.enter(c"d").unwrap();
    }
    let collected = fixture.collect_up_to(&paths(&["d"]), 10_000).unwrap();
    assert_eq!(fixture.tree(&collected.result.output_directories[0]).children.len(), 2999);
    crate::worker::scratch::remove_tree(&fixture.upper(""), || true).unwrap();
}

#[test]
fn parents_are_made_and_outputs_are_not() {
    let fixture = Fixture::over_inputs();
    let mut command = paths(&["x/y/out", "../in/sub/out", "../in/new/out", "../f/out", "../link/p/out"]);
    command.working_directory = "wd/./inner/..".into();
    fixture.root().make_parents(&OutputRequest::parse(&command).unwrap()).unwrap();
    for made in ["wd/x/y", "in/new", "in/p"] {
        assert!(fixture.upper(made).is_dir(), "{made}");
        let modified = fs::metadata(fixture.upper(made)).unwrap().modified().unwrap();
        let since = modified.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(since as i64, crate::worker::inputs::FIXED_MTIME.tv_sec, "{made}");
    }
    for not in ["wd/x/y/out", "in/new/out", "in/sub", "f", "link", "in/p/out"] {
        assert!(fs::symlink_metadata(fixture.upper(not)).is_err(), "{not}");
    }
}

#[test]
fn parents_are_never_made_through_a_link_that_leads_out() {
    let fixture = Fixture::new();
    let outside = tempfile::tempdir().unwrap();
    fixture.link("escape", outside.path().to_str().unwrap());
    fixture.root().make_parents(&OutputRequest::parse(&paths(&["escape/a/b"])).unwrap()).unwrap();
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn missing_input_directories_are_named() {
    let fixture = Fixture::over_inputs();
    fixture.cas.remove(&fixture.lower.unwrap());
    let error = fixture.collect(&paths(&["f"])).unwrap_err();
    assert!(matches!(error, OutputError::Missing(missing) if missing == [fixture.lower.unwrap()]));
}

#[test]
fn logs() {
    let fixture = Fixture::new();
    let collection = Collection {
        blobs: Arc::new(fixture.cas.clone()),
        function: SHA256,
        spool: fixture.dir.path().to_owned(),
        max_entries: 0,
        are_open: false,
    };
    assert_eq!(store_log(&collection, Path::new("/no/such/log")).unwrap(), Digest::empty(SHA256));
    for size in [0, 10, 32 * 1024, 300_000, 256 * 1024] {
        let content: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        let path = fixture.dir.path().join(size.to_string());
        fs::write(&path, &content).unwrap();
        let digest = store_log(&collection, &path).unwrap();
        assert_eq!(digest, Digest::of(SHA256, &content));
        assert_eq!(fixture.cas.load(&digest).unwrap(), content);
    }
}

#[test]
fn a_result_that_no_message_can_hold_is_refused() {
    let fixture = Fixture::new();
    let names: Vec<String> = (0..600).map(|i| format!("{i}{}", "-".repeat(250))).collect();
    for name in &names {
        fixture.link(name, &"x".repeat(4000));
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let collected = fixture.collect(&paths(&names)).unwrap();
    assert!(collected.refused.as_ref().unwrap().contains("bytes"), "{:?}", collected.refused);
    assert_eq!(collected.result, reapi::ActionResult::default());
}

#[test]
fn many_left_out_entries_make_few_notes() {
    let fixture = Fixture::new();
    fixture.mkdir("d");
    for i in 0..60 {
        rustix::fs::mkfifoat(CWD, fixture.upper(&format!("d/{i}")), Mode::RWXU).unwrap();
    }
    let collected = fixture.collect(&paths(&["d"])).unwrap();
    assert_eq!(collected.notes.len(), MAX_NOTES + 1);
    assert_eq!(collected.notes[MAX_NOTES], "10 more were left out");
}
