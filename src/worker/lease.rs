//! A [`Lease`] on its way between machines: `farmhand.peer.v1.Lease`.
//!
//! An owner writes what it has checked, and the machine that runs it reads it as if nobody had: a
//! member may run sandboxed commands here, but not confuse this node. Whether the Command makes sense
//! is looked at where it is run.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use farmhand_proto::time::{duration, std_duration, system_time, timestamp};
use farmhand_proto::{peer, reapi};
use prost::Message;

use super::Lease;
use crate::config::UnknownProperties;
use crate::digest::DigestError;
use crate::instance::{InstanceName, InstanceNameError};
use crate::peer::MachineId;
use crate::platform::{InputRootPlace, PlatformError, Requirements};

/// Machines that may be named as having blobs of an action.
const MAX_HOLDERS: usize = 8;

/// Blobs that may come with a lease, and their bytes.
pub(super) const MOST_LUGGAGE: usize = 512;
pub(super) const LUGGAGE_BYTES: usize = 512 << 10;

/// The longest a guest may run, whatever its owner allows.
const MAX_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Bytes of a name that another machine made.
const MAX_NAME: usize = 256;

/// A lease of another machine.
#[derive(Clone, Debug)]
pub struct GuestLease {
    /// What to run.
    pub lease: Lease,
    /// Machines that have blobs of it, the best first.
    pub holders: Vec<MachineId>,
    /// Small blobs of its inputs that the machine probably lacks.
    pub luggage: Vec<Bytes>,
}

