//! The way to the other machines of the farm: interfaces, who is announced on them, and how each machine
//! stands that a running node knows.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use farmhand_proto::control::machine::State;
use farmhand_proto::control::{GetStatusRequest, GetStatusResponse, Machine};
use futures_util::future::join_all;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Check, Facts};
use crate::cli::machines::{CLOCK_OFF, off, remark, seconds};
use crate::cli::output::{duration, plural};
use crate::cli::target;
use crate::config::Config;
use crate::peer::discovery;
use crate::peer::discovery::announcement::Announcement;
use crate::peer::interfaces::{self, Interface, Rules};

/// Time to listen to announcements.
const LISTEN: Duration = Duration::from_secs(2);

/// Time for a running node to say how it is.
const ANSWER: Duration = Duration::from_secs(3);

/// Time for a port to answer.
const REACH: Duration = Duration::from_secs(1);

/// Ports that are tried, all at once. Anybody may announce any number of them.
const MOST_TRIED: usize = 8;

/// What to do about a machine with other compilers.
const OTHER_TOOLCHAIN: &str = "actions that use the compilers or libraries of the host may give other results \
     there: install the same (farmhand doctor on each shows what it has), or set toolchain-rule = \"strict\"";

/// What was seen of the network.
#[derive(Debug, Default)]
pub(super) struct Network {
    /// What a running node tells.
    status: Option<GetStatusResponse>,
    interfaces: Vec<Interface>,
    /// Machines that are announced; `None` where nobody listened.
    heard: Option<Vec<Announcement>>,
    /// Ports of machines that are not linked with, as far as they were tried: whether they answer, or why not.
    tried: BTreeMap<SocketAddr, Result<(), String>>,
}

// === impl Network ===

impl Network {
    /// Asks the node, listens to the network, and tries the ports of machines that should be linked.
    pub(super) async fn look(config: &Config) -> Self {
        let rules = Rules::new(config.farm.interfaces.clone());
        let socket = config.runtime_dir.join("control.sock");
        let ask = async {
            let mut control = target::connect(&socket).await.ok()?;
            Some(control.get_status(GetStatusRequest {}).await.ok()?.into_inner())
        };
        let listen = async {
            match config.farm.discovery {
                true => discovery::listen(&rules, LISTEN).await.ok(),
                false => None,
            }
        };
        let (status, heard) = tokio::join!(timeout(ANSWER, ask), listen);
        let (status, interfaces) = (status.ok().flatten(), interfaces::list());
        let seen = Self { status, interfaces, heard, tried: BTreeMap::new() };
        Self { tried: try_ports(seen.unreached()).await, ..seen }
    }

    /// Where machines should answer that are not linked with, those that the node knows first.
    fn unreached(&self) -> Vec<SocketAddr> {
        let is_out = |machine: &&Machine| matches!(machine.state(), State::Lost | State::Connecting);
        let known = self.machines().iter().filter(|machine| !machine.is_self).filter(is_out);
        let known = known.filter_map(|machine| machine.address.parse().ok());
        let heard = self.unlinked().filter_map(|other| other.addresses.first().copied());
        known.chain(heard).collect()
    }

    /// Members that are announced, and that the node knows nothing of.
    fn unlinked(&self) -> impl Iterator<Item = &Announcement> {
        let own = self.heard.iter().flatten().find(|heard| self.is_own(heard)).map(|own| own.farm);
        let is_known = |other: &Announcement| {
            let id = other.id.to_string();
            self.machines().iter().any(|machine| machine.id == id)
        };
        self.others().filter(move |other| Some(other.farm) == own && !is_known(other))
    }

    /// What to do about a machine at `address`, by what came of trying it.
    fn remedy(&self, address: &str) -> String {
        let Ok(address) = address.parse::<SocketAddr>() else {
            return "see that it runs, and that its name is known here".to_owned();
        };
        match self.tried.get(&address) {
            Some(Ok(())) => format!("port {address} answers; see the log there"),
            Some(Err(error)) => {
                format!("port {address} does not answer ({error}): see that it runs, and its firewall")
            }
            None => format!("port {address} was not tried: see that it runs, and its firewall"),
        }
    }

