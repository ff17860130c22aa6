"""The base of the client tests: each has a node of its own, a scratch directory and logs."""

import os
import re
import shutil
import tempfile
import unittest
from pathlib import Path

from lib import bazel, node, packages


class ClientTest(unittest.TestCase):
    """A test against one fresh node.

    The node is stopped at the end and must end well; logs stay in `self.logs`, all else goes.
    """

    NODE_OPTIONS: tuple[str, ...] = ()

    def setUp(self) -> None:
        self.logs = logs_of(self)
        self.logs.mkdir(parents=True)
        # Short, because a Unix socket's path below it has at most 107 bytes.
        self.scratch = Path(tempfile.mkdtemp(prefix=""))
        self.addCleanup(shutil.rmtree, self.scratch, onerror=writable_first)
        self.node = node.Node(self.scratch / "node", self.logs, *self.NODE_OPTIONS)
        self.addCleanup(self.node.stop)
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
