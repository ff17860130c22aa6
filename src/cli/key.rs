//! `farmhand key new`, `show` and `rotate`: the secret that makes a machine a member.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use farmhand_proto::control::{FarmMember, RotateKeyRequest, RotateKeyResponse, ShowKeyRequest};
use serde::Serialize;
use zeroize::Zeroizing;

use super::error::{CliError, Explain};
use super::output::{print, print_json, visible};
use super::target::TargetArgs;
use crate::peer::trust::FarmKey;

/// Make, show or change the key of a farm
///
/// Whoever has the key of a farm is a member of it: may run commands on its machines, and read what they
/// hold. Machines usually get it by `farmhand invite` and `farmhand join`, and nobody needs to see it.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  farmhand key new -o farm.key              a key for --farm-key-file\n  farmhand key show                         the key of this farm\n  farmhand key show -o farm.key             the same, in a file for --farm-key-file\n  farmhand key rotate --without old-laptop  throw a machine out"
)]
pub(super) struct KeyArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Make a key and print it, as --farm-key-file reads it; needs no node
    New {
        /// Write it to this new file, which only you may read
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Print the key of the farm this machine is in, as --farm-key-file reads it
    ///
    /// On a terminal only: what it prints elsewhere may end up in a log, or be read by others.
    Show {
        /// Write it to this new file, which only you may read; `-` prints it wherever that goes
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Give the farm a new key; who has not got it must join again
    ///
    /// Every machine that this one is linked to gets the new key, but for those named by --without: they,
    /// and whoever else has the old key, are strangers from then on.
    Rotate {
        /// Machine that is not to get the new key: its name, or the beginning of its id; may be given
        /// several times
        #[arg(long, value_name = "NAME")]
        without: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        target: TargetArgs,
    },
}

/// What `rotate --json` prints.
#[derive(Debug, Serialize)]
struct RotateJson<'a> {
    farm: &'a str,
    tag: &'a str,
    have: Vec<MemberJson<'a>>,
    missed: Vec<MemberJson<'a>>,
    without: Vec<MemberJson<'a>>,
}

#[derive(Debug, Serialize)]
struct MemberJson<'a> {
    name: &'a str,
    machine_id: &'a str,
}

/// Does what is asked.
pub(super) async fn run(args: KeyArgs) -> Result<(), CliError> {
    match args.what {
        What::New { output: None } => print(&FarmKey::generate().file()),
        What::New { output: Some(path) } => write_new(&path, &FarmKey::generate()),
        What::Show { output, target } => show(&target, output.as_deref()).await,
        What::Rotate { without, json, target } => rotate(&target, without, json).await,
    }
}

fn write_new(path: &Path, key: &FarmKey) -> Result<(), CliError> {
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .explain(format_args!("cannot make {}", path.display()))?;
    file.write_all(key.file().as_bytes())
        .and_then(|()| file.sync_all())
        .explain(format_args!("cannot write {}", path.display()))?;
    print(&format!("{}: the key of the farm \"{}\"\n", path.display(), key.farm()))
}

async fn show(target: &TargetArgs, output: Option<&Path>) -> Result<(), CliError> {
    if output.is_none() && !io::stdout().is_terminal() {
        return Err(CliError::new("the key is shown on a terminal only: whoever reads it is a member")
            .hint("-o FILE writes it to a file that only you may read; -o - prints it all the same"));
    }
    let mut control = target.connect().await?;
    let words = Zeroizing::new(control.show_key(ShowKeyRequest {}).await?.into_inner().words);
    let key: FarmKey = words.parse().explain("the node does not tell its key")?;
    match output {
        Some(path) if path != Path::new("-") => write_new(path, &key),
        _ => print(&key.file()),
    }
}

async fn rotate(target: &TargetArgs, without: Vec<String>, json: bool) -> Result<(), CliError> {
    let mut control = target.connect().await?;
    let rotated = control.rotate_key(RotateKeyRequest { without }).await.map_err(explain)?.into_inner();
    if json { print_json(&to_json(&rotated)) } else { print(&to_text(&rotated)) }
}

fn explain(status: tonic::Status) -> CliError {
    let code = status.code();
    let error = CliError::from(status);
    match code {
        tonic::Code::FailedPrecondition => error.hint(
            "make another with farmhand key new, put it into that file on every machine, and restart them",
        ),
        tonic::Code::NotFound | tonic::Code::InvalidArgument => error.hint("farmhand machines lists them"),
        _ => error,
    }
}

fn to_json(rotated: &RotateKeyResponse) -> RotateJson<'_> {
    fn members(members: &[FarmMember]) -> Vec<MemberJson<'_>> {
        members.iter().map(|FarmMember { name, machine_id }| MemberJson { name, machine_id }).collect()
    }

    RotateJson {
        farm: &rotated.farm,
        tag: &rotated.tag,
        have: members(&rotated.have),
        missed: members(&rotated.missed),
        without: members(&rotated.without),
    }
}

fn to_text(rotated: &RotateKeyResponse) -> String {
    let mut text = format!("The farm has a new key, and is called \"{}\" from now on.\n", rotated.farm);
    let names = |members: &[FarmMember]| {
        members.iter().map(|member| visible(&member.name)).collect::<Vec<_>>().join(", ")
    };
    for (members, fate) in [
        (&rotated.have, "have it"),
        (&rotated.missed, "could not be reached, and must join again (farmhand invite)"),
        (&rotated.without, "were left out"),
    ] {
        if !members.is_empty() {
            let _ = writeln!(text, "  {fate}: {}", names(members));
        }
    }
    if rotated.have.is_empty() {
        text.push_str("  nobody else has it: other machines must join again (farmhand invite)\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str) -> FarmMember {
        FarmMember { machine_id: "ab".repeat(32), name: name.into() }
    }

    #[test]
    fn everybody_is_accounted_for() {
        let rotated = RotateKeyResponse {
            farm: "zoo abandon".into(),
            tag: "00".into(),
            have: vec![member("attic"), member("evil\u{1b}[2J")],
            missed: vec![member("cellar")],
            without: vec![member("laptop")],
        };
        let expected = "The farm has a new key, and is called \"zoo abandon\" from now on.\n  \
                        have it: attic, evil\u{fffd}[2J\n  \
                        could not be reached, and must join again (farmhand invite): cellar\n  \
                        were left out: laptop\n";
        assert_eq!(to_text(&rotated), expected);
        let json = serde_json::to_value(to_json(&rotated)).unwrap();
        assert_eq!(json["missed"][0]["name"], "cellar");
        let alone = RotateKeyResponse { have: Vec::new(), missed: Vec::new(), ..rotated };
        assert!(to_text(&alone).contains("nobody else has it"));
    }
}