    fn machines(&self) -> &[Machine] {
        self.status.as_ref().map_or(&[], |status| &status.machines)
    }

    /// The machine of the running node.
    fn own(&self) -> Option<&Machine> {
        self.machines().iter().find(|machine| machine.is_self)
    }

    /// What others call an announced machine.
    fn name_of(&self, announcement: &Announcement) -> String {
        let id = announcement.id.to_string();
        let known = self.machines().iter().find(|machine| machine.id == id);
        known.map_or_else(|| id.clone(), |machine| machine.name.clone())
    }

    fn is_own(&self, announcement: &Announcement) -> bool {
        self.own().is_some_and(|own| own.id == announcement.id.to_string())
    }

    /// Announced machines but that of the node.
    fn others(&self) -> impl Iterator<Item = &Announcement> {
        let heard = self.heard.iter().flatten();
        heard.filter(|announcement| !self.is_own(announcement))
    }
}

/// All that is found.
pub(super) fn checks(facts: &Facts) -> Vec<Check> {
    let network = &facts.network;
    let mut checks = vec![discovery_check(facts)];
    let rules = Rules::new(facts.config.farm.interfaces.clone());
    if facts.config.farm.discovery {
        checks.extend(interface_checks(network, &rules));
        checks.extend(stranger_check(network));
    }
    let others = network.machines().iter().filter(|machine| !machine.is_self);
    checks.extend(others.map(|machine| machine_check(network, machine)));
    checks.extend(unlinked_checks(network));
    checks
}

fn discovery_check(facts: &Facts) -> Check {
    let name = "discovery";
    let network = &facts.network;
    if !facts.config.farm.discovery {
        let peers = facts.config.farm.peers.len() as u64;
        return Check::ok(name, format!("switched off; {} named by the settings", plural(peers, "machine")));
    }
    let rules = Rules::new(facts.config.farm.interfaces.clone());
    let is_used = |interface: &&Interface| !interface.is_loopback && rules.judge(interface).is_ok();
    match (network.interfaces.iter().any(|interface| is_used(&interface)), &network.heard) {
        (_, None) => Check::degraded(
            name,
            "nobody can be listened to by multicast DNS here",
            "name the other machines with --peer",
        ),
        (false, _) => Check::degraded(
            name,
            "no interface leads to other machines",
            "name one in `interfaces`, or the machines with --peer",
        ),
        (true, Some(_)) => Check::ok(
            name,
            format!("{} announced on the network", plural(network.others().count() as u64, "machine")),
        ),
    }
}

fn interface_checks(network: &Network, rules: &Rules) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut unused = Vec::new();
    for interface in &network.interfaces {
        match rules.judge(interface) {
            Ok(()) => {
                let addresses: Vec<_> = interface.addresses.iter().map(ToString::to_string).collect();
                let heard = network.others().filter(|other| other.interfaces.contains(&interface.name));
                let heard: Vec<_> = heard.map(|other| network.name_of(other)).collect();
                let heard = if heard.is_empty() { "nobody".to_owned() } else { heard.join(", ") };
                let detail = format!("{} · heard {heard}", addresses.join(", "));
                checks.push(Check::ok(format!("on {}", interface.name), detail));
            }
            Err(reason) => unused.push(format!("{} ({reason})", interface.name)),
        }
    }
    if !unused.is_empty() {
        checks.push(Check::ok("not used", unused.join(", ")));
    }
    checks
}

/// Machines of other farms: nothing is wrong with them.
fn stranger_check(network: &Network) -> Option<Check> {
    let own = network.heard.iter().flatten().find(|heard| network.is_own(heard))?;
    let strangers: Vec<_> =
        network.others().filter(|other| other.farm != own.farm).map(|other| other.id.to_string()).collect();
    (!strangers.is_empty())
        .then(|| Check::ok("other farms", format!("{} have another farm key", strangers.join(", "))))
}

