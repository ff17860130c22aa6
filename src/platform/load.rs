//! [`Load`]: what a machine does now, and what it has left.
//!
//! [`Readings`] is the text of the files in which Linux tells; everything after that is parsing and
//! arithmetic over two of them, and the same on any system. What a system does not tell stays unset, or
//! zero where that says the same.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

/// What a machine does.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Share of all CPUs in use, 0 to 1.
    pub cpu: f64,
    /// Bytes of memory.
    pub memory_total: u64,
    /// Bytes that programs could still get.
    pub memory_available: u64,
    /// Shares of the last ten seconds in which some task waited for a CPU, 0 to 1.
    pub cpu_pressure: Option<f64>,
    /// The same for memory.
    pub memory_pressure: Option<f64>,
    /// The same for disks.
    pub io_pressure: Option<f64>,
    /// Bytes a second over all interfaces but the loopback.
    pub received: u64,
    /// Bytes a second over all interfaces but the loopback.
    pub sent: u64,
    /// Bytes free on a disk.
    pub disk_free: u64,
    /// Its size in bytes.
    pub disk_total: u64,
    /// Load average of the last minute.
    pub load1: f64,
    /// Whether the machine runs on battery; unset where there is none.
    pub on_battery: Option<bool>,
}

/// What the system tells at one moment.
#[derive(Clone, Debug)]
pub struct Readings {
    at: Instant,
    stat: String,
    meminfo: String,
    loadavg: String,
    net_dev: String,
    /// CPU, memory, disks.
    pressure: [String; 3],
    /// Each with its values of `type`, `scope`, `online`, `status`.
    power: Vec<[String; 4]>,
    /// Bytes free, and size.
    disk: Option<(u64, u64)>,
}

/// Ticks of all CPUs since the start of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ticks {
    busy: u64,
    all: u64,
}

// === impl Readings ===

impl Readings {
    /// Reads; `disk` is a directory on the disk that is meant. May wait for that disk.
    pub fn take(disk: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self {
            at: Instant::now(),
            stat: read("/proc/stat"),
            meminfo: read("/proc/meminfo"),
            loadavg: read("/proc/loadavg"),
            net_dev: read("/proc/net/dev"),
            pressure: ["cpu", "memory", "io"].map(|what| read(&format!("/proc/pressure/{what}"))),
            power: power_supplies(Path::new(POWER_SUPPLIES)),
            disk: disk_space(disk),
        }
    }
}

/// Where the kernel tells what feeds the machine.
pub const POWER_SUPPLIES: &str = "/sys/class/power_supply";

/// Whether a battery feeds the machine, as the files in `supplies` tell; `None` where it has none.
pub fn runs_on_battery(supplies: &Path) -> Option<bool> {
    on_battery(&power_supplies(supplies))
}

fn power_supplies(directory: &Path) -> Vec<[String; 4]> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let values = |entry: fs::DirEntry| {
        ["type", "scope", "online", "status"]
            .map(|name| fs::read_to_string(entry.path().join(name)).unwrap_or_default().trim().to_owned())
    };
    entries.flatten().map(values).collect()
}

fn disk_space(path: &Path) -> Option<(u64, u64)> {
    let space = rustix::fs::statvfs(path).ok()?;
    Some((space.f_bavail.saturating_mul(space.f_frsize), space.f_blocks.saturating_mul(space.f_frsize)))
}

// === impl Load ===

impl Load {
    /// What of a machine's load decides whether others may use it: memory, what programs wait for, and
    /// battery. The rest stays unset. Costs less than a whole reading, and needs only one.
    pub fn of_vitals() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let (meminfo, power) = (read("/proc/meminfo"), power_supplies(Path::new(POWER_SUPPLIES)));
        Self {
            memory_pressure: pressure(&read("/proc/pressure/memory")),
            io_pressure: pressure(&read("/proc/pressure/io")),
            on_battery: on_battery(&power),
            ..Self::default()
        }
        .with_memory(&meminfo)
    }

    fn with_memory(self, meminfo: &str) -> Self {
        let available = memory(meminfo, "MemAvailable").or_else(|| memory(meminfo, "MemFree"));
        Self {
            memory_total: memory(meminfo, "MemTotal").unwrap_or_default(),
            memory_available: available.unwrap_or_default(),
            ..self
        }
    }

    /// The load at `after`; what is told by the second is that since `before`.
    pub fn between(before: &Readings, after: &Readings) -> Self {
        let elapsed = after.at.saturating_duration_since(before.at);
        let [received, sent] = match (network(&before.net_dev), network(&after.net_dev)) {
            (Some(before), Some(after)) => {
                [0, 1].map(|which| each_second(after[which].saturating_sub(before[which]), elapsed))
            }
            _ => [0, 0],
        };
        let [cpu_pressure, memory_pressure, io_pressure] = [0, 1, 2].map(|i| pressure(&after.pressure[i]));
        let (disk_free, disk_total) = after.disk.unwrap_or_default();
        Self {
            cpu: cpu_share(ticks(&before.stat), ticks(&after.stat)),
            cpu_pressure,
            memory_pressure,
            io_pressure,
            received,
            sent,
            disk_free,
            disk_total,
            load1: after.loadavg.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(0.0),
            on_battery: on_battery(&after.power),
            ..Self::default()
        }
        .with_memory(&after.meminfo)
    }
}

