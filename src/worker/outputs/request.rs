//! [`OutputRequest`]: what a Command asks for, with every path proven to lie inside the root.

use std::collections::HashSet;

use farmhand_proto::reapi;

use crate::path::{PathError, RootPath};

/// The outputs of a Command.
#[derive(Clone, Debug, PartialEq)]
pub struct OutputRequest {
    /// Where the command runs, below the input root.
    pub working_directory: RootPath,
    pub(super) paths: Vec<RequestedPath>,
    pub(super) properties: WantedProperties,
}

/// Why a Command's outputs make no sense: the client's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// A path that is absolute, leads out of the root, or is no path.
    #[error("{field}: {source}")]
    Path {
        /// Field of the Command.
        field: &'static str,
        /// What is wrong.
        source: PathError,
    },
    /// One path is to be a file and a directory.
    #[error("{0:?} is in both output_files and output_directories")]
    BothKinds(String),
    /// A node property that is not known.
    #[error("output_node_properties: {0:?} is not known; known are \"mtime\" and \"unix_mode\"")]
    UnknownProperty(String),
}

/// One output.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RequestedPath {
    /// The path as the client wrote it, relative to the working directory.
    pub(super) asked: String,
    /// Where that is.
    pub(super) place: RootPath,
    pub(super) declared: Declared,
}

/// What a Command says that an output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Declared {
    /// `output_paths`: whatever is found.
    Any,
    /// `output_files`.
    File,
    /// `output_directories`.
    Directory,
}

/// Node properties that outputs are to carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct WantedProperties {
    pub(super) mtime: bool,
    pub(super) unix_mode: bool,
}

impl OutputRequest {
    /// Reads the output fields of `command`. `output_paths` rules out the two older lists.
    ///
    /// # Errors
    /// [`RequestError`] names the field.
    #[expect(deprecated, reason = "older clients fill the older fields")]
    pub fn parse(command: &reapi::Command) -> Result<Self, RequestError> {
        let working_directory = join(&RootPath::root(), "working_directory", &command.working_directory)?;
        let mut properties = WantedProperties::default();
        for name in &command.output_node_properties {
            match name.as_str() {
                "mtime" => properties.mtime = true,
                "unix_mode" => properties.unix_mode = true,
                _ => return Err(RequestError::UnknownProperty(name.clone())),
            }
        }
        let lists = if command.output_paths.is_empty() {
            vec![
                ("output_files", Declared::File, &command.output_files),
                ("output_directories", Declared::Directory, &command.output_directories),
            ]
        } else {
            vec![("output_paths", Declared::Any, &command.output_paths)]
        };
        let mut paths: Vec<RequestedPath> = Vec::new();
        for (field, declared, list) in lists {
            let files: HashSet<_> = paths.iter().map(|path| path.place.clone()).collect();
            let mut seen = HashSet::new();
            for asked in list.iter().filter(|asked| seen.insert(asked.as_str())) {
                let place = join(&working_directory, field, asked)?;
                if files.contains(&place) {
                    return Err(RequestError::BothKinds(asked.clone()));
                }
                paths.push(RequestedPath { asked: asked.clone(), place, declared });
            }
        }
        Ok(Self { working_directory, paths, properties })
    }

    /// Whether no output is asked for.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Whether no output is an entry of the working directory, of one above it, or one of these itself.
    pub fn are_below_the_top(&self) -> bool {
        let way = self.working_directory.components();
        let is_on_way = |parent: RootPath| way.starts_with(parent.components());
        self.paths.iter().all(|path| path.place.parent().is_some_and(|parent| !is_on_way(parent)))
    }

    /// Whether the input root lacks nothing that has to be there before the command runs.
    pub fn needs_no_parents(&self) -> bool {
        self.parents().is_empty()
    }

    /// The directories that have to be there before the command runs.
    pub(super) fn parents(&self) -> Vec<RootPath> {
        let mut seen = HashSet::from([RootPath::root()]);
        let mut parents = vec![self.working_directory.clone()];
        parents.extend(self.paths.iter().filter_map(|path| path.place.parent()));
        parents.retain(|path| seen.insert(path.clone()));
        parents
    }
}