/// How a machine stands to the running node.
fn machine_check(network: &Network, machine: &Machine) -> Check {
    let name = format!("machine {}", machine.name);
    let mut facts = vec![machine.address.clone()];
    if let Some(round_trip) = machine.round_trip.as_ref().map(seconds) {
        facts.push(format!("answers in {}", duration(Duration::from_secs_f64(round_trip.max(0.0)))));
    }
    let ahead = machine.clock_ahead.as_ref().map(seconds);
    if let Some(ahead) = ahead {
        facts.push(format!("clock {}", off(ahead)));
    }
    let version = network.own().map(|own| own.version.as_str());
    let other_version = version.filter(|own| !machine.version.is_empty() && **own != machine.version);
    if !machine.version.is_empty() {
        facts.push(format!("farmhand {}", machine.version));
    }
    facts.retain(|fact| !fact.is_empty());
    let detail = facts.join(" · ");
    let told = remark(machine);
    match (machine.state(), told) {
        (State::Lost | State::Connecting, Some(remark)) => {
            Check::degraded(name, remark, network.remedy(&machine.address))
        }
        (State::Refused, Some(remark)) => {
            Check::degraded(name, remark, "let it join this farm: farmhand invite here, farmhand join there")
        }
        (State::Incompatible, Some(remark)) => Check::degraded(name, remark, "let both run the same version"),
        (_, _) if ahead.is_some_and(|ahead| ahead.abs() > CLOCK_OFF) => {
            Check::degraded(name, detail, "set the clocks: times of actions are told wrong")
        }
        (_, _) if other_version.is_some() => {
            Check::degraded(name, detail, format!("this machine runs {}", other_version.unwrap_or_default()))
        }
        _ if has_other_toolchain(network, machine) => Check::degraded(name, detail, OTHER_TOOLCHAIN),
        (_, Some(remark)) if !machine.links_back => {
            Check::degraded(name, remark, "let its firewall pass the peer port of this machine")
        }
        _ => Check::ok(name, detail),
    }
}

/// Whether it is known to have other compilers and libraries than this machine.
fn has_other_toolchain(network: &Network, machine: &Machine) -> bool {
    let here = network.own().map_or("", |own| &own.toolchain);
    machine.linked && !here.is_empty() && !machine.toolchain.is_empty() && machine.toolchain != here
}

fn unlinked_checks(network: &Network) -> impl Iterator<Item = Check> {
    network.unlinked().map(|other| {
        let address = other.addresses.first().map(ToString::to_string).unwrap_or_default();
        let remedy = network.remedy(&address);
        Check::degraded(format!("machine {}", other.id), "announced, and not linked with", remedy)
    })
}

