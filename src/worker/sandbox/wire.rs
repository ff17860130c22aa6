//! The messages between the daemon and a spawner, and their bytes.
//!
//! Both ends are the same binary, so there are no versions. Decoding still trusts nothing: bytes
//! that are no message are an error, never a panic and never a large allocation.
//!
//! A frame on the socket is its length (4 bytes, little endian) and that many bytes of message.
//! The frame of a [`Request::Run`] carries two descriptors, stdout and stderr of the command, or three: the last is
//! its stdin.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;

use crate::worker::{Exit, InputRoot, Limits, Network, Outcome, Overlay, PreparedCommand, Usage};

/// Bytes before each message.
pub(super) const HEADER: usize = 4;

/// The longest message either end accepts. The kernel takes at most a few MiB of arguments.
pub(super) const MAX_MESSAGE: usize = 64 << 20;

/// From the daemon to a spawner.
#[derive(Debug, PartialEq)]
pub(super) enum Request {
    /// Run this.
    Run(Box<Order>),
    /// Kill what runs; without effect if nothing does.
    Kill,
    /// Have what runs stand still, or go on; without effect if nothing runs.
    StandStill(bool),
    /// Put these layers in the place of those that the kept command sees, and have it go on.
    Change(Box<Overlay>),
    /// Have the kept command stand still, and tell what it used.
    Rest,
}

/// A [`PreparedCommand`] without its descriptors.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Order {
    pub(super) arguments: Vec<OsString>,
    pub(super) environment: Vec<(OsString, OsString)>,
    pub(super) root: InputRoot,
    pub(super) working_directory: PathBuf,
    pub(super) limits: Limits,
    pub(super) network: Network,
    pub(super) ids: (u32, u32),
    /// A socket of the host, and where it is to be below the input root.
    pub(super) door: Option<(PathBuf, PathBuf)>,
    /// Whether it gives way to everything else.
    pub(super) is_guest: bool,
}

/// From a spawner to the daemon.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reply {
    /// The spawner is set up and takes requests. With it comes a descriptor of its directory in memory,
    /// if it has one.
    Ready,
    /// The command ended and nothing of it is left.
    Ended {
        /// How it went.
        exit: Exit,
        /// The spawner was tampered with and ends now: start another.
        retiring: bool,
    },
    /// The command could not be started, or could not go on and is gone.
    Failed(Failure),
    /// The kept command runs, and sees the layers it was given last.
    Settled,
    /// The kept command stands still. It has used so much, and has this memory now.
    Resting(Usage),
}

/// Why a command could not be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The program cannot be executed.
    Program(Errno),
    /// The inputs have no directory where the command is to run.
    WorkingDirectory(Errno),
    /// It was killed because it wrote more than the directory in memory is for.
    MemoryFull,
    /// The machinery failed.
    Setup {
        /// What was being done.
        step: String,
        /// The system's answer.
        errno: Errno,
    },
}

/// The bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed message")]
pub(super) struct Malformed;

/// A frame under construction.
struct Writer(Vec<u8>);

/// The rest of a message being read.
struct Reader<'a>(&'a [u8]);

// === impl Request ===

impl Request {
    /// The frame of a [`Request::Kill`].
    pub(super) fn kill_frame() -> Vec<u8> {
        let mut writer = Writer::new();
        writer.byte(1);
        writer.frame()
    }

