"""Builds that do not reach their end: the client is interrupted, or the node is killed."""

from lib import bazel, table
from lib.case import BazelTest
from lib.node import fresh_marker
from lib.table import INTERRUPTED, shows

QUICK_ACTIONS = 8


class Interrupted:
    """Whoever ends, the next build succeeds, and what nobody waits for is not in its way."""

    WORKSPACE = "slow"
    # As many as the slow actions need.
    NODE_OPTIONS = ("--slots", "2")

    def setUp(self) -> None:
        super().setUp()
        self.sleep_for("0.1")

    @shows(INTERRUPTED)
    def test_after_ctrl_c_the_next_build_gets_the_slots(self) -> None:
        sleep = self.sleep_for(f"600.{fresh_marker()}")
        build = self.workspace.start_build("//:slow")
        self.wait_for_actions(sleep, 2)
        build.interrupt()
        build.finish(bazel.INTERRUPTED)
        self.let_go()

        # The interrupted actions hold every slot, and would for longer than this command may take.
        quick = self.workspace.build("//:quick")
        self.assertEqual({"remote": QUICK_ACTIONS}, quick.spawns)
        self.wait_for_no_action(sleep)

        self.sleep_for("0.1")
        self.assert_all_executed(self.workspace.build("//:slow"), 2)

    def test_killed_node_forgets_nothing_it_acknowledged(self) -> None:
        quick = self.workspace.build("//:quick")
        self.assertEqual({"remote": QUICK_ACTIONS}, quick.spawns)

        sleep = self.sleep_for(f"2.{fresh_marker()}")
        build = self.workspace.start_build("--remote_retries=1", "//:slow")
        self.wait_for_actions(sleep)
        self.node.kill()
        self.wait_for_no_action(sleep)
        build.finish(None)

        self.node.start()
        self.workspace.clean()
        again = self.workspace.build("//:quick", "//:slow")
        self.assertEqual({"remote cache hit": QUICK_ACTIONS, "remote": 2}, again.spawns)

    def let_go(self) -> None:
        """What it takes, after an interrupt, until the client's calls have ended."""

    def sleep_for(self, seconds: str) -> str:
        """How long the slow actions sleep from now on; also the argument that tells them apart."""
        (self.workspace.root / "seconds.txt").write_text(seconds)
        return seconds


class InterruptedWithBazel4(Interrupted, BazelTest):
    CLIENT = table.BAZEL_4
    VERSION = bazel.BAZEL_4


class InterruptedWithBazel2(Interrupted, BazelTest):
    CLIENT = table.BAZEL_2
    VERSION = bazel.BAZEL_2

    def let_go(self) -> None:
        """This version keeps its Execute calls open for as long as its server lives."""
        self.workspace.shutdown()
