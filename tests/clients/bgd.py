"""BuildGrid's `bgd`: actions as they come from no build tool, one at a time, and the store by hand."""

import hashlib
import os
import re
import signal

from lib import pythons, table
from lib.bgd import Bgd
from lib.case import ClientTest
from lib.node import fresh_marker
from lib.table import AGAIN, COLD, INTERRUPTED, KILLED, shows

# More than three messages of its uploads.
LARGE = 12_000_000


class BgdTest(ClientTest):
    """A node, and the command pointed at an instance of two segments."""

    CLIENT = table.BGD
    NODE_OPTIONS = ("--slots", "2")
    INSTANCE = "farm/a"

    def setUp(self) -> None:
        if why := pythons.BGD.missing():
            self.skipTest(why)
        super().setUp()
        self.bgd = Bgd(self.scratch, self.logs)
        self.bgd.point_at(self.node.settings("bgd", "--instance", self.INSTANCE))
        self.inputs = self.scratch / "inputs"
        (self.inputs / "deep").mkdir(parents=True)
        (self.inputs / "word.txt").write_text("word\n")
        (self.inputs / "link").symlink_to("word.txt")
        (self.inputs / "deep/large").write_bytes(os.urandom(LARGE))

    @property
    def door(self) -> str:
        """The address, for commands that have no settings."""
        return f"http://{self.node.reapi}"


class Execute(BgdTest):
    """Actions, with small outputs and a large one."""

    SCRIPT = "cat word.txt link > two.txt; cp deep/large large"

    @shows(COLD)
    @shows(AGAIN)
    def test_second_run_is_a_cache_hit(self) -> None:
        for _ in range(2):
            self.bgd.execute(self.inputs, self.SCRIPT, "two.txt", "large", cached=True).finish()
            self.assertEqual("word\nword\n", (self.bgd.outputs / "two.txt").read_text())
            large = hashlib.sha256((self.bgd.outputs / "large").read_bytes()).digest()
            wanted = hashlib.sha256((self.inputs / "deep/large").read_bytes()).digest()
            self.assertEqual(wanted, large)
            self.bgd.clean()
        self.assertEqual(1, self.node.executed())

    def test_without_a_cache_it_runs_again(self) -> None:
        for _ in range(2):
            self.bgd.execute(self.inputs, "cp word.txt copy.txt", "copy.txt").finish()
        self.assertEqual(2, self.node.executed())

    @shows(INTERRUPTED)
    def test_interrupted_leaves_nothing_running(self) -> None:
        sleep = f"600.{fresh_marker()}"
        run = self.bgd.execute(self.inputs, f"sleep {sleep}", "never.txt")
        self.wait_for_actions(sleep)
        run.interrupt(signal.SIGINT)
        run.end()
        self.wait_for_no_action(sleep)

    @shows(KILLED, "told; the next one succeeds")
    def test_a_killed_node_is_told_and_the_next_run_succeeds(self) -> None:
        sleep = f"600.{fresh_marker()}"
        run = self.bgd.execute(self.inputs, f"sleep {sleep}", "never.txt")
        self.wait_for_actions(sleep)
        self.lose_node(sleep)
        self.assertRegex(run.finish(None).output, r"(?i)error|unavailable|closed|reset")
        self.bgd.execute(self.inputs, "cp word.txt copy.txt", "copy.txt").finish()
        self.assertEqual("word\n", (self.bgd.outputs / "copy.txt").read_text())


class Store(BgdTest):
    """Directories into the store and out of it."""

    INSTANCE = ""

    def test_a_directory_comes_back_as_it_went(self) -> None:
        said = self.bgd.remote("cas", "upload-dir", str(self.inputs), door=self.door).finish().output
        digest = re.findall(rf"path=\[{self.inputs}\] with digest=\[([0-9a-f]+/\d+)\]", said)
        self.assertEqual(1, len(digest), said)
        back = self.scratch / "back"
        self.bgd.remote("cas", "download-dir", digest[0], str(back), door=self.door).finish()
        self.assertEqual((self.inputs / "deep/large").read_bytes(), (back / "deep/large").read_bytes())
        self.assertEqual("word.txt", os.readlink(back / "link"))

    def test_it_sees_what_can_be_done(self) -> None:
        said = self.bgd.remote("capabilities", door=self.door).finish().output
        for line in ('"execEnabled": true', '"SHA256"', '"updateEnabled": true'):
            self.assertIn(line, said)
