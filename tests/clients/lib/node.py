"""One Farmhand node, started for a test and stopped, or killed, by it."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

from lib import processes

START_SECONDS = 30
STOP_SECONDS = 20


class Node:
    """A node with its own directories below `home`, away from other machines and other nodes.

    It may be started again after it ended: the directories stay, and so does the address of the
    Remote Execution API, as clients go on with what they were told.
    """

    def __init__(self, home: Path, logs: Path, *options: str):
        self.data = home / "data"
        self.runtime = home / "run"
        self.log = logs / "node.log"
        self._stdout = logs / "node.stdout"
        self._options = options
        self._process: subprocess.Popen | None = None
        self._doors: dict[str, str] = {}

    @property
    def reapi(self) -> str:
        """HOST:PORT of the Remote Execution API."""
        return self._doors["reapi"]

    @property
    def pid(self) -> int:
        """The daemon."""
        return self._process.pid

    def start(self) -> "Node":
        """Starts the node and returns when it serves."""
        for directory in (self.data, self.runtime):
            directory.mkdir(parents=True, exist_ok=True)
        self._stdout.unlink(missing_ok=True)
        self._process = processes.start(
            [program(), "serve", "--name", "under-test",
             "--listen", self._doors.get("reapi", "127.0.0.1:0"), "--peer-listen", "127.0.0.1:0",
             "--data-dir", self.data, "--runtime-dir", self.runtime,
             "--no-discovery", *self._options],
            log=self.log, stdout=self._stdout, env=_environment(self.data.parent))
        self._doors = processes.wait_until(
            self._ready, seconds=START_SECONDS, what="the node says that it is ready")
        return self

    def stop(self) -> None:
        """SIGTERM: the node must end by itself, with success, and leave nothing behind."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.poll() is None, f"the node ended by itself, with {process.returncode}"
        process.terminate()
        try:
            code = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            processes.end(process)
            raise AssertionError(f"the node still ran {STOP_SECONDS} s after SIGTERM") from None
        assert code == 0, f"the node answered SIGTERM with exit code {code}"
        self._gone(process)

    def kill(self) -> None:
        """SIGKILL, as by the kernel or a power switch; what the node started must go with it."""
        process, self._process = self._process, None
        process.kill()
        process.wait()
        self._gone(process)

    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def forget(self) -> None:
        """Takes all it has stored from a node that does not run."""
        assert not self.running()
        shutil.rmtree(self.data)

    def settings(self, tool: str, *options: str) -> str:
        """What `farmhand client` prints for a build tool."""
        return self._said("client", tool, *options)

    def status(self) -> dict:
        """What `farmhand status --json` answers."""
        return json.loads(self._said("status", "--json"))

    def executed(self) -> int:
        """How many actions it has run to their end since it started."""
        return self.status()["execution"]["executed"]

    def _said(self, *arguments: str) -> str:
        """What a command prints that asks this node."""
        return subprocess.run(
            [program(), *arguments, "--runtime-dir", self.runtime],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True, timeout=30,
            env=_environment(self.data.parent)).stdout

    def _ready(self) -> dict[str, str] | None:
        assert self._process.poll() is None, (
            f"the node ended with {self._process.returncode} before it was ready")
        for line in self._stdout.read_text().splitlines(keepends=True):
            if line.startswith("ready: ") and line.endswith("\n"):
                return dict(word.split("=", 1) for word in line.split()[1:])
        return None

    @staticmethod
    def _gone(process: subprocess.Popen) -> None:
        try:
            processes.wait_until(
                lambda: not processes.session_members(process.pid), seconds=STOP_SECONDS,
                what="every process of the ended node is gone")
        finally:
            processes.kill(processes.session_members(process.pid))


def program() -> Path:
    """The binary under test, named by FARMHAND_BIN."""
    return Path(os.environ["FARMHAND_BIN"])


def fresh_marker() -> str:
    """Digits that no other process has among its arguments."""
    return f"{os.getpid()}{time.monotonic_ns()}"


def _environment(home: Path) -> dict[str, str]:
    return {"HOME": str(home), "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "RUST_BACKTRACE": "1"}
