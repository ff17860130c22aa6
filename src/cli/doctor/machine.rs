//! What the machine and its user bring: disk, limits, clock, ports, tools.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::SystemTime;

use rustix::process::Resource;

use super::super::harmless::harmless;
use super::super::output::{bytes, count};
use super::kernel::Scratch;
use super::{Check, Facts};
use crate::config::ContainerTool;
use crate::config::paths::disk_room;
use crate::platform;
use crate::worker::container::Containers;

/// Descriptors a busy node has open: connections, blobs, action outputs.
const DESCRIPTORS: u64 = 4096;

/// Least room in which a store makes sense.
const LEAST_BUDGET: u64 = 1 << 30;

/// Who runs the node.
pub(super) fn user(_: &Facts) -> Check {
    const NAME: &str = "user";
    let uid = rustix::process::geteuid().as_raw();
    if uid == 0 {
        return Check::degraded(
            NAME,
            "root",
            "works, with actions in a sandbox; an ordinary user is the safer choice and as fast",
        );
    }
    Check::ok(NAME, format!("uid {uid}, no rights needed"))
}

/// Whether blobs can be written.
pub(super) fn data_directory(facts: &Facts) -> Check {
    const NAME: &str = "data-dir";
    let directory = facts.config.data_dir.display();
    match Scratch::new(&facts.disk).and_then(|scratch| fs::write(scratch.join("probe"), b"probe")) {
        Ok(()) if facts.running => Check::ok(NAME, format!("{directory}, in use by the running node")),
        Ok(()) => Check::ok(NAME, format!("{directory} can be written to")),
        Err(error) => Check::failed(
            NAME,
            format!("{directory}: {error}"),
            "give this user the directory, or choose another with --data-dir",
        ),
    }
}

/// Whether the file system copies by sharing blocks.
pub(super) fn reflinks(facts: &Facts) -> Check {
    const NAME: &str = "reflinks";
    match try_reflink(facts) {
        Ok(()) => Check::ok(NAME, "large files are copied by sharing their blocks"),
        Err(error) => Check::degraded(
            NAME,
            format!("not on this file system ({error})"),
            "where a copy is needed its bytes are copied; overlay staging needs none",
        ),
    }
}

fn try_reflink(facts: &Facts) -> io::Result<()> {
    let scratch = Scratch::new(&facts.disk)?;
    fs::write(scratch.join("from"), vec![7; 64 << 10])?;
    let from = fs::File::open(scratch.join("from"))?;
    let to = fs::File::create(scratch.join("to"))?;
    Ok(rustix::fs::ioctl_ficlone(&to, &from)?)
}

/// Whether the budget fits the disk.
pub(super) fn disk_space(facts: &Facts) -> Check {
    const NAME: &str = "disk";
    let (free, held) = disk_room(&facts.config.data_dir);
    let budget = facts.config.disk_budget.resolve(free, held);
    let detail = format!("{} free, {} held, budget {}", bytes(free), bytes(held), bytes(budget));
    if budget > free.saturating_add(held) {
        return Check::degraded(NAME, detail, "the budget is larger than the disk: lower --disk-budget");
    }
    if budget < LEAST_BUDGET {
        return Check::degraded(
            NAME,
            detail,
            "that is little for builds: free some room or raise --disk-budget",
        );
    }
    Check::ok(NAME, detail)
}

/// Whether enough files may be open at once.
pub(super) fn file_descriptors(_: &Facts) -> Check {
    const NAME: &str = "descriptors";
    match rustix::process::getrlimit(Resource::Nofile).maximum {
        Some(limit) if limit < DESCRIPTORS => Check::degraded(
            NAME,
            format!("{} open files at most", count(limit)),
            format!("many clients at once may be refused: raise the limit (ulimit -Hn {DESCRIPTORS})"),
        ),
        Some(limit) => Check::ok(NAME, format!("{} open files at most", count(limit))),
        None => Check::ok(NAME, "no limit on open files"),
    }
}

