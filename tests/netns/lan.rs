//! [`Lan`]: network namespaces on a bridge, and what may happen to a LAN.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Several LANs of one process must not meet.
static LANS: AtomicUsize = AtomicUsize::new(0);

/// A LAN. Dropping it removes it.
pub(crate) struct Lan {
    /// What the names of its namespaces begin with.
    name: String,
    machines: usize,
    /// Programs that stand for slow links, by machine.
    wires: Vec<(usize, Child)>,
}

/// What a link is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quality {
    /// One way, in milliseconds.
    pub(crate) delay: u32,
    /// Of a thousand packets, so many are lost.
    pub(crate) loss: u32,
    /// Megabits a second, each way.
    pub(crate) rate: u32,
}

impl Quality {
    /// A crowded wireless LAN.
    pub(crate) const WIFI: Self = Self { delay: 10, loss: 50, rate: 20 };
}

/// Runs a program; its words if it fails.
fn run(program: &str, arguments: &[&str]) -> Result<Output, String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(output);
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(format!("{program} {}: {words}", arguments.join(" ")))
}

fn ip(line: &str) -> Result<Output, String> {
    run("ip", &line.split_whitespace().collect::<Vec<_>>())
}

// === impl Lan ===

impl Lan {
    /// A LAN of so many machines; `None`, with a message, where there can be none.
    pub(crate) fn new(machines: usize) -> Option<Self> {
        let number = LANS.fetch_add(1, Ordering::Relaxed);
        if number == 0 {
            sweep();
        }
        let lan = Self { name: format!("fh{}-{number}", std::process::id()), machines, wires: Vec::new() };
        match lan.build() {
            Ok(()) => Some(lan),
            Err(reason) => {
                println!("SKIPPED: no network namespaces here: {reason}");
                None
            }
        }
    }

    fn build(&self) -> Result<(), String> {
        let switch = self.switch();
        ip(&format!("netns add {switch}"))?;
        ip(&format!("-n {switch} link add lan type bridge"))?;
        ip(&format!("-n {switch} link set lan up"))?;
        for machine in 0..self.machines {
            self.plug_in(machine)?;
        }
        Ok(())
    }

