"""Bazel as a client: the two versions at hand, a workspace of each test, and what a run said.

Bazel asks four repositories of the network even for plain C++; stand-ins below `bazel/` take
their place, so a build needs nothing but this machine.
"""

import re
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from lib import packages, processes

HERE = Path(__file__).resolve().parent.parent / "bazel"
STAND_INS = ("rules_cc", "rules_java", "rules_proto", "remote_coverage_tools")
COMMAND_SECONDS = 180
SHUTDOWN_SECONDS = 30

# Every action goes to the node that the settings name, and none is done here instead.
REMOTE = ("--config=farmhand", "--spawn_strategy=remote", "--noremote_local_fallback", "--jobs=16")

# Exit codes of Bazel's command line.
SUCCESS, BUILD_FAILED, TESTS_FAILED, INTERRUPTED = 0, 1, 3, 8


@dataclass(frozen=True)
class Version:
    """A Bazel binary, and the options only it needs."""

    name: str
    program: Path
    startup: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    debian_package: str | None = None

    def missing(self) -> str | None:
        """Why this version cannot be used here, if so."""
        if not self.program.exists():
            return f"Bazel {self.name} is not installed ({self.program})"
        if self.debian_package:  # Built without a version: the program cannot say it.
            found = packages.debian_version(self.debian_package)
            if not found.startswith(self.name):
                return f"{self.debian_package} is at {found or 'no version'}, not {self.name}"
        return None


# Debian's system-wide bazelrc names the installation, so this version must read it.
BAZEL_4 = Version("4.2.3", Path("/usr/bin/bazel"), debian_package="bazel-bootstrap",
                  options=("--experimental_repository_disable_download",))
# Unpacks itself: once for all tests.
BAZEL_2 = Version("2.1.0", packages.NPM_BAZEL,
                  startup=("--nosystem_rc", f"--install_base={packages.CACHE / 'bazel-2.1.0'}"))


@dataclass(frozen=True)
class Run:
    """One finished command."""

    code: int
    output: str

    @property
    def spawns(self) -> dict[str, int]:
        """Actions by how they came about, as the summary counts them; Bazel's own left out."""
        summary = r"^INFO: \d+ process(?:es)?(?:: (.*))?\.$"
        summaries = re.findall(summary, self.output, re.MULTILINE)
        assert summaries, f"no process summary in:\n{self.output}"
        counts = (part.split(" ", 1) for part in summaries[-1].split(", ") if part)
        return {kind: int(count) for count, kind in counts if kind != "internal"}


class Workspace:
    """A copy of one of the workspaces below `bazel/`, with a Bazel server of its own."""

    def __init__(self, version: Version, name: str, scratch: Path, logs: Path):
        self.version = version
        self.root = scratch / name
        self._home = scratch / "home"
        self._user_root = scratch / "bazel"
        self._log = logs / "bazel.log"
        self._settings = scratch / "farmhand.bazelrc"
        self._settings.touch()
        shutil.copytree(HERE / name, self.root)
        self._home.mkdir(exist_ok=True)
        processes.claim(self._server_argument())

    def run(self, command: str, *arguments: str, code: int = SUCCESS) -> Run:
        """Runs a command to its end and checks its exit code."""
        return Started(self, command, *arguments).finish(code)

    def point_at(self, settings: str) -> None:
        """Takes what `farmhand client bazel` printed."""
        self._settings.write_text(settings)

    def build(self, *arguments: str, code: int = SUCCESS) -> Run:
        """Builds with every action executed remotely, or not at all."""
        return self.run("build", *REMOTE, *arguments, code=code)

    def start_build(self, *arguments: str) -> "Started":
        """The same, in the background."""
        return Started(self, "build", *REMOTE, *arguments)

    def clean(self) -> None:
        """Forgets every output and what Bazel knows of them."""
        self.run("clean")

    def forget(self) -> None:
        """Forgets what was downloaded too, and ends the server."""
        self.shutdown()
        self.run("clean", "--expunge")
        shutil.rmtree(self._user_root / "cache")

    def output(self, name: str, *options: str) -> Path:
        """Where an output of the top package lies, under the options that were built with."""
        answer = Started(self, "info", *options, "bazel-bin", keep_stderr=False).finish(SUCCESS)
        return Path(answer.output.strip()) / name

    def shutdown(self) -> None:
        """Ends the server; by force if it does not answer."""
        try:
            Started(self, "shutdown", seconds=SHUTDOWN_SECONDS).finish(SUCCESS)
        finally:
            processes.kill(processes.running_with(self._server_argument()))

    def argv(self, command: str, *arguments: str) -> list[str]:
        """The whole command line."""
        options = () if command == "shutdown" else (*_common_options(), *self.version.options)
        return [str(self.version.program), *self.version.startup,
                "--nohome_rc", "--noworkspace_rc", f"--bazelrc={self._settings}",
                "--max_idle_secs=60", self._server_argument(),
                command, *options, *arguments]

    def environment(self) -> dict[str, str]:
        """No variable of the caller reaches Bazel."""
        return {"HOME": str(self._home), "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}

    def _server_argument(self) -> str:
        return f"--output_user_root={self._user_root}"


class Started:
    """A command that runs."""

    def __init__(self, workspace: Workspace, command: str, *arguments: str,
                 keep_stderr: bool = True, seconds: float = COMMAND_SECONDS):
        self._log = workspace._log
        self._seconds = seconds
        argv = workspace.argv(command, *arguments)
        with open(self._log, "a") as log:
            log.write(f"\n$ {' '.join(argv)}\n")
        self._output = self._log.with_name(f"bazel.{time.monotonic_ns()}.out")
        self._process = processes.start(
            argv, cwd=workspace.root, env=workspace.environment(), stdout=self._output,
            log=self._output if keep_stderr else self._log)

    def interrupt(self) -> None:
        """SIGINT, once, as a person's Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def finish(self, code: int | None) -> Run:
        """Waits for the end; `code` is what it must exit with, None for anything but success."""
        try:
            ended = self._process.wait(self._seconds)
        except subprocess.TimeoutExpired:
            processes.end(self._process)
            ended = None
        output = self._output.read_text(errors="replace")
        self._output.unlink()
        with open(self._log, "a") as log:
            log.write(f"{output}\n[exit code {ended}]\n")
        assert ended is not None, f"Bazel still ran after {self._seconds:g} s:\n{output}"
        if code is None:
            assert ended != SUCCESS, f"Bazel succeeded:\n{output}"
        else:
            assert ended == code, f"Bazel ended with {ended}, not with {code}:\n{output}"
        return Run(ended, output)


def cold(salt: str) -> str:
    """The option that makes every action differ from those of any other salt."""
    return f"--platform_suffix=-{salt}"


def _common_options() -> tuple[str, ...]:
    return (*(f"--override_repository={name}={HERE / 'stand_ins' / name}" for name in STAND_INS),
            "--nodistinct_host_configuration", "--incompatible_strict_action_env",
            "--symlink_prefix=/", "--curses=no", "--color=no", "--noshow_progress")
