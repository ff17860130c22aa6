"""Outputs of every kind that Bazel knows, made remotely and used as inputs again."""

import hashlib
import os

from lib import bazel
from lib.case import BazelTest

LISTING = """\
./oak/acorn.txt
./oak/old/bark.txt
./pine/cone.txt
oak/acorn.txt
climbed
"""


class Outputs:
    """Directories, links, executables, empty and large files: built, then found again."""

    WORKSPACE = "outputs"

    def test_outputs_arrive_as_they_were_made(self) -> None:
        executed = self.assert_all_executed(self.workspace.build("//..."), 9)
        self.check_outputs()

        self.workspace.clean()
        self.assert_all_found(self.workspace.build("//..."), executed)
        self.check_outputs()

    def check_outputs(self) -> None:
        """Every output has its kind, its mode and its content."""
        outputs = self.workspace.output(".")
        forest = outputs / "forest"
        self.assertEqual("oak/old/bark.txt\n", (forest / "oak/old/bark.txt").read_text())
        self.assertEqual("oak/acorn.txt", os.readlink(forest / "shortcut"))
        self.assertTrue(os.access(forest / "climb.sh", os.X_OK))
        self.assertEqual(LISTING, (outputs / "forest_listing.txt").read_text())

        self.assertEqual("original.txt", os.readlink(outputs / "link.txt"))
        self.assertEqual("original\n", (outputs / "through_link.txt").read_text())
        self.assertEqual("ran\n", (outputs / "script.txt").read_text())
        self.assertEqual(b"", (outputs / "empty.txt").read_bytes())

        large = (outputs / "large.txt").read_bytes()
        self.assertTrue(large.endswith(b"\n2000000\n"))
        self.assertEqual(f"{hashlib.sha256(large).hexdigest()}  -\n",
                         (outputs / "large.sha256").read_text())


class OutputsWithBazel4(Outputs, BazelTest):
    VERSION = bazel.BAZEL_4


class OutputsWithBazel2(Outputs, BazelTest):
    """Over the Unix socket, which Debian's build of the other version knows nothing of."""

    VERSION = bazel.BAZEL_2

    def setUp(self) -> None:
        super().setUp()
        settings = self.node.settings("bazel", "--socket")
        self.assertIn(f"--remote_proxy=unix:{self.node.runtime}/reapi.sock", settings)
        self.workspace.point_at(settings)