/// Tries the first of these ports.
async fn try_ports(addresses: Vec<SocketAddr>) -> BTreeMap<SocketAddr, Result<(), String>> {
    let mut first = Vec::new();
    for address in addresses {
        if first.len() < MOST_TRIED && !first.contains(&address) {
            first.push(address);
        }
    }
    let tries = first.into_iter().map(|address| async move {
        let connected = timeout(REACH, TcpStream::connect(address)).await;
        let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        (address, connected.map(drop).map_err(|error| error.to_string()))
    });
    join_all(tries).await.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::super::CheckState;
    use super::*;
    use crate::peer::MachineId;

    fn announced(number: u8, farm: &str) -> Announcement {
        Announcement {
            id: MachineId::new([number; 32]),
            farm: farm.repeat(8).parse().unwrap(),
            addresses: vec!["127.0.0.1:1".parse().unwrap()],
            interfaces: vec!["eth0".to_owned()],
        }
    }

    fn machine(number: u8, name: &str, state: State) -> Machine {
        Machine {
            name: name.into(),
            state: state.into(),
            id: MachineId::new([number; 32]).to_string(),
            version: "1".into(),
            linked: true,
            links_back: true,
            ..Default::default()
        }
    }

    fn network() -> Network {
        let own = Machine { is_self: true, ..machine(1, "attic", State::Active) };
        let lost = Machine {
            address: "127.0.0.1:1".into(),
            reason: "gone".into(),
            ..machine(3, "shed", State::Lost)
        };
        let machines = vec![own, machine(2, "cellar", State::Active), lost];
        let eth0 = Interface {
            name: "eth0".into(),
            index: 2,
            addresses: vec![IpAddr::from([10, 0, 0, 1])],
            is_up: true,
            has_multicast: true,
            ..Default::default()
        };
        Network {
            status: Some(GetStatusResponse { machines, ..Default::default() }),
            interfaces: vec![Interface { name: "wg0".into(), ..eth0.clone() }, eth0],
            heard: Some(vec![announced(1, "aa"), announced(2, "aa"), announced(4, "aa"), announced(5, "bb")]),
            tried: [("127.0.0.1:1".parse().unwrap(), Err("refused".to_owned()))].into(),
        }
    }

    #[tokio::test]
    async fn only_so_many_ports_are_tried_and_the_others_are_told_so() {
        let there = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut network = network();
        let status = network.status.as_mut().unwrap();
        status.machines[2].address = there.local_addr().unwrap().to_string();
        let strangers = (10..=255).map(|number| Announcement {
            addresses: vec![SocketAddr::from(([127, 0, 0, 1], number.into()))],
            ..announced(number, "aa")
        });
        network.heard.as_mut().unwrap().extend(strangers);
        network.tried = try_ports(network.unreached()).await;
        assert_eq!(network.tried.len(), MOST_TRIED);
        let known = machine_check(&network, &network.machines()[2]);
        assert!(known.instead.unwrap().contains("answers; see the log"));
        let remedies: Vec<_> = unlinked_checks(&network).filter_map(|check| check.instead).collect();
        let count = |words: &str| remedies.iter().filter(|remedy| remedy.contains(words)).count();
        assert_eq!(
            (count("does not answer"), count("was not tried")),
            (MOST_TRIED - 1, 247 - (MOST_TRIED - 1))
        );
    }

    #[test]
    fn interfaces_tell_who_was_heard_on_them_and_why_not() {
        let checks = interface_checks(&network(), &Rules::default());
        assert_eq!((checks.len(), &*checks[0].name, &*checks[1].name), (2, "on eth0", "not used"));
        assert!(checks[0].detail.contains("10.0.0.1 · heard cellar, 0404"), "{}", checks[0].detail);
        assert!(checks[1].detail.contains("wg0 (it is a tunnel"), "{}", checks[1].detail);
        let strangers = stranger_check(&network()).unwrap();
        assert!(strangers.detail.starts_with("0505"), "{}", strangers.detail);
    }

    #[test]
    fn what_is_wrong_with_a_machine_has_a_remedy() {
        let network = network();
        let check = |machine: &Machine| machine_check(&network, machine);
        let cellar = &network.machines()[1];
        assert_eq!(check(cellar).state, CheckState::Ok);
        let lost = check(&network.machines()[2]);
        assert!(lost.instead.unwrap().contains("does not answer"));
        for wrong in [
            Machine { version: "2".into(), ..cellar.clone() },
            Machine { links_back: false, ..cellar.clone() },
            Machine { reason: "r".into(), ..machine(2, "cellar", State::Refused) },
            Machine { reason: "r".into(), ..machine(2, "cellar", State::Incompatible) },
            Machine {
                clock_ahead: Some(farmhand_proto::protobuf::Duration { seconds: -100, nanos: 0 }),
                ..cellar.clone()
            },
        ] {
            let check = check(&wrong);
            assert!(check.state == CheckState::Degraded && check.instead.is_some(), "{check:?}");
        }
        let other = Machine { toolchain: "other".into(), ..cellar.clone() };
        assert_eq!(check(&other).state, CheckState::Ok, "nothing is known of this machine");
        let own = Machine { toolchain: "own".into(), ..network.machines()[0].clone() };
        let status = GetStatusResponse { machines: vec![own], ..Default::default() };
        let network = Network { status: Some(status), ..self::network() };
        assert_eq!(machine_check(&network, &other).instead.as_deref(), Some(OTHER_TOOLCHAIN));
        assert_eq!(machine_check(&network, cellar).state, CheckState::Ok);
        let network = self::network();
        let unlinked: Vec<_> = unlinked_checks(&network).collect();
        assert_eq!(unlinked.len(), 1);
        assert!(unlinked[0].name.starts_with("machine 0404"));
    }
}
