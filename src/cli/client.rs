//! `farmhand client`: the settings that point a build tool at this machine, ready to paste.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use clap::ValueEnum;

use super::error::CliError;
use super::output::print;
use super::serve;
use crate::config::values::Listen;
use crate::config::{Host, RawConfig};
use crate::instance::InstanceName;

/// Print the settings of a build tool, ready to paste
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  farmhand client bazel >> .bazelrc && bazel build --config=farmhand //...\n  farmhand client buildstream --instance bst"
)]
pub(super) struct ClientArgs {
    /// The build tool
    #[arg(value_name = "TOOL")]
    tool: Tool,
    /// Address the node listens on; that of its configuration file, or else 127.0.0.1:8980
    #[arg(long, env = "FARMHAND_LISTEN", value_name = "ADDR")]
    listen: Option<Listen>,
    /// Configuration file of the node
    #[arg(long, env = "FARMHAND_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Instance name the tool should use; results of different names are kept apart
    #[arg(long, value_name = "NAME", default_value = "")]
    #[arg(value_parser = |name: &str| InstanceName::parse(name))]
    instance: InstanceName,
}

/// A build tool with settings of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Tool {
    Bazel,
    Buck2,
    Buildstream,
    Pants,
    Recc,
    Justbuild,
    Ccache,
}

/// Prints the settings.
pub(super) fn run(args: ClientArgs) -> Result<(), CliError> {
    let flags = RawConfig { listen: args.listen, ..RawConfig::default() };
    let set = flags.over(serve::read(args.config, &Host::detect())?).over(RawConfig::defaults());
    let Listen(address) = set.listen.expect("invariant: the compiled-in defaults set this key");
    print(&settings(args.tool, &dialled(address).to_string(), args.instance.as_str()))
}

/// What a client on this machine dials to reach a node that listens on `address`.
fn dialled(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn settings(tool: Tool, address: &str, instance: &str) -> String {
    match tool {
        Tool::Bazel => bazel(address, instance),
        Tool::Buck2 => buck2(address, instance),
        Tool::Buildstream => buildstream(address, instance),
        Tool::Pants => pants(address, instance),
        Tool::Recc => recc(address, instance),
        Tool::Justbuild => justbuild(address, instance),
        Tool::Ccache => ccache(address, instance),
    }
}

/// `line` with the instance in place of `{}`; nothing for the instance without a name.
fn if_named(instance: &str, line: &str) -> String {
    if instance.is_empty() { String::new() } else { line.replace("{}", instance) }
}

fn bazel(address: &str, instance: &str) -> String {
    format!(
        "# .bazelrc; then: bazel build --config=farmhand //...
build:farmhand --remote_executor=grpc://{address}
build:farmhand --remote_timeout=3600
build:farmhand --incompatible_strict_action_env
{}",
        if_named(instance, "build:farmhand --remote_instance_name={}\n")
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
    format!(
        "# ~/.config/buildstream.conf
# The input root of its actions is the whole file system. That is detected; to be sure, give it an
# instance of its own (farmhand client buildstream --instance bst) and list all instances in the
# configuration file of the node:
#   [instances.bst]
#   input-root = \"/\"
#   [instances.\"\"]
remote-execution:
{}{}{}",
        service("execution-service"),
        service("storage-service"),
        service("action-cache-service")
    )
}

fn pants(address: &str, instance: &str) -> String {
    format!(
        "# pants.toml
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
        "just build --compatible --remote-execution-address {address}{}\n",
        if_named(instance, " --remote-instance-name {}")
    )
}

fn ccache(address: &str, instance: &str) -> String {
    let storage = format!("http://{address}{}|layout=bazel", if_named(instance, "/{}"));
    format!(
        "# ~/.config/ccache/ccache.conf; before ccache 4.7 the key is secondary_storage
remote_storage = {storage}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_is_told_the_address_and_the_instance_only_if_there_is_one() {
        for tool in Tool::value_variants() {
            let plain = settings(*tool, "127.0.0.1:1", "");
            assert!(plain.contains("127.0.0.1:1") && plain.ends_with('\n'), "{plain}");
            assert!(!plain.contains("linux/x"), "{plain}");
            assert!(settings(*tool, "127.0.0.1:1", "linux/x").contains("linux/x"), "{tool:?}");
        }
    }

    #[test]
    fn nobody_dials_all_interfaces() {
        let dialled = |text: &str| dialled(text.parse().unwrap()).to_string();
        assert_eq!(dialled("0.0.0.0:1"), "127.0.0.1:1");
        assert_eq!(dialled("[::]:1"), "[::1]:1");
        assert_eq!(dialled("192.0.2.7:1"), "192.0.2.7:1");
    }

    #[test]
    fn bazel_is_three_lines() {
        let lines: Vec<_> = bazel("127.0.0.1:8980", "").lines().map(str::to_owned).collect();
        assert_eq!(lines[1], "build:farmhand --remote_executor=grpc://127.0.0.1:8980");
        assert_eq!(lines.len(), 4);
    }
}