    fn plug_in(&self, machine: usize) -> Result<(), String> {
        let (switch, space, port) = (self.switch(), self.space(machine), port(machine));
        ip(&format!("netns add {space}"))?;
        ip(&format!("-n {space} link set lo up"))?;
        ip(&format!("link add eth0 netns {space} type veth peer name {port} netns {switch}"))?;
        ip(&format!("-n {switch} link set {port} master lan up"))?;
        ip(&format!("-n {space} link set eth0 up"))?;
        ip(&format!("-n {space} address add {}/24 dev eth0", address(machine)))?;
        ip(&format!("-n {space} route add default dev eth0"))?;
        Ok(())
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.name)
    }

    fn space(&self, machine: usize) -> String {
        format!("{}-{machine}", self.name)
    }

    /// The words in front of a command that runs it on a machine.
    pub(crate) fn on(&self, machine: usize) -> [String; 4] {
        ["ip".to_owned(), "netns".to_owned(), "exec".to_owned(), self.space(machine)]
    }

    /// The file of the namespace of a machine.
    pub(crate) fn space_file(&self, machine: usize) -> PathBuf {
        Path::new("/run/netns").join(self.space(machine))
    }

    /// Pulls the cable of a machine; it sees that.
    pub(crate) fn unplug(&self, machine: usize) {
        ip(&format!("-n {} link set {} down", self.switch(), port(machine))).unwrap();
    }

    /// Puts it back.
    pub(crate) fn plug(&self, machine: usize) {
        ip(&format!("-n {} link set {} up", self.switch(), port(machine))).unwrap();
    }

    /// Cuts a machine off in silence: its link stays up, and nothing passes.
    pub(crate) fn silence(&self, machine: usize) {
        ip(&format!("-n {} link set {} nomaster", self.switch(), port(machine))).unwrap();
    }

    /// Ends that.
    pub(crate) fn unsilence(&self, machine: usize) {
        ip(&format!("-n {} link set {} master lan", self.switch(), port(machine))).unwrap();
    }

    /// Two machines do not hear each other any more, though all others hear both.
    pub(crate) fn part(&self, one: usize, other: usize) {
        for (machine, peer) in [(one, other), (other, one)] {
            let (space, address) = (self.space(machine), address(peer));
            ip(&format!("-n {space} route add blackhole {address}/32")).unwrap();
        }
    }

    /// They do again.
    pub(crate) fn unite(&self, one: usize, other: usize) {
        for (machine, peer) in [(one, other), (other, one)] {
            let (space, address) = (self.space(machine), address(peer));
            ip(&format!("-n {space} route delete blackhole {address}/32")).unwrap();
        }
    }

    /// Makes the link of a machine a worse one.
    pub(crate) fn worsen(&mut self, machine: usize, quality: Quality) {
        let (switch, space, port) = (self.switch(), self.space(machine), port(machine));
        let (near, far) = (format!("n{machine}"), format!("f{machine}"));
        // eth0 ═ port ─ program ─ near ═ far ─ bridge
        ip(&format!("-n {switch} link set {port} nomaster")).unwrap();
        ip(&format!("-n {switch} link add {near} type veth peer name {far}")).unwrap();
        ip(&format!("-n {switch} link set {far} master lan up")).unwrap();
        ip(&format!("-n {switch} link set {near} up")).unwrap();
        let wire = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/netns/wire.py");
        let Quality { delay, loss, rate } = quality;
        for (name, device) in [(&space, "eth0"), (&switch, &*port), (&switch, &*near), (&switch, &*far)] {
            let words = ["netns", "exec", name, "python3", wire.to_str().unwrap(), "--plain", device];
            run("ip", &words).unwrap();
        }
        let child = Command::new("ip")
            .args(["netns", "exec", &switch, "python3", wire.to_str().unwrap(), &port, &near])
            .args([delay.to_string(), loss.to_string(), rate.to_string()])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        self.wires.push((machine, child));
    }

    /// Makes the link of a machine a good one again.
    pub(crate) fn mend(&mut self, machine: usize) {
        let Some(at) = self.wires.iter().position(|(worsened, _)| *worsened == machine) else { return };
        let (_, mut wire) = self.wires.swap_remove(at);
        let _ = wire.kill();
        let _ = wire.wait();
        let (switch, port) = (self.switch(), port(machine));
        ip(&format!("-n {switch} link delete n{machine}")).unwrap();
        ip(&format!("-n {switch} link set {port} master lan")).unwrap();
    }

    /// Limits what the link of a machine carries each way, in megabits a second, by the kernel's own means.
    ///
    /// # Errors
    /// Where the kernel has none.
    pub(crate) fn limit(&self, machine: usize, rate: u32) -> Result<(), String> {
        let (switch, space, port) = (self.switch(), self.space(machine), port(machine));
        for (name, device) in [(&space, "eth0"), (&switch, &*port)] {
            let line = format!(
                "netns exec {name} tc qdisc replace dev {device} root tbf rate {rate}mbit burst 256kb latency 40ms"
            );
            ip(&line)?;
        }
        Ok(())
    }

    /// Bytes that a machine has sent over the LAN.
    pub(crate) fn sent(&self, machine: usize) -> u64 {
        self.counted(machine, "tx_bytes")
    }

    /// Bytes that a machine has got over the LAN.
    pub(crate) fn received(&self, machine: usize) -> u64 {
        self.counted(machine, "rx_bytes")
    }

    fn counted(&self, machine: usize, what: &str) -> u64 {
        let file = format!("/sys/class/net/eth0/statistics/{what}");
        let output = ip(&format!("netns exec {} cat {file}", self.space(machine))).unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    }
}

/// Removes what a test left that was killed: its namespaces, and what still runs in them.
fn sweep() {
    let Ok(output) = ip("netns list") else { return };
    let names = String::from_utf8_lossy(&output.stdout).into_owned();
    for name in names.lines().filter_map(|line| line.split_whitespace().next()) {
        let owner = name.strip_prefix("fh").and_then(|rest| rest.split('-').next());
        let Some(owner) = owner.and_then(|owner| owner.parse::<u32>().ok()) else { continue };
        if Path::new(&format!("/proc/{owner}")).exists() {
            continue;
        }
        remove(name);
    }
}

/// Removes a namespace, and what still runs in it.
fn remove(name: &str) {
    let pids = ip(&format!("netns pids {name}")).map(|output| output.stdout).unwrap_or_default();
    for pid in String::from_utf8_lossy(&pids).lines() {
        let _ = run("kill", &["-s", "KILL", pid]);
    }
    let _ = ip(&format!("netns delete {name}"));
}

impl Drop for Lan {
    fn drop(&mut self) {
        for (_, wire) in &mut self.wires {
            let _ = wire.kill();
            let _ = wire.wait();
        }
        for machine in 0..self.machines {
            remove(&self.space(machine));
        }
        remove(&self.switch());
    }
}

/// The port of the switch a machine is plugged into.
fn port(machine: usize) -> String {
    format!("p{machine}")
}

/// The address of a machine on the LAN.
pub(crate) fn address(machine: usize) -> String {
    format!("10.77.0.{}", machine + 1)
}