fn each_second(bytes: u64, elapsed: Duration) -> u64 {
    if elapsed.is_zero() { 0 } else { (bytes as f64 / elapsed.as_secs_f64()) as u64 }
}

fn cpu_share(before: Option<Ticks>, after: Option<Ticks>) -> f64 {
    let (Some(before), Some(after)) = (before, after) else { return 0.0 };
    let (busy, all) = (after.busy.saturating_sub(before.busy), after.all.saturating_sub(before.all));
    if all == 0 { 0.0 } else { (busy as f64 / all as f64).clamp(0.0, 1.0) }
}

/// The first line of `/proc/stat`: user nice system idle iowait irq softirq steal, then guests, which are
/// in user and nice already.
fn ticks(stat: &str) -> Option<Ticks> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> = line.split_whitespace().take(8).map_while(|field| field.parse().ok()).collect();
    let idle = fields.get(3)?.saturating_add(fields.get(4).copied().unwrap_or_default());
    let all = fields.iter().fold(0, |sum: u64, field| sum.saturating_add(*field));
    Some(Ticks { busy: all.saturating_sub(idle), all })
}

/// A line of `/proc/meminfo`, in bytes.
fn memory(meminfo: &str, name: &str) -> Option<u64> {
    let value = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kibibytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes.saturating_mul(1024))
}

/// Bytes received and sent in all (`/proc/net/dev`).
fn network(net_dev: &str) -> Option<[u64; 2]> {
    let mut sum = None;
    for line in net_dev.lines() {
        let Some((name, counters)) = line.split_once(':') else { continue };
        let fields: Vec<&str> = counters.split_whitespace().collect();
        let field = |which: usize| fields.get(which)?.parse::<u64>().ok();
        let (Some(received), Some(sent)) = (field(0), field(8)) else { continue };
        if name.trim() != "lo" {
            let [all_received, all_sent]: [u64; 2] = sum.unwrap_or_default();
            sum = Some([all_received.saturating_add(received), all_sent.saturating_add(sent)]);
        }
    }
    sum
}

/// The line `some` of a file in `/proc/pressure`: its `avg10`, as a share.
fn pressure(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let percent: f64 = line.split_whitespace().find_map(|part| part.strip_prefix("avg10="))?.parse().ok()?;
    percent.is_finite().then_some((percent / 100.0).clamp(0.0, 1.0))
}

