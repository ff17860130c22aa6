"""The base of the client tests: each has a node of its own, a scratch directory and logs."""

import os
import re
import shutil
import tempfile
import unittest
from pathlib import Path

from lib import bazel, node, packages, processes

ACTION_SECONDS = 60


def long(test):
    """Marks a test, or a class of them, that is run only when the long form was asked for."""
    test.is_long = True
    return test



class ClientTest(unittest.TestCase):
    """A test against one fresh node.

    The node is stopped at the end and must end well; logs stay in `self.logs`, all else goes.
    """

    NODE_OPTIONS: tuple[str, ...] = ()
    # Set by `long`, here or on a method.
    is_long = False

    def setUp(self) -> None:
        is_long = self.is_long or getattr(getattr(self, self._testMethodName), "is_long", False)
        if is_long and not os.environ.get("FARMHAND_TEST_LONG"):
            self.skipTest("only in the long form (--long)")
        self.logs = logs_of(self)
        self.logs.mkdir(parents=True)
        # Short, because a Unix socket's path below it has at most 107 bytes.
        self.scratch = Path(tempfile.mkdtemp(prefix=""))
        self.addCleanup(shutil.rmtree, self.scratch, onerror=writable_first)
        self.node = node.Node(self.scratch / "node", self.logs, *self.NODE_OPTIONS)
        self.addCleanup(self.node.stop)
        self.node.start()

    def wait_for_actions(self, marker: str, count: int = 1) -> None:
        """Until so many actions run; `marker` is an argument of one process in each."""
        processes.wait_until(lambda: len(processes.running_with(marker)) >= count,
                             seconds=ACTION_SECONDS, what=f"{count} actions run")

    def wait_for_no_action(self, marker: str) -> None:
        """Until no process of an action is left."""
        processes.wait_until(lambda: not processes.running_with(marker),
                             seconds=ACTION_SECONDS, what="no process of an action is left")

    def lose_node(self, marker: str, *, with_its_store: bool = False) -> None:
        """Kills the node while an action runs, and has it back, at the same address, within three seconds.

        Without its store, everything that the client has uploaded is gone too: what it was told is there
        is not there when the action comes to need it.
        """
        self.node.kill()
        self.wait_for_no_action(marker)
        if with_its_store:
            self.node.forget()
        self.node.start()


class BazelTest(ClientTest):
    """A test that also has a Bazel workspace."""

    VERSION: bazel.Version
    WORKSPACE: str

    def setUp(self) -> None:
        if why := self.VERSION.missing():
            self.skipTest(why)
        super().setUp()
        self.workspace = bazel.Workspace(self.VERSION, self.WORKSPACE, self.scratch, self.logs)
        self.addCleanup(self.workspace.shutdown)
        self.workspace.point_at(self.node.settings("bazel"))

    def assert_all_executed(self, run: bazel.Run, at_least: int) -> int:
        """Every action ran remotely, none was found; returns how many."""
        self.assertEqual({"remote"}, set(run.spawns), run.output)
        self.assertGreaterEqual(run.spawns["remote"], at_least)
        return run.spawns["remote"]

    def assert_all_found(self, run: bazel.Run, exactly: int) -> None:
        """Every action was found in the action cache, none ran."""
        self.assertEqual({"remote cache hit": exactly}, run.spawns, run.output)

    def debian_source(self, package: str) -> Path:
        """The unpacked source of a Debian package; skips the test where it was not fetched."""
        source = packages.source_of(package)
        if not source.exists():
            self.skipTest(f"the source of {package} is not there ({source})")
        return source


def logs_of(test: unittest.TestCase) -> Path:
    """Where a test keeps its logs, below FARMHAND_TEST_LOGS."""
    return Path(os.environ["FARMHAND_TEST_LOGS"]) / re.sub(r"\W+", "-", test.id())


def writable_first(function, path, _error) -> None:
    """Bazel makes output directories read-only; only root may delete what is in them."""
    for directory in (Path(path).parent, Path(path)):
        if directory.is_dir() and not directory.is_symlink():
            directory.chmod(0o700)
    function(path)
