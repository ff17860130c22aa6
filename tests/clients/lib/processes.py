"""Processes on this machine: waiting for them, finding them, and ending those a test started.

Every process a test starts is registered here, so that none outlives the run, however it ends.
"""

import atexit
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

POLL_SECONDS = 0.02

_started: list[subprocess.Popen] = []
_claimed: set[str] = set()


def start(argv: list, *, log: Path, cwd: Path | None = None, env: dict | None = None,
          stdout: Path | None = None) -> subprocess.Popen:
    """Starts `argv` in a session of its own, with no inherited descriptor.

    Both streams are appended to `log`, or standard output to `stdout` where that is given.
    """
    with open(log, "ab") as errors, open(stdout or log, "ab") as output:
        process = subprocess.Popen(
            [str(word) for word in argv], cwd=cwd, env=env, stdin=subprocess.DEVNULL,
            stdout=output, stderr=errors, start_new_session=True)
    _started.append(process)
    return process


def wait_until(condition: Callable[[], object], *, seconds: float, what: str) -> object:
    """Polls until `condition` holds and returns its value; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:g} s")
        time.sleep(POLL_SECONDS)
    return value


def running_with(argument: str) -> list[int]:
    """The processes that have `argument` as one of their arguments."""
    word = argument.encode()
    return [pid for pid in _pids() if word in _read(pid, "cmdline").split(b"\0")]


def session_members(session: int) -> list[int]:
    """The living processes of a session: what its leader started, unless it moved elsewhere."""
    return [pid for pid in _pids() if _session_of(pid) == session]


def end(process: subprocess.Popen, seconds: float = 10) -> None:
    """Ends a process by SIGTERM, then by SIGKILL with all that is left of its session.

    Does nothing when the process was waited for before: its number may be another's by now.
    """
    if process.returncode is not None:
        return
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    kill(session_members(process.pid))


def claim(argument: str) -> None:
    """Every process with this argument ends with the run: for daemons that leave their session."""
    _claimed.add(argument)


def kill(pids: list[int]) -> None:
    """SIGKILL, for processes that may be gone already."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _session_of(pid: int) -> int | None:
    # The name, in brackets, may hold anything; state, parent, group and session follow it.
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    if len(fields) < 4 or fields[0] == b"Z":
        return None
    return int(fields[3])


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


@atexit.register
def end_all() -> None:
    """Ends everything that a test started or claimed and that still runs."""
    for process in _started:
        end(process)
    for argument in _claimed:
        kill(running_with(argument))
