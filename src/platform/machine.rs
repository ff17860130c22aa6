//! What a machine is and has, and whether that is what an action asks for.

use std::collections::{BTreeMap, BTreeSet};

use super::{ImageName, InputRootPlace, NetworkAccess, Requirements};
use crate::config::UnknownProperties;

/// The pool every machine is in.
const DEFAULT_POOL: &str = "default";

/// Facts about a machine that actions may ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineFacts {
    /// Value of `OSFamily`, in lower case.
    pub os: String,
    /// Values of `ISA` that hold here, in the spelling of the lexicon.
    pub isa: BTreeSet<String>,
    /// CPU cores.
    pub cores: u64,
    /// Bytes of memory.
    pub memory: u64,
    /// Values of `Pool` that hold here.
    pub pools: BTreeSet<String>,
    /// Configured labels: name to its values.
    pub labels: BTreeMap<String, BTreeSet<String>>,
    /// Whether actions get namespaces of their own.
    pub sandboxed: bool,
    /// The program that runs container images here; empty where there is none.
    pub container_tool: String,
    /// What its [`Toolchain`](super::toolchain::Toolchain) is recognised by; empty while that is not known.
    pub toolchain: String,
}

impl MachineFacts {
    /// The facts of this machine; pools and labels are those of an unconfigured one.
    pub fn detect(sandboxed: bool) -> Self {
        Self {
            os: std::env::consts::OS.to_owned(),
            isa: detect_isa(),
            cores: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64),
            memory: total_memory(),
            pools: BTreeSet::from([DEFAULT_POOL.to_owned()]),
            labels: BTreeMap::new(),
            sandboxed,
            container_tool: String::new(),
            toolchain: String::new(),
        }
    }

    fn unknown_mismatch(&self, policy: UnknownProperties, name: &str, values: &[String]) -> Option<String> {
        match policy {
            UnknownProperties::Ignore => None,
            UnknownProperties::Reject => Some(format!(
                "{name}={}: no such platform property is known here; set the policy for unknown properties \
                 to \"ignore\" or \"match\" to allow it",
                values.join(",")
            )),
            UnknownProperties::Match => self.lacks_label(name, values.iter().map(String::as_str)),
        }
    }

    /// Why a label with one of these values is wanting; `None` if it has them all.
    fn lacks_label<'a>(&self, name: &str, mut values: impl Iterator<Item = &'a str>) -> Option<String> {
        let labels = self.labels.get(name);
        let value = values.find(|value| !labels.is_some_and(|labels| labels.contains(*value)))?;
        Some(match labels {
            None => format!("{name}={value}: this machine has no label {name}"),
            Some(labels) => format!("{name}={value}: this machine has {name}={}", list(labels)),
        })
    }

    /// Why it has too few of something that labels count, in thousandths.
    fn lacks_amount(&self, name: &str, wanted: u64) -> Option<String> {
        let short = name.strip_prefix("resources:").unwrap_or(name);
        let labels = || [name, short].into_iter().filter_map(|name| self.labels.get(name)).flatten();
        let most = labels().filter_map(|value| value.parse::<f64>().ok()).fold(0.0, f64::max);
        let asked = wanted as f64 / 1000.0;
        (asked > most).then(|| {
            format!(
                "{name}={asked}: this machine has {most}; a label \"{short}\" would say how many there are"
            )
        })
    }

    fn lacks_container(&self, image: &ImageName) -> Option<String> {
        self.container_tool.is_empty().then(|| {
            format!(
                "container-image={}: neither podman nor docker can be used here; install podman, or see the \
                 setting `containers`",
                image.as_str()
            )
        })
    }
}

impl Requirements {
    /// Why a machine with these facts can never run the action: one text for each property, with
    /// its name in front; empty if it can.
    pub fn mismatches(&self, facts: &MachineFacts) -> Vec<String> {
        let mut reasons = Vec::new();
        if let Some(os) = self.os_family.as_ref().filter(|os| **os != facts.os) {
            reasons.push(format!("OSFamily={os}: this machine is {}", facts.os));
        }
        for isa in self.isa.iter().filter(|isa| !facts.isa.contains(*isa)) {
            reasons.push(format!("ISA={isa}: this machine has {}", list(&facts.isa)));
        }
        for pool in self.pools.iter().filter(|pool| !facts.pools.contains(*pool)) {
            reasons.push(format!("Pool={pool}: this machine is in {}", list(&facts.pools)));
        }
        if let Some(wanted) = self.millicores.filter(|wanted| *wanted > facts.cores.saturating_mul(1000)) {
            reasons.push(format!(
                "resources:cpu: {} cores are asked for, this machine has {}",
                wanted.div_ceil(1000),
                facts.cores
            ));
        }
        if let Some(wanted) = self.memory.filter(|wanted| *wanted > facts.memory) {
            reasons.push(format!(
                "resources:memory: {wanted} bytes are asked for, this machine has {}",
                facts.memory
            ));
        }
        reasons.extend(
            self.labels
                .iter()
                .filter_map(|(name, value)| facts.lacks_label(name, [value.as_str()].into_iter())),
        );
        reasons.extend(self.amounts.iter().filter_map(|(name, wanted)| facts.lacks_amount(name, *wanted)));
        match &self.container {
            Some(image) => reasons.extend(facts.lacks_container(image)),
            None if !facts.sandboxed => reasons.extend(self.needs_of_sandbox()),
            None => {}
        }
        for property in &self.unserved {
            reasons.push(format!("{}={}: {}", property.name, property.value, property.reason));
        }
        let unknown = self.unknown.iter().filter_map(|name| {
            let values = self.properties.get(name).map_or(&[][..], Vec::as_slice);
            facts.unknown_mismatch(self.unknown_policy, name, values)
        });
        reasons.extend(unknown);
        reasons
    }

