//! Holds the source against the map in `src/lib.rs`: a module uses only modules that the map lists
//! before it, and what is to stay in one place does.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A source file: its path below `src`, and its text without comments.
struct Source {
    path: String,
    code: String,
}

/// The map: modules in the order of the list, and those that all may use.
struct Map {
    layers: Vec<String>,
    shared: Vec<String>,
}

// === impl Source ===

impl Source {
    /// Every Rust file below `src`.
    fn all() -> Vec<Self> {
        let root = source_root();
        let mut sources = Vec::new();
        let mut waiting = vec![root.clone()];
        while let Some(directory) = waiting.pop() {
            for entry in fs::read_dir(&directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    waiting.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let code = without_comments(&fs::read_to_string(&path).unwrap());
                    let path = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
                    sources.push(Self { path, code });
                }
            }
        }
        sources.sort_by(|a, b| a.path.cmp(&b.path));
        sources
    }

    /// The module of the crate it belongs to.
    fn module(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.trim_end_matches(".rs")
    }

    /// The modules it names as `crate::…`, in `use` lines and elsewhere. Unit tests do not count: they
    /// may try a module together with what stands on it.
    fn used(&self) -> BTreeSet<String> {
        let is_test = self.path.ends_with("/tests.rs") || self.path.contains("/tests/");
        let code = self.code.split("\n#[cfg(test)]\nmod tests {").next().filter(|_| !is_test);
        let after_crate = code.unwrap_or_default().split("crate::").skip(1);
        after_crate.flat_map(names_at_start).collect()
    }
}

// === impl Map ===

impl Map {
    fn read() -> Self {
        let text = fs::read_to_string(source_root().join("lib.rs")).unwrap();
        let links = |line: &str| -> Vec<String> {
            let parts = line.split("[`").skip(1);
            parts.filter_map(|part| part.split_once("`]")).map(|(name, _)| name.to_owned()).collect()
        };
        // Modules that are in some builds only have no link.
        let linked = text.replace("- `", "- [`").replace("`:", "`]:");
        let layers = linked.lines().filter(|line| line.starts_with("//! - ")).flat_map(links).collect();
        let shared = text.lines().filter(|line| line.contains("visible to all")).flat_map(links).collect();
        Self { layers, shared }
    }

    fn position(&self, module: &str) -> Option<usize> {
        self.layers.iter().position(|layer| layer == module)
    }

    /// Whether code in `user` may name `used`.
    fn allows(&self, user: &str, used: &str) -> bool {
        if user == used || self.shared.iter().any(|shared| shared == used) {
            return true;
        }
        match (self.position(user), self.position(used)) {
            (Some(user), Some(used)) => used < user,
            // What all may use may itself use only the values at the bottom, and lib.rs names all.
            (None, Some(used)) if self.shared.iter().any(|shared| shared == user) => {
                self.position("merkle").is_some_and(|values| used <= values)
            }
            (None, _) => matches!(user, "lib" | "main"),
            (Some(_), None) => false,
        }
    }
}

