//! Directories: pushed, and out of archives.

use std::io::Write;

use super::*;

/// A directory `p` with the files `a` and `bin/run`, which may run, and a link `l` to it, by `tar` and `xz`.
const XZ: &str = "fd377a585a000004e6d6b446020021011c00000010cf58cce027ff00965d00380bbc1ba78c3444e1c20775e8fce3c092652f\
     bb9c862c1acde79835a34b4734a4d6739889a78561a742aba3ed6ca0485ab7903e7afab38497abd9f9f5853953fad967eaa6\
     b578b20b72858d8063938df92f8c9ee9aeff87e77b89da4977e590fcc012fe2062e2d94e49484493d1158ffdd01fbb87464e\
     a3c75f0883170d24a4043935aa6d9aef7b81ac7e3b3712ef3ff8505775d800000000a8bd39b4aee6fc260001b20180500000\
     98d7d228b1c467fb020000000004595a";

/// The same by `zip`.
const ZIP: &str = "504b03040a0000000000b275765d00000000000000000000000002000000702f504b03040a0000000000b275765db6d7dadf\
     070000000700000003000000702f6c62696e2f72756e504b03040a0000000000b275765d6a39e0d005000000050000000300\
     0000702f61616c706861504b03040a0000000000b275765d00000000000000000000000006000000702f62696e2f504b0304\
     0a0000000000b275765dc07519b3020000000200000009000000702f62696e2f72756e2321504b01021e030a0000000000b2\
     75765d000000000000000000000000020000000000000000001000ed4100000000702f504b01021e030a0000000000b27576\
     5db6d7dadf0700000007000000030000000000000000000000ffa120000000702f6c504b01021e030a0000000000b275765d\
     6a39e0d00500000005000000030000000000000001000000a48148000000702f61504b01021e030a0000000000b275765d00\
     0000000000000000000000060000000000000000001000ed416e000000702f62696e2f504b01021e030a0000000000b27576\
     5dc07519b30200000002000000090000000000000001000000ed8192000000702f62696e2f72756e504b0506000000000500\
     0500fd000000bb0000000000";

/// A tar with the same in it, and with what a test adds.
fn tarred(more: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |name: &str, kind, mode, link: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        // Past the checks of who packs, as a hostile server would.
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content).unwrap();
    };
    add("p/a", tar::EntryType::Regular, 0o644, "", b"alpha");
    add("p/bin/run", tar::EntryType::Regular, 0o755, "", b"#!");
    add("p/l", tar::EntryType::Symlink, 0o777, "bin/run", b"");
    for (name, kind, link) in more {
        add(name, *kind, 0o644, link, b"");
    }
    builder.into_inner().unwrap()
}

