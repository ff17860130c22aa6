"""`farmhand demo` without a dashboard: it builds, tells what the cache saved, and leaves nothing behind."""

import re
import shutil
import signal
import tempfile
import unittest
from pathlib import Path

from lib import case, processes
from lib.node import program

SECONDS = 180
ACTIONS = 107
HITS_AFTER_A_HEADER = 60


class Demo(unittest.TestCase):
    """One run, in a home and with temporary files of its own."""

    def setUp(self) -> None:
        self.logs = case.logs_of(self)
        self.logs.mkdir(parents=True)
        self.scratch = Path(tempfile.mkdtemp(prefix=""))
        self.addCleanup(shutil.rmtree, self.scratch)
        self.home, self.temporary = self.scratch / "home", self.scratch / "tmp"
        self.home.mkdir()
        self.temporary.mkdir()

    def test_the_second_build_comes_from_the_cache(self) -> None:
        if not shutil.which("cc") or not shutil.which("ar"):
            self.skipTest("there is no C compiler")
        table = self.finish(self.start(), code=0)
        rows = rows_of(table)
        self.assertEqual((ACTIONS, ACTIONS, 0), rows["cold"], table)
        self.assertEqual((ACTIONS, 0, ACTIONS), rows["again, nothing changed"], table)
        self.assertEqual(HITS_AFTER_A_HEADER, rows["mill/mill.h changed"][2], table)
        self.assertRegex(table, r"times faster\n$")
        self.assert_nothing_is_left()

    def test_without_a_compiler_words_are_sorted(self) -> None:
        table = self.finish(self.start("--words"), code=0)
        rows = rows_of(table)
        self.assertEqual(rows["cold"][0], rows["again, nothing changed"][2], table)
        self.assert_nothing_is_left()

    def test_whatever_ends_it_nothing_is_left(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with self.subTest(signal=number.name):
                demo = self.start()
                processes.wait_until(lambda: list(self.temporary.glob("*/data/packs")),
                                     seconds=SECONDS, what="its node has a store")
                demo.send_signal(number)
                self.finish(demo, code=1)
                self.assertIn("interrupted", (self.logs / "stderr").read_text())
                self.assert_nothing_is_left()

    def test_a_demo_that_is_killed_takes_its_node_with_it(self) -> None:
        demo = self.start()
        processes.wait_until(lambda: list(self.temporary.glob("*/run/control.sock")),
                             seconds=SECONDS, what="its node serves")
        demo.kill()
        self.finish(demo, code=-signal.SIGKILL)
        processes.wait_until(lambda: not processes.session_members(self.session), seconds=20,
                             what="its node is gone")

    def start(self, *arguments: str):
        """Starts it; its streams go to files."""
        for name in ("stdout", "stderr"):
            (self.logs / name).write_text("")
        return processes.start(
            [program(), "demo", *arguments], stdout=self.logs / "stdout", log=self.logs / "stderr",
            env={"HOME": str(self.home), "XDG_RUNTIME_DIR": str(self.home),
                 "TMPDIR": str(self.temporary), "PATH": "/usr/bin:/bin", "RUST_BACKTRACE": "1",
                 # Settings of somebody who has a node: the demo must not come near it.
                 "FARMHAND_LISTEN": "127.0.0.1:1", "FARMHAND_DATA_DIR": str(self.home / "data")})

    def finish(self, demo, *, code: int) -> str:
        """Waits for its end; what it printed."""
        self.assertEqual(code, demo.wait(SECONDS), (self.logs / "stderr").read_text())
        self.session = demo.pid
        return (self.logs / "stdout").read_text()

    def assert_nothing_is_left(self) -> None:
        """No file, no process."""
        self.assertEqual([], list(self.temporary.iterdir()))
        self.assertEqual([], list(self.home.iterdir()))
        processes.wait_until(lambda: not processes.session_members(self.session), seconds=10,
                             what="every process is gone")


def rows_of(table: str) -> dict[str, tuple[int, int, int]]:
    """Actions, runs and hits of each build in the table."""
    found = re.findall(r"^(\S.*?) {2,}(\d+) +(\d+) +(\d+) ", table, re.MULTILINE)
    return {what: (int(actions), int(run), int(hits)) for what, actions, run, hits in found}
