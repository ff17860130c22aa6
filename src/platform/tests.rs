//! What is read from platform properties.

use farmhand_proto::reapi::platform::Property;
use proptest::prelude::*;

use super::*;

pub(super) fn platform(properties: &[(&str, &str)]) -> reapi::Platform {
    let property = |(name, value): &(&str, &str)| Property { name: (*name).into(), value: (*value).into() };
    reapi::Platform { properties: properties.iter().map(property).collect() }
}

pub(super) fn parse(properties: &[(&str, &str)]) -> Result<Requirements, PlatformError> {
    Requirements::parse(Some(&platform(properties)), None)
}

#[test]
fn the_action_wins_unless_it_says_nothing() {
    let action = platform(&[("Pool", "a")]);
    let command = platform(&[("Pool", "c")]);
    let empty = platform(&[]);
    let pools = |action, command| Requirements::parse(action, command).unwrap().pools;
    assert_eq!(pools(Some(&action), Some(&command)), ["a"]);
    assert_eq!(pools(Some(&empty), Some(&command)), ["c"]);
    assert_eq!(pools(None, Some(&command)), ["c"]);
    assert_eq!(pools(Some(&action), None), ["a"]);
    assert_eq!(Requirements::parse(None, None), Ok(Requirements::default()));
}

#[test]
fn a_name_sent_twice_keeps_all_its_values() {
    let requirements = parse(&[("ISA", "x86-64"), ("ISA", "x86-avx2"), ("ISA", "x86-64")]).unwrap();
    assert_eq!(requirements.properties["ISA"], ["x86-64", "x86-avx2", "x86-64"]);
    assert_eq!(requirements.isa, ["x86-64", "x86-avx2", "x86-64"]);
}

#[test]
fn os_family_is_single_and_case_blind() {
    assert_eq!(parse(&[("OSFamily", "Linux"), ("OSFamily", "linux")]).unwrap().os_family.unwrap(), "linux");
    let error = parse(&[("OSFamily", "linux"), ("OSFamily", "windows")]).unwrap_err();
    assert!(error.to_string().contains("OSFamily"), "{error}");
}

#[test]
fn network_has_two_names_and_may_not_contradict() {
    assert_eq!(parse(&[]).unwrap().network, None);
    for (name, value, expected) in [
        ("network", "on", NetworkAccess::Host),
        ("dockerNetwork", "standard", NetworkAccess::Host),
        ("network", "off", NetworkAccess::Loopback),
        ("dockerNetwork", "none", NetworkAccess::Loopback),
    ] {
        assert_eq!(parse(&[(name, value)]).unwrap().network, Some(expected), "{name}={value}");
    }
    assert!(matches!(parse(&[("network", "maybe")]), Err(PlatformError::Value { .. })));
    assert!(matches!(
        parse(&[("network", "on"), ("dockerNetwork", "off")]),
        Err(PlatformError::Conflict { .. })
    ));
}

#[test]
fn input_root_places() {
    let place = |properties: &[(&str, &str)]| parse(properties).map(|r| r.input_root);
    assert_eq!(place(&[("input-root", "/")]), Ok(InputRootPlace::Filesystem));
    assert_eq!(place(&[("input-root", "host")]), Ok(InputRootPlace::Worker));
    for (properties, said) in [(&[("input-root", "host")], true), (&[("network", "on")], false)] {
        assert_eq!(parse(properties).unwrap().says_input_root(), said, "{properties:?}");
    }
    assert_eq!(place(&[("InputRootAbsolutePath", "/")]), Ok(InputRootPlace::Filesystem));
    assert_eq!(place(&[("InputRootAbsolutePath", "/b/c")]), Ok(InputRootPlace::At("/b/c".into())));
    for path in ["", "b", "/usr/x", "/proc", "/a/../b", "/a\0"] {
        assert!(place(&[("InputRootAbsolutePath", path)]).is_err(), "{path:?}");
    }
    assert!(place(&[("input-root", "/"), ("InputRootAbsolutePath", "/b")]).is_err());
    assert!(place(&[("input-root", "/x")]).is_err());
}

#[test]
fn ids() {
    let requirements = parse(&[("unixUID", "5"), ("unixGID", "6")]).unwrap();
    assert_eq!((requirements.uid, requirements.gid), (Some(5), Some(6)));
    let root = parse(&[("dockerRunAsRoot", "true")]).unwrap();
    assert_eq!((root.uid, root.gid), (Some(0), Some(0)));
    assert_eq!(parse(&[("dockerRunAsRoot", "false")]).unwrap().uid, None);
    for value in ["-1", "x", "", "4294967295"] {
        assert!(parse(&[("unixUID", value)]).is_err(), "{value:?}");
    }
}

#[test]
fn resources() {
    let requirements = parse(&[("resources:cpu", "1.5"), ("resources:memory", "512")]).unwrap();
    assert_eq!((requirements.millicores, requirements.memory), (Some(1500), Some(512 << 20)));
    let requirements = parse(&[("EstimatedCPU", "250m"), ("EstimatedMemory", "2GB")]).unwrap();
    assert_eq!((requirements.millicores, requirements.memory), (Some(250), Some(2 << 30)));
    assert_eq!(parse(&[("EstimatedMemory", "100")]).unwrap().memory, Some(100));
    assert_eq!(parse(&[("memory_kb", "3")]).unwrap().memory, Some(3072));
    let units = parse(&[("EstimatedComputeUnits", "2"), ("min-cores", "1")]).unwrap();
    assert_eq!((units.millicores, units.memory), (Some(2000), Some(5000 << 20)));
    for value in ["", "x", "-1", "nan", "inf", "1e300"] {
        assert!(parse(&[("resources:cpu", value)]).is_err(), "{value:?}");
        assert!(parse(&[("resources:memory", value)]).is_err(), "{value:?}");
    }
}

