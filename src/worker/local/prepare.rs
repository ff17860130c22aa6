//! What a try to run an action begins with: the command, its variables, its input root, and its socket.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::Arc;

use super::failure::Failure;
use super::nested::{Nested, Socket};
use super::{Attempt, LinkRoot, Staged, USUAL_ID, blocking, create};
use crate::platform::NetworkAccess;
use crate::worker::{Door, InputRoot, Limits, Network, Overlay, PreparedCommand};

impl Attempt<'_> {
    /// The command, and the socket that it is offered.
    pub(super) async fn prepare(&self) -> Result<(PreparedCommand, Option<Nested>), Failure> {
        let (door, nested) = self.open_door().await?.unzip();
        let (merged, request, directory) =
            (Arc::clone(&self.root), Arc::clone(&self.run.request), Arc::clone(&self.directory));
        let is_quick = directory.is_in_memory() && request.needs_no_parents();
        let make = move || {
            if !request.needs_no_parents() {
                merged.make_parents(&request)?;
            }
            Ok((create(&directory.stdout())?, create(&directory.stderr())?))
        };
        let (stdout, stderr) = if is_quick { make()? } else { blocking(make).await? };
        let lease = self.run.lease;
        let platform = &lease.platform;
        let root = self.input_root();
        let is_whole = matches!(root, InputRoot::Filesystem { .. });
        let usual_ids = match (&self.run.worker.config.containers, &platform.container) {
            (Some(containers), Some(_)) => containers.ids(),
            _ if is_whole => (0, 0),
            _ => (USUAL_ID, USUAL_ID),
        };
        let network = match platform.network {
            Some(NetworkAccess::Host) => Network::Host,
            Some(NetworkAccess::Loopback) | None => Network::Loopback,
        };
        let command = PreparedCommand {
            arguments: lease.command.arguments.iter().map(OsString::from).collect(),
            environment: self.environment(&root),
            root,
            working_directory: self.run.request.working_directory.to_path_buf(),
            stdin: None,
            stdout,
            stderr,
            limits: Limits { timeout: Some(lease.timeout), ..self.run.worker.config.limits },
            network,
            ids: (platform.uid.unwrap_or(usual_ids.0), platform.gid.unwrap_or(usual_ids.1)),
            door,
            guest: self.run.guest.cloned(),
        };
        Ok((command, nested))
    }

    /// The socket that the action asked for, served from now on.
    async fn open_door(&self) -> Result<Option<(Door, Nested)>, Failure> {
        let lease = self.run.lease;
        let Some(at) = lease.platform.apis_socket.clone() else { return Ok(None) };
        let Some(apis) = self.run.worker.apis.get() else {
            return Err(Failure::Lost("no Remote Execution API is offered to actions here".into()));
        };
        let (merged, directory) = (Arc::clone(&self.root), Arc::clone(&self.directory));
        let links = self.run.worker.place(&lease.platform);
        let make = move || Socket::make(directory.path(), (&merged, &links), &at);
        blocking(make).await?.open(&**apis, lease, self.run.asked).map(Some)
    }

    fn input_root(&self) -> InputRoot {
        let Staged::Layers(staged) = self.staged else {
            return InputRoot::Plain { directory: self.directory.plain_root() };
        };
        let overlay = Overlay {
            lower: staged.lower.clone(),
            upper: self.directory.upper(),
            work: self.directory.work(),
            read_only: staged.read_only.clone(),
            writable: staged.writable.clone(),
        };
        match self.run.worker.place(&self.run.lease.platform) {
            LinkRoot::Filesystem => InputRoot::Filesystem { overlay },
            LinkRoot::At(at) => InputRoot::Mounted { at, overlay },
        }
    }

    /// The Command's variables over the configured ones, by name; an image has its own instead of those.
    /// Without a sandbox `/tmp` is the host's, so such an action is pointed to a directory of its own.
    fn environment(&self, root: &InputRoot) -> Vec<(OsString, OsString)> {
        let mut variables: BTreeMap<OsString, OsString> = BTreeMap::new();
        let is_contained = self.run.lease.platform.container.is_some();
        for (name, value) in self.run.worker.config.environment.iter().filter(|_| !is_contained) {
            variables.insert(name.into(), value.into());
        }
        if matches!(root, InputRoot::Plain { .. }) && !is_contained {
            variables.insert("TMPDIR".into(), self.directory.plain_tmp().into());
        }
        for variable in &self.run.lease.command.environment_variables {
            variables.insert((&variable.name).into(), (&variable.value).into());
        }
        variables.into_iter().collect()
    }
}
