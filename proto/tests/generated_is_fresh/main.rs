//! Holds what is checked in against what it is made from, so that nobody needs a generator to build: the code
//! of our own APIs against their `.proto` files, and the descriptors of the published ones against the crate that
//! has their code. After a change of either run this test once with `FARMHAND_REGENERATE=1` and commit what it
//! writes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use protox::prost_reflect::DescriptorPool;

mod descriptors;

/// The variable that makes this test write instead of compare.
const REGENERATE: &str = "FARMHAND_REGENERATE";

/// The packages: their files, and the module that has each.
const PACKAGES: [(&str, &[&str]); 2] = [
    ("farmhand.v1", &["farmhand/v1/control.proto", "farmhand/v1/farm.proto"]),
    (
        "farmhand.peer.v1",
        &["farmhand/peer/v1/peer.proto", "farmhand/peer/v1/join.proto", "farmhand/peer/v1/copies.proto"],
    ),
];

fn generate(root: &Path, out: &Path) {
    for (package, files) in PACKAGES {
        let descriptors = protox::compile(files, [root]).expect("the .proto files are valid");
        let mut config = tonic_prost_build::configure()
            .out_dir(out)
            .compile_well_known_types(true)
            .extern_path(".google.protobuf", "crate::protobuf")
            .build_transport(false)
            .bytes(".farmhand.peer.v1.Entry.data")
            .emit_rerun_if_changed(false);
        if package != "farmhand.v1" {
            config = config.extern_path(".farmhand.v1", "crate::control");
        }
        config.compile_fds(descriptors).expect("code is generated");
    }
}

#[test]
fn generated_is_fresh() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = tempfile::tempdir().expect("a directory for the fresh code");
    generate(root, out.path());
    for (package, _) in PACKAGES {
        let name = format!("{package}.rs");
        assert_is_fresh(&name, &fs::read(out.path().join(&name)).expect("one file for each package"));
    }
}

#[test]
fn descriptors_are_fresh() {
    assert_is_fresh("reapi.bin", &descriptors::encoded(&published()));
}

#[test]
fn descriptors_fit_together() {
    let pool = DescriptorPool::decode(farmhand_proto::DESCRIPTORS).expect("every name is found");
    let services: Vec<_> = pool.services().map(|service| service.full_name().to_owned()).collect();
    assert_eq!(
        services,
        [
            "google.longrunning.Operations",
            "google.bytestream.ByteStream",
            "build.bazel.remote.execution.v2.Execution",
            "build.bazel.remote.execution.v2.ActionCache",
            "build.bazel.remote.execution.v2.ContentAddressableStorage",
            "build.bazel.remote.execution.v2.Capabilities",
            "build.bazel.remote.asset.v1.Fetch",
            "build.bazel.remote.asset.v1.Push",
            "build.bazel.remote.logstream.v1.LogStreamService",
        ]
    );
}

fn assert_is_fresh(name: &str, fresh: &[u8]) {
    let checked_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/generated").join(name);
    if std::env::var_os(REGENERATE).is_some() {
        fs::write(&checked_in, fresh).expect("the checked-in file is writable");
    }
    let stored = fs::read(&checked_in).expect("it is checked in");
    assert!(stored == fresh, "{} is stale: run this test with {REGENERATE}=1", checked_in.display());
}

/// Where the crate is that has the code of the published APIs.
fn published() -> PathBuf {
    let asked = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    let metadata: serde_json::Value = serde_json::from_slice(&asked.stdout).expect("cargo tells JSON");
    let packages = metadata["packages"].as_array().expect("there are packages");
    let package = packages.iter().find(|package| package["name"] == "bazel-remote-apis").expect("it is one");
    let manifest = Path::new(package["manifest_path"].as_str().expect("it is somewhere"));
    manifest.with_file_name("src").join("generated")
}