fn join(from: &RootPath, field: &'static str, path: &str) -> Result<RootPath, RequestError> {
    from.join(path).map_err(|source| RequestError::Path { field, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> reapi::Command {
        reapi::Command { working_directory: "a/b".into(), ..Default::default() }
    }

    #[test]
    fn paths_are_relative_to_the_working_directory_and_stay_inside() {
        let ok = reapi::Command { output_paths: vec!["../../x".into(), ".".into()], ..command() };
        let places: Vec<_> =
            OutputRequest::parse(&ok).unwrap().paths.iter().map(|p| p.place.to_string()).collect();
        assert_eq!(places, ["x", "a/b"]);
        for bad in ["/a", "a/", "../../../x", "a\0b"] {
            let command = reapi::Command { output_paths: vec![bad.into()], ..command() };
            let error = OutputRequest::parse(&command).unwrap_err();
            assert!(matches!(error, RequestError::Path { field: "output_paths", .. }), "{bad:?}");
        }
        for bad in ["/a", "../x"] {
            let command = reapi::Command { working_directory: bad.into(), ..Default::default() };
            assert!(OutputRequest::parse(&command).is_err(), "{bad:?}");
        }
        let dot = reapi::Command { working_directory: "a/./b".into(), ..Default::default() };
        assert_eq!(OutputRequest::parse(&dot).unwrap().working_directory.to_string(), "a/b");
    }

    #[test]
    #[expect(deprecated)]
    fn output_paths_rule_out_the_older_lists() {
        let all = reapi::Command {
            output_paths: vec!["p".into(), "p".into()],
            output_files: vec!["p".into(), "/bad".into()],
            output_directories: vec!["p".into()],
            ..command()
        };
        let request = OutputRequest::parse(&all).unwrap();
        assert_eq!(request.paths.len(), 1);
        assert_eq!(request.paths[0].declared, Declared::Any);
    }

    #[test]
    #[expect(deprecated)]
    fn older_lists() {
        let old = reapi::Command {
            output_files: vec!["f".into(), "f".into()],
            output_directories: vec!["".into(), "d".into(), "d/e".into()],
            ..command()
        };
        let request = OutputRequest::parse(&old).unwrap();
        let kinds: Vec<_> = request.paths.iter().map(|p| (p.asked.as_str(), p.declared)).collect();
        assert_eq!(
            kinds,
            [
                ("f", Declared::File),
                ("", Declared::Directory),
                ("d", Declared::Directory),
                ("d/e", Declared::Directory)
            ]
        );
        let parents: Vec<_> = request.parents().iter().map(ToString::to_string).collect();
        assert_eq!(parents, ["a/b", "a", "a/b/d"]);
        let both =
            reapi::Command { output_files: vec!["x".into()], output_directories: vec!["./x".into()], ..old };
        assert_eq!(OutputRequest::parse(&both), Err(RequestError::BothKinds("./x".into())));
    }

    #[test]
    fn outputs_at_the_top_are_told_from_others() {
        let asks = |working_directory: &str, outputs: &[&str]| {
            let output_paths = outputs.iter().map(ToString::to_string).collect();
            let working_directory = working_directory.into();
            let command = reapi::Command { working_directory, output_paths, ..Default::default() };
            OutputRequest::parse(&command).unwrap().are_below_the_top()
        };
        for (way, outputs) in
            [("", &["out/x", "a/b/c"][..]), ("main", &["out/x", "../out/x"]), ("a/b", &["../c/d"])]
        {
            assert!(asks(way, outputs), "{outputs:?} from {way:?}");
        }
        for (way, output) in
            [("", "x"), ("", "."), ("main", "x"), ("main", "."), ("a/b", "../x"), ("a/b", "../../x")]
        {
            assert!(!asks(way, &["out/x/y", output]), "{output:?} from {way:?}");
        }
    }

    #[test]
    fn unknown_properties_are_named() {
        let command = reapi::Command { output_node_properties: vec!["frobnicate".into()], ..command() };
        assert_eq!(OutputRequest::parse(&command), Err(RequestError::UnknownProperty("frobnicate".into())));
        let command =
            reapi::Command { output_node_properties: vec!["mtime".into(), "unix_mode".into()], ..command };
        let wanted = OutputRequest::parse(&command).unwrap().properties;
        assert!(wanted.mtime && wanted.unix_mode);
    }
}
