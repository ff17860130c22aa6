"""A real program built remotely by Bazel: Lua, from its Debian source package."""

import shutil
import subprocess
from pathlib import Path

from lib import bazel, table
from lib.case import BazelTest
from lib.table import AGAIN, COLD, shows

AT_LEAST = 30
PRIMES_BELOW_100 = 25


class Lua:
    """Built cold, run, built again from the cache alone."""

    WORKSPACE = "lua"

    def setUp(self) -> None:
        super().setUp()
        shutil.copytree(self.debian_source("lua5.4") / "src", self.workspace.root / "src")

    @shows(COLD)
    @shows(AGAIN)
    def test_second_build_is_all_cache_hits(self) -> None:
        options = (bazel.cold("full"), "//...")
        executed = self.assert_all_executed(
            self.workspace.build(*options), AT_LEAST)
        self.check_programs(options[0])
        self.assertEqual(executed, self.node.executed())

        self.workspace.clean()
        self.assert_all_found(self.workspace.build(*options), executed)
        self.check_programs(options[0])
        self.assertEqual(executed, self.node.executed())

        changed = self.workspace.build(bazel.cold("changed"), "//...")
        self.assert_all_executed(changed, AT_LEAST)

    def test_without_downloads_nothing_is_lost(self) -> None:
        salt = bazel.cold("minimal")
        options = (salt, "--remote_instance_name=farm/minimal", "//...")
        executed = self.assert_all_executed(
            self.workspace.build("--remote_download_minimal", *options), AT_LEAST)
        self.assertFalse(self.workspace.output("interpreter", salt).exists())

        self.workspace.clean()
        self.assert_all_found(
            self.workspace.build("--remote_download_minimal", *options), executed)

        self.workspace.clean()
        self.assert_all_found(self.workspace.build(*options), executed)
        self.check_programs(salt)

    def check_programs(self, salt: str) -> None:
        """The programs run here, and what they made there is right."""
        primes = self.workspace.output("primes.txt", salt).read_text().split()
        self.assertEqual((PRIMES_BELOW_100, "97"), (len(primes), primes[-1]))
        self.assertEqual("42\n", said(self.workspace.output("embed", salt), "6 * 7"))
        self.assertEqual("7\n", said(self.workspace.output("interpreter", salt),
                                     "-e", "print(#'farmhand' - 1)"))


class LuaWithBazel4(Lua, BazelTest):
    CLIENT = table.BAZEL_4
    VERSION = bazel.BAZEL_4


class LuaWithBazel2(Lua, BazelTest):
    CLIENT = table.BAZEL_2
    VERSION = bazel.BAZEL_2


def said(program: Path, *arguments: str) -> str:
    """The standard output of a program that must succeed."""
    return subprocess.run([program, *arguments], stdin=subprocess.DEVNULL, check=True,
                          capture_output=True, text=True, timeout=30).stdout
