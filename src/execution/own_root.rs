//! Whether an input root is a whole file system: one that brings its own shell.
//!
//! Nothing in a request says what the client takes the input root for. Some expect a directory beside
//! the tools of the host, others (BuildStream, behind a proxy that hides its name) expect `/` itself.
//! What tells them apart is the root: a tree with its own `/bin/sh` is made to be booted into, and a
//! source tree has none.

use super::missing::read_directory;
use crate::cas::{CasError, ContentAddressableStorage};
use crate::digest::Digest;
use crate::merkle::Directory;

/// Where shells live. `/bin` may be a link to `/usr/bin`.
const SHELLS: [&[&str]; 2] = [&["bin", "sh"], &["usr", "bin", "sh"]];

/// Whether `root` has a shell where every Unix has one. A tree that cannot be read has none: whoever
/// stages it says what is wrong with it.
///
/// # Errors
/// The store's.
pub async fn has_shell(cas: &dyn ContentAddressableStorage, root: Digest) -> Result<bool, CasError> {
    for path in SHELLS {
        if has_program(cas, root, path).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn has_program(
    cas: &dyn ContentAddressableStorage,
    mut digest: Digest,
    path: &[&str],
) -> Result<bool, CasError> {
    for (depth, name) in path.iter().enumerate() {
        let Ok(Some(directory)) = read_directory(cas, digest).await? else {
            return Ok(false);
        };
        if depth + 1 == path.len() {
            return Ok(is_program(&directory, name));
        }
        match directory.directories.iter().find(|node| node.name.as_str() == *name) {
            Some(child) => digest = child.digest,
            None => return Ok(false),
        }
    }
    Ok(false)
}

fn is_program(directory: &Directory, name: &str) -> bool {
    directory.files.iter().any(|node| node.is_executable && node.name.as_str() == name)
        || directory.symlinks.iter().any(|node| node.name.as_str() == name)
}

#[cfg(test)]
mod tests {
    use farmhand_proto::reapi;
    use prost::Message;

    use super::*;
    use crate::cas::memory::MemoryCas;
    use crate::digest::DigestFunction::Sha256;

    fn parent(cas: &MemoryCas, name: &str, child: Digest) -> reapi::Directory {
        let child = reapi::DirectoryNode { name: name.into(), digest: Some(child.to_wire()) };
        let directory = reapi::Directory { directories: vec![child], ..Default::default() };
        cas.insert(Sha256, directory.encode_to_vec());
        directory
    }

    fn file(name: &str, is_executable: bool) -> reapi::Directory {
        let digest = Some(Digest::of(Sha256, b"shell").to_wire());
        let file = reapi::FileNode { name: name.into(), digest, is_executable, ..Default::default() };
        reapi::Directory { files: vec![file], ..Default::default() }
    }

    fn link(name: &str, target: &str) -> reapi::Directory {
        let link = reapi::SymlinkNode { name: name.into(), target: target.into(), ..Default::default() };
        reapi::Directory { symlinks: vec![link], ..Default::default() }
    }

    async fn found(cas: &MemoryCas, root: &reapi::Directory) -> bool {
        has_shell(cas, cas.insert(Sha256, root.encode_to_vec())).await.unwrap()
    }

    #[tokio::test]
    async fn a_root_with_a_shell_is_a_file_system() {
        let cas = MemoryCas::default();
        for shell in [file("sh", true), link("sh", "busybox")] {
            let bin = cas.insert(Sha256, shell.encode_to_vec());
            let mut root = parent(&cas, "bin", bin);
            assert!(found(&cas, &root).await);

            let usr = cas.insert(Sha256, root.encode_to_vec());
            root = parent(&cas, "usr", usr);
            assert!(found(&cas, &root).await, "below /usr only");
            root.symlinks = link("bin", "usr/bin").symlinks;
            assert!(found(&cas, &root).await, "merged /usr");
        }
    }

    #[tokio::test]
    async fn a_source_tree_is_none() {
        let cas = MemoryCas::default();
        for other in [file("sh", false), file("build.sh", true), link("shell", "sh")] {
            let bin = cas.insert(Sha256, other.encode_to_vec());
            assert!(!found(&cas, &parent(&cas, "bin", bin)).await);
        }
        let deeper = cas.insert(Sha256, parent(&cas, "bin", Digest::empty(Sha256)).encode_to_vec());
        assert!(!found(&cas, &parent(&cas, "src", deeper)).await);
        for top in [file("sh", true), file("bin", true), link("bin", "usr/bin"), Default::default()] {
            assert!(!found(&cas, &top).await);
        }
        let gone = Digest::of(Sha256, b"never uploaded");
        assert!(!found(&cas, &parent(&cas, "bin", gone)).await);
    }
}
