//! The socket in an action's input root that leads to the Remote Execution API.
//!
//! Each action that asks for one has a socket of its own, which nobody else can reach and which is served for
//! as long as its command runs. It is made in the directory of the run and mounted into the input root; its
//! place there is no output.

use std::fs::Permissions;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::failure::Failure;
use super::{Lease, LinkRoot, MergedRoot};
use crate::path::RootPath;
use crate::worker::outputs::Place;
use crate::worker::{Door, NestedApis};

/// Name of the socket in the directory of a run.
const SOCKET: &str = "apis";

/// A socket that is served until this is dropped.
pub(super) struct Nested {
    /// What was made for it in the input root.
    pub(super) place: Option<Place>,
    _over: DropGuard,
}

/// A socket that is to be served.
pub(super) struct Socket {
    listener: StdUnixListener,
    path: PathBuf,
    at: RootPath,
    place: Option<Place>,
}

impl Socket {
    /// Makes a socket in `directory` and its place at `at` in the input root. May wait for a disk.
    pub(super) fn make(
        directory: &Path,
        (root, links): (&MergedRoot, &LinkRoot),
        at: &RootPath,
    ) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::Lost(format!("cannot make a socket: {error}"));
        let place = if is_in_own_tmp(links, at) { None } else { Some(make_place(root, at)?) };
        let listener = bind(directory).map_err(failed)?;
        let path = directory.join(SOCKET);
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Self { listener, path, at: at.clone(), place })
    }

    /// Serves it to the action of `lease`; `asked` fires when that has an action of its own run.
    pub(super) fn open(
        self,
        apis: &dyn NestedApis,
        lease: &Lease,
        asked: &CancellationToken,
    ) -> Result<(Door, Nested), Failure> {
        let listener = UnixListener::from_std(self.listener)
            .map_err(|error| Failure::Lost(format!("cannot serve a socket: {error}")))?;
        let over = CancellationToken::new();
        apis.serve(listener, lease, asked.clone(), over.clone());
        let door = Door { socket: self.path, at: self.at.to_path_buf(), asked: asked.clone() };
        Ok((door, Nested { place: self.place, _over: over.drop_guard() }))
    }
}

/// Binds [`SOCKET`] in `directory`, whose path may be longer than the address of a socket.
fn bind(directory: &Path) -> io::Result<StdUnixListener> {
    let directory = std::fs::File::open(directory)?;
    let listener = StdUnixListener::bind(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn make_place(root: &MergedRoot, at: &RootPath) -> Result<Place, Failure> {
    root.make_place(at)?.ok_or_else(|| {
        Failure::invalid(format!(
            "remoteApisSocketPath={at}: an input that is no file is in its place, or in the way there"
        ))
    })
}

/// Whether the place is below the `/tmp` that every complete file system gets, empty: it is made there.
fn is_in_own_tmp(links: &LinkRoot, at: &RootPath) -> bool {
    *links == LinkRoot::Filesystem && at.components().first().is_some_and(|first| first.as_str() == "tmp")
}