/// Why a lease cannot be understood. The owner is at fault, or newer.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// A malformed digest.
    #[error("{role}: {source}")]
    Digest {
        /// Which field.
        role: &'static str,
        /// What is wrong with it.
        source: DigestError,
    },
    /// A name no instance can have.
    #[error(transparent)]
    Instance(#[from] InstanceNameError),
    /// Platform properties that make no sense.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// Bytes that are not the message they should be.
    #[error("{role} does not decode: {source}")]
    Decode {
        /// Which field.
        role: &'static str,
        /// The decoder's words.
        source: prost::DecodeError,
    },
    /// A field that is absent, or beyond its bounds.
    #[error("{0} is not what it can be")]
    Field(&'static str),
}

// === impl GuestLease ===

impl GuestLease {
    /// What the owner tells the machine that runs it.
    pub fn to_wire(&self) -> peer::Lease {
        let Self { lease, holders, luggage } = self;
        let values = lease.platform.properties.iter().flat_map(|(name, values)| {
            values.iter().map(|value| reapi::platform::Property { name: name.clone(), value: value.clone() })
        });
        let platform = reapi::Platform { properties: values.collect() };
        peer::Lease {
            operation: lease.operation.clone(),
            instance_name: lease.instance.to_string(),
            action_digest: lease.action_digest.to_string(),
            input_root_digest: lease.input_root.to_string(),
            command: lease.command.encode_to_vec(),
            platform: platform.encode_to_vec(),
            unknown_properties: policy_to_wire(lease.platform.unknown_policy).into(),
            root_is_filesystem: lease.platform.input_root == InputRootPlace::Filesystem,
            timeout: Some(duration(lease.timeout)),
            queued_at: Some(timestamp(lease.queued_at)),
            person: lease.person.to_string(),
            metadata: reapi::RequestMetadata::from(&*lease.invocation).encode_to_vec(),
            holders: holders.iter().map(|id| peer::Holder { machine: id.bytes().to_vec() }).collect(),
            luggage: luggage.iter().map(|blob| blob.to_vec()).collect(),
        }
    }

    /// Reads what an owner sent; `now` stands in for a time that cannot be.
    ///
    /// # Errors
    /// [`LeaseError`] names the first field that makes no sense.
    pub fn parse(wire: peer::Lease, now: SystemTime) -> Result<Self, LeaseError> {
        let digest = |role, text: &str| text.parse().map_err(|source| LeaseError::Digest { role, source });
        let timeout = wire.timeout.as_ref().and_then(std_duration).filter(|timeout| *timeout <= MAX_TIMEOUT);
        let command = reapi::Command::decode(&*wire.command)
            .map_err(|source| LeaseError::Decode { role: "the Command", source })?;
        let metadata = reapi::RequestMetadata::decode(&*wire.metadata)
            .map_err(|source| LeaseError::Decode { role: "the RequestMetadata", source })?;
        if wire.luggage.len() > MOST_LUGGAGE
            || wire.luggage.iter().map(Vec::len).sum::<usize>() > LUGGAGE_BYTES
        {
            return Err(LeaseError::Field("luggage"));
        }
        let holders = wire.holders.iter().take(MAX_HOLDERS);
        let lease = Lease {
            operation: name("operation", wire.operation)?,
            instance: InstanceName::parse(&wire.instance_name)?,
            action_digest: digest("action_digest", &wire.action_digest)?,
            command: Arc::new(command),
            input_root: digest("input_root_digest", &wire.input_root_digest)?,
            platform: Arc::new(requirements(
                &wire.platform,
                wire.unknown_properties,
                wire.root_is_filesystem,
            )?),
            timeout: timeout.ok_or(LeaseError::Field("timeout"))?,
            queued_at: wire.queued_at.as_ref().and_then(system_time).unwrap_or(now),
            person: name("person", wire.person)?.into(),
            is_guest: true,
            invocation: Arc::new(metadata.into()),
        };
        Ok(Self {
            lease,
            holders: holders.filter_map(|holder| MachineId::read(&holder.machine)).collect(),
            luggage: wire.luggage.into_iter().map(Bytes::from).collect(),
        })
    }
}

fn name(role: &'static str, text: String) -> Result<String, LeaseError> {
    let is_sound = text.len() <= MAX_NAME && !text.chars().any(char::is_control);
    if is_sound { Ok(text) } else { Err(LeaseError::Field(role)) }
}

fn requirements(platform: &[u8], policy: i32, is_filesystem: bool) -> Result<Requirements, LeaseError> {
    let platform = reapi::Platform::decode(platform)
        .map_err(|source| LeaseError::Decode { role: "the Platform", source })?;
    let mut requirements = Requirements::parse(Some(&platform), None)?;
    requirements.unknown_policy = policy_from_wire(policy);
    if is_filesystem {
        requirements.input_root = InputRootPlace::Filesystem;
    }
    Ok(requirements)
}

fn policy_to_wire(policy: UnknownProperties) -> peer::UnknownProperties {
    match policy {
        UnknownProperties::Reject => peer::UnknownProperties::Reject,
        UnknownProperties::Ignore => peer::UnknownProperties::Ignore,
        UnknownProperties::Match => peer::UnknownProperties::Match,
    }
}

/// One that is not known is the strictest.
fn policy_from_wire(policy: i32) -> UnknownProperties {
    match peer::UnknownProperties::try_from(policy) {
        Ok(peer::UnknownProperties::Ignore) => UnknownProperties::Ignore,
        Ok(peer::UnknownProperties::Match) => UnknownProperties::Match,
        _ => UnknownProperties::Reject,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::digest::{Digest, DigestFunction};
    use crate::request_metadata::RequestMetadata;

    fn lease(properties: &[(&str, &str)]) -> GuestLease {
        let properties = properties.iter().map(|(name, value)| reapi::platform::Property {
            name: (*name).to_owned(),
            value: (*value).to_owned(),
        });
        let platform = reapi::Platform { properties: properties.collect() };
        let mut requirements = Requirements::parse(Some(&platform), None).unwrap();
        requirements.unknown_policy = UnknownProperties::Match;
        let invocation = RequestMetadata { target_id: "//a:b".into(), ..Default::default() };
        let lease = Lease {
            operation: "op-1".into(),
            instance: InstanceName::parse("a/b").unwrap(),
            action_digest: Digest::of(DigestFunction::Blake3, b"action"),
            command: Arc::new(reapi::Command { arguments: vec!["true".into()], ..Default::default() }),
            input_root: Digest::of(DigestFunction::Blake3, b"root"),
            platform: Arc::new(requirements),
            timeout: Duration::from_millis(1500),
            queued_at: SystemTime::UNIX_EPOCH + Duration::from_secs(5),
            person: "anna".into(),
            is_guest: true,
            invocation: Arc::new(invocation),
        };
        let luggage = vec![Bytes::from_static(b"blob")];
        GuestLease { lease, holders: vec![MachineId::new([7; 32])], luggage }
    }

    /// Makes a lease one that no owner sends.
    type Spoil = fn(&mut peer::Lease);

    fn facts(lease: &GuestLease) -> String {
        format!("{lease:?}")
    }

    fn parse(wire: peer::Lease) -> Result<GuestLease, LeaseError> {
        GuestLease::parse(wire, SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn what_is_written_is_read() {
        let all = [("OSFamily", "linux"), ("unixUID", "0"), ("room", "attic"), ("room", "cellar")];
        for properties in [&all[..], &[("InputRootAbsolutePath", "/home/build")]] {
            let lease = lease(properties);
            assert_eq!(facts(&parse(lease.to_wire()).unwrap()), facts(&lease));
        }
    }

    #[test]
    fn what_the_owner_found_out_about_the_root_is_told() {
        let mut lease = lease(&[]);
        let mut requirements = (*lease.lease.platform).clone();
        requirements.input_root = InputRootPlace::Filesystem;
        lease.lease.platform = Arc::new(requirements);
        assert_eq!(facts(&parse(lease.to_wire()).unwrap()), facts(&lease));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let spoilt: [(&str, Spoil); 8] = [
            ("action_digest", |wire| wire.action_digest = "x".into()),
            ("input_root_digest", |wire| wire.input_root_digest.clear()),
            ("Command", |wire| wire.command = vec![0xff]),
            ("Platform", |wire| wire.platform = vec![0xff]),
            ("timeout", |wire| wire.timeout = None),
            ("timeout", |wire| wire.timeout = Some(duration(Duration::from_secs(1 << 40)))),
            ("operation", |wire| wire.operation = "\u{1b}[31m".into()),
            ("person", |wire| wire.person = "x".repeat(MAX_NAME + 1)),
        ];
        for (name, spoil) in spoilt {
            let mut wire = lease(&[]).to_wire();
            spoil(&mut wire);
            let error = parse(wire).unwrap_err().to_string();
            assert!(error.contains(name), "{name}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_message_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(wire) = peer::Lease::decode(&*bytes) {
                let _ = parse(wire);
            }
        }
    }
}
