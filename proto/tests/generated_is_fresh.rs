//! Holds the checked-in code of our own APIs against their `.proto` files, so that nobody needs a
//! generator to build. After a change of them run this test once with
//! `FARMHAND_REGENERATE=1` and commit what it writes.

use std::fs;
use std::path::Path;

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
        let checked_in = root.join("src/generated").join(&name);
        let fresh = fs::read_to_string(out.path().join(&name)).expect("one file for each package");
        if std::env::var_os(REGENERATE).is_some() {
            fs::write(&checked_in, &fresh).expect("the checked-in file is writable");
        }
        let stored = fs::read_to_string(&checked_in).expect("the code is checked in");
        assert!(stored == fresh, "{} is stale: run this test with {REGENERATE}=1", checked_in.display());
    }
}