    /// Whether an action sees compilers and libraries of the machine it runs on.
    pub fn uses_host(&self) -> bool {
        self.input_root != InputRootPlace::Filesystem && self.container.is_none()
    }

    /// Slots it takes where it runs, of so many: one for each core it asks for, and never more than there are.
    pub fn slots(&self, of: usize) -> usize {
        let cores = self.millicores.map_or(1, |wanted| wanted.div_ceil(1000));
        usize::try_from(cores).unwrap_or(usize::MAX).clamp(1, of.max(1))
    }

    fn needs_of_sandbox(&self) -> Vec<String> {
        let place = match &self.input_root {
            InputRootPlace::Worker => None,
            InputRootPlace::At(path) => Some(format!("InputRootAbsolutePath={}", path.display())),
            InputRootPlace::Filesystem => Some("input-root=/".to_owned()),
        };
        let network = (self.network == Some(NetworkAccess::Loopback)).then(|| "network=off".to_owned());
        let uid = self.uid.map(|uid| format!("unixUID={uid}"));
        let gid = self.gid.map(|gid| format!("unixGID={gid}"));
        let socket = self.apis_socket.as_ref().map(|path| format!("remoteApisSocketPath={path}"));
        [place, network, uid, gid, socket]
            .into_iter()
            .flatten()
            .map(|property| format!("{property}: this machine runs actions without a sandbox"))
            .collect()
    }
}

