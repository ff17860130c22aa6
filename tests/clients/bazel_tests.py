"""Bazel's tests, run remotely: those that pass, those that fail, and one that hangs."""

from lib import bazel, processes, table
from lib.case import BazelTest
from lib.node import fresh_marker
from lib.table import TROUBLE, shows

GONE_SECONDS = 30


class Tests:
    """What a test says must reach the person who waits for it."""

    WORKSPACE = "tests"

    def setUp(self) -> None:
        super().setUp()
        self.sleep = f"86400.{fresh_marker()}"
        (self.workspace.root / "seconds.txt").write_text(self.sleep)

    def test_passing_tests_are_cached(self) -> None:
        targets = ("//:shell_passes", "//:cc_passes")
        run = self.run_tests(*targets)
        self.assertEqual({"remote"}, set(run.spawns), run.output)
        for target in targets:
            self.assertRegex(run.output, rf"{target} +PASSED")

        self.workspace.clean()
        again = self.run_tests(*targets)
        self.assertEqual({"remote cache hit"}, set(again.spawns), again.output)
        for target in targets:
            self.assertRegex(again.output, rf"{target} +\(cached\) PASSED")

    def test_failing_tests_show_their_output(self) -> None:
        run = self.run_tests("//:shell_fails", "//:cc_fails", code=bazel.TESTS_FAILED)
        for line in ("shell test: the answer is 41", "shell test: expected 42",
                     "cc test: about to abort"):
            self.assertIn(line, run.output)
        for target in ("//:shell_fails", "//:cc_fails"):
            self.assertRegex(run.output, rf"{target} +FAILED")

        # A failure is never an answer for the next run.
        again = self.run_tests("//:shell_fails", "//:cc_fails", code=bazel.TESTS_FAILED)
        self.assertNotIn("(cached)", again.output)

    @shows(TROUBLE)
    def test_hanging_test_times_out(self) -> None:
        run = self.run_tests("--test_timeout=2", "//:shell_hangs", code=bazel.TESTS_FAILED)
        self.assertRegex(run.output, "//:shell_hangs +TIMEOUT")
        self.assertIn("shell test: waiting for nothing", run.output)
        processes.wait_until(lambda: not processes.running_with(self.sleep),
                             seconds=GONE_SECONDS, what="the hanging test's child is gone")

    def run_tests(self, *arguments: str, code: int = bazel.SUCCESS) -> bazel.Run:
        """`bazel test`, with the output of failing tests shown."""
        return self.workspace.run("test", *bazel.REMOTE,
                                  "--test_output=errors", *arguments, code=code)


class TestsWithBazel4(Tests, BazelTest):
    CLIENT = table.BAZEL_4
    VERSION = bazel.BAZEL_4


class TestsWithBazel2(Tests, BazelTest):
    CLIENT = table.BAZEL_2
    VERSION = bazel.BAZEL_2
