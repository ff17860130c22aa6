//! [`ActionGroup`]: the control group of all actions, which bounds their memory together and shares
//! out the processors among them.
//!
//! Without it an action that takes all memory makes the kernel choose a victim among everything that
//! runs on the machine. With it the kernel chooses among the actions, and the greediest comes
//! first. What actions keep in `/tmp` and `/dev/shm` counts too.
//!
//! Each spawner has a part of the group, a *seat*, with an equal claim to the processors: a thousand
//! processes of one action get no more than the one process of another. Sessions do not do that
//! (the kernel's autogroups): a process that ends leaves its autogroup, and those of a fork bomb end by
//! the hundred, each with the claim of a whole session.
//!
//! Version 2 of control groups needs a group of our own that is delegated to us, as the service has;
//! version 1 (`memory`, and `cpu` for the seats) needs root. Elsewhere there is none, and the actions'
//! out-of-memory score and the autogroups have to do.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Begin of the names of groups; the process id of the daemon follows.
const PREFIX: &str = "farmhand-";

/// Names of controllers.
const MEMORY: &str = "memory";
const PROCESSORS: &str = "cpu";

/// Where the daemon itself goes when it parts its group: one with processes cannot have parts.
const NODE: &str = "node";

/// The file that lists the processes of a group, and takes new ones.
const PROCESSES: &str = "cgroup.procs";

/// The file of version 2 that says which controllers the parts of a group have.
const CONTROLLERS: &str = "cgroup.subtree_control";

/// The claim of a group to the processors unless told otherwise, and the highest there is, in the units
/// of either version.
const WEIGHT: [(Version, &str, u64, u64); 2] =
    [(Version::One, "cpu.shares", 1024, 1 << 18), (Version::Two, "cpu.weight", 100, 10_000)];

/// The part of the usual claim that an action of another machine has: that of a process at nice 10, in
/// percent.
const GUEST_SHARE: u64 = 11;

/// Tries to sit down in a new seat. Whoever makes one removes the empty ones of others, and may take
/// one for empty that is about to be taken.
const TRIES: u32 = 10;

/// A control group that spawners join. Removed when dropped, if nothing is left in it.
#[derive(Debug)]
pub struct ActionGroup {
    directory: PathBuf,
    /// Where the seats are, if the processors can be shared out.
    seats: Option<PathBuf>,
    version: Version,
    memory: u64,
    /// Processes the kernel has killed in it for want of memory, as far as was told.
    kills: AtomicU64,
}

/// The part of a group that a spawner has to itself, as the spawner changes it.
#[derive(Debug)]
pub(super) struct Seat {
    /// Takes its claim to the processors.
    weight: fs::File,
    /// The claim that is usual.
    usual: u64,
    is_for_guest: bool,
}

/// The kernel's two interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// Where this process stands in the hierarchy that has some controller.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    version: Version,
    directory: PathBuf,
}

/// Why there is no group.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// No hierarchy with a memory controller is mounted.
    #[error("no control groups with a memory controller are mounted")]
    Absent,
    /// Other processes share the daemon's group, so that it cannot be parted.
    #[error("the control group {} is shared with other processes; run the node as a service, or with `systemd-run --user --scope -p Delegate=yes`", .0.display())]
    Shared(PathBuf),
    /// The kernel refused.
    #[error("the control group {} is not delegated to this user: {source}", path.display())]
    Refused {
        /// The group.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
}

// === impl ActionGroup ===

impl ActionGroup {
    /// Makes a group below that of this process, for `memory` bytes at most and with the claim of
    /// `slots` ordinary groups to the processors. Groups of daemons that were killed are removed.
    ///
    /// # Errors
    /// [`GroupError`]; nothing has changed then.
    pub fn make(memory: u64, slots: usize) -> Result<Self, GroupError> {
        let place = own_place(MEMORY)?;
        let refused = |source| GroupError::Refused { path: place.directory.clone(), source };
        if place.version == Version::Two {
            part(&place.directory, &refused)?;
        }
        let directory = make_own(&place.directory).map_err(refused)?;
        let seats = make_seats(place.version, &directory, slots);
        if let Err(error) = &seats {
            let reason = error.to_string();
            tracing::info!(reason, "the processors are not shared out among actions");
        }
        let (seats, version) = (seats.ok(), place.version);
        let group = Self { directory, seats, version, memory, kills: AtomicU64::new(0) };
        let file = match place.version {
            Version::One => "memory.limit_in_bytes",
            Version::Two => "memory.max",
        };
        fs::write(group.directory.join(file), memory.to_string()).map_err(refused)?;
        Ok(group)
    }

    /// What a node started like this process would find, in words. Changes nothing.
    ///
    /// # Errors
    /// [`GroupError`].
    pub fn describe() -> Result<String, GroupError> {
        let Place { version, directory } = own_place(MEMORY)?;
        let refused = |source| GroupError::Refused { path: directory.clone(), source };
        fs::File::options().write(true).open(directory.join(PROCESSES)).map_err(refused)?;
        let version = match version {
            Version::One => "version 1",
            Version::Two => "version 2",
        };
        Ok(format!("{version}, ours to part at {}", directory.display()))
    }

