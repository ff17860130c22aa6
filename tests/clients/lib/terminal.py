"""A terminal with a person in front of it: a tmux server of its own, keys in, the screen out.

The program under test runs below a shell that stays, so that the terminal can be looked at after it. What it
writes is kept byte for byte too: that is what a real terminal would get.
"""

import os
import re
import shlex
import subprocess
import time
from pathlib import Path

from lib import processes

PROMPT = "at-your-service$"
SECONDS = 60


class Terminal:
    """One window of one tmux server.

    `environment` is what the shell in it sees, beside TERM.
    """

    def __init__(self, scratch: Path, logs: Path, *, columns: int = 120, rows: int = 40,
                 environment: dict[str, str] | None = None):
        self._socket = scratch / "tmux"
        self._log = logs / "terminal.log"
        self._raw = logs / "terminal.raw"
        self._raw.touch()
        variables = {"HOME": str(scratch), "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
                     "LANG": "C.UTF-8", "PS1": f"{PROMPT} ", **(environment or {})}
        shell = ["env", "-i", *(f"{name}={value}" for name, value in variables.items()),
                 'TERM="$TERM"', "bash", "--norc", "--noprofile"]
        line = " ".join(word if word.startswith("TERM=") else shlex.quote(word) for word in shell)
        self._tmux("-f", "/dev/null", "new-session", "-d", "-x", str(columns), "-y", str(rows), line)
        self._tmux("set", "-g", "remain-on-exit", "on")
        self._tmux("set", "-s", "escape-time", "0")
        self._tmux("pipe-pane", f"cat >> {shlex.quote(str(self._raw))}")
        self.wait_for_prompt()

    def type(self, line: str) -> None:
        """Types a command line and presses Enter."""
        self._tmux("send-keys", "-l", line)
        self.press("Enter")

    def press(self, *keys: str) -> None:
        """Presses keys by tmux's names: `q`, `Enter`, `Escape`, `C-z`."""
        self._tmux("send-keys", *keys)

    def resize(self, columns: int, rows: int) -> None:
        """Changes the size of the window."""
        self._tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def screen(self) -> str:
        """What is to be seen now."""
        return self._tmux("capture-pane", "-p")

    def wait_for(self, *texts: str, seconds: float = SECONDS) -> str:
        """Waits until all of these are on the screen at once; returns the screen."""
        return self._wait(lambda screen: all(text in screen for text in texts),
                          f"{texts} on the screen", seconds)

    def wait_until_gone(self, text: str, seconds: float = SECONDS) -> str:
        """Waits until this is not on the screen."""
        return self._wait(lambda screen: text not in screen, f"no {text!r} on the screen", seconds)

    def wait_for_match(self, pattern: str, seconds: float = SECONDS) -> re.Match:
        """Waits until a regular expression matches the screen."""
        screen = self._wait(lambda screen: re.search(pattern, screen),
                            f"{pattern!r} on the screen", seconds)
        return re.search(pattern, screen)

    def wait_for_prompt(self, seconds: float = SECONDS) -> str:
        """Waits until the shell has the terminal again: its prompt is the last line."""
        return self._wait(lambda screen: screen.rstrip().endswith(PROMPT), "the prompt", seconds)

    def facts(self) -> dict[str, str]:
        """How the terminal stands: alternate screen, cursor, mouse, keypad."""
        names = ("alternate_on", "cursor_flag", "mouse_any_flag", "mouse_sgr_flag", "keypad_flag",
                 "keypad_cursor_flag", "wrap_flag", "origin_flag", "insert_flag")
        values = self._tmux("display-message", "-p", " ".join(f"#{{{name}}}" for name in names))
        return dict(zip(names, values.split(), strict=True))

    def modes(self) -> str:
        """What `stty -a` says of it; the shell must have it."""
        return self._said("stty -a")

    def job(self) -> int:
        """The process id of what the shell started, in the foreground or stopped."""
        shell = self._shell()
        children = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
        assert len(children) == 1, f"the shell has the children {children}"
        return int(children[0])

    def raw(self) -> bytes:
        """Every byte that was written to the terminal so far."""
        return self._raw.read_bytes()

    def close(self) -> None:
        """Ends the server and all in it."""
        with open(self._log, "a") as log:
            log.write(f"the last screen:\n{self.screen()}\n")
        shell = self._shell()
        self._tmux("kill-server")
        try:
            processes.wait_until(lambda: not processes.session_members(shell), seconds=SECONDS,
                                 what="what ran in the terminal ends with it")
        finally:
            processes.kill(processes.session_members(shell))

    def _shell(self) -> int:
        return int(self._tmux("display-message", "-p", "#{pane_pid}"))

    def _said(self, command: str) -> str:
        """What a command prints, typed into the shell."""
        marker = f"end-{time.monotonic_ns()}"
        before = len(self.raw())
        self.type(f"{command}; printf '%s\\n' {marker[:4]}{marker[4:]!r}")
        self._wait(lambda screen: f"\n{marker}\n" in screen, f"the end of {command}", SECONDS)
        self.wait_for_prompt()
        text = self.raw()[before:].decode(errors="replace").replace("\r", "")
        return text.partition("\n")[2].partition(f"\n{marker}\n")[0]

    def _wait(self, holds, what: str, seconds: float) -> str:
        deadline = time.monotonic() + seconds
        while not holds(screen := self.screen()):
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: not within {seconds:g} s; it shows\n{screen}")
            time.sleep(processes.POLL_SECONDS)
        return screen

    def _tmux(self, *words: str) -> str:
        done = subprocess.run(["tmux", "-S", self._socket, *words], stdin=subprocess.DEVNULL,
                              capture_output=True, check=False,
                              env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8",
                                   "HOME": str(self._socket.parent)})
        with open(self._log, "a") as log:
            if words[0] != "capture-pane":
                log.write(f"$ tmux {shlex.join(words)}\n{done.stderr.decode(errors='replace')}")
        assert done.returncode == 0, f"tmux {words} failed: {done.stderr.decode(errors='replace')}"
        return done.stdout.decode(errors="replace")
