//! What each build tool wants to read, so that it sends its actions, or its cache, here.
//!
//! Every text is whole: nothing else needs to be set. The client tests write it into the tool's
//! configuration as it is. It ends with a line break, and what is no setting is in comments.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::ValueEnum;

/// A build tool with settings of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Tool {
    Bazel,
    Buck2,
    Buildstream,
    Pants,
    Recc,
    Justbuild,
    Ccache,
    Please,
    Reclient,
    Siso,
    Goma,
    Bgd,
    BuildboxCasd,
}

/// Where the node is reached.
#[derive(Debug)]
pub(super) struct Door {
    /// Of the port.
    pub(super) address: SocketAddr,
    /// The Unix socket, if it is to be used.
    pub(super) socket: Option<PathBuf>,
}

/// What Siso is given when nobody names an instance: it refuses an empty one, and wants this form.
const SISO_INSTANCE: &str = "projects/farmhand/instances/default";

// === impl Tool ===

impl Tool {
    /// As it is typed.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bazel => "bazel",
            Self::Buck2 => "buck2",
            Self::Buildstream => "buildstream",
            Self::Pants => "pants",
            Self::Recc => "recc",
            Self::Justbuild => "justbuild",
            Self::Ccache => "ccache",
            Self::Please => "please",
            Self::Reclient => "reclient",
            Self::Siso => "siso",
            Self::Goma => "goma",
            Self::Bgd => "bgd",
            Self::BuildboxCasd => "buildbox-casd",
        }
    }

    /// The file that the settings belong in; `None` where they are for a shell.
    pub(super) fn file(self) -> Option<&'static str> {
        match self {
            Self::Bazel => Some(".bazelrc"),
            Self::Buck2 => Some(".buckconfig"),
            Self::Buildstream => Some("~/.config/buildstream.conf"),
            Self::Pants => Some("pants.toml"),
            Self::Ccache => Some("~/.config/ccache/ccache.conf"),
            Self::Please => Some(".plzconfig.local"),
            _ => None,
        }
    }

    /// Whether it reaches a server on a Unix socket. What is built on gRPC's C core names the path as the
    /// host, which HTTP/2 does not allow; others know TCP alone.
    pub(super) fn takes_a_socket(self) -> bool {
        matches!(self, Self::Bazel | Self::Siso)
    }

    /// The settings.
    pub(super) fn settings(self, door: &Door, instance: &str) -> String {
        let address = door.address.to_string();
        match self {
            Self::Bazel => bazel(door, instance),
            Self::Buck2 => buck2(&address, instance),
            Self::Buildstream => buildstream(&address, instance),
            Self::Pants => pants(&address, instance),
            Self::Recc => recc(&address, instance),
            Self::Justbuild => justbuild(&address, instance),
            Self::Ccache => ccache(&address, instance),
            Self::Please => please(&address, instance),
            Self::Reclient => reclient(&address, instance),
            Self::Siso => siso(door, instance),
            Self::Goma => goma(&address, instance),
            Self::Bgd => bgd(&address, instance),
            Self::BuildboxCasd => buildbox_casd(&address, instance),
        }
    }
}

/// `line` with the instance in place of `{}`; nothing for the instance without a name.
fn if_named(instance: &str, line: &str) -> String {
    if instance.is_empty() { String::new() } else { line.replace("{}", instance) }
}

/// With its own number of retries Bazel gives up after three seconds, which is less than a node takes that is
/// restarted by a service; with eight, after sixteen.
fn bazel(door: &Door, instance: &str) -> String {
    let socket = door.socket.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    format!(
        "# .bazelrc; then: bazel build --config=farmhand //...
build:farmhand --remote_executor=grpc://{}
{}build:farmhand --remote_timeout=3600
build:farmhand --remote_retries=8
build:farmhand --incompatible_strict_action_env
{}# With --config=farmhand-downloads too, archives are downloaded once for the whole farm (keys asset-*).
build:farmhand-downloads --experimental_remote_downloader=grpc://{}
",
        door.address,
        if_named(&socket, "build:farmhand --remote_proxy=unix:{}\n"),
        if_named(instance, "build:farmhand --remote_instance_name={}\n"),
        door.address
    )
}

fn buck2(address: &str, instance: &str) -> String {
    format!(
        "# .buckconfig
# The execution platform must allow remote execution: in its ExecutionPlatformInfo,
# CommandExecutorConfig(remote_enabled = True, remote_execution_properties = {{}},
# remote_execution_use_case = \"buck2-default\", remote_output_paths = \"output_paths\").
[buck2]
digest_algorithms = SHA256

[buck2_re_client]
engine_address = grpc://{address}
action_cache_address = grpc://{address}
cas_address = grpc://{address}
tls = false
{}",
        if_named(instance, "instance_name = {}\n")
    )
}

fn buildstream(address: &str, instance: &str) -> String {
    let service = |name: &str| {
        let named = if_named(instance, "    instance-name: {}\n");
        format!("  {name}:\n    url: http://{address}\n{named}")
    };
    let cache = |name: &str| {
        let named = if_named(instance, "    instance-name: {}\n");
        format!("{name}:\n  servers:\n  - url: http://{address}\n    push: true\n{named}")
    };
    format!(
        "# ~/.config/buildstream.conf
# The input root of its actions is the whole file system. That is detected; to be sure, give it an
# instance of its own (farmhand client buildstream --instance bst) and list all instances in the
# configuration file of the node:
#   [instances.bst]
#   input-root = \"/\"
#   [instances.\"\"]
remote-execution:
{}{}{}
# What was built, and the sources of it, for whoever has nothing yet.
{}{}",
        service("execution-service"),
        service("storage-service"),
        service("action-cache-service"),
        cache("artifacts"),
        cache("source-caches")
    )
}