    /// Bytes that all actions together may have.
    pub fn memory(&self) -> u64 {
        self.memory
    }

    /// Whether each spawner has an equal claim to the processors.
    pub fn has_seats(&self) -> bool {
        self.seats.is_some()
    }

    /// The directories for [`join`]: of the group, and of its seats where there are any.
    pub(super) fn directories(&self) -> (&Path, Option<&Path>) {
        (&self.directory, self.seats.as_deref())
    }

    /// Whether the kernel has killed a process in here since this was asked last.
    pub fn has_killed(&self) -> bool {
        let now = self.kills();
        self.kills.swap(now, Ordering::Relaxed) < now
    }

    fn kills(&self) -> u64 {
        let file = match self.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        let events = fs::read_to_string(self.directory.join(file)).unwrap_or_default();
        let kills = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        kills.and_then(|kills| kills.parse().ok()).unwrap_or(0)
    }
}

impl Drop for ActionGroup {
    fn drop(&mut self) {
        // A group that still has processes stays, and goes at the next start.
        for group in self.seats.iter().chain([&self.directory]) {
            remove_whole(group);
        }
    }
}

// === impl Seat ===

impl Seat {
    /// The seat that this process is in. `None` if its claim cannot be changed.
    fn open(directory: &Path) -> Option<Self> {
        WEIGHT.iter().find_map(|(_, file, usual, _)| {
            let weight = fs::File::options().write(true).open(directory.join(file)).ok()?;
            Some(Self { weight, usual: *usual, is_for_guest: false })
        })
    }

    /// Gives the next action the claim that it has. A kernel that refuses is no reason not to run it.
    pub(super) fn give_to(&mut self, guest: bool) {
        if self.is_for_guest == guest {
            return;
        }
        let weight = if guest { self.usual * GUEST_SHARE / 100 } else { self.usual };
        if self.weight.write_all_at(weight.to_string().as_bytes(), 0).is_ok() {
            self.is_for_guest = guest;
        }
    }
}

/// Moves this process into the group at `directory`, and into a new seat below `seats`, if there are any.
pub(super) fn join(directory: &Path, seats: Option<&Path>) -> io::Result<Option<Seat>> {
    if seats != Some(directory) {
        enter(directory)?;
    }
    let Some(seats) = seats else { return Ok(None) };
    let seat = seats.join(std::process::id().to_string());
    let mut tries = 0;
    loop {
        remove_parts(seats);
        fs::create_dir(&seat).or_else(ignore_existing)?;
        match enter(&seat) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && tries < TRIES => tries += 1,
            outcome => return outcome.map(|()| Seat::open(&seat)),
        }
    }
}

fn enter(directory: &Path) -> io::Result<()> {
    fs::write(directory.join(PROCESSES), "0")
}

/// Makes this daemon's group below `place`, where those of daemons that are gone are removed.
fn make_own(place: &Path) -> io::Result<PathBuf> {
    remove_abandoned(place);
    let directory = place.join(format!("{PREFIX}{}", std::process::id()));
    fs::create_dir(&directory).or_else(ignore_existing)?;
    Ok(directory)
}

/// Makes the group whose parts share the processors equally, which in version 2 is `directory` itself.
fn make_seats(version: Version, directory: &Path, slots: usize) -> io::Result<PathBuf> {
    let seats = match version {
        Version::One => {
            let place = own_place(PROCESSORS).map_err(io::Error::other)?;
            if place.version != Version::One {
                return Err(io::Error::from(io::ErrorKind::Unsupported));
            }
            make_own(&place.directory)?
        }
        Version::Two => {
            let parent = directory.parent().unwrap_or(directory);
            fs::write(parent.join(CONTROLLERS), "+cpu")?;
            directory.to_owned()
        }
    };
    for (_, file, usual, most) in WEIGHT.iter().filter(|(of, ..)| *of == version) {
        let weight = usual.saturating_mul(slots.max(1) as u64).min(*most);
        fs::write(seats.join(file), weight.to_string())?;
    }
    if version == Version::Two {
        // The last step: from now on the group takes processes in its parts only.
        fs::write(seats.join(CONTROLLERS), "+cpu")?;
    }
    Ok(seats)
}

/// Makes the group at `directory` one that can have parts with limits, which only one without
/// processes can: those in it, if they are this one alone, move down.
fn part(directory: &Path, refused: &dyn Fn(io::Error) -> GroupError) -> Result<(), GroupError> {
    let processes = fs::read_to_string(directory.join(PROCESSES)).map_err(refused)?;
    let own = std::process::id().to_string();
    if processes.lines().any(|process| process != own) {
        return Err(GroupError::Shared(directory.to_owned()));
    }
    let node = directory.join(NODE);
    fs::create_dir(&node).or_else(ignore_existing).map_err(refused)?;
    enter(&node).map_err(refused)?;
    fs::write(directory.join(CONTROLLERS), "+memory").map_err(|error| {
        // Back to where it was; if that fails it stays below, where it is as well off.
        let _ = enter(directory);
        refused(error)
    })
}

