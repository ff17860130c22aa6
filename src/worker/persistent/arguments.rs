//! The command line of an action, parted: what starts a worker, and what is asked of it each time.
//!
//! Bazel's convention: arguments that name a file of arguments (`@path`, `--flagfile=path`,
//! `-flagfile=path`) are of one request, all others of the tool. In a request `@path` stands for the lines of
//! that file, each taken the same way; the other two are for the tool to read. `@@…` is no file, nor is the
//! label of something in another repository (`@name//…`).

/// What tells a tool to be a worker.
const PERSISTENT: &str = "--persistent_worker";

/// Files within files of arguments, one below the other.
const MAX_DEPTH: usize = 16;

/// Bytes of all arguments of a request.
const MAX_BYTES: usize = 16 << 20;

/// A parted command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::worker) struct Parted {
    /// Starts the worker.
    pub(in crate::worker) startup: Vec<String>,
    /// What is asked, as written in the command line.
    asked: Vec<String>,
}

/// The arguments of a request, while the files that are named are still to be read.
#[derive(Debug)]
pub(in crate::worker) struct Expansion {
    /// What is still to be looked at, the next one last, and how deep it stands.
    waiting: Vec<(String, usize)>,
    /// How deep the lines stand of the file that is to be read.
    depth: usize,
    done: Vec<String>,
    bytes: usize,
}

/// What an [`Expansion`] needs to go on.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::worker) enum Step {
    /// The content of this file, relative to the working directory.
    Read(String),
    /// Nothing: these are the arguments.
    Done(Vec<String>),
    /// It is too much for a request.
    TooMuch,
}

impl Parted {
    /// Parts `arguments`. `None` where nothing names a file: such a command has no request in it.
    pub(in crate::worker) fn of(arguments: &[String]) -> Option<Self> {
        let (program, rest) = arguments.split_first()?;
        let (asked, tool): (Vec<_>, Vec<_>) =
            rest.iter().cloned().partition(|argument| names_flags(argument));
        let startup = [program.clone()].into_iter().chain(tool).chain([PERSISTENT.to_owned()]).collect();
        (!asked.is_empty()).then_some(Self { startup, asked })
    }

    /// Begins to put together the arguments of the request.
    pub(in crate::worker) fn expand(&self) -> Expansion {
        let waiting = self.asked.iter().rev().map(|argument| (argument.clone(), 0)).collect();
        Expansion { waiting, depth: 0, done: Vec::new(), bytes: 0 }
    }
}

impl Expansion {
    /// Goes on as far as possible.
    pub(in crate::worker) fn step(&mut self) -> Step {
        while let Some((argument, depth)) = self.waiting.pop() {
            self.bytes += argument.len() + 1;
            if self.bytes > MAX_BYTES || depth > MAX_DEPTH {
                return Step::TooMuch;
            }
            match file_of(&argument) {
                Some(path) => {
                    self.depth = depth + 1;
                    return Step::Read(path.to_owned());
                }
                None => self.done.push(argument),
            }
        }
        Step::Done(std::mem::take(&mut self.done))
    }

    /// The file that was asked for has these bytes.
    pub(in crate::worker) fn read(&mut self, content: &str) {
        let lines = content.lines().flat_map(|line| line.split('\r'));
        let start = self.waiting.len();
        self.waiting.extend(lines.map(|line| (line.to_owned(), self.depth)));
        self.waiting[start..].reverse();
    }
}

/// Whether an argument is of one request.
fn names_flags(argument: &str) -> bool {
    let flagfile = ["--flagfile=", "-flagfile="].iter().find_map(|prefix| argument.strip_prefix(prefix));
    flagfile.is_some_and(|path| !path.is_empty()) || file_of(argument).is_some()
}

/// The file whose lines stand in the place of an argument.
fn file_of(argument: &str) -> Option<&str> {
    let path = argument.strip_prefix('@')?;
    (!path.is_empty() && !path.starts_with('@') && !path.contains("//")).then_some(path)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn parted(arguments: &[&str]) -> Option<Parted> {
        Parted::of(&arguments.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    /// Expands with these files; `None` if it is too much.
    fn expanded(arguments: &[&str], files: &[(&str, &str)]) -> Option<Vec<String>> {
        let files: BTreeMap<_, _> = files.iter().copied().collect();
        let mut expansion = parted(arguments).unwrap().expand();
        loop {
            match expansion.step() {
                Step::Read(path) => expansion.read(files[path.as_str()]),
                Step::Done(arguments) => return Some(arguments),
                Step::TooMuch => return None,
            }
        }
    }

    #[test]
    fn what_names_a_file_is_of_the_request() {
        let parted =
            parted(&["java", "-jar", "x.jar", "@a", "-k", "--flagfile=b", "@@c", "@d//e:f"]).unwrap();
        assert_eq!(parted.startup, ["java", "-jar", "x.jar", "-k", "@@c", "@d//e:f", "--persistent_worker"]);
        assert_eq!(parted.asked, ["@a", "--flagfile=b"]);
    }

    #[test]
    fn without_a_file_there_is_no_request() {
        assert_eq!(parted(&[]), None);
        assert_eq!(parted(&["cc", "-c", "x.c"]), None);
        assert_eq!(parted(&["@program", "x"]), None);
    }

    #[test]
    fn files_are_read_where_they_stand() {
        let files = [("a", "1\n@b\n@@2\n@c//d:e\n\n3"), ("b", "x\r\ny\rz\n")];
        assert_eq!(
            expanded(&["p", "@a", "--flagfile=q", "@b"], &files).unwrap(),
            ["1", "x", "y", "z", "@@2", "@c//d:e", "", "3", "--flagfile=q", "x", "y", "z"]
        );
    }

    #[test]
    fn what_names_itself_or_grows_beyond_all_bounds_is_too_much() {
        assert_eq!(expanded(&["p", "@a"], &[("a", "@a")]), None);
        assert_eq!(expanded(&["p", "@a"], &[("a", &"@b\n".repeat(40)), ("b", &"x".repeat(1 << 20))]), None);
    }

    proptest! {
        #[test]
        fn lines_that_name_nothing_come_out_as_they_are(lines in prop::collection::vec("[a-z @/]{0,8}", 0..20)) {
            let plain: Vec<_> = lines.into_iter().filter(|line| file_of(line).is_none()).collect();
            let content: String = plain.iter().map(|line| format!("{line}\n")).collect();
            prop_assert_eq!(expanded(&["p", "@f"], &[("f", &content)]).unwrap(), plain);
        }
    }
}
