//! Paths that cannot escape: a [`Component`] is a proven file name, a [`RootPath`] a proven place
//! inside an input root. What a client sent as text becomes one of these, or an error, at the edge.

use std::borrow::Borrow;
use std::fmt;
use std::path::PathBuf;

/// Bytes a file name may have on every file system we use (`NAME_MAX`).
pub const NAME_MAX: usize = 255;

/// One file name: not empty, not `.` or `..`, without `/` and NUL.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Component(Box<str>);

/// A place inside an input root, in normal form: components only, the root itself is empty.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RootPath(Vec<Component>);

/// Why a text is no safe path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Not usable as one file name.
    #[error(
        "{0:?} is not a file name: it must not be empty, \".\", \"..\", longer than {NAME_MAX} bytes, or contain \"/\" or NUL"
    )]
    Component(String),
    /// Starts with a slash.
    #[error("path {0:?} is absolute; it must be relative")]
    Absolute(String),
    /// Ends with a slash.
    #[error("path {0:?} ends with a slash")]
    TrailingSlash(String),
    /// Holds a NUL.
    #[error("path {0:?} contains NUL")]
    Nul(String),
    /// `..` leads above the input root.
    #[error("path {0:?} leads out of the input root")]
    Escapes(String),
}

// === impl Component ===

impl Component {
    /// Checks that `name` is one safe file name.
    ///
    /// # Errors
    /// [`PathError::Component`] with the name.
    pub fn parse(name: &str) -> Result<Self, PathError> {
        if Self::is_valid(name) {
            Ok(Self(name.into()))
        } else {
            Err(PathError::Component(name.chars().take(80).collect()))
        }
    }

    /// Whether `name` is one safe file name.
    pub fn is_valid(name: &str) -> bool {
        !matches!(name, "" | "." | "..")
            && name.len() <= NAME_MAX
            && !name.bytes().any(|b| b == b'/' || b == 0)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Component {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

// === impl RootPath ===

impl RootPath {
    /// The input root itself.
    pub fn root() -> Self {
        Self::default()
    }

    /// Resolves `path` from this place. Empty and `.` segments vanish and `..` climbs, but never
    /// above the root. No symlinks are followed: this is arithmetic on names.
    ///
    /// # Errors
    /// [`PathError`] for an absolute or escaping path, one that ends with a slash, NUL, or an
    /// over-long name.
    pub fn join(&self, path: &str) -> Result<Self, PathError> {
        let shown = || path.chars().take(200).collect::<String>();
        if path.contains('\0') {
            return Err(PathError::Nul(shown()));
        }
        if path.starts_with('/') {
            return Err(PathError::Absolute(shown()));
        }
        if path.ends_with('/') {
            return Err(PathError::TrailingSlash(shown()));
        }
        let mut components = self.0.clone();
        for segment in path.split('/') {
            match segment {
                "" | "." => {}
                ".." => {
                    components.pop().ok_or_else(|| PathError::Escapes(shown()))?;
                }
                name => components.push(Component::parse(name)?),
            }
        }
        Ok(Self(components))
    }

    /// This place's child of that name.
    pub fn child(&self, name: Component) -> Self {
        let mut components = self.0.clone();
        components.push(name);
        Self(components)
    }

    /// The directory that holds this place; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        let (_, parents) = self.0.split_last()?;
        Some(Self(parents.to_vec()))
    }

    /// The names from the root down.
    pub fn components(&self) -> &[Component] {
        &self.0
    }

    /// Whether this is the input root itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// As a relative path for the file system; empty for the root.
    pub fn to_path_buf(&self) -> PathBuf {
        self.0.iter().map(Component::as_str).collect()
    }
}

impl fmt::Display for RootPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, component) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("/")?;
            }
            f.write_str(component.as_str())?;
        }
        Ok(())
    }
}

impl fmt::Debug for RootPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn components() {
        for name in ["a", "a b", "…", "-x", ".hidden", "line\nbreak", &"x".repeat(255)] {
            assert!(Component::parse(name).is_ok(), "{name:?}");
        }
        for name in ["", ".", "..", "a/b", "/", "a\0", &"x".repeat(256)] {
            assert!(Component::parse(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn joins_inside_the_root() {
        let dir = RootPath::root().join("a/./b").unwrap();
        assert_eq!(dir.to_string(), "a/b");
        assert_eq!(dir.join("../../c").unwrap().to_string(), "c");
        assert_eq!(dir.join("../..").unwrap(), RootPath::root());
        assert_eq!(dir.join("").unwrap(), dir);
        assert_eq!(dir.join("../../../x"), Err(PathError::Escapes("../../../x".into())));
        assert_eq!(dir.join("/x"), Err(PathError::Absolute("/x".into())));
        assert_eq!(dir.join("x/"), Err(PathError::TrailingSlash("x/".into())));
        assert_eq!(dir.join("x\0y"), Err(PathError::Nul("x\0y".into())));
    }

    proptest! {
        #[test]
        fn a_joined_path_is_normal(text in "[a-c./]{0,20}") {
            if let Ok(path) = RootPath::root().join(&text) {
                let shown = path.to_string();
                prop_assert!(!shown.starts_with('/'));
                prop_assert!(path.components().iter().all(|c| Component::is_valid(c.as_str())));
                prop_assert_eq!(RootPath::root().join(&shown).unwrap(), path);
            }
        }
    }
}