fn ignore_existing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) }
}

/// Removes the groups of daemons that are gone. The kernel refuses those that still have processes.
fn remove_abandoned(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if is_abandoned(&entry.file_name().to_string_lossy()) {
            remove_whole(&entry.path());
        }
    }
}

/// Removes the group at `directory` with its parts, as far as they have no processes.
fn remove_whole(directory: &Path) {
    remove_parts(directory);
    let _ = fs::remove_dir(directory);
}

fn remove_parts(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        // What is no group is a file of the kernel's, and is not removed.
        let _ = fs::remove_dir(entry.path());
    }
}

/// Whether this is the name of a group whose daemon is gone. One that is starting has nothing in its
/// group yet.
fn is_abandoned(name: &str) -> bool {
    let daemon = name.strip_prefix(PREFIX).and_then(|id| id.parse::<u32>().ok());
    daemon.is_some_and(|daemon| !Path::new("/proc").join(daemon.to_string()).exists())
}

fn own_place(controller: &str) -> Result<Place, GroupError> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    place(controller, &mounts, &groups).ok_or(GroupError::Absent)
}

/// Reads where this process stands in the hierarchy that has `controller` out of
/// `/proc/self/mountinfo` and `/proc/self/cgroup`.
fn place(controller: &str, mounts: &str, groups: &str) -> Option<Place> {
    let path_of = |wanted: &dyn Fn(&str, &str) -> bool| {
        groups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            wanted(number, controllers).then_some(path)
        })
    };
    let has_it = |options: &str| options.split(',').any(|option| option == controller);
    let one = path_of(&|_, controllers| has_it(controllers)).map(|path| (Version::One, path));
    let two = path_of(&|number, _| number == "0").map(|path| (Version::Two, path));
    let (version, path) = one.or(two)?;
    mounts.lines().find_map(|line| {
        let (mount, system) = line.split_once(" - ")?;
        let mut system = system.split(' ');
        let (kind, options) = (system.next()?, system.nth(1).unwrap_or_default());
        let wanted = match version {
            Version::One => kind == "cgroup" && has_it(options),
            Version::Two => kind == "cgroup2",
        };
        let mut mount = mount.split(' ').skip(3);
        let (root, at) = (mount.next()?, mount.next()?);
        let below = Path::new(path).strip_prefix(root).ok().filter(|_| wanted)?;
        Some(Place { version, directory: Path::new(at).join(below) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(mounts: &str, groups: &str) -> Option<(Version, String)> {
        let place = place(MEMORY, mounts, groups)?;
        Some((place.version, place.directory.to_str()?.to_owned()))
    }

    #[test]
    fn the_place_in_version_two() {
        let mounts = "24 30 0:22 / /proc rw - proc proc rw\n\
                      35 25 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        let groups = "0::/user.slice/user-1000.slice/farmhand.service\n";
        let expected = "/sys/fs/cgroup/user.slice/user-1000.slice/farmhand.service";
        assert_eq!(found(mounts, groups), Some((Version::Two, expected.to_owned())));
    }

    #[test]
    fn the_place_in_version_one_wins_where_it_has_the_memory() {
        let mounts = "40 30 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      41 30 0:32 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      42 30 0:33 /jail /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let groups = "5:cpu:/\n4:memory:/jail/me\n0::/\n";
        assert_eq!(found(mounts, groups), Some((Version::One, "/sys/fs/cgroup/memory/me".to_owned())));
        let processors = place(PROCESSORS, mounts, groups);
        let directory = PathBuf::from("/sys/fs/cgroup/cpu");
        assert_eq!(processors, Some(Place { version: Version::One, directory }));
    }

    #[test]
    fn groups_of_running_daemons_stay() {
        assert!(!is_abandoned(&format!("{PREFIX}{}", std::process::id())));
        let mut gone = std::process::Command::new("true").spawn().unwrap();
        let id = gone.id();
        gone.wait().unwrap();
        assert!(is_abandoned(&format!("{PREFIX}{id}")));
        for foreign in ["farmhand-", "farmhand-x", "other-1", "1"] {
            assert!(!is_abandoned(foreign), "{foreign}");
        }
    }

    #[test]
    fn there_may_be_none() {
        assert_eq!(found("", "0::/\n"), None);
        assert_eq!(found("24 30 0:22 / /proc rw - proc proc rw\n", "4:memory:/\n0::/\n"), None);
        assert_eq!(found("nonsense - \n", "nonsense\n0:\n"), None);
    }
}