fn gzipped(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn bzipped(data: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// All files and links below a root, by GetTree and reads.
pub(super) async fn listing(client: &Client, root: Digest) -> Vec<(String, String)> {
    let request = reapi::GetTreeRequest {
        instance_name: client.instance.clone(),
        root_digest: Some(root.to_wire()),
        digest_function: client.wire_function(),
        ..Default::default()
    };
    let mut pages = client.cas().get_tree(request).await.unwrap().into_inner();
    let mut directories = std::collections::HashMap::new();
    while let Some(page) = pages.message().await.unwrap() {
        for directory in page.directories {
            directories.insert(client.digest(&directory.encode_to_vec()), directory);
        }
    }
    let (mut all, mut waiting) = (Vec::new(), vec![(String::new(), root)]);
    while let Some((prefix, digest)) = waiting.pop() {
        let directory = directories.get(&digest).unwrap_or_else(|| panic!("{prefix} is not in the tree"));
        for file in &directory.files {
            let digest = digest_of(&file.digest, client.function);
            let content = String::from_utf8(client.read(&digest).await.unwrap()).unwrap();
            let mark = if file.is_executable { "*" } else { "" };
            all.push((format!("{prefix}{}{mark}", file.name), content));
        }
        all.extend(
            directory.symlinks.iter().map(|link| (format!("{prefix}{}@", link.name), link.target.clone())),
        );
        let below = directory.directories.iter();
        waiting
            .extend(below.map(|child| {
                (format!("{prefix}{}/", child.name), digest_of(&child.digest, client.function))
            }));
    }
    all.sort();
    all
}

pub(super) fn texts(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(name, content)| ((*name).to_owned(), (*content).to_owned())).collect()
}

#[tokio::test]
async fn every_kind_of_archive_becomes_a_tree() {
    let node = node();
    let tar = tarred(&[]);
    let kinds = [
        ("/a.tar", tar.clone()),
        ("/a.tar.gz", gzipped(&tar)),
        ("/a.tar.zst", zstd::encode_all(&tar[..], 3).unwrap()),
        ("/a.tar.bz2", bzipped(&tar)),
        ("/a.tar.xz", const_hex::decode(XZ).unwrap()),
        ("/a.zip", const_hex::decode(ZIP).unwrap()),
    ];
    let replies: Vec<_> = kinds.iter().map(|(path, data)| (*path, Reply::Content(data.clone()))).collect();
    let origin = Origin::start(&replies).await;
    for function in DigestFunction::ALL {
        let client = node.client().await.with_function(function);
        for (path, data) in &kinds {
            let sum = qualifier("checksum.sri", &sri::<sha2::Sha256>("sha256", data));
            let whole = [("p/a", "alpha"), ("p/bin/run*", "#!"), ("p/l@", "bin/run")];
            let part = [("a", "alpha"), ("bin/run*", "#!"), ("l@", "bin/run")];
            for (qualifiers, expected) in [
                (vec![sum.clone()], whole),
                (
                    vec![
                        sum,
                        qualifier("directory", "p"),
                        qualifier("resource_type", "application/octet-stream"),
                    ],
                    part,
                ),
            ] {
                let request = asset::FetchDirectoryRequest {
                    digest_function: client.wire_function(),
                    ..directory(&origin.url(path), qualifiers)
                };
                let answer = client.fetch_tree(request.clone()).await.unwrap();
                assert_eq!(status(&answer.status).0, Code::Ok, "{path}: {answer:?}");
                assert_eq!(answer.digest_function, function.to_wire());
                let root = digest_of(&answer.root_directory_digest, function);
                assert_eq!(listing(&client, root).await, texts(&expected), "{path}");
                let hits = origin.hits(path);
                assert_eq!(client.fetch_tree(request).await.unwrap(), answer);
                assert_eq!(origin.hits(path), hits, "what is known is not downloaded again");
            }
        }
    }
}

#[tokio::test]
async fn archives_that_are_not_safe_or_none_are_refused() {
    let node = Node::builder().config(ALLOWED).config("asset-max-size = \"1MiB\"").start();
    let client = node.client().await;
    let zeros = {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(64 << 20);
        builder.append_data(&mut header, "zeros", &vec![0; 64 << 20][..]).unwrap();
        zstd::encode_all(&builder.into_inner().unwrap()[..], 3).unwrap()
    };
    let hostile = |name, kind, link| Reply::Content(gzipped(&tarred(&[(name, kind, link)])));
    let origin = Origin::start(&[
        ("/climbs", hostile("../x", tar::EntryType::Regular, "")),
        ("/absolute", hostile("/etc/x", tar::EntryType::Regular, "")),
        ("/link", hostile("x", tar::EntryType::Symlink, "/etc/passwd")),
        ("/link-up", hostile("x", tar::EntryType::Symlink, "../../etc/passwd")),
        ("/through", hostile("p/l/x", tar::EntryType::Regular, "")),
        ("/hard", hostile("x", tar::EntryType::Link, "/etc/passwd")),
        ("/device", hostile("x", tar::EntryType::Block, "")),
        ("/page", Reply::Content(b"<html>not found</html>".into())),
        ("/cut", Reply::Content(gzipped(&tarred(&[]))[..60].into())),
        ("/bomb", Reply::Content(zeros)),
        ("/good", Reply::Content(tarred(&[]))),
    ])
    .await;
    for path in ["/climbs", "/absolute", "/link", "/link-up", "/through", "/hard", "/device", "/page", "/cut"]
    {
        let (code, text) = client.code_of_tree(directory(&origin.url(path), Vec::new())).await;
        assert_eq!(code, Code::Aborted, "{path}: {text}");
    }
    let bomb = client.code_of_tree(directory(&origin.url("/bomb"), Vec::new())).await;
    assert_eq!(bomb.0, Code::ResourceExhausted, "{}", bomb.1);
    let good = |qualifiers| directory(&origin.url("/good"), qualifiers);
    assert_eq!(client.code_of_tree(good(vec![qualifier("directory", "q")])).await.0, Code::NotFound);
    assert_eq!(client.code_of_tree(good(vec![qualifier("directory", "../p")])).await.0, Code::Aborted);
    let typed = |value| qualifier("resource_type", value);
    for qualifiers in [
        vec![typed("application/x-frob")],
        vec![typed("application/zip"), qualifier("vcs.branch", "main")],
        vec![qualifier("frob", "1")],
    ] {
        let refused = client.fetch_tree(good(qualifiers)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    let left = std::fs::read_dir(node.data_dir().join("downloads")).unwrap().count();
    assert_eq!(left, 0, "nothing is left of what was given up");
}

#[tokio::test]
async fn directories_are_pushed_and_fetched_as_buildstream_does() {
    let node = Node::start();
    let client = node.client().await;
    let file = client.put(b"file").await;
    let root = reapi::Directory {
        files: vec![reapi::FileNode { name: "f".into(), digest: Some(file.to_wire()), ..Default::default() }],
        ..Default::default()
    };
    let root = client.put(&root.encode_to_vec()).await;
    let uri = "urn:fdc:buildstream.build:2020:source:ref";
    assert_eq!(client.code_of_tree(directory(uri, Vec::new())).await.0, Code::NotFound);
    let request = asset::PushDirectoryRequest {
        uris: vec![uri.into()],
        root_directory_digest: Some(root.to_wire()),
        references_blobs: vec![file.to_wire()],
        ..Default::default()
    };
    client.pusher().push_directory(request).await.unwrap();
    let answer = client.fetch_tree(directory(uri, Vec::new())).await.unwrap();
    let found = digest_of(&answer.root_directory_digest, DigestFunction::Sha256);
    assert_eq!((answer.uri.as_str(), found), (uri, root));
    assert_eq!(listing(&client, found).await, texts(&[("f", "file")]));
    assert_eq!(client.code(blob(uri)).await.0, Code::NotFound);
}
