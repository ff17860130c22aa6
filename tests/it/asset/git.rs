//! Repositories of git, served by git itself.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::archives::{listing, texts};
use super::*;

/// Runs git in `directory`; what it printed.
fn git(directory: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command
        .args(["-c", "user.name=n", "-c", "user.email=n@example.com", "-C"])
        .arg(directory)
        .args(arguments);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
    let output = command.output().unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A repository of two commits on `main`, with the tag `v1` on the first; the first commit.
fn repository(directory: &Path) -> String {
    let long: String = (0..3000).map(|line| format!("line {line}\n")).collect();
    git(directory, &["init", "-q", "-b", "main", "."]);
    std::fs::create_dir(directory.join("d")).unwrap();
    std::fs::write(directory.join("long"), &long).unwrap();
    std::fs::write(directory.join("d/run"), "#!").unwrap();
    std::fs::set_permissions(directory.join("d/run"), Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("../long", directory.join("d/l")).unwrap();
    git(directory, &["add", "."]);
    git(directory, &["commit", "-q", "-m", "one"]);
    git(directory, &["tag", "-a", "v1", "-m", "first"]);
    let first = git(directory, &["rev-parse", "HEAD"]);
    // Nearly the same twice: one is told by its difference from the other.
    std::fs::write(directory.join("other"), long.replace("line 7\n", "line seven\n")).unwrap();
    git(directory, &["add", "."]);
    git(directory, &["commit", "-q", "-m", "two"]);
    git(directory, &["repack", "-adfq"]);
    first
}

#[tokio::test]
async fn a_commit_a_branch_and_a_tag_become_trees() {
    let directory = tempfile::tempdir().unwrap();
    let first = repository(directory.path());
    let long = std::fs::read_to_string(directory.path().join("long")).unwrap();
    let other = std::fs::read_to_string(directory.path().join("other")).unwrap();
    let old = [("d/l@", "../long"), ("d/run*", "#!"), ("long", long.as_str())];
    let new = [("d/l@", "../long"), ("d/run*", "#!"), ("long", long.as_str()), ("other", other.as_str())];
    let origin = Origin::start(&[
        ("/r.git/", Reply::Repository(directory.path().to_owned())),
        (
            "/moved/info/refs?service=git-upload-pack",
            Reply::Redirect("/r.git/info/refs?service=git-upload-pack".into()),
        ),
    ])
    .await;
    let node = node();
    let is_git = || qualifier("resource_type", "application/x-git");
    for function in DigestFunction::ALL {
        let client = node.client().await.with_function(function);
        for (path, qualifiers, expected) in [
            ("/r.git", vec![is_git()], &new[..]),
            ("/r.git", vec![is_git(), qualifier("vcs.branch", "main")], &new[..]),
            ("/r.git/", vec![qualifier("vcs.branch", "v1")], &old[..]),
            ("/r.git", vec![qualifier("vcs.commit", &first)], &old[..]),
            (
                "/r.git",
                vec![is_git(), qualifier("vcs.commit", &first), qualifier("vcs.branch", "main")],
                &old[..],
            ),
            ("/moved", vec![is_git()], &new[..]),
            ("/r.git", vec![is_git(), qualifier("directory", "d")], &[("l@", "../long"), ("run*", "#!")][..]),
        ] {
            let request = asset::FetchDirectoryRequest {
                digest_function: client.wire_function(),
                ..directory_of(&origin, path, qualifiers)
            };
            let answer = client.fetch_tree(request).await.unwrap();
            assert_eq!(status(&answer.status).0, Code::Ok, "{path}: {answer:?}");
            let root = digest_of(&answer.root_directory_digest, function);
            assert_eq!(listing(&client, root).await, texts(expected), "{path}");
        }
    }
    let heard = origin.heard().len();
    let client = node.client().await;
    let again = directory_of(&origin, "/r.git", vec![qualifier("vcs.commit", &first)]);
    assert_eq!(client.code_of_tree(again).await.0, Code::Ok);
    assert_eq!(origin.heard().len(), heard, "what is known is not downloaded again");
}

fn directory_of(origin: &Origin, path: &str, qualifiers: Vec<Qualifier>) -> asset::FetchDirectoryRequest {
    directory(&origin.url(path), qualifiers)
}

#[tokio::test]
async fn what_is_no_repository_or_not_in_it_is_told() {
    let directory = tempfile::tempdir().unwrap();
    repository(directory.path());
    std::os::unix::fs::symlink("/etc/passwd", directory.path().join("evil")).unwrap();
    git(directory.path(), &["checkout", "-q", "-b", "evil"]);
    git(directory.path(), &["add", "."]);
    git(directory.path(), &["commit", "-q", "-m", "evil"]);
    let origin = Origin::start(&[
        ("/r.git/", Reply::Repository(directory.path().to_owned())),
        ("/page/info/refs?service=git-upload-pack", Reply::Content(b"<html>hello</html>".into())),
    ])
    .await;
    let node = node();
    let client = node.client().await;
    let absent = "1".repeat(40);
    for (path, name, value, expected) in [
        ("/r.git", "vcs.branch", "nowhere", Code::NotFound),
        ("/r.git", "vcs.commit", absent.as_str(), Code::NotFound),
        ("/r.git", "vcs.branch", "evil", Code::Aborted),
        ("/page", "vcs.branch", "main", Code::Aborted),
        ("/none", "vcs.branch", "main", Code::NotFound),
    ] {
        let request = directory_of(&origin, path, vec![qualifier(name, value)]);
        let (code, text) = client.code_of_tree(request).await;
        assert_eq!(code, expected, "{path} {name} {value}: {text}");
    }
    for (name, value) in
        [("vcs.commit", "main"), ("checksum.sri", "sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=")]
    {
        let qualifiers = vec![qualifier("resource_type", "application/x-git"), qualifier(name, value)];
        let refused = client.fetch_tree(directory_of(&origin, "/r.git", qualifiers)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{name}: {refused}");
    }
}
