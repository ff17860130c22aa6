//! Where things live when nobody says: what this host and this user have to offer.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use directories::ProjectDirs;

/// Name of the configuration file.
const FILE_NAME: &str = "farmhand.toml";

/// The least id of a user who is a person.
const FIRST_PERSON: u32 = 1000;

/// What defaults are made of: read once from the machine, given by tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Name of the machine.
    pub name: String,
    /// Who uses it: the user, or the machine itself where that is nobody in particular.
    pub person: String,
    /// Cores this process may use.
    pub cores: usize,
    /// Data directory of the user; `None` without a home directory.
    pub data_dir: Option<PathBuf>,
    /// Configuration file of the user; `None` without a home directory.
    pub config_file: Option<PathBuf>,
    /// Directory of sockets.
    pub runtime_dir: PathBuf,
}

impl Host {
    /// This machine and this user.
    pub fn detect() -> Self {
        let dirs = ProjectDirs::from("", "", "farmhand");
        let uid = rustix::process::getuid().as_raw();
        let run_user = PathBuf::from(format!("/run/user/{uid}"));
        let name = host_name();
        Self {
            person: person(user_name(uid), uid, &name),
            name,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            data_dir: dirs.as_ref().map(|dirs| dirs.data_dir().to_owned()),
            config_file: dirs.as_ref().map(|dirs| dirs.config_dir().join(FILE_NAME)),
            runtime_dir: runtime_dir(
                dirs.as_ref().and_then(ProjectDirs::runtime_dir),
                run_user.is_dir().then_some(run_user.as_path()),
                &std::env::temp_dir(),
                uid,
            ),
        }
    }
}

/// Bytes that are free on the disk of `directory`, and bytes that the files below it hold there. The
/// directory need not exist yet.
pub fn disk_room(directory: &Path) -> (u64, u64) {
    let nearest = directory.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(directory);
    let free = rustix::fs::statvfs(nearest).map_or(0, |space| space.f_bavail.saturating_mul(space.f_frsize));
    (free, held_bytes(directory))
}

fn held_bytes(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    let held = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => held_bytes(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(held).sum()
}

/// The session's directory, else the user's, else one below `temp` that carries the user id; whoever
/// creates it makes it private.
fn runtime_dir(session: Option<&Path>, user: Option<&Path>, temp: &Path, uid: u32) -> PathBuf {
    match (session, user) {
        (Some(session), _) => session.to_owned(),
        (None, Some(user)) => user.join("farmhand"),
        (None, None) => temp.join(format!("farmhand-{uid}")),
    }
}

/// The user, unless he is root or one of the system's: those have no builds of their own.
fn person(user: Option<String>, uid: u32, machine: &str) -> String {
    user.filter(|name| uid >= FIRST_PERSON && !name.is_empty()).unwrap_or_else(|| machine.to_owned())
}

/// The name of the user with this id, as the file of users has it; else as the session says.
fn user_name(uid: u32) -> Option<String> {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let fields = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let listed = fields.filter(|fields| fields.get(2).and_then(|id| id.parse().ok()) == Some(uid));
    let listed = listed.filter_map(|fields| fields.first().map(ToString::to_string)).next();
    listed.or_else(|| std::env::var("USER").ok())
}

fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtime_directory_is_always_private_to_the_user() {
        let (session, user, temp) = (Path::new("/x/farmhand"), Path::new("/run/user/7"), Path::new("/tmp"));
        assert_eq!(runtime_dir(Some(session), Some(user), temp, 7), session);
        assert_eq!(runtime_dir(None, Some(user), temp, 7), Path::new("/run/user/7/farmhand"));
        assert_eq!(runtime_dir(None, None, temp, 7), Path::new("/tmp/farmhand-7"));
    }

    #[test]
    fn a_person_is_a_user_and_no_servant() {
        assert_eq!(person(Some("ada".into()), 1000, "attic"), "ada");
        assert_eq!(person(Some("root".into()), 0, "attic"), "attic");
        assert_eq!(person(None, 1000, "attic"), "attic");
    }

    #[test]
    fn this_machine_has_a_name_and_a_core() {
        let host = Host::detect();
        assert!(!host.name.is_empty());
        assert!(host.cores >= 1);
    }
}
