"""Bazel when something is lost in the middle of a build, and when actions make trouble."""

from lib import bazel, table
from lib.case import BazelTest, long
from lib.node import fresh_marker
from lib.table import KILLED, LOST, TROUBLE, shows

FLOOD = 100_000_000


class Faults:
    """The build goes on where it can; what cannot be helped is told."""

    WORKSPACE = "slow"
    NODE_OPTIONS = ("--slots", "2")

    @shows(KILLED, "goes on")
    def test_a_killed_node_that_is_back_is_asked_again(self) -> None:
        self.build_through_a_loss()

    @shows(LOST, "goes on")
    def test_a_lost_store_is_filled_again(self) -> None:
        self.build_through_a_loss(with_its_store=True)

    @shows(TROUBLE)
    def test_an_action_that_dies_and_one_that_floods(self) -> None:
        run = self.workspace.build("//:dies", code=bazel.BUILD_FAILED)
        self.assertIn("about to die", run.output)
        self.assertRegex(run.output, r"(?i)killed|exit 137|signal")
        run = self.workspace.build("//:floods")
        self.assertEqual({"remote": 1}, run.spawns)
        self.assertEqual("dry\n", self.workspace.output("floods.txt").read_text())
        self.assertGreater(self.node.status()["storage"]["used_bytes"], FLOOD)

    def build_through_a_loss(self, *, with_its_store: bool = False) -> None:
        """One build, in the middle of which the node dies; it succeeds."""
        sleep = f"3.{fresh_marker()}"
        (self.workspace.root / "seconds.txt").write_text(sleep)
        build = self.workspace.start_build("//:slow", "//:quick")
        self.wait_for_actions(sleep)
        self.lose_node(sleep, with_its_store=with_its_store)
        build.finish(bazel.SUCCESS)
        self.assertEqual("slow 1\n", self.workspace.output("slow_1.txt").read_text())


class FaultsWithBazel4(Faults, BazelTest):
    CLIENT = table.BAZEL_4
    VERSION = bazel.BAZEL_4


@long
class FaultsWithBazel2(Faults, BazelTest):
    CLIENT = table.BAZEL_2
    VERSION = bazel.BAZEL_2