/// Whether the clock can be right: it is not before this very program was built.
pub(super) fn clock(_: &Facts) -> Check {
    const NAME: &str = "clock";
    let now = SystemTime::now();
    let shown = humantime::format_rfc3339_seconds(now);
    let built = std::env::current_exe().and_then(fs::metadata).and_then(|metadata| metadata.modified());
    match built {
        Ok(built) if now < built => Check::degraded(
            NAME,
            format!("{shown} is before this program was built"),
            "times in results will be wrong: set the clock; leases and time limits do not depend on it",
        ),
        _ => Check::ok(NAME, shown.to_string()),
    }
}

/// Whether the address of the API is free.
pub(super) fn port(facts: &Facts) -> Check {
    let remedy = "choose a free one with --listen 127.0.0.1:PORT, and tell the build tools";
    is_free(facts, "port", facts.config.listen, remedy)
}

/// Whether the address for other machines is free.
pub(super) fn peer_port(facts: &Facts) -> Check {
    let remedy = "choose a free one with --peer-listen 0.0.0.0:PORT; others find it there";
    is_free(facts, "peer port", facts.config.farm.listen, remedy)
}

fn is_free(facts: &Facts, name: &'static str, address: SocketAddr, remedy: &str) -> Check {
    match TcpListener::bind(address) {
        Ok(_) => Check::ok(name, format!("{address} is free")),
        Err(_) if facts.running => Check::ok(name, format!("{address}, in use by the running node")),
        Err(error) => Check::failed(name, format!("{address}: {error}"), remedy),
    }
}

/// Whether actions find the compilers builds ask for most.
pub(super) fn toolchain(facts: &Facts) -> Check {
    const NAME: &str = "toolchain";
    let is_there = |tool: &&str| ["/usr/bin", "/bin"].iter().any(|bin| Path::new(bin).join(tool).exists());
    let (found, missing): (Vec<&str>, Vec<&str>) = ["cc", "c++", "python3"].into_iter().partition(is_there);
    if missing.is_empty() {
        let versions: Vec<&str> = facts.toolchain.versions().map(|(_, version)| version).collect();
        let found = if versions.is_empty() { found.join(", ") } else { harmless(&versions.join(" · ")) };
        return Check::ok(NAME, format!("{}: {found}", facts.toolchain.fingerprint()));
    }
    Check::degraded(
        NAME,
        format!("no {} in /usr/bin", missing.join(", ")),
        "actions that use them fail: install them, or bring a toolchain along as inputs",
    )
}

/// Whether actions can be run in images.
pub(super) fn containers(facts: &Facts) -> Check {
    const NAME: &str = "containers";
    let (wanted, path) = (facts.config.containers, std::env::var_os("PATH").unwrap_or_default());
    match Containers::find(wanted, &path, &facts.config.data_dir) {
        Some(found) => Check::ok(NAME, format!("{} runs actions that ask for an image", found.tool())),
        None if wanted == ContainerTool::Off => Check::ok(NAME, "switched off (containers = \"off\")"),
        None => Check::degraded(
            NAME,
            "no podman, and no docker that answers",
            "actions that ask for an image run on other machines that have one: install podman for them",
        ),
    }
}

/// Whether compilers may stay in memory between actions.
pub(super) fn persistent_workers(facts: &Facts) -> Check {
    const NAME: &str = "warm workers";
    let workers = facts.config.persistent_workers;
    let count = workers.count.resolve(facts.config.slots);
    if count == 0 {
        return Check::ok(NAME, "switched off (persistent-workers = 0)");
    }
    if facts.sandbox.failure().is_some() {
        return Check::degraded(
            NAME,
            "no persistent workers without a sandbox",
            "compilers are started for each action; the lines above say what keeps the sandbox from working",
        );
    }
    let memory = workers.memory.resolve(platform::total_memory());
    let memory = memory.map_or_else(|| "no limit of memory".to_owned(), bytes);
    let idle = humantime::format_duration(workers.idle);
    Check::ok(NAME, format!("{count} persistent workers at most, idle for {idle} and in {memory}"))
}
