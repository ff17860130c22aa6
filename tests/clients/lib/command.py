"""A client's command, in the background: what it said is kept in a log, and it ends with the test."""

import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from lib import processes

SECONDS = 180
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


@dataclass(frozen=True)
class Run:
    """One finished command."""

    code: int
    output: str
    seconds: float


class Command:
    """A command that runs, with no variable of the caller but those given."""

    def __init__(self, argv: list, log: Path, *, cwd: Path, env: dict[str, str]):
        self._log = log
        self._begun = time.monotonic()
        self._output = log.with_name(f"{log.stem}.{time.monotonic_ns()}.out")
        with open(log, "a") as file:
            file.write(f"\n$ {' '.join(map(str, argv))}\n")
        self._process = processes.start(
            argv, cwd=cwd, log=self._output, env={"PATH": PATH, "LANG": "C.UTF-8", **env})

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def said(self) -> str:
        """What it wrote so far."""
        return self._output.read_text(errors="replace")

    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def interrupt(self, number: int = signal.SIGINT) -> None:
        """A signal, once, as a person's Ctrl-C."""
        self._process.send_signal(number)

    def finish(self, code: int | None = 0, *, seconds: float = SECONDS) -> Run:
        """Waits for the end; `code` is what it must exit with, None for anything but success."""
        run = self.end(seconds=seconds)
        if code is None:
            assert run.code != 0, f"it succeeded:\n{run.output}"
        else:
            assert run.code == code, f"it ended with {run.code}, not with {code}:\n{run.output}"
        return run

    def end(self, *, seconds: float = SECONDS) -> Run:
        """Waits for the end, however it is."""
        try:
            ended = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            processes.end(self._process)
            ended = None
        output = self.said()
        self._output.unlink()
        with open(self._log, "a") as log:
            log.write(f"{output}\n[exit code {ended}]\n")
        assert ended is not None, f"it still ran after {seconds:g} s:\n{output}"
        return Run(ended, output, time.monotonic() - self._begun)