fn source_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Drops what follows `//` on each line. A URL in a string goes with it, which hides no code.
fn without_comments(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The module names a path begins with: one, or those of a group in braces.
fn names_at_start(rest: &str) -> Vec<String> {
    let identifier = |text: &str| -> String {
        text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
    };
    let Some(group) = rest.strip_prefix('{') else { return vec![identifier(rest)] };
    let mut depth = 1;
    let mut names = vec![identifier(group.trim_start())];
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => names.push(identifier(group[at + 1..].trim_start())),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// Whether `word` stands in `code` as a word of its own.
fn has_word(code: &str, word: &str) -> bool {
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    code.match_indices(word).any(|(at, _)| {
        !is_part(code[..at].chars().next_back()) && !is_part(code[at + word.len()..].chars().next())
    })
}

/// The files in which `word` stands, but for those `allowed`.
fn outside(word: &str, allowed: impl Fn(&str) -> bool) -> Vec<String> {
    let sources = Source::all().into_iter().filter(|source| has_word(&source.code, word));
    sources.map(|source| source.path).filter(|path| !allowed(path)).collect()
}

#[test]
fn the_map_lists_every_module_once() {
    let map = Map::read();
    let lib = fs::read_to_string(source_root().join("lib.rs")).unwrap();
    let mut declared: Vec<String> = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .map(ToOwned::to_owned)
        .collect();
    let mut listed = [map.layers, map.shared].concat();
    declared.sort();
    listed.sort();
    assert_eq!(declared, listed, "the map in src/lib.rs and its `pub mod` lines differ");
}

#[test]
fn no_module_uses_one_that_the_map_lists_after_it() {
    let map = Map::read();
    let mut wrong = Vec::new();
    for source in Source::all() {
        for used in source.used() {
            if !map.allows(source.module(), &used) {
                wrong.push(format!("src/{} uses crate::{used}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "against the map in src/lib.rs:\n{}", wrong.join("\n"));
}

#[test]
fn the_index_engine_is_named_in_one_file() {
    assert_eq!(outside("sled", |path| path == "index.rs" || path.starts_with("index/")), [""; 0]);
}

#[test]
fn unsafe_code_is_below_the_sandbox() {
    let allowed = |path: &str| path == "worker/sandbox.rs" || path.starts_with("worker/sandbox/");
    assert_eq!(outside("unsafe", allowed), [""; 0]);
}

/// Everything else of the dashboard goes over the control API, as for any client.
#[test]
fn the_dashboard_is_named_where_it_is_opened_only() {
    let allowed = |path: &str| path == "cli/run.rs" || path == "cli/top.rs" || path.starts_with("cli/top/");
    assert_eq!(outside("farmhand_ui", allowed), [""; 0]);
}

/// What talks to the other machines of the farm, and tests of it.
fn to_other_machines(path: &str) -> bool {
    let ways = ["worker/guests.rs", "worker/remote.rs", "worker/remote/tests.rs", "peer/tests.rs"];
    let blobs = ["cas/remote.rs", "cas/remote/wire.rs"];
    let copies = ["replication/calls.rs", "replication/calls/tests.rs", "fuzzing/copies.rs"];
    path.starts_with("peer/link/") || [&ways[..], &blobs, &copies].concat().contains(&path)
}

/// Status codes (`tonic::Code`) are values of the protocol and may be named anywhere.
#[test]
fn grpc_is_spoken_at_the_edges_only() {
    let at_the_edge = |path: &str| {
        ["rpc.rs", "node.rs", "cli.rs"].contains(&path)
            || path.starts_with("rpc/")
            || path.starts_with("node/")
            || path.starts_with("cli/")
            || to_other_machines(path)
    };
    let inside: Vec<String> = Source::all()
        .into_iter()
        .filter(|source| has_word(&source.code.replace("tonic::Code", ""), "tonic"))
        .map(|source| source.path)
        .filter(|path| !at_the_edge(path))
        .collect();
    assert_eq!(inside, [""; 0]);
}

#[test]
fn the_reader_sees_what_it_must() {
    let source = Source {
        path: "cas/disk.rs".into(),
        code: without_comments(
            "use crate::digest::Digest; // crate::cli::x\nuse crate::{rpc::{a, b}, node};\nlet x: crate::path::P;\n#[cfg(test)]\nmod tests {\nuse crate::index;\n}",
        ),
    };
    let test = Source { path: "cas/disk/tests/full.rs".into(), code: "use crate::cli;".into() };
    assert!(test.used().is_empty() && source.code.contains("digest"));
    assert_eq!(source.module(), "cas");
    assert_eq!(source.used(), ["digest", "node", "path", "rpc"].map(String::from).into());
    let map = Map {
        layers: ["digest", "merkle", "cas", "rpc"].map(String::from).into(),
        shared: vec!["tasks".into()],
    };
    assert!(map.allows("cas", "digest") && map.allows("cas", "cas") && map.allows("cas", "tasks"));
    assert!(!map.allows("digest", "cas") && !map.allows("cas", "rpc") && !map.allows("tasks", "rpc"));
    assert!(map.allows("tasks", "digest") && !map.allows("cas", "nowhere"));
    assert!(has_word("a unsafe {", "unsafe") && !has_word("unsafe_code", "unsafe"));
}
