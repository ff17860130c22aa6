"""Builds that do not reach their end: the client is interrupted, or the node is killed."""

from lib import bazel, processes
from lib.case import BazelTest
from lib.node import fresh_marker

STARTED_SECONDS = 60
GONE_SECONDS = 60
QUICK_ACTIONS = 8


class Interrupted:
    """Whoever ends, the next build succeeds, and what nobody waits for is not in its way."""

    WORKSPACE = "slow"
    # As many as the slow actions need.
    NODE_OPTIONS = ("--slots", "2")

    def setUp(self) -> None:
        super().setUp()
        self.sleep_for("0.1")

    def test_after_ctrl_c_the_next_build_gets_the_slots(self) -> None:
        sleep = self.sleep_for(f"600.{fresh_marker()}")
        build = self.workspace.start_build(self.node.reapi, "//:slow")
        self.wait_for_actions(sleep, 2)
        build.interrupt()
        build.finish(bazel.INTERRUPTED)
        self.let_go()

        # The interrupted actions hold every slot, and would for longer than this command may take.
        quick = self.workspace.build(self.node.reapi, "//:quick")
        self.assertEqual({"remote": QUICK_ACTIONS}, quick.spawns)
        self.wait_for_none(sleep)

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

    def wait_for_actions(self, sleep: str, count: int = 1) -> None:
        """Until so many actions run."""
        processes.wait_until(lambda: len(processes.running_with(sleep)) >= count,
                             seconds=STARTED_SECONDS, what=f"{count} slow actions run")

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