fn list(values: &BTreeSet<String>) -> String {
    if values.is_empty() {
        return "none".to_owned();
    }
    values.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// The lexicon's spelling of an instruction set: other common names become it, unknown ones stay.
pub(super) fn lexicon_isa(value: &str) -> String {
    let value = value.to_ascii_lowercase();
    let name = match value.as_str() {
        "x86_64" | "amd64" | "x64" | "k8" => "x86-64",
        "x86" | "i386" | "i486" | "i586" | "i686" => "x86-32",
        "arm64" | "aarch64" => "arm-a64",
        "arm" | "aarch32" => "arm-a32",
        "riscv64" => "rv64g",
        "ppc64le" => "power-isa-le",
        other => other,
    };
    name.to_owned()
}

/// The instruction set of this machine, in the spelling of the lexicon.
pub fn architecture() -> String {
    lexicon_isa(std::env::consts::ARCH)
}

/// Bytes of memory of this machine.
pub fn total_memory() -> u64 {
    let system = rustix::system::sysinfo();
    u64::from(system.mem_unit).saturating_mul(system.totalram)
}

#[cfg(target_arch = "x86_64")]
fn detect_isa() -> BTreeSet<String> {
    let features = [
        ("x86-sse4.1", std::arch::is_x86_feature_detected!("sse4.1")),
        ("x86-sse4.2", std::arch::is_x86_feature_detected!("sse4.2")),
        ("x86-avx", std::arch::is_x86_feature_detected!("avx")),
        ("x86-avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("x86-avx-512", std::arch::is_x86_feature_detected!("avx512f")),
    ];
    let extensions = features.into_iter().filter(|(_, here)| *here).map(|(name, _)| name.to_owned());
    // A 64-bit x86 runs 32-bit code too.
    ["x86-64", "x86-32"].into_iter().map(str::to_owned).chain(extensions).collect()
}

#[cfg(target_arch = "aarch64")]
fn detect_isa() -> BTreeSet<String> {
    let features = [
        ("arm-neon", std::arch::is_aarch64_feature_detected!("neon")),
        ("arm-sve", std::arch::is_aarch64_feature_detected!("sve")),
    ];
    let extensions = features.into_iter().filter(|(_, here)| *here).map(|(name, _)| name.to_owned());
    ["arm-a64", "armv8"].into_iter().map(str::to_owned).chain(extensions).collect()
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn detect_isa() -> BTreeSet<String> {
    BTreeSet::from([lexicon_isa(std::env::consts::ARCH)])
}

#[cfg(test)]
mod tests {
    use super::super::tests::parse;
    use super::*;

    fn facts() -> MachineFacts {
        MachineFacts {
            os: "linux".into(),
            isa: ["x86-64", "x86-avx2"].map(String::from).into(),
            cores: 4,
            memory: 8 << 30,
            pools: ["default", "big"].map(String::from).into(),
            labels: [("gpu".to_owned(), BTreeSet::from(["none".to_owned()]))].into(),
            sandboxed: true,
            container_tool: String::new(),
            toolchain: String::new(),
        }
    }

    fn mismatches(properties: &[(&str, &str)], facts: &MachineFacts) -> Vec<String> {
        parse(properties).unwrap().mismatches(facts)
    }

    #[test]
    fn what_is_met_gives_no_reason() {
        let met = [
            ("OSFamily", "Linux"),
            ("ISA", "x86-64"),
            ("ISA", "x86-avx2"),
            ("Arch", "amd64"),
            ("Pool", "big"),
            ("Pool", "default"),
            ("resources:cpu", "4"),
            ("resources:memory", "8G"),
            ("network", "on"),
            ("input-root", "/"),
            ("unixUID", "7"),
        ];
        assert_eq!(mismatches(&met, &facts()), Vec::<String>::new());
    }

    #[test]
    fn each_unmet_property_is_named() {
        let unmet = [
            ("OSFamily", "plan9"),
            ("ISA", "x86-avx-512"),
            ("ISA", "arm64"),
            ("Pool", "gpu"),
            ("resources:cpu", "4.5"),
            ("resources:memory", "9G"),
            ("resources:gpu", "1"),
            ("label:large", "1"),
            ("container-image", "docker://gcc"),
            ("foo", "bar"),
        ];
        let reasons = mismatches(&unmet, &facts());
        let names = ["OSFamily=plan9", "ISA=x86-avx-512", "ISA=arm-a64", "Pool=gpu", "resources:cpu"];
        let rest = [
            "resources:memory",
            "label:large=1",
            "resources:gpu=1",
            "container-image=docker://gcc",
            "foo=bar",
        ];
        for (reason, name) in reasons.iter().zip(names.iter().chain(&rest)) {
            assert!(reason.starts_with(name), "{reason}");
        }
        assert_eq!(reasons.len(), names.len() + rest.len(), "{reasons:?}");
    }

    #[test]
    fn unknown_properties_follow_the_policy() {
        let mismatches = |name: &str, value: &str, unknown_policy| {
            let requirements = Requirements { unknown_policy, ..parse(&[(name, value)]).unwrap() };
            requirements.mismatches(&facts()).len()
        };
        assert_eq!(mismatches("gpu", "none", UnknownProperties::Reject), 1);
        assert_eq!(mismatches("gpu", "a100", UnknownProperties::Ignore), 0);
        assert_eq!(mismatches("gpu", "none", UnknownProperties::Match), 0);
        assert_eq!(mismatches("gpu", "a100", UnknownProperties::Match), 1);
        assert_eq!(mismatches("tpu", "none", UnknownProperties::Match), 1);
    }

    #[test]
    fn what_needs_a_sandbox_is_refused_without_one() {
        let plain = MachineFacts { sandboxed: false, ..facts() };
        let asked = [("input-root", "/"), ("network", "off"), ("unixUID", "0"), ("unixGID", "0")];
        assert_eq!(mismatches(&asked, &plain).len(), 4);
        assert!(mismatches(&[("network", "on")], &plain).is_empty());
    }

    #[test]
    fn labels_say_what_a_machine_has_of_things() {
        let mut facts = facts();
        let asked = [("resources:gpu", "2"), ("label:large", "1"), ("gceMachineType", "n1")];
        assert_eq!(mismatches(&asked, &facts).len(), 3);
        for (name, value) in [("gpu", "2"), ("label:large", "1"), ("gceMachineType", "n1")] {
            facts.labels.entry(name.into()).or_default().insert(value.into());
        }
        assert_eq!(mismatches(&asked, &facts), Vec::<String>::new());
        assert_eq!(mismatches(&[("resources:gpu", "2.5")], &facts).len(), 1);
    }

    #[test]
    fn an_image_needs_a_tool_and_no_sandbox() {
        let image = format!("docker://gcc@sha256:{}", "0".repeat(64));
        let asked = [("container-image", image.as_str()), ("network", "off")];
        let plain = MachineFacts { sandboxed: false, ..facts() };
        let reasons = mismatches(&asked, &plain);
        assert!(reasons.len() == 1 && reasons[0].contains("podman"), "{reasons:?}");
        let able = MachineFacts { container_tool: "podman".into(), ..plain };
        assert_eq!(mismatches(&asked, &able), Vec::<String>::new());
    }

    #[test]
    fn slots_are_as_many_as_cores_asked_for() {
        for (cores, of, slots) in [("0.5", 4, 1), ("2", 4, 2), ("2.1", 4, 3), ("9", 4, 4), ("3", 0, 1)] {
            assert_eq!(parse(&[("cpu_count", cores)]).unwrap().slots(of), slots, "{cores} of {of}");
        }
        assert_eq!(parse(&[]).unwrap().slots(8), 1);
    }

    #[test]
    fn this_machine_matches_itself() {
        let facts = MachineFacts::detect(true);
        let arch = std::env::consts::ARCH;
        assert!(mismatches(&[("OSFamily", std::env::consts::OS), ("Arch", arch)], &facts).is_empty());
        assert!(facts.cores > 0 && facts.memory > 1 << 20);
    }
}
