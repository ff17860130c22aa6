//! Bazel builds that keep next to nothing on the client, while any one machine is killed: people see nothing of
//! it but the time.
//!
//! Bazel is Debian's (`bazel-bootstrap`, which `tests/run` installs); where it is missing this says so.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::lan::Lan;
use crate::stores::{PATIENT, Stores};
use crate::support::{Dice, runs};

const PROGRAM: &str = "/usr/bin/bazel";

/// Where every node listens on its own loopback.
const LISTEN: &str = "127.0.0.1:8980";

/// Builds during which a machine is killed, unless `FARMHAND_RUNS` says more.
const RUNS: u64 = 2;

/// Actions of one layer, each of which needs some of the layer below.
const WIDTH: usize = 10;
const LAYERS: usize = 5;

/// Repositories that Bazel would ask the network for, and that stand in for them.
const STAND_INS: [&str; 4] = ["rules_cc", "rules_java", "rules_proto", "remote_coverage_tools"];

/// How long a build may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// A workspace, with a Bazel server of its own on the first machine.
struct Bazel {
    directory: TempDir,
    on: [String; 4],
    builds: u64,
}

/// A build under way.
struct Build {
    child: Child,
    log: PathBuf,
}

// === impl Bazel ===

impl Bazel {
    fn new(lan: &Lan) -> Option<Self> {
        if !Path::new(PROGRAM).exists() {
            println!("SKIPPED: Bazel is not installed ({PROGRAM})");
            return None;
        }
        let directory = TempDir::with_prefix("farmhand-netns-bazel-").unwrap();
        let bazel = Self { directory, on: lan.on(0), builds: 0 };
        ["home", "workspace"].iter().for_each(|name| fs::create_dir(bazel.path(name)).unwrap());
        fs::write(bazel.path("workspace/WORKSPACE"), "").unwrap();
        fs::write(bazel.path("workspace/BUILD.bazel"), layers()).unwrap();
        bazel.edit("");
        Some(bazel)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Changes one of the sources.
    fn edit(&self, words: &str) {
        fs::write(self.path("workspace/source.txt"), format!("source {words}\n")).unwrap();
    }

    fn command(&self, command: &str) -> Command {
        let stand_ins = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/bazel/stand_ins");
        let [program, words @ ..] = &self.on;
        let mut run = Command::new(program);
        run.args(words).args([PROGRAM, "--nohome_rc", "--noworkspace_rc", "--max_idle_secs=60"]);
        run.arg(format!("--output_user_root={}", self.path("bazel").display())).arg(command);
        if command != "shutdown" {
            let stand_in =
                |name: &&str| format!("--override_repository={name}={}", stand_ins.join(name).display());
            run.args(STAND_INS.iter().map(stand_in));
            run.args(["--experimental_repository_disable_download", "--nodistinct_host_configuration"]);
            run.args(["--incompatible_strict_action_env", "--symlink_prefix=/", "--curses=no", "--color=no"]);
        }
        run.current_dir(self.path("workspace")).env_clear().stdin(Stdio::null());
        run.env("HOME", self.path("home")).env("PATH", "/usr/local/bin:/usr/bin:/bin").env("LANG", "C.UTF-8");
        run
    }

    /// Starts a build of everything; with another `salt` nothing of it is in any cache.
    fn build(&mut self, salt: u64) -> Build {
        self.builds += 1;
        let log = self.path(&format!("build-{}.log", self.builds));
        let file = File::create(&log).unwrap();
        let mut command = self.command("build");
        command.arg(format!("--remote_executor=grpc://{LISTEN}")).arg(format!("--platform_suffix=-{salt}"));
        command.args(["--spawn_strategy=remote", "--noremote_local_fallback", "--jobs=12"]);
        command.args(["--remote_download_minimal", "//:top"]);
        let child = command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Build { child, log }
    }
}

impl Drop for Bazel {
    fn drop(&mut self) {
        let _ = self.command("shutdown").stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

// === impl Build ===

impl Build {
    /// Waits for its end; what it said if it failed.
    async fn end(mut self) -> Result<(), String> {
        let since = Instant::now();
        let ended = loop {
            if let Some(ended) = self.child.try_wait().unwrap() {
                break Some(ended);
            }
            if since.elapsed() > PATIENCE {
                break None;
            }
            sleep(Duration::from_millis(20)).await;
        };
        if ended.is_some_and(|ended| ended.success()) {
            return Ok(());
        }
        let said = fs::read_to_string(&self.log).unwrap_or_default();
        Err(format!("{ended:?}: {said}"))
    }

    fn is_over(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Layers of actions that each need some outputs of the layer below; one of them needs the source.
fn layers() -> String {
    let mut text = String::new();
    for layer in 0..LAYERS {
        for number in 0..WIDTH {
            let below = |at: usize| format!("\"l{}_{}.txt\"", layer - 1, (number + at) % WIDTH);
            let sources = match (layer, number) {
                (0, 0) => "\"source.txt\"".to_owned(),
                (0, _) => String::new(),
                _ => (0..3).map(below).collect::<Vec<_>>().join(", "),
            };
            // Outputs large enough for files of their own, and small ones.
            let lines = if number % 2 == 0 { 10_000 } else { 10 };
            let _ = writeln!(
                text,
                "genrule(name = \"g{layer}_{number}\", srcs = [{sources}], outs = [\"l{layer}_{number}.txt\"], \
                 cmd = \"sleep 0.1; (echo {layer} {number}; cat /dev/null $(SRCS) | sha256sum; seq {lines}) > $@\")"
            );
        }
    }
    let last: Vec<String> = (0..WIDTH).map(|number| format!("\"l{}_{number}.txt\"", LAYERS - 1)).collect();
    let _ = writeln!(
        text,
        "genrule(name = \"top\", srcs = [{}], outs = [\"top.txt\"], cmd = \"cat $(SRCS) > $@\")",
        last.join(", ")
    );
    text
}

#[tokio::test]
async fn a_build_goes_on_whichever_machine_is_killed() {
    let arguments = [PATIENT[0], PATIENT[1], "--listen", LISTEN];
    let Some(mut stores) = Stores::new(3, 2, &arguments).await else { return };
    let Some(mut bazel) = Bazel::new(&stores.lan) else { return };
    let mut dice = Dice::seeded("builds", "FARMHAND_SEED");
    // What Bazel does once only; and how long a build takes.
    bazel.build(dice.roll()).end().await.unwrap();
    let since = Instant::now();
    bazel.build(dice.roll()).end().await.unwrap();
    let mut usual = since.elapsed();
    let runs = runs(RUNS);
    let mut failures = Vec::new();
    for number in 0..runs {
        // Both kinds in any number of runs.
        let victim = if number % 2 == 1 { 0 } else { 1 + dice.below(2) as usize };
        let (salt, moment) = (dice.roll(), usual.mul_f64(dice.below(100) as f64 / 100.0));
        let since = Instant::now();
        let mut build = bazel.build(salt);
        sleep(moment).await;
        println!("build {} of {runs}: m{victim} is killed after {moment:.2?}", number + 1);
        let was_over = build.is_over();
        stores.kill(victim);
        if victim == 0 {
            // The client calls again for about three seconds.
            sleep(dice.between(0, 500)).await;
            stores.machines[0].restart(&stores.lan);
        }
        let ended = build.end().await;
        println!("  {:.2?}, usual are {usual:.2?}; it was over before: {was_over}", since.elapsed());
        failures.extend(ended.err());
        if was_over {
            // Nothing was killed during it: builds have become faster.
            usual = usual.mul_f64(0.8);
        }
        // A part of it is built again, out of what only the farm has.
        bazel.edit(&format!("{number}"));
        failures.extend(bazel.build(salt).end().await.err());
        if victim != 0 {
            stores.restart(victim).await;
        }
        stores.settled().await;
    }
    assert!(failures.is_empty(), "{} of {runs}: {failures:#?}", failures.len());
    println!("FIGURE {runs} builds during which a machine was killed: no failure");
}
