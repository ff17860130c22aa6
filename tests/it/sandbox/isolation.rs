//! What a sandboxed action sees and can do, and what it cannot.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use farmhand::worker::{InputRoot, Network, Outcome, RunError};

use super::bench::{Bench, PATIENCE};
use super::exit_codes_pass_through;

#[tokio::test(flavor = "multi_thread")]
async fn only_the_toolchain_of_the_host_is_visible() {
    let Some(bench) = Bench::sandbox().await else { return };
    let listed =
        bench.output_of("ls -A / /etc /dev; cat /etc/passwd /etc/hosts /etc/hostname; hostname; id").await;
    for absent in ["root\n", "home", "shadow", "resolv.conf", "old_root", "mnt", "sys\n", "kvm"] {
        assert!(
            !listed.lines().any(|line| format!("{line}\n") == absent || line == absent),
            "{absent}: {listed}"
        );
    }
    for present in ["usr", "ld.so.cache", "farmhand", "urandom", "127.0.0.1\tlocalhost farmhand"] {
        assert!(listed.lines().any(|line| line == present), "{present}: {listed}");
    }
    assert!(listed.contains("uid=1000(farmhand) gid=1000(farmhand)"), "{listed}");
    let mounts = bench.output_of("cat /proc/self/mountinfo").await;
    assert!(!mounts.contains(&*bench.files.path().to_string_lossy()), "{mounts}");
    assert!(!mounts.contains(" / /tmp rw,relatime shared"), "{mounts}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_host_can_be_changed() {
    let Some(bench) = Bench::sandbox().await else { return };
    for ids in [(0, 0), (1000, 1000)] {
        let script = "for path in /usr/x /x /etc/x /dev/x /bin/x /var/x /run/x; do
                          touch $path 2>/dev/null && echo wrote $path
                      done
                      for path in /dev/null /usr/bin /etc/passwd; do
                          chmod 0700 $path 2>/dev/null && echo changed $path
                      done
                      echo x 2>/dev/null >/proc/sysrq-trigger && echo sysrq
                      echo 1 2>/dev/null >/proc/sys/kernel/printk && echo sysctl
                      mount -o remount,rw / 2>/dev/null && echo remounted
                      umount /tmp 2>/dev/null && echo unmounted
                      ip link set lo down 2>/dev/null && echo network
                      hostname other 2>/dev/null && echo renamed
                      kill -9 1 2>/dev/null; kill -STOP 1 2>/dev/null
                      ls -d /proc/1 2>/dev/null
                      grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs' /proc/self/status";
        let done = bench.run(bench.shell(script).set(|command| command.ids = ids)).await;
        let lines: Vec<_> =
            done.stdout.lines().map(|line| line.split_once('\t').unwrap_or((line, ""))).collect();
        let none = "0000000000000000";
        let expected =
            [("CapInh:", none), ("CapPrm:", none), ("CapEff:", none), ("CapBnd:", none), ("CapAmb:", none)];
        assert_eq!(lines[..5.min(lines.len())], expected, "{}", done.stdout);
        assert_eq!(lines[5..], [("NoNewPrivs:", "1")]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_to_the_upper_layer_alone() {
    let Some(bench) = Bench::sandbox().await else { return };
    let script =
        "echo new >fresh; echo more >>input; chmod 0600 locked; rm gone; mkdir dir; echo x >tree/new";
    let action = bench
        .shell(script)
        .input("input", "text\n", 0o644)
        .input("locked", "1", 0o444)
        .input("gone", "2", 0o444)
        .input("tree/old", "3", 0o444);
    let lower = action.directory.join("lower");
    let work = action.directory.join("work");
    let done = bench.run(action).await;
    assert_eq!(done.outcome(), Outcome::Exited(0), "{}", done.stderr);
    let text = |path: PathBuf| fs::read_to_string(path).unwrap();
    assert_eq!(text(done.upper.join("fresh")), "new\n");
    assert_eq!(text(done.upper.join("input")), "text\nmore\n");
    assert_eq!(text(done.upper.join("tree/new")), "x\n");
    assert!(!done.upper.join("tree/old").exists());
    assert_eq!(text(lower.join("input")), "text\n");
    assert_eq!(text(lower.join("gone")), "2");
    assert_eq!(fs::metadata(lower.join("locked")).unwrap().permissions().mode() & 0o777, 0o444);
    assert!(!lower.join("fresh").exists() && !lower.join("tree/new").exists());
    // What the action made belongs to the user of the daemon, who can remove it and the work directory.
    assert_eq!(fs::metadata(done.upper.join("fresh")).unwrap().uid(), fs::metadata(&lower).unwrap().uid());
    fs::remove_dir_all(&work).unwrap();
    fs::remove_dir_all(&done.upper).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_are_stacked_and_read_only_parts_stay() {
    let Some(bench) = Bench::sandbox().await else { return };
    let mut action = bench
        .shell("cat file only; echo x >fixed/new; echo x >>fixed/old; echo x >free || exit 3; rmdir fixed")
        .input("file", "upper layer\n", 0o644)
        .input("fixed/old", "", 0o644);
    let second = action.directory.join("second, with: odd \\ name");
    fs::create_dir(&second).unwrap();
    fs::write(second.join("file"), "hidden\n").unwrap();
    fs::write(second.join("only"), "lower layer\n").unwrap();
    action.overlay().lower.push(second);
    action.overlay().read_only.push("fixed".into());
    let done = bench.run(action).await;
    assert_eq!(done.stdout, "upper layer\nlower layer\n", "{}", done.stderr);
    assert_eq!(done.stderr.matches("Read-only file system").count(), 2, "{}", done.stderr);
    assert!(done.upper.join("free").exists() && !done.upper.join("fixed/new").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn private_directories_are_empty_for_each_action() {
    let Some(bench) = Bench::sandbox().await else { return };
    let script = "ls -A /tmp /dev/shm /var/tmp; ls -d /[a-z]*; echo x >/tmp/x; echo x >/dev/shm/x; ipcmk -M 10 >/dev/null; \
                  ipcs -m | grep -c 0x; echo '#!/bin/sh' >/tmp/run; chmod +x /tmp/run; /tmp/run";
    let first = bench.output_of(script).await;
    assert_eq!(bench.output_of(script).await, first);
    // Other mount points: the last one is gone.
    for at in ["/tmp/deep/er", "/run/x", "/home/user/build"] {
        let action = bench.shell("pwd; ls -d /build").set(|command| {
            let InputRoot::Mounted { at: place, .. } = &mut command.root else { panic!("mounted") };
            *place = at.into();
        });
        assert_eq!(bench.run(action).await.stdout, format!("{at}\n"));
    }
    for at in ["/", "relative", "/usr/nowhere"] {
        let action = bench.shell("true").set(|command| {
            let InputRoot::Mounted { at: place, .. } = &mut command.root else { panic!("mounted") };
            *place = at.into();
        });
        let result = bench.run(action).await.result;
        assert!(matches!(result, Err(RunError::Setup { .. })), "{result:?}");
    }
    assert_eq!(bench.output_of(script).await, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_is_loopback_or_the_hosts() {
    let Some(bench) = Bench::sandbox().await else { return };
    let interfaces = "sed 's/:.*//' /proc/net/dev | tail -n +3 | tr -d ' '";
    let own = "python3 -c 'import socket; s = socket.create_server((\"127.0.0.1\", 0)); \
               c = socket.create_connection(s.getsockname()); print(s.accept()[1][0])'";
    // A connection that lingers must not be seen by the next action.
    for _ in 0..3 {
        let seen = format!("{interfaces}; wc -l </proc/net/tcp; {own}");
        assert_eq!(bench.output_of(&seen).await, "lo\n1\n127.0.0.1\n");
    }
    let host = Command::new("sh").args(["-c", interfaces]).output().unwrap();
    let action = bench
        .shell(&format!("{interfaces}; test -e /etc/resolv.conf && echo resolver >&2"))
        .set(|command| command.network = Network::Host);
    let done = bench.run(action).await;
    assert_eq!(done.stdout.as_bytes(), host.stdout);
    assert_eq!(done.stderr.contains("resolver"), Path::new("/etc/resolv.conf").exists());
    assert_eq!(bench.run(bench.shell("ls /etc/resolv.conf")).await.outcome(), Outcome::Exited(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_are_as_asked() {
    let Some(bench) = Bench::sandbox().await else { return };
    for ids in [(0, 0), (1000, 1000), (1234, 4321)] {
        let action =
            bench.shell("id -u; id -g; stat -c %u:%g .; touch mine").set(|command| command.ids = ids);
        let expected = format!("{0}\n{1}\n{0}:{1}\n", ids.0, ids.1);
        assert_eq!(bench.run(action).await.stdout, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_ends_with_its_action() {
    let Some(bench) = Bench::sandbox().await else { return };
    let pid_max = || fs::read_to_string("/proc/sys/kernel/pid_max").unwrap();
    let before = pid_max();
    let script = "i=0; while [ $i -lt 3000 ]; do sleep 50 & i=$((i+1)); done; echo all";
    let action = bench.shell(script).set(|command| {
        command.limits.processes = Some(100);
        command.limits.timeout = Some(PATIENCE);
    });
    let done = bench.run(action).await;
    let counted = kernel_limits_namespaces() || fs::metadata(bench.files.path()).unwrap().uid() != 0;
    assert_eq!(done.stdout.contains("all"), !counted, "{:?} {}", done.result, done.stderr);
    assert_eq!(pid_max(), before);
    // Without a limit there is room for more.
    let script = "i=0; while [ $i -lt 500 ]; do sleep 50 & i=$((i+1)); done; echo all";
    assert_eq!(bench.output_of(script).await, "all\n");
    exit_codes_pass_through(&bench).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_that_changes_its_spawner_changes_no_other() {
    let Some(bench) = Bench::sandbox().await else { return };
    let open_files = bench.output_of("ulimit -Hn").await;
    let done = bench.run(bench.shell("prlimit --pid 1 --nofile=64:64 && echo changed")).await;
    assert_eq!(done.stdout, "changed\n", "{}", done.stderr);
    assert_eq!(bench.output_of("ulimit -Hn").await, open_files);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_input_root_can_be_the_whole_file_system() {
    let Some(bench) = Bench::sandbox().await else { return };
    let Some(program) = static_program(bench.files.path()) else { return };
    for bare in [true, false] {
        let mut action = bench.action(["/bin/look"]);
        let lower = action.directory.join("lower");
        fs::create_dir(lower.join("bin")).unwrap();
        fs::copy(&program, lower.join("bin/look")).unwrap();
        if !bare {
            for name in ["proc", "dev"] {
                fs::create_dir(lower.join(name)).unwrap();
            }
            // An absolute link stays inside.
            fs::create_dir_all(lower.join("var/tmp")).unwrap();
            std::os::unix::fs::symlink("/var/tmp", lower.join("tmp")).unwrap();
        }
        let overlay = action.overlay().clone();
        action.command.root = InputRoot::Filesystem { overlay };
        action.command.ids = (0, 0);
        let done = bench.run(action).await;
        let root = if bare { "bin dev proc tmp" } else { "bin dev proc tmp var" };
        assert_eq!(
            done.stdout,
            format!("cwd / uid 0 null 1 proc 1 tmp 1 usr 0\n{root}\n"),
            "{}",
            done.stderr
        );
        let mut left: Vec<_> =
            fs::read_dir(&done.upper).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["out"], "mount points are no outputs");
    }
    exit_codes_pass_through(&bench).await;
}

/// Whether a limit on processes holds for the host's root (Linux 6.14).
fn kernel_limits_namespaces() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map_while(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(14))
}

/// A program without libraries that tells what it sees.
fn static_program(directory: &Path) -> Option<PathBuf> {
    let (source, program) = (directory.join("look.c"), directory.join("look"));
    let text = r#"
        #include <dirent.h>
        #include <fcntl.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <string.h>
        #include <unistd.h>
        static int visible(const struct dirent *entry) { return entry->d_name[0] != '.'; }
        int main(void) {
            char cwd[256];
            struct dirent **names;
            printf("cwd %s uid %d null %d proc %d tmp %d usr %d\n", getcwd(cwd, sizeof cwd), (int)getuid(),
                   open("/dev/null", O_RDWR) >= 0, access("/proc/self/status", R_OK) == 0,
                   open("/tmp/x", O_CREAT | O_WRONLY, 0600) >= 0, access("/usr", F_OK) == 0);
            int count = scandir("/", &names, visible, alphasort);
            for (int i = 0; i < count; i++) printf("%s%s", i ? " " : "", names[i]->d_name);
            printf("\n");
            return open("/out", O_CREAT | O_WRONLY, 0600) < 0;
        }"#;
    fs::write(&source, text).unwrap();
    let compiled = Command::new("cc").arg("-static").arg("-o").args([&program, &source]).status();
    if compiled.is_ok_and(|status| status.success()) {
        return Some(program);
    }
    eprintln!("skipped: no C compiler with a static library");
    None
}
