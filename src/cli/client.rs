//! `farmhand client`: the settings that point a build tool at this machine, ready to paste.
//!
//! This file finds the doors of the node; what each tool wants to read is in [`tools`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use farmhand_proto::control::{Endpoints, GetStatusRequest};
use serde::Serialize;

use super::error::CliError;
use super::output::{print, print_json};
use super::serve;
use super::target::TargetArgs;
use crate::config::values::Listen;
use crate::config::{Host, RawConfig};
use crate::instance::InstanceName;
use tools::{Door, Tool};

mod tools;

/// Print the settings of a build tool, ready to paste
///
/// They name the doors of the node that runs; if none does, those that its configuration file has. The first
/// line says where they belong.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  farmhand client bazel >> .bazelrc && bazel build --config=farmhand //...\n  farmhand client bazel --socket --instance team/nightly\n  farmhand client buildstream --instance bst >> ~/.config/buildstream.conf\n  eval \"$(farmhand client recc)\"\n  farmhand client pants --json | jq -r .settings"
)]
pub(super) struct ClientArgs {
    /// The build tool
    #[arg(value_name = "TOOL")]
    tool: Tool,
    /// Instance name the tool should use; results of different names are kept apart
    #[arg(long, value_name = "NAME", default_value = "")]
    #[arg(value_parser = |name: &str| InstanceName::parse(name))]
    instance: InstanceName,
    /// Use the Unix socket in place of the port: faster, for bazel and siso
    #[arg(long)]
    socket: bool,
    /// Address of a node that is not this machine's, or does not run yet
    #[arg(long, env = "FARMHAND_LISTEN", value_name = "ADDR")]
    listen: Option<Listen>,
    /// Print JSON: the settings, the file they belong in (null: none), and what they are made of
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: TargetArgs,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct ClientJson<'a> {
    tool: &'a str,
    file: Option<&'a str>,
    address: String,
    /// Null when it is not used.
    socket: Option<String>,
    instance: &'a str,
    settings: String,
}

/// Prints the settings.
pub(super) async fn run(args: ClientArgs) -> Result<(), CliError> {
    let (address, socket) = doors(&args).await?;
    if args.socket && !args.tool.takes_a_socket() {
        return Err(CliError::new(format!("{} cannot use the Unix socket", args.tool.name()))
            .hint(format!("leave out --socket: it reaches the node at {address}")));
    }
    let door = Door { address, socket: args.socket.then_some(socket) };
    let settings = args.tool.settings(&door, args.instance.as_str());
    if !args.json {
        return print(&settings);
    }
    print_json(&ClientJson {
        tool: args.tool.name(),
        file: args.tool.file(),
        address: door.address.to_string(),
        socket: door.socket.map(|socket| socket.display().to_string()),
        instance: args.instance.as_str(),
        settings,
    })
}

/// The port and the Unix socket: those of the node that runs, unless an address was given.
async fn doors(args: &ClientArgs) -> Result<(SocketAddr, PathBuf), CliError> {
    let running = match args.listen {
        None => running(&args.target).await,
        Some(_) => None,
    };
    if let Some((address, socket)) = running {
        return Ok((dialled(address), socket));
    }
    let flags = RawConfig { listen: args.listen, ..RawConfig::default() };
    let file = serve::read(args.target.config(), &Host::detect())?;
    let set = flags.over(file).over(RawConfig::defaults());
    let Listen(address) = set.listen.expect("invariant: the compiled-in defaults set this key");
    Ok((dialled(address), args.target.socket()?.with_file_name("reapi.sock")))
}

/// What the node says of its doors; `None` when none answers.
async fn running(target: &TargetArgs) -> Option<(SocketAddr, PathBuf)> {
    let mut control = target.connect().await.ok()?;
    let status = control.get_status(GetStatusRequest {}).await.ok()?.into_inner();
    let Endpoints { reapi, reapi_socket, .. } = status.node?.endpoints?;
    Some((reapi.parse().ok()?, reapi_socket.into()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_dials_all_interfaces() {
        let dialled = |text: &str| dialled(text.parse().unwrap()).to_string();
        assert_eq!(dialled("0.0.0.0:1"), "127.0.0.1:1");
        assert_eq!(dialled("[::]:1"), "[::1]:1");
        assert_eq!(dialled("192.0.2.7:1"), "192.0.2.7:1");
    }
}