/// Whether a battery of the machine, and not of a mouse, feeds it.
fn on_battery(supplies: &[[String; 4]]) -> Option<bool> {
    let batteries = supplies.iter().filter(|[kind, scope, ..]| kind == "Battery" && scope != "Device");
    let statuses: Vec<&str> = batteries.map(|[.., status]| status.as_str()).collect();
    if statuses.is_empty() {
        return None;
    }
    let is_plugged = supplies.iter().any(|[kind, _, online, _]| kind != "Battery" && online == "1");
    Some(!is_plugged && statuses.contains(&"Discharging"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STAT: &str =
        "cpu  44720 12 8690 612345 1234 0 321 10 0 0\ncpu0 22360 6 4345 306172 617 0 160 5 0 0\nintr 1\n";

    const MEMINFO: &str = "MemTotal:       16316412 kB\nMemFree:         1234567 kB\nMemAvailable:    9876543 kB\n\
        Buffers:          123456 kB\nHugePages_Total:       0\n";

    const NET_DEV: &str = "Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 99999999   12345    0    0    0     0          0         0 99999999   12345    0    0    0     0       0          0
enp3s0: 1000000    2000    0    0    0     0          0         5  500000    1000    0    0    0     0       0          0
 wlan0:2000000    3000    0    1    0     0          0         0  700000    1500    0    0    0     0       0          0
";

    const PRESSURE: &str = "some avg10=12.34 avg60=5.00 avg300=1.00 total=123456\n\
        full avg10=50.00 avg60=0.00 avg300=0.00 total=0\n";

    fn readings(at: Instant) -> Readings {
        Readings {
            at,
            stat: STAT.into(),
            meminfo: MEMINFO.into(),
            loadavg: "0.52 1.00 2.00 2/300 17\n".into(),
            net_dev: NET_DEV.into(),
            pressure: [PRESSURE, "", PRESSURE].map(str::to_owned),
            power: Vec::new(),
            disk: Some((5, 9)),
        }
    }

    fn supply(values: [&str; 4]) -> [String; 4] {
        values.map(str::to_owned)
    }

    #[tokio::test(start_paused = true)]
    async fn the_load_of_a_machine_between_two_moments() {
        let start = Instant::now();
        let before = readings(start);
        let after = Readings {
            // 300 ticks of work, 100 of rest.
            stat: "cpu  44920 12 8790 612415 1264 0 321 10 0 0\n".into(),
            net_dev: NET_DEV.replace("1000000", "1500000").replace("700000", "700100"),
            ..readings(start + Duration::from_secs(2))
        };
        let load = Load::between(&before, &after);
        let expected = Load {
            cpu: 0.75,
            memory_total: 16_316_412 << 10,
            memory_available: 9_876_543 << 10,
            cpu_pressure: Some(0.1234),
            memory_pressure: None,
            io_pressure: Some(0.1234),
            received: 250_000,
            sent: 50,
            disk_free: 5,
            disk_total: 9,
            load1: 0.52,
            on_battery: None,
        };
        assert_eq!(load, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_system_does_not_tell_is_not_made_up() {
        let empty = Readings {
            stat: String::new(),
            meminfo: String::new(),
            loadavg: String::new(),
            net_dev: String::new(),
            pressure: Default::default(),
            disk: None,
            ..readings(Instant::now())
        };
        assert_eq!(Load::between(&empty, &empty), Load::default());
        assert_eq!(Load::between(&readings(empty.at), &readings(empty.at)).received, 0, "no time passed");
        let backwards =
            Load::between(&readings(empty.at), &Readings { stat: "cpu  1 1 1 1\n".into(), ..empty });
        assert_eq!(backwards.cpu, 0.0);
    }

    #[test]
    fn memory_of_old_kernels_is_what_is_free() {
        let old = MEMINFO.replace("MemAvailable", "MemSomething");
        assert_eq!((memory(&old, "MemAvailable"), memory(&old, "MemFree")), (None, Some(1_234_567 << 10)));
        assert_eq!(memory(MEMINFO, "HugePages_Total"), None);
    }

    #[test]
    fn only_a_battery_that_feeds_the_machine_counts() {
        let mains = |online| supply(["Mains", "", online, ""]);
        let battery = |status| supply(["Battery", "System", "", status]);
        let mouse = supply(["Battery", "Device", "", "Discharging"]);
        assert_eq!(on_battery(&[mains("1")]), None);
        assert_eq!(on_battery(&[mouse.clone(), mains("0")]), None);
        assert_eq!(on_battery(&[mains("0"), battery("Discharging"), mouse]), Some(true));
        assert_eq!(on_battery(&[mains("1"), battery("Discharging")]), Some(false), "it draws from both");
        assert_eq!(on_battery(&[battery("Full")]), Some(false));
    }

    #[test]
    fn this_machine_can_be_read() {
        let readings = Readings::take(Path::new("/"));
        let load = Load::between(&readings, &readings);
        assert!(load.disk_total > 0 && load.disk_free <= load.disk_total);
        if cfg!(target_os = "linux") {
            assert!(ticks(&readings.stat).is_some());
            assert!(load.memory_total >= load.memory_available && load.memory_available > 0);
            let vitals = Load::of_vitals();
            assert_eq!((vitals.memory_total, vitals.on_battery), (load.memory_total, load.on_battery));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "(cpu |some avg10=|[a-z0-9 :.=%\n-]){0,40}") {
            let parsed = (ticks(&text), memory(&text, "a"), network(&text), pressure(&text));
            prop_assert!(parsed.3.is_none_or(|share| (0.0..=1.0).contains(&share)));
            prop_assert!(parsed.0.is_none_or(|ticks| ticks.busy <= ticks.all));
        }
    }
}
