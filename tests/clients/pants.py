"""Pants: targets made remotely, found again, and all that can go wrong."""

from lib import pants, pythons, table
from lib.case import ClientTest, long
from lib.node import fresh_marker
from lib.table import AGAIN, COLD, INTERRUPTED, KILLED, LOST, TROUBLE, shows

TARGETS = 3
GARDEN = "rose:red\nrose:white\nherb:thyme\nspade\n"


class Pants(ClientTest):
    """A workspace of three targets, one made of the others."""

    CLIENT = table.PANTS
    NODE_OPTIONS = ("--slots", "2")

    def setUp(self) -> None:
        if why := pythons.PANTS.missing():
            self.skipTest(why)
        super().setUp()
        self.workspace = pants.Workspace(self.scratch, self.logs)
        self.workspace.point_at(self.node.settings("pants", "--instance", "farm/pants"))

    @shows(COLD)
    @shows(AGAIN)
    def test_second_build_is_all_cache_hits(self) -> None:
        self.assert_built()
        executed = self.node.executed()
        self.workspace.forget()
        self.assert_built()
        # It looks for bash and the like by actions that it wants run every time.
        searches = self.node.executed() - executed
        self.assertEqual(TARGETS, executed - searches)

    @shows(KILLED, "goes on")
    def test_a_killed_node_that_is_back_is_asked_again(self) -> None:
        sleep = f"4.{fresh_marker()}"
        slow = self.workspace.plant("slow", f"sleep {sleep}; echo awake > slow.txt")
        build = self.workspace.start_build(slow)
        self.wait_for_actions(sleep)
        self.lose_node(sleep)
        build.finish()
        self.assertEqual("awake\n", self.workspace.output("garden/slow.txt").read_text())

    @shows(LOST, "goes on")
    def test_a_lost_store_is_filled_again(self) -> None:
        sleep = f"4.{fresh_marker()}"
        slow = self.workspace.plant("slow", f"sleep {sleep}; echo awake > slow.txt")
        build = self.workspace.start_build(slow)
        self.wait_for_actions(sleep)
        self.lose_node(sleep, with_its_store=True)
        build.finish()
        self.assertEqual("awake\n", self.workspace.output("garden/slow.txt").read_text())

    @shows(TROUBLE)
    @shows(INTERRUPTED)
    def test_trouble_is_told_and_leaves_nothing_running(self) -> None:
        sleep = f"600.{fresh_marker()}"
        hangs = self.workspace.plant("hangs", f"echo so far; sleep {sleep}", timeout=2)
        run = self.workspace.build(hangs, code=None)
        self.assertRegex(run.output, "(?i)timeout|timed out")
        self.wait_for_no_action(sleep)

        dies = self.workspace.plant("dies", "echo about to die; kill -9 $$")
        self.assertIn("about to die", self.workspace.build(dies, code=None).output)

        build = self.workspace.start_build(self.workspace.plant("slow", f"sleep {sleep}"))
        self.wait_for_actions(sleep)
        build.interrupt()
        build.end()
        self.wait_for_no_action(sleep)
        self.assert_built()

    @shows(TROUBLE)
    @long
    def test_an_action_that_floods_is_seen_to_its_end(self) -> None:
        floods = self.workspace.plant("floods", "head -c 100000000 /dev/zero; echo dry > floods.txt")
        self.workspace.build(floods)
        self.assertEqual("dry\n", self.workspace.output("garden/floods.txt").read_text())

    def assert_built(self) -> None:
        """Builds; all outputs are right."""
        self.workspace.build("garden:garden")
        self.assertEqual(GARDEN, self.workspace.output("garden/garden.txt").read_text())
