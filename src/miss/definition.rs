//! Two actions, message by message: what one says that the other does not.

use std::collections::BTreeMap;

use farmhand_proto::control::{Difference, difference::Kind};
use farmhand_proto::reapi;
use farmhand_proto::time::std_duration;
use prost::Message;

use super::arguments::edits;
use super::inputs::{self, Changes, Limits};
use super::{MAX_DIFFERENCES, difference};
use crate::cas::ContentAddressableStorage;
use crate::digest::Digest;

/// Bytes of the largest Action or Command that is compared.
const MAX_MESSAGE: u64 = 8 << 20;

const LIMITS: Limits = Limits { reads: 1024, kept: MAX_DIFFERENCES };

/// An action as its client defined it.
pub(super) struct Definition {
    action: reapi::Action,
    command: reapi::Command,
    input_root: Digest,
}

/// What differs between two of them.
pub(super) struct Comparison {
    /// The most telling first.
    pub(super) differences: Vec<Difference>,
    /// All there are, as far as they were looked at.
    pub(super) total: u32,
    /// Whether everything was looked at.
    pub(super) is_whole: bool,
}

// === impl Definition ===

impl Definition {
    /// Reads one; `None` when a part of it is not there, or is not what it should be.
    pub(super) async fn load(cas: &dyn ContentAddressableStorage, digest: &Digest) -> Option<Self> {
        let function = digest.function();
        let action: reapi::Action = read(cas, digest).await?;
        let command = Digest::from_field(function, action.command_digest.as_ref()).ok()?;
        let input_root = Digest::from_field(function, action.input_root_digest.as_ref()).ok()?;
        Some(Self { command: read(cas, &command).await?, action, input_root })
    }

    /// The one that counts: the field of the Action, else that of the Command.
    fn platform(&self) -> BTreeMap<&str, Vec<&str>> {
        #[expect(
            deprecated,
            reason = "clients older than API version 2.2 fill only the field of the Command"
        )]
        let platform = self.action.platform.as_ref().or(self.command.platform.as_ref());
        let mut properties: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for property in platform.iter().flat_map(|platform| &platform.properties) {
            properties.entry(&property.name).or_default().push(&property.value);
        }
        properties
    }

    fn variables(&self) -> BTreeMap<&str, Vec<&str>> {
        let mut variables: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for variable in &self.command.environment_variables {
            variables.entry(&variable.name).or_default().push(&variable.value);
        }
        variables
    }

    #[expect(deprecated, reason = "clients before API version 2.1 fill only these fields")]
    fn outputs(&self) -> BTreeMap<&str, Vec<&str>> {
        let command = &self.command;
        let paths = (command.output_paths.iter().map(|path| (path, "path")))
            .chain(command.output_files.iter().map(|path| (path, "file")))
            .chain(command.output_directories.iter().map(|path| (path, "directory")));
        paths.map(|(path, kind)| (path.as_str(), vec![kind])).collect()
    }

    fn timeout(&self) -> String {
        let limit = self.action.timeout.as_ref().and_then(std_duration).filter(|limit| !limit.is_zero());
        limit.map_or_else(|| "none".to_owned(), |limit| humantime::format_duration(limit).to_string())
    }
}

async fn read<M: Message + Default>(cas: &dyn ContentAddressableStorage, digest: &Digest) -> Option<M> {
    if digest.size() > MAX_MESSAGE {
        return None;
    }
    M::decode(cas.get(digest).await.ok()?).ok()
}