fn pants(address: &str, instance: &str) -> String {
    format!(
        "# pants.toml; if it has a [GLOBAL] already, these lines go there
[GLOBAL]
remote_execution = true
remote_cache_read = true
remote_cache_write = true
remote_execution_address = \"grpc://{address}\"
remote_store_address = \"grpc://{address}\"
{}",
        if_named(instance, "remote_instance_name = \"{}\"\n")
    )
}

fn recc(address: &str, instance: &str) -> String {
    format!(
        "# for the shell that builds; then: recc cc -c hello.c -o hello.o
export RECC_SERVER=http://{address}
{}",
        if_named(instance, "export RECC_INSTANCE={}\n")
    )
}

fn justbuild(address: &str, instance: &str) -> String {
    format!(
        "# for the shell that builds; then: just build $JUST_FARMHAND
# (it stands between the subcommand and what is built, also for just-mr and install)
export JUST_FARMHAND=\"--compatible --remote-execution-address {address}{}\"
",
        if_named(instance, " --remote-instance-name {}")
    )
}

fn ccache(address: &str, instance: &str) -> String {
    format!(
        "# ~/.config/ccache/ccache.conf; before ccache 4.7 the key is secondary_storage
remote_storage = http://{address}{}|layout=bazel
",
        if_named(instance, "/{}")
    )
}

fn please(address: &str, instance: &str) -> String {
    format!(
        "# .plzconfig, or .plzconfig.local for this machine alone
[remote]
url = {address}
secure = false
numexecutors = 32
{}",
        if_named(instance, "instance = {}\n")
    )
}

fn reclient(address: &str, instance: &str) -> String {
    format!(
        "# for the shell that starts reproxy (bootstrap --re_proxy=…) and builds
export RBE_service={address}
export RBE_service_no_security=true
export RBE_service_no_auth=true
export RBE_instance={instance}
"
    )
}

fn siso(door: &Door, instance: &str) -> String {
    let address = match &door.socket {
        Some(path) => format!("unix://{}", path.display()),
        None => door.address.to_string(),
    };
    let instance = if instance.is_empty() { SISO_INSTANCE } else { instance };
    format!(
        "# for the shell that builds; then: siso ninja -C out/Default
# Siso wants an instance, named in full: {SISO_INSTANCE} is one.
export SISO_REAPI_ADDRESS={address}
export SISO_REAPI_INSTANCE={instance}
export RBE_service_no_security=true
"
    )
}

fn goma(address: &str, instance: &str) -> String {
    format!(
        "# Goma has ended: nobody maintains its client or server, and what used it builds with Siso or
# reclient now (farmhand client siso, farmhand client reclient). An old tree that needs it is served
# through the proxy of its server, which answers its compiler_proxy on port 5050 and calls the farm:
remoteexec_proxy --port 5050 --remoteexec-addr {address} --insecure-remoteexec --remote-instance-name \"{instance}\"
"
    )
}

fn bgd(address: &str, instance: &str) -> String {
    format!(
        "# for a shell; then: farmhand_bgd command --output-file hello.o DIRECTORY cc -- -c hello.c -o hello.o
farmhand_bgd() {{ bgd execute --remote http://{address}{} \"$@\"; }}
",
        if_named(instance, " --instance-name {}")
    )
}

fn buildbox_casd(address: &str, instance: &str) -> String {
    format!(
        "# for a shell: a cache of this machine in front of the farm, for clients that dial port 50011
buildbox-casd --remote=http://{address}{} --bind=127.0.0.1:${{CASD_PORT:-50011}} ~/.cache/buildbox-casd
",
        if_named(instance, " --instance={}")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp() -> Door {
        Door { address: "127.0.0.1:1".parse().unwrap(), socket: None }
    }

    #[test]
    fn every_tool_is_told_the_address_and_the_instance_only_if_there_is_one() {
        for tool in Tool::value_variants() {
            let plain = tool.settings(&tcp(), "");
            assert!(plain.contains("127.0.0.1:1") && plain.ends_with('\n'), "{plain}");
            assert!(plain.starts_with("# "), "the first line says where it belongs: {plain}");
            assert!(!plain.contains("linux/x"), "{plain}");
            assert!(tool.settings(&tcp(), "linux/x").contains("linux/x"), "{tool:?}");
        }
    }

    #[test]
    fn a_tool_is_called_as_it_is_typed() {
        for tool in Tool::value_variants() {
            let typed = tool.to_possible_value().unwrap();
            assert_eq!(tool.name(), typed.get_name());
        }
    }

    #[test]
    fn who_takes_a_socket_is_told_its_path() {
        let door = Door { socket: Some("/run/f/reapi.sock".into()), ..tcp() };
        for tool in Tool::value_variants().iter().filter(|tool| tool.takes_a_socket()) {
            let text = tool.settings(&door, "");
            assert!(text.contains("unix:") && text.contains("/run/f/reapi.sock"), "{text}");
        }
    }

    #[test]
    fn the_file_that_is_named_is_the_one_of_the_first_line() {
        for tool in Tool::value_variants() {
            let text = tool.settings(&tcp(), "");
            let first = text.lines().next().unwrap();
            assert_eq!(
                tool.file().is_some_and(|file| first.contains(file)),
                tool.file().is_some(),
                "{first}"
            );
        }
    }

    #[test]
    fn bazel_is_four_lines_and_one_for_downloads() {
        let text = bazel(&tcp(), "");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[1], "build:farmhand --remote_executor=grpc://127.0.0.1:1");
        assert_eq!(lines.iter().filter(|line| line.starts_with("build:farmhand ")).count(), 4);
        assert_eq!(
            lines.last(),
            Some(&"build:farmhand-downloads --experimental_remote_downloader=grpc://127.0.0.1:1")
        );
    }
}