    /// The frame of a [`Request::StandStill`].
    pub(super) fn stand_still_frame(still: bool) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.byte(2);
        writer.byte(u8::from(still));
        writer.frame()
    }

    /// The frame of a [`Request::Change`].
    pub(super) fn change_frame(overlay: &Overlay) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.byte(3);
        writer.overlay(overlay);
        writer.frame()
    }

    /// The frame of a [`Request::Rest`].
    pub(super) fn rest_frame() -> Vec<u8> {
        let mut writer = Writer::new();
        writer.byte(4);
        writer.frame()
    }

    /// The frame of a [`Request::Run`] for `command`.
    pub(super) fn run_frame(command: &PreparedCommand) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.byte(0);
        writer.count(command.arguments.len());
        for argument in &command.arguments {
            writer.text(argument);
        }
        writer.count(command.environment.len());
        for (name, value) in &command.environment {
            writer.text(name);
            writer.text(value);
        }
        writer.input_root(&command.root);
        writer.text(command.working_directory.as_os_str());
        writer.limits(&command.limits);
        writer.byte(match command.network {
            Network::Loopback => 0,
            Network::Host => 1,
        });
        writer.number(command.ids.0.into());
        writer.number(command.ids.1.into());
        writer.byte(u8::from(command.door.is_some()));
        if let Some(door) = &command.door {
            writer.path(&door.socket);
            writer.path(&door.at);
        }
        writer.byte(u8::from(command.guest.is_some()));
        writer.frame()
    }

    /// Reads a message (without its header).
    pub(super) fn decode(message: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(message);
        let request = match reader.byte()? {
            0 => Self::Run(Box::new(reader.order()?)),
            1 => Self::Kill,
            2 => Self::StandStill(reader.flag()?),
            3 => Self::Change(Box::new(reader.overlay()?)),
            4 => Self::Rest,
            _ => return Err(Malformed),
        };
        reader.end(request)
    }
}

// === impl Reply ===

impl Reply {
    /// The frame of this reply.
    pub(super) fn frame(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        match self {
            Self::Ready => writer.byte(0),
            Self::Ended { exit, retiring } => {
                writer.byte(1);
                writer.exit(exit);
                writer.byte(u8::from(*retiring));
            }
            Self::Failed(Failure::Program(errno)) => {
                writer.byte(2);
                writer.errno(*errno);
            }
            Self::Failed(Failure::Setup { step, errno }) => {
                writer.byte(3);
                writer.text(OsStr::new(step));
                writer.errno(*errno);
            }
            Self::Failed(Failure::WorkingDirectory(errno)) => {
                writer.byte(4);
                writer.errno(*errno);
            }
            Self::Failed(Failure::MemoryFull) => writer.byte(5),
            Self::Settled => writer.byte(6),
            Self::Resting(usage) => {
                writer.byte(7);
                writer.usage(usage);
            }
        }
        writer.frame()
    }

    /// Reads a message (without its header).
    pub(super) fn decode(message: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(message);
        let reply = match reader.byte()? {
            0 => Self::Ready,
            1 => Self::Ended { exit: reader.exit()?, retiring: reader.flag()? },
            2 => Self::Failed(Failure::Program(reader.errno()?)),
            3 => {
                let step = reader.text()?.into_string().map_err(|_| Malformed)?;
                Self::Failed(Failure::Setup { step, errno: reader.errno()? })
            }
            4 => Self::Failed(Failure::WorkingDirectory(reader.errno()?)),
            5 => Self::Failed(Failure::MemoryFull),
            6 => Self::Settled,
            7 => Self::Resting(reader.usage()?),
            _ => return Err(Malformed),
        };
        reader.end(reply)
    }
}

// === impl Failure ===

impl Failure {
    /// Turns the error of a system call into the failure of `step`.
    pub(super) fn step<T>(step: &'static str) -> impl Fn(T) -> Self
    where
        Errno: From<T>,
    {
        move |error| Self::Setup { step: step.to_owned(), errno: error.into() }
    }

    /// Like [`step`](Self::step), for a step done to `path`.
    pub(super) fn at<'a>(step: &'static str, path: &'a Path) -> impl Fn(Errno) -> Self + use<'a> {
        move |errno| Self::Setup { step: format!("{step} {}", path.display()), errno }
    }
}

// === impl Writer ===

impl Writer {
    fn new() -> Self {
        Self(vec![0; HEADER])
    }

    /// Puts the length in front. A message too long for a frame has a length that no reader accepts.
    fn frame(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len() - HEADER).unwrap_or(u32::MAX);
        self.0[..HEADER].copy_from_slice(&length.to_le_bytes());
        self.0
    }

    fn byte(&mut self, value: u8) {
        self.0.push(value);
    }

