//! [`Presence`]: how long ago a person typed or moved something at this machine.
//!
//! Two kinds of traces tell, without asking any desktop. Terminals have the time at which something was
//! last read from them; so people are noticed who came over the network, too. Of keyboards, mice and touchpads
//! the kernel counts the messages; so people in graphical sessions are noticed. A keyboard by radio (but
//! for those with a USB receiver) and a session shown on another machine leave neither: whoever sits
//! there is not noticed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// Consoles that people use.
const CONSOLES: u32 = 12;

/// Parts of the names that drivers of keyboards and touchpads give their interrupts.
const DRIVERS: [&str; 6] = ["i8042", "i2c_hid", "i2c-hid", "ELAN", "SYNA", "ALPS"];

/// The class of USB devices for the hands of people.
const HUMAN_INTERFACE: &str = "03";

/// Time after which it is looked again which devices there are.
const REFRESH: Duration = Duration::from_secs(60);

/// Watches for traces of people.
#[derive(Debug)]
pub struct Presence {
    /// `/dev` and `/sys`.
    roots: [PathBuf; 2],
    devices: Devices,
    found_at: Option<Instant>,
    counts: BTreeMap<PathBuf, u64>,
    moved_at: Option<Instant>,
}

/// Files in which the kernel counts what came from the hands of people.
#[derive(Debug, Default)]
struct Devices(Vec<PathBuf>);

// === impl Presence ===

impl Default for Presence {
    fn default() -> Self {
        Self::of(["/dev".into(), "/sys".into()])
    }
}

impl Presence {
    fn of(roots: [PathBuf; 2]) -> Self {
        let (devices, counts) = (Devices::default(), BTreeMap::new());
        Self { roots, devices, found_at: None, counts, moved_at: None }
    }

    /// Time since the last trace; `None` if there was none so far. Reads some dozen small files of the kernel.
    pub fn look(&mut self, now: Instant, clock: SystemTime) -> Option<Duration> {
        let [dev, sys] = &self.roots;
        if self.found_at.is_none_or(|at| now.saturating_duration_since(at) >= REFRESH) {
            (self.devices, self.found_at) = (Devices::find(sys), Some(now));
        }
        let counts = self.devices.counts();
        // A device that is new has not been used yet.
        let grew = |(file, count): (&PathBuf, &u64)| self.counts.get(file).is_some_and(|last| last < count);
        if counts.iter().any(grew) {
            self.moved_at = Some(now);
        }
        self.counts = counts;
        let typed = typed_at(dev).map(|at| clock.duration_since(at).unwrap_or_default());
        let moved = self.moved_at.map(|at| now.saturating_duration_since(at));
        typed.into_iter().chain(moved).min()
    }
}

/// When something was last read from a terminal.
fn typed_at(dev: &Path) -> Option<SystemTime> {
    let is_number = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    let windows = entries(&dev.join("pts")).into_iter().filter(|path| is_number(&name_of(path)));
    let consoles = (1..=CONSOLES).map(|number| dev.join(format!("tty{number}")));
    consoles.chain(windows).filter_map(|path| fs::metadata(path).ok()?.accessed().ok()).max()
}

// === impl Devices ===

impl Devices {
    fn find(sys: &Path) -> Self {
        Self(interrupts(&sys.join("kernel/irq")).chain(usb(&sys.join("bus/usb/devices"))).collect())
    }

    fn counts(&self) -> BTreeMap<PathBuf, u64> {
        let count = |path: &PathBuf| Some((path.clone(), sum(&fs::read_to_string(path).ok()?)));
        self.0.iter().filter_map(count).collect()
    }
}

/// The counts of interrupts of built-in devices.
fn interrupts(irq: &Path) -> impl Iterator<Item = PathBuf> {
    let is_input = |path: &PathBuf| {
        let actions = fs::read_to_string(path.join("actions")).unwrap_or_default();
        DRIVERS.iter().any(|driver| actions.contains(driver))
    };
    entries(irq).into_iter().filter(is_input).map(|path| path.join("per_cpu_count"))
}

/// The counts of requests to devices that are for hands and for nothing else. Entries are `1-2` for devices
/// and `1-2:1.0` for their interfaces.
fn usb(devices: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let mut for_hands: BTreeMap<String, bool> = BTreeMap::new();
    for path in entries(devices) {
        let name = name_of(&path);
        let Some((device, _)) = name.split_once(':') else { continue };
        let class = fs::read_to_string(path.join("bInterfaceClass")).unwrap_or_default();
        *for_hands.entry(device.to_owned()).or_insert(true) &= class.trim() == HUMAN_INTERFACE;
    }
    let devices = devices.to_owned();
    let for_hands = for_hands.into_iter().filter(|(_, for_hands)| *for_hands);
    for_hands.map(move |(device, _)| devices.join(device).join("urbnum"))
}

