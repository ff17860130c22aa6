//! Holds the checked-in code of the control API against its `.proto` files, so that nobody needs a
//! generator to build. After a change of them run this test once with
//! `FARMHAND_REGENERATE=1` and commit what it writes.

use std::fs;
use std::path::Path;

/// The variable that makes this test write instead of compare.
const REGENERATE: &str = "FARMHAND_REGENERATE";

fn generate(root: &Path, out: &Path) {
    let descriptors = protox::compile(["farmhand/v1/control.proto", "farmhand/v1/farm.proto"], [root])
        .expect("the .proto file is valid");
    tonic_prost_build::configure()
        .out_dir(out)
        .compile_well_known_types(true)
        .extern_path(".google.protobuf", "crate::protobuf")
        .build_transport(false)
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)
        .expect("code is generated");
}

#[test]
fn generated_is_fresh() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let checked_in = root.join("src/generated/farmhand.v1.rs");
    let out = tempfile::tempdir().expect("a directory for the fresh code");
    generate(root, out.path());
    let fresh = fs::read_to_string(out.path().join("farmhand.v1.rs")).expect("one file for the package");
    if std::env::var_os(REGENERATE).is_some() {
        fs::write(&checked_in, &fresh).expect("the checked-in file is writable");
    }
    let stored = fs::read_to_string(&checked_in).expect("the code is checked in");
    assert!(stored == fresh, "{} is stale: run this test with {REGENERATE}=1", checked_in.display());
}
