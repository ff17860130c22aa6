"""Builds that do not reach their end: the client is interrupted, or the node is killed."""

from lib import bazel, processes
from lib.case import BazelTest
from lib.node import fresh_marker

STARTED_SECONDS = 60
GONE_SECONDS = 60
QUICK_ACTIONS = 8


class Interrupted:
    """Whoever ends, no action is left running and the next build succeeds."""

    WORKSPACE = "slow"
    NODE_OPTIONS = ("--slots", "4", "--orphan-grace", "1s")

    def setUp(self) -> None:
        super().setUp()
        self.sleep_for("0.1")

    def test_ctrl_c_leaves_nothing_running(self) -> None:
        sleep = self.sleep_for(f"600.{fresh_marker()}")
        build = self.workspace.start_build(self.node.reapi, "//:slow")
        self.wait_for_actions(sleep)
        build.interrupt()
        build.finish(bazel.INTERRUPTED)
        self.let_go()
        self.wait_for_none(sleep)
        self.assertTrue(self.node.running())

        self.sleep_for("0.1")
        self.assert_all_executed(self.workspace.build(self.node.reapi, "//:slow"), 2)

    def test_killed_node_forgets_nothing_it_acknowledged(self) -> None:
        quick = self.workspace.build(self.node.reapi, "//:quick")
        self.assertEqual({"remote": QUICK_ACTIONS}, quick.spawns)

        sleep = self.sleep_for(f"2.{fresh_marker()}")
        build = self.workspace.start_build(self.node.reapi, "//:slow")
        self.wait_for_actions(sleep)
        self.node.kill()
        self.wait_for_none(sleep)
        build.finish(None)

        self.node.start()
        self.workspace.clean()
        again = self.workspace.build(self.node.reapi, "//:quick", "//:slow")
        self.assertEqual({"remote cache hit": QUICK_ACTIONS, "remote": 2}, again.spawns)

    def let_go(self) -> None:
        """What it takes, after an interrupt, until the client's calls have ended."""

    def sleep_for(self, seconds: str) -> str:
        """How long the slow actions sleep from now on; also the argument that tells them apart."""
        (self.workspace.root / "seconds.txt").write_text(seconds)
        return seconds

    def wait_for_actions(self, sleep: str) -> None:
        """Until an action runs."""
        processes.wait_until(lambda: processes.running_with(sleep),
                             seconds=STARTED_SECONDS, what="a slow action runs")

    def wait_for_none(self, sleep: str) -> None:
        """Until no process of an action is left."""
        processes.wait_until(lambda: not processes.running_with(sleep),
                             seconds=GONE_SECONDS, what="no process of an action is left")


class InterruptedWithBazel4(Interrupted, BazelTest):
    VERSION = bazel.BAZEL_4


class InterruptedWithBazel2(Interrupted, BazelTest):
    VERSION = bazel.BAZEL_2

    def let_go(self) -> None:
        """This version keeps its Execute calls open for as long as its server lives."""
        self.workspace.shutdown()