    fn number(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn count(&mut self, value: usize) {
        self.number(value as u64);
    }

    fn text(&mut self, value: &OsStr) {
        self.count(value.len());
        self.0.extend_from_slice(value.as_bytes());
    }

    fn path(&mut self, value: &Path) {
        self.text(value.as_os_str());
    }

    fn paths(&mut self, values: &[PathBuf]) {
        self.count(values.len());
        for value in values {
            self.path(value);
        }
    }

    fn optional(&mut self, value: Option<u64>) {
        self.byte(u8::from(value.is_some()));
        self.number(value.unwrap_or(0));
    }

    fn duration(&mut self, value: Duration) {
        self.number(u64::try_from(value.as_nanos()).unwrap_or(u64::MAX));
    }

    fn errno(&mut self, errno: Errno) {
        self.number(errno.raw_os_error().unsigned_abs().into());
    }

    fn input_root(&mut self, root: &InputRoot) {
        match root {
            InputRoot::Mounted { at, overlay } => {
                self.byte(0);
                self.path(at);
                self.overlay(overlay);
            }
            InputRoot::Filesystem { overlay } => {
                self.byte(1);
                self.overlay(overlay);
            }
            InputRoot::Plain { directory } => {
                self.byte(2);
                self.path(directory);
            }
            InputRoot::Parted { at, overlay } => {
                self.byte(3);
                self.path(at);
                self.overlay(overlay);
            }
        }
    }

    fn overlay(&mut self, overlay: &Overlay) {
        self.paths(&overlay.lower);
        self.path(&overlay.upper);
        self.path(&overlay.work);
        self.paths(&overlay.read_only);
        self.paths(&overlay.writable);
    }

    fn limits(&mut self, limits: &Limits) {
        self.optional(limits.processes);
        self.optional(limits.open_files);
        self.optional(limits.address_space);
        self.optional(limits.file_size);
        self.byte(u8::from(limits.timeout.is_some()));
        self.duration(limits.timeout.unwrap_or_default());
    }

    fn exit(&mut self, exit: &Exit) {
        let (kind, value) = match exit.outcome {
            Outcome::Exited(code) => (0, code),
            Outcome::Signaled(signal) => (1, signal),
            Outcome::TimedOut => (2, 0),
            Outcome::Cancelled => (3, 0),
        };
        self.byte(kind);
        self.number(value.unsigned_abs().into());
        self.duration(exit.wall);
        self.usage(&exit.usage);
    }

    fn usage(&mut self, usage: &Usage) {
        self.duration(usage.user);
        self.duration(usage.system);
        self.number(usage.max_rss);
    }
}

// === impl Reader ===

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn end<T>(self, value: T) -> Result<T, Malformed> {
        if self.0.is_empty() { Ok(value) } else { Err(Malformed) }
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    fn flag(&mut self) -> Result<bool, Malformed> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }

    fn number(&mut self) -> Result<u64, Malformed> {
        let bytes = self.take(8)?.try_into().map_err(|_| Malformed)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn small<T: TryFrom<u64>>(&mut self) -> Result<T, Malformed> {
        T::try_from(self.number()?).map_err(|_| Malformed)
    }

    fn text(&mut self) -> Result<OsString, Malformed> {
        let length = self.small()?;
        Ok(OsString::from_vec(self.take(length)?.to_vec()))
    }

    fn path(&mut self) -> Result<PathBuf, Malformed> {
        self.text().map(PathBuf::from)
    }

    /// Reads a list. Room is made as its entries appear, not as its count claims.
    fn list<T>(
        &mut self,
        mut entry: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count: usize = self.small()?;
        (0..count).map(|_| entry(self)).collect()
    }

    fn optional(&mut self) -> Result<Option<u64>, Malformed> {
        let present = self.flag()?;
        Ok(Some(self.number()?).filter(|_| present))
    }

    fn duration(&mut self) -> Result<Duration, Malformed> {
        self.number().map(Duration::from_nanos)
    }

    fn errno(&mut self) -> Result<Errno, Malformed> {
        let number: u16 = self.small()?;
        // The range the kernel uses for errors.
        if (1..4096).contains(&number) { Ok(Errno::from_raw_os_error(number.into())) } else { Err(Malformed) }
    }

    fn order(&mut self) -> Result<Order, Malformed> {
        Ok(Order {
            arguments: self.list(Self::text)?,
            environment: self.list(|reader| Ok((reader.text()?, reader.text()?)))?,
            root: self.input_root()?,
            working_directory: self.path()?,
            limits: self.limits()?,
            network: if self.flag()? { Network::Host } else { Network::Loopback },
            ids: (self.small()?, self.small()?),
            door: if self.flag()? { Some((self.path()?, self.path()?)) } else { None },
            is_guest: self.flag()?,
        })
    }

    fn input_root(&mut self) -> Result<InputRoot, Malformed> {
        Ok(match self.byte()? {
            0 => InputRoot::Mounted { at: self.path()?, overlay: self.overlay()? },
            1 => InputRoot::Filesystem { overlay: self.overlay()? },
            2 => InputRoot::Plain { directory: self.path()? },
            3 => InputRoot::Parted { at: self.path()?, overlay: self.overlay()? },
            _ => return Err(Malformed),
        })
    }

    fn overlay(&mut self) -> Result<Overlay, Malformed> {
        Ok(Overlay {
            lower: self.list(Self::path)?,
            upper: self.path()?,
            work: self.path()?,
            read_only: self.list(Self::path)?,
            writable: self.list(Self::path)?,
        })
    }

    fn limits(&mut self) -> Result<Limits, Malformed> {
        Ok(Limits {
            processes: self.optional()?,
            open_files: self.optional()?,
            address_space: self.optional()?,
            file_size: self.optional()?,
            timeout: self.optional()?.map(Duration::from_nanos),
        })
    }

    fn exit(&mut self) -> Result<Exit, Malformed> {
        let kind = self.byte()?;
        let value: i32 = self.small()?;
        let outcome = match kind {
            0 => Outcome::Exited(value),
            1 => Outcome::Signaled(value),
            2 => Outcome::TimedOut,
            3 => Outcome::Cancelled,
            _ => return Err(Malformed),
        };
        Ok(Exit { outcome, wall: self.duration()?, usage: self.usage()?, memory_exceeded: None })
    }

    fn usage(&mut self) -> Result<Usage, Malformed> {
        Ok(Usage { user: self.duration()?, system: self.duration()?, max_rss: self.number()? })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use proptest::prelude::*;
    use tokio::sync::watch;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::worker::Door;

    fn text() -> impl Strategy<Value = OsString> {
        prop::collection::vec(any::<u8>(), 0..40).prop_map(OsString::from_vec)
    }

    fn path() -> impl Strategy<Value = PathBuf> {
        text().prop_map(PathBuf::from)
    }

    fn overlay() -> impl Strategy<Value = Overlay> {
        let paths = || prop::collection::vec(path(), 0..4);
        (paths(), path(), path(), paths(), paths()).prop_map(|(lower, upper, work, read_only, writable)| {
            Overlay { lower, upper, work, read_only, writable }
        })
    }

    fn input_root() -> impl Strategy<Value = InputRoot> {
        prop_oneof![
            (path(), overlay()).prop_map(|(at, overlay)| InputRoot::Mounted { at, overlay }),
            overlay().prop_map(|overlay| InputRoot::Filesystem { overlay }),
            path().prop_map(|directory| InputRoot::Plain { directory }),
            (path(), overlay()).prop_map(|(at, overlay)| InputRoot::Parted { at, overlay }),
        ]
    }

    fn limits() -> impl Strategy<Value = Limits> {
        (any::<[Option<u64>; 4]>(), any::<Option<u64>>()).prop_map(|(numbers, timeout)| Limits {
            processes: numbers[0],
            open_files: numbers[1],
            address_space: numbers[2],
            file_size: numbers[3],
            timeout: timeout.map(Duration::from_nanos),
        })
    }

    prop_compose! {
        fn order()(
            arguments in prop::collection::vec(text(), 0..5),
            environment in prop::collection::vec((text(), text()), 0..5),
            root in input_root(),
            working_directory in path(),
            limits in limits(),
            host in any::<bool>(),
            ids in any::<(u32, u32)>(),
            door in prop::option::of((path(), path())),
            is_guest in any::<bool>(),
        ) -> Order {
            let network = if host { Network::Host } else { Network::Loopback };
            Order { arguments, environment, root, working_directory, limits, network, ids, door, is_guest }
        }
    }

    fn prepared(order: &Order) -> PreparedCommand {
        let null = || File::open("/dev/null").unwrap();
        PreparedCommand {
            arguments: order.arguments.clone(),
            environment: order.environment.clone(),
            root: order.root.clone(),
            working_directory: order.working_directory.clone(),
            stdin: None,
            stdout: null(),
            stderr: null(),
            limits: order.limits,
            network: order.network,
            ids: order.ids,
            door: order.door.clone().map(|(socket, at)| Door { socket, at, asked: CancellationToken::new() }),
            guest: order.is_guest.then(|| watch::channel(false).1),
        }
    }

    fn reply() -> impl Strategy<Value = Reply> {
        let outcome = prop_oneof![
            (0..256).prop_map(Outcome::Exited),
            (1..65).prop_map(Outcome::Signaled),
            Just(Outcome::TimedOut),
            Just(Outcome::Cancelled),
        ];
        let ended = (outcome, any::<[u64; 4]>(), any::<bool>()).prop_map(|(outcome, n, retiring)| {
            let [wall, user, system] = [n[0], n[1], n[2]].map(Duration::from_nanos);
            Reply::Ended {
                exit: Exit {
                    outcome,
                    wall,
                    usage: Usage { user, system, max_rss: n[3] },
                    memory_exceeded: None,
                },
                retiring,
            }
        });
        let errno = || (1..4096).prop_map(Errno::from_raw_os_error);
        prop_oneof![
            Just(Reply::Ready),
            Just(Reply::Failed(Failure::MemoryFull)),
            Just(Reply::Settled),
            any::<[u64; 3]>().prop_map(|[user, system, max_rss]| {
                let [user, system] = [user, system].map(Duration::from_nanos);
                Reply::Resting(Usage { user, system, max_rss })
            }),
            ended,
            errno().prop_map(|errno| Reply::Failed(Failure::Program(errno))),
            errno().prop_map(|errno| Reply::Failed(Failure::WorkingDirectory(errno))),
            (".*", errno()).prop_map(|(step, errno)| Reply::Failed(Failure::Setup { step, errno })),
        ]
    }

    fn body(frame: &[u8]) -> &[u8] {
        let (header, body) = frame.split_at(HEADER);
        assert_eq!(u32::from_le_bytes(header.try_into().unwrap()) as usize, body.len());
        body
    }

    proptest! {
        #[test]
        fn orders_arrive_as_sent(order in order()) {
            let frame = Request::run_frame(&prepared(&order));
            prop_assert_eq!(Request::decode(body(&frame)), Ok(Request::Run(Box::new(order))));
        }

        #[test]
        fn other_layers_arrive_as_sent(overlay in overlay()) {
            let frame = Request::change_frame(&overlay);
            prop_assert_eq!(Request::decode(body(&frame)), Ok(Request::Change(Box::new(overlay))));
        }

        #[test]
        fn replies_arrive_as_sent(reply in reply()) {
            prop_assert_eq!(Reply::decode(body(&reply.frame())), Ok(reply));
        }

        #[test]
        fn a_cut_or_longer_message_is_refused(order in order(), cut in any::<prop::sample::Index>()) {
            let frame = Request::run_frame(&prepared(&order));
            let body = body(&frame);
            prop_assert_eq!(Request::decode(&body[..cut.index(body.len())]), Err(Malformed));
            let longer = [body, &[0]].concat();
            prop_assert_eq!(Request::decode(&longer), Err(Malformed));
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Request::decode(&bytes);
            let _ = Reply::decode(&bytes);
        }
    }

    #[test]
    fn a_huge_count_is_refused_without_room_for_it() {
        let mut message = vec![0];
        message.extend_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(Request::decode(&message), Err(Malformed));
    }

    #[test]
    fn orders_about_what_runs_arrive_as_sent() {
        assert_eq!(Request::decode(body(&Request::kill_frame())), Ok(Request::Kill));
        assert_eq!(Request::decode(body(&Request::rest_frame())), Ok(Request::Rest));
        for still in [false, true] {
            let frame = Request::stand_still_frame(still);
            assert_eq!(Request::decode(body(&frame)), Ok(Request::StandStill(still)));
        }
    }
}
