"""The dashboard on a terminal of its own, of which only the speed is looked at."""

import contextlib
import fcntl
import os
import pty
import select
import struct
import termios
import time
from pathlib import Path

from . import node

# Each of them leads to another view than the one before.
KEYS = b"2356781"
# A screen that says nothing for so long is whole.
QUIET = 0.15


class Terminal:
    """`farmhand top` on a terminal of 200 by 50 cells."""

    def __init__(self, socket: Path):
        self.pid, self.end = pty.fork()
        if self.pid == 0:
            arguments = [node.program(), "top", "--connect", str(socket)]
            environment = {**os.environ, "TERM": "xterm-256color", "LANG": "C.UTF-8"}
            os.execve(arguments[0], arguments, environment)
        fcntl.ioctl(self.end, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))

    def settle(self, most: float) -> None:
        """Reads until nothing comes for a moment, or `most` seconds have gone."""
        end = time.monotonic() + most
        while time.monotonic() < end and select.select([self.end], [], [], QUIET)[0]:
            os.read(self.end, 1 << 16)

    def answer(self, key: bytes) -> float:
        """Seconds from a key to the first bytes of the screen that it leads to."""
        begin = time.perf_counter()
        os.write(self.end, key)
        if not select.select([self.end], [], [], 10)[0]:
            raise SystemExit(f"nothing came of the key {key!r}")
        return time.perf_counter() - begin

    def close(self) -> None:
        """Leaves the dashboard."""
        os.write(self.end, b"q")
        # A terminal whose program has ended cannot be read.
        with contextlib.suppress(OSError):
            self.settle(2)
        os.close(self.end)
        os.waitpid(self.pid, 0)


def answers(socket: Path, rounds: int) -> list[float]:
    """How long each key that chooses a view took, in seconds, sorted."""
    terminal = Terminal(socket)
    try:
        # A first screen takes a second: what it cannot know sooner it waits for.
        time.sleep(1)
        times = []
        for _ in range(rounds):
            for number in KEYS:
                terminal.settle(2)
                times.append(terminal.answer(bytes([number])))
    finally:
        terminal.close()
    return sorted(times)
