"""BuildStream: elements built remotely in a root of their own, found again, and all that can go wrong."""

import signal

from lib import buildstream, table
from lib.case import ClientTest, long
from lib.node import fresh_marker
from lib.table import AGAIN, COLD, INTERRUPTED, KILLED, LOST, TROUBLE, shows

TREES = "a apple\na pear\na plum\n"
# Four elements that run something; the first one is imported.
RUN = 4


class BuildStream(ClientTest):
    """A project of five elements."""

    CLIENT = table.BUILDSTREAM
    NODE_OPTIONS = ("--slots", "2")

    def setUp(self) -> None:
        if why := buildstream.missing():
            self.skipTest(why)
        super().setUp()
        self.project = buildstream.Project(self.scratch, self.logs)
        self.settings = self.node.settings("buildstream")
        self.project.point_at(self.settings)

    @shows(AGAIN, "✓, artifacts and sources too")
    def test_artifacts_and_sources_come_from_the_node(self) -> None:
        origin = self.scratch / "gift.txt"
        origin.write_text("a gift\n")
        gift = self.project.download("gift", origin)
        self.project.build("orchard.bst", gift)

        self.project.forget()
        again = self.project.build("orchard.bst").output
        self.assertRegex(again, r"Pull Queue: +processed [1-9]")
        self.assertRegex(again, r"Build Queue: +processed 0")
        self.assertEqual(TREES, (self.project.output("orchard.bst") / "orchard.txt").read_text())
        self.assertEqual(RUN, self.node.executed())

        self.project.forget()
        origin.unlink()
        self.assertEqual("a gift\n", (self.project.source(gift) / "gift.txt").read_text())

    @shows(COLD)
    @shows(AGAIN)
    def test_second_build_is_all_cache_hits(self) -> None:
        # With artifacts in a cache, nobody would ask for actions.
        self.project.point_at(self.settings.split("artifacts:")[0])
        self.project.build("orchard.bst")
        self.assertEqual(TREES, (self.project.output("orchard.bst") / "orchard.txt").read_text())
        self.assertEqual(RUN, self.node.executed())

        self.project.forget()
        self.project.build("orchard.bst")
        self.assertEqual(TREES, (self.project.output("orchard.bst") / "orchard.txt").read_text())
        self.assertEqual(RUN, self.node.executed())

    @shows(KILLED, "told; the next one succeeds")
    def test_a_killed_node_that_is_back_is_asked_again(self) -> None:
        self.build_through_a_loss(with_its_store=False)

    @shows(LOST, "told; the next one succeeds")
    def test_a_lost_store_is_told_or_filled_again(self) -> None:
        self.build_through_a_loss(with_its_store=True)

    @shows(TROUBLE, "✓; it sets no time limit")
    @shows(INTERRUPTED)
    def test_trouble_is_told_and_leaves_nothing_running(self) -> None:
        dies = self.project.plant("dies", "echo about to die; kill -9 $$")
        self.assertIn("about to die", self.project.build(dies, code=None).output)

        sleep = f"600.{fresh_marker()}"
        for number in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(signal=number.name):
                build = self.project.start_build(self.project.plant(number.name, f"sleep {sleep}"))
                self.wait_for_actions(sleep)
                build.interrupt(number)
                build.end()
                self.wait_for_no_action(sleep)
        self.project.build("orchard.bst")

    @shows(TROUBLE, "✓; it sets no time limit")
    @long
    def test_an_action_that_floods_is_seen_to_its_end(self) -> None:
        script = "head -c 100000000 /dev/zero; mkdir -p '%{install-root}'; echo dry > '%{install-root}/dry.txt'"
        floods = self.project.plant("floods", script)
        self.project.build(floods)
        self.assertEqual("dry\n", (self.project.output(floods) / "dry.txt").read_text())

    def build_through_a_loss(self, *, with_its_store: bool) -> None:
        """The build may fail, in words; the next one succeeds."""
        sleep = f"3.{fresh_marker()}"
        slow = self.project.plant("slow", f"sleep {sleep}; mkdir -p '%{{install-root}}'")
        build = self.project.start_build(slow, "orchard.bst")
        self.wait_for_actions(sleep)
        self.lose_node(sleep, with_its_store=with_its_store)
        run = build.end()
        if run.code != 0:
            self.assertRegex(run.output, r"FAILURE|Error")
            self.project.build(slow, "orchard.bst")
        self.assertEqual(TREES, (self.project.output("orchard.bst") / "orchard.txt").read_text())
