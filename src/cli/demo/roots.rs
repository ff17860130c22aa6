//! Input roots: paths of files, as the Directory messages of REAPI.

use std::collections::BTreeMap;

use farmhand_proto::reapi;

use super::super::remote::Blob;
use crate::digest::Digest;

/// A file that is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct File {
    pub(super) digest: Digest,
    pub(super) is_executable: bool,
}

/// The directories that hold these files, each after those in it, and the digest of the root.
pub(super) fn directories(files: &BTreeMap<String, File>) -> (Vec<Blob>, Digest) {
    let mut blobs = Vec::new();
    let paths = files.iter().map(|(path, file)| (path.as_str(), file)).collect();
    let root = add(&mut blobs, paths);
    (blobs, root)
}

/// Adds the directory of these paths, after those below it; returns its digest.
fn add(blobs: &mut Vec<Blob>, files: Vec<(&str, &File)>) -> Digest {
    let mut directory = reapi::Directory::default();
    let mut below: BTreeMap<&str, Vec<(&str, &File)>> = BTreeMap::new();
    for (path, file) in files {
        match path.split_once('/') {
            Some((name, rest)) => below.entry(name).or_default().push((rest, file)),
            None => directory.files.push(reapi::FileNode {
                name: path.to_owned(),
                digest: Some(file.digest.to_wire()),
                is_executable: file.is_executable,
                ..Default::default()
            }),
        }
    }
    for (name, files) in below {
        let digest = Some(add(blobs, files).to_wire());
        directory.directories.push(reapi::DirectoryNode { name: name.to_owned(), digest });
    }
    directory.files.sort_by(|a, b| a.name.cmp(&b.name));
    let blob = Blob::of(&directory);
    let digest = blob.digest;
    blobs.push(blob);
    digest
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn every_directory_names_what_is_in_it_in_order() {
        let file =
            |text: &str| File { digest: Blob::new(text.to_owned()).digest, is_executable: text == "x" };
        let files = [("b/c/x", "x"), ("b/a", "1"), ("a", "2"), ("b-", "3")];
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), file(text))).collect();
        let (blobs, root) = directories(&files);
        let read = |blob: &Blob| reapi::Directory::decode(blob.data.clone()).unwrap();
        let names = |directory: &reapi::Directory| {
            let files = directory.files.iter().map(|node| node.name.clone());
            files
                .chain(directory.directories.iter().map(|node| format!("{}/", node.name)))
                .collect::<Vec<_>>()
        };
        let all: Vec<_> = blobs.iter().map(|blob| names(&read(blob))).collect();
        assert_eq!(all, [vec!["x"], vec!["a", "c/"], vec!["a", "b-", "b/"]]);
        assert!(read(&blobs[0]).files[0].is_executable);
        assert_eq!(read(&blobs[2]).directories[0].digest, Some(blobs[1].digest.to_wire()));
        assert_eq!(blobs[2].digest, root);
        assert_eq!(directories(&BTreeMap::new()).0.len(), 1);
    }
}