/// Compares two actions; `None` when neither their commands differ nor their inputs can be read.
pub(super) async fn compare(
    cas: &dyn ContentAddressableStorage,
    old: &Definition,
    new: &Definition,
) -> Option<Comparison> {
    let mut differences = of_messages(old, new);
    let mut total = u32::try_from(differences.len()).unwrap_or(u32::MAX);
    differences.truncate(MAX_DIFFERENCES);
    if old.input_root == new.input_root {
        return Some(whole(differences, total, old, new));
    }
    let Some(changes) = inputs::compare(cas, old.input_root, new.input_root, LIMITS).await else {
        let roots = (old.input_root.to_string(), new.input_root.to_string());
        let is_more = !differences.is_empty();
        differences.push(difference(Kind::Other, "input root", &roots.0, &roots.1));
        return is_more.then(|| Comparison { differences, total: total.saturating_add(1), is_whole: false });
    };
    let Changes { kept, total: inputs, is_whole } = changes;
    total = total.saturating_add(inputs);
    differences.extend(kept.iter().map(|change| {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        difference(Kind::Input, &change.path, &text(&change.old), &text(&change.new))
    }));
    if differences.is_empty() && !is_whole {
        return None;
    }
    let comparison = whole(differences, total, old, new);
    Some(Comparison { is_whole, ..comparison })
}

/// Two actions with another digest are not the same: where nothing else differs, their encoding does.
fn whole(mut differences: Vec<Difference>, mut total: u32, old: &Definition, new: &Definition) -> Comparison {
    if differences.is_empty() {
        let name = if old.input_root == new.input_root { "encoding" } else { "order of inputs" };
        differences.push(difference(Kind::Other, name, "", ""));
        total = 1;
    }
    Comparison { differences, total, is_whole: true }
}

/// Everything but the inputs, the most telling first: what a person sets on purpose, then the command.
fn of_messages(old: &Definition, new: &Definition) -> Vec<Difference> {
    let field = |kind, name: &str, text: fn(&Definition) -> String| {
        let (old, new) = (text(old), text(new));
        (old != new).then(|| difference(kind, name, &old, &new))
    };
    let mut all = Vec::new();
    all.extend(field(Kind::Salt, "", |one| bytes(&one.action.salt)));
    all.extend(field(Kind::DoNotCache, "", |one| one.action.do_not_cache.to_string()));
    all.extend(maps(Kind::Platform, &old.platform(), &new.platform()));
    all.extend(of_arguments(&old.command.arguments, &new.command.arguments));
    all.extend(field(Kind::WorkingDirectory, "", |one| one.command.working_directory.clone()));
    all.extend(field(Kind::Timeout, "", Definition::timeout));
    let format = |one: &Definition| one.command.output_directory_format.to_string();
    all.extend(field(Kind::Other, "output directory format", format));
    let properties = |one: &Definition| one.command.output_node_properties.join(",");
    all.extend(field(Kind::Other, "output node properties", properties));
    all.extend(maps(Kind::Variable, &old.variables(), &new.variables()));
    all.extend(maps(Kind::Output, &old.outputs(), &new.outputs()));
    all
}

fn of_arguments(old: &[String], new: &[String]) -> Vec<Difference> {
    let edits = edits(old, new).into_iter();
    edits
        .map(|edit| {
            let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
            difference(Kind::Argument, &edit.position.to_string(), &text(edit.old), &text(edit.new))
        })
        .collect()
}

/// Names whose values differ, those that changed first.
fn maps(kind: Kind, old: &BTreeMap<&str, Vec<&str>>, new: &BTreeMap<&str, Vec<&str>>) -> Vec<Difference> {
    let text = |values: Option<&Vec<&str>>| values.map(|values| values.join(",")).unwrap_or_default();
    let all: BTreeMap<&str, ()> = old.keys().chain(new.keys()).map(|name| (*name, ())).collect();
    let names = all.into_keys().filter(|name| old.get(name) != new.get(name));
    let (changed, others): (Vec<&str>, Vec<&str>) =
        names.partition(|name| old.contains_key(name) && new.contains_key(name));
    let names = changed.into_iter().chain(others);
    names.map(|name| difference(kind, name, &text(old.get(name)), &text(new.get(name)))).collect()
}

/// Text if it is one, else hex.
fn bytes(data: &[u8]) -> String {
    match std::str::from_utf8(data) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => const_hex::encode(data),
    }
}