/// A number, or one for each CPU, parted by commas.
fn sum(text: &str) -> u64 {
    let numbers = text.trim().split(',').filter_map(|number| number.parse::<u64>().ok());
    numbers.fold(0, u64::wrapping_add)
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::fs::{File, FileTimes};

    use super::*;

    /// A machine made of files.
    struct Machine {
        directory: tempfile::TempDir,
        presence: Presence,
        begin: Instant,
    }

    impl Machine {
        fn new(files: &[(&str, &str)]) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let presence = Presence::of(["dev", "sys"].map(|root| directory.path().join(root)));
            let machine = Self { directory, presence, begin: Instant::now() };
            files.iter().for_each(|(path, text)| machine.write(path, text));
            machine
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn touch(&self, path: &str, at: SystemTime) {
            let file = File::options().write(true).open(self.directory.path().join(path)).unwrap();
            file.set_times(FileTimes::new().set_accessed(at)).unwrap();
        }

        /// Seconds since the last trace, so many seconds after the beginning.
        fn look(&mut self, seconds: u64) -> Option<u64> {
            let now = self.begin + Duration::from_secs(seconds);
            self.presence.look(now, at(1000 + seconds)).map(|idle| idle.as_secs())
        }
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn what_is_read_from_terminals_is_a_trace() {
        let mut machine =
            Machine::new(&[("dev/pts/0", ""), ("dev/pts/ptmx", ""), ("dev/tty1", ""), ("dev/tty", "")]);
        for (path, seconds) in [("pts/0", 900), ("pts/ptmx", 999), ("tty1", 950), ("tty", 999)] {
            machine.touch(&format!("dev/{path}"), at(seconds));
        }
        assert_eq!(machine.look(0), Some(50));
        machine.touch("dev/pts/0", at(1003));
        assert_eq!((machine.look(3), machine.look(10)), (Some(0), Some(7)));
        machine.touch("dev/tty1", at(2000));
        assert_eq!(machine.look(11), Some(0), "clocks are set back");
    }

    #[test]
    fn what_keyboards_and_mice_send_is_a_trace() {
        let mut machine = Machine::new(&[
            ("sys/kernel/irq/1/actions", "i8042\n"),
            ("sys/kernel/irq/1/per_cpu_count", "10,5\n"),
            ("sys/kernel/irq/9/actions", "acpi\n"),
            ("sys/kernel/irq/9/per_cpu_count", "1\n"),
            ("sys/bus/usb/devices/1-2/urbnum", "7\n"),
            ("sys/bus/usb/devices/1-2:1.0/bInterfaceClass", "03\n"),
            ("sys/bus/usb/devices/1-3/urbnum", "7\n"),
            ("sys/bus/usb/devices/1-3:1.0/bInterfaceClass", "03\n"),
            ("sys/bus/usb/devices/1-3:1.1/bInterfaceClass", "01\n"),
        ]);
        assert_eq!(machine.look(0), None);
        machine.write("sys/kernel/irq/9/per_cpu_count", "2\n");
        machine.write("sys/bus/usb/devices/1-3/urbnum", "8\n");
        assert_eq!(machine.look(2), None, "neither is a lid that closes, nor what a headset plays");
        machine.write("sys/kernel/irq/1/per_cpu_count", "10,6\n");
        assert_eq!((machine.look(4), machine.look(6)), (Some(0), Some(2)));
        machine.write("sys/bus/usb/devices/1-2/urbnum", "8\n");
        assert_eq!(machine.look(8), Some(0));
        machine.write("sys/bus/usb/devices/1-9/urbnum", "8\n");
        machine.write("sys/bus/usb/devices/1-9:1.0/bInterfaceClass", "03\n");
        assert_eq!(machine.look(70), Some(62), "what was plugged in was not used yet");
        machine.write("sys/bus/usb/devices/1-9/urbnum", "9\n");
        assert_eq!(machine.look(72), Some(0));
    }

    #[test]
    fn without_any_there_is_no_trace() {
        assert_eq!(Machine::new(&[]).look(0), None);
    }
}
