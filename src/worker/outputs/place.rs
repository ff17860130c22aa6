//! [`Place`]: an empty file in the input root that something is mounted over while an action runs.
//!
//! It is made in the upper layer, and must be no output afterwards: what was made for it is removed before
//! outputs are collected.

use rustix::fs::{AtFlags, Mode, OFlags};

use super::OutputError;
use super::view::{Kind, MergedRoot, Position, Resolved};
use crate::path::RootPath;
use crate::worker::scratch::c_name;

/// A place, and what was made for it.
#[derive(Debug)]
pub struct Place {
    at: RootPath,
    /// Whether the file was made, and was no input.
    is_made: bool,
    /// Directories that were made, the innermost first.
    directories: Vec<RootPath>,
}

impl MergedRoot {
    /// Has a file at `at`, wherever links lead there; `None` if something is in the way.
    ///
    /// # Errors
    /// [`OutputError`] when the scratch disk or the store fails.
    pub fn make_place(&self, at: &RootPath) -> Result<Option<Place>, OutputError> {
        let (Some(parent), Some(name)) = (at.parent(), at.components().last()) else { return Ok(None) };
        let mut position = self.position()?;
        let mut directories = Vec::new();
        let mut above = RootPath::root();
        for component in parent.components() {
            above = above.child(component.clone());
            if matches!(position.resolve(&above, true)?, Resolved::Absent) {
                directories.insert(0, above.clone());
            }
        }
        if !matches!(position.make_all(&parent)?, Resolved::Directory) {
            return Ok(None);
        }
        let failed = |error| OutputError::io(at.to_string(), error);
        let name = c_name(name.as_str()).map_err(failed)?;
        let is_made = match position.look(&name)? {
            None => {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::openat(position.upper_fd(), &*name, flags, Mode::RUSR | Mode::WUSR)
                    .map_err(|errno| failed(errno.into()))?;
                true
            }
            Some(found) if matches!(found.kind, Kind::UpperFile | Kind::LowerFile(_)) => false,
            Some(_) => return Ok(None),
        };
        Ok(Some(Place { at: at.clone(), is_made, directories }))
    }

    /// Removes what was made for `place`, but for directories that the action has put something into.
    ///
    /// # Errors
    /// [`OutputError`] when the scratch disk or the store fails.
    pub fn remove_place(&self, place: &Place) -> Result<(), OutputError> {
        let mut position = self.position()?;
        if place.is_made {
            remove(&mut position, &place.at, AtFlags::empty())?;
        }
        place.directories.iter().try_for_each(|path| remove(&mut position, path, AtFlags::REMOVEDIR))
    }
}

/// Removes an entry of the upper layer. What the action has made of it meanwhile may stay: then it is the
/// action's own.
fn remove(position: &mut Position<'_>, path: &RootPath, flags: AtFlags) -> Result<(), OutputError> {
    let (Some(parent), Some(name)) = (path.parent(), path.components().last()) else { return Ok(()) };
    let is_there = matches!(position.resolve(&parent, true)?, Resolved::Directory);
    if is_there && position.is_in_upper() {
        let name = c_name(name.as_str()).map_err(|error| OutputError::io(path.to_string(), error))?;
        let _ = rustix::fs::unlinkat(position.upper_fd(), &*name, flags);
    }
    Ok(())
}