#[test]
fn known_names_are_harmless_or_refused_by_name() {
    for (name, value) in [
        ("container-image", "none"),
        ("container-image", ""),
        ("dockerPrivileged", "false"),
        ("dockerDropCapabilities", "ALL"),
        ("cache-silo", "salt"),
        ("persistentWorkerKey", "k"),
        ("persistentWorkerProtocol", "json"),
        ("Pool", ""),
    ] {
        let requirements = parse(&[(name, value)]).unwrap();
        assert!(requirements.unserved.is_empty() && requirements.unknown.is_empty(), "{name}={value}");
    }
    for (name, value) in [
        ("container-image", "docker://gcc"),
        ("dockerPrivileged", "true"),
        ("dockerRuntime", "runsc"),
        ("dockerAddCapabilities", "SYS_ADMIN"),
        ("chrootRootDigest", "abc/1"),
        ("include-secrets", "true"),
        ("workload-isolation-type", "firecracker"),
    ] {
        assert_eq!(parse(&[(name, value)]).unwrap().unserved[0].name, name);
    }
    assert_eq!(parse(&[("foo", "bar"), ("foo", "baz")]).unwrap().unknown, ["foo"]);
}

#[test]
fn names_of_all_clients_are_one_model() {
    let tags = parse(&[("requires-network", ""), ("requires-fakeroot", ""), ("cpu_arch", "amd64")]).unwrap();
    assert_eq!((tags.network, tags.uid, tags.gid), (Some(NetworkAccess::Host), Some(0), Some(0)));
    assert_eq!(tags.isa, ["x86-64"]);
    assert_eq!(parse(&[("requires-darwin", "")]).unwrap().os_family.as_deref(), Some("macos"));
    assert_eq!(parse(&[("requires-darwin", "0")]).unwrap().os_family, None);
    assert_eq!(parse(&[("block-network", "1")]).unwrap().network, Some(NetworkAccess::Loopback));
    assert!(parse(&[("block-network", "1"), ("network", "on")]).is_err());
    let user = parse(&[("dockerUser", "1000:100")]).unwrap();
    assert_eq!((user.uid, user.gid), (Some(1000), Some(100)));
    assert_eq!(parse(&[("dockerUser", "root")]).unwrap().uid, Some(0));
    assert!(parse(&[("dockerUser", "nobody")]).is_err());
    let worker = parse(&[("persistentWorkerKey", "k"), ("requires-worker-protocol", "json")]).unwrap();
    assert_eq!(
        (worker.worker_key.as_deref(), worker.worker_protocol),
        (Some("k"), Some(WorkerProtocol::Json))
    );
}

#[test]
fn sockets_and_containers() {
    let socket = parse(&[("remoteApisSocketPath", "tmp/casd.sock")]).unwrap();
    assert_eq!(socket.apis_socket.unwrap().to_string(), "tmp/casd.sock");
    let image = format!("docker://gcc@sha256:{}", "1".repeat(64));
    let contained = parse(&[("container-image", image.as_str())]).unwrap();
    assert!(contained.says_input_root() && contained.unserved.is_empty() && !contained.uses_host());
    for (name, value) in
        [("input-root", "/"), ("unixUID", "5"), ("unixGID", "5"), ("remoteApisSocketPath", "x")]
    {
        let refused = parse(&[("container-image", image.as_str()), (name, value)]).unwrap().unserved;
        assert_eq!(refused.len(), 1, "{name}");
    }
}

/// Names whose values are read, one for each way to read them.
const READ: [&str; 12] = [
    "OSFamily",
    "network",
    "InputRootAbsolutePath",
    "unixUID",
    "dockerUser",
    "dockerRunAsRoot",
    "resources:cpu",
    "EstimatedMemory",
    "EstimatedComputeUnits",
    "container-image",
    "remoteApisSocketPath",
    "resources:gpu",
];

proptest! {
    /// What is taken is safe: no path leads out, and no image is a flag.
    #[test]
    fn any_value_is_read_or_refused(
        name in proptest::sample::select(&READ[..]),
        value in "(docker://)?[-a-z0-9./:@ ]{0,40}|.{0,40}|[-a-z]{1,4}@sha256:[0-9a-f]{64}",
    ) {
        if let Ok(requirements) = parse(&[(name, value.as_str())]) {
            if let Some(image) = requirements.container {
                prop_assert!(image.as_str().starts_with(|c: char| c.is_ascii_alphanumeric()));
                prop_assert!(image.as_str().contains("@sha256:") && !image.as_str().contains(' '));
            }
            if let Some(path) = requirements.apis_socket {
                prop_assert!(!path.is_root());
            }
            prop_assert_ne!(requirements.uid, Some(u32::MAX));
        }
    }
}

proptest! {
    #[test]
    fn every_property_is_kept_or_refused(pairs in proptest::collection::vec(("[a-zA-Z:_-]{0,12}", ".{0,12}"), 0..6)) {
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        if let Ok(requirements) = parse(&pairs) {
            let kept: usize = requirements.properties.values().map(Vec::len).sum();
            prop_assert_eq!(kept, pairs.len());
        }
    }
}
