"""ccache, with a node as its remote storage: what one machine compiled, an empty one does not."""

import os
import shutil
import subprocess

from lib import node, table
from lib.case import ClientTest
from lib.table import AGAIN, COLD, KILLED, LOST, shows

# Makes an object of some 100 KB.
SOURCE = "const unsigned char table[100000] = {" + ",".join(
    str(n * n % 251) for n in range(100_000)) + "};\nint value() { return table[42]; }\n"


class Ccache(ClientTest):
    """Compiled, found again from nothing but the node, also after that was killed."""

    CLIENT = table.CCACHE

    def setUp(self) -> None:
        for program in ("ccache", "g++"):
            if not shutil.which(program):
                self.skipTest(f"{program} is not there")
        super().setUp()
        self.work = self.scratch / "work"
        self.work.mkdir()
        (self.work / "table.cc").write_text(SOURCE)

    @shows(COLD)
    @shows(AGAIN)
    def test_an_empty_cache_is_filled_from_the_node(self) -> None:
        first = self.compiled("first")
        stats = self.stats("first")
        self.assertEqual((0, 1), (stats["remote_storage_hit"], stats["cache_miss"]), stats)

        self.assert_found("second", first)
        self.node.kill()
        self.node.start()
        self.assert_found("third", first)

        (self.work / "table.cc").write_text(SOURCE + "int other() { return 1; }\n")
        self.assertNotEqual(first, self.compiled("fourth"))
        self.assertEqual(1, self.stats("fourth")["cache_miss"])

    @shows(KILLED, "goes on")
    @shows(LOST, "goes on")
    def test_builds_go_on_without_the_node(self) -> None:
        first = self.compiled("first")
        self.node.kill()
        self.assertEqual(first, self.compiled("first"))
        self.assertEqual(first, self.compiled("second"))
        self.node.forget()
        self.node.start()
        self.assertEqual(first, self.compiled("third"))
        self.assertEqual(1, self.stats("third")["cache_miss"])
        self.assert_found("fourth", first)

    def test_instances_are_apart(self) -> None:
        self.compiled("first", "--instance", "one/of/two")
        self.compiled("second", "--instance", "two")
        self.assertEqual(1, self.stats("second")["cache_miss"])
        self.compiled("third", "--instance", "one/of/two")
        self.assertEqual(0, self.stats("third")["cache_miss"])

    def assert_found(self, machine: str, expected: bytes) -> None:
        """A machine that has nothing gets the object from the node."""
        self.assertEqual(expected, self.compiled(machine))
        stats = self.stats(machine)
        self.assertEqual(0, stats["cache_miss"], stats)
        self.assertGreaterEqual(stats["remote_storage_hit"], 1, stats)
        self.assertEqual(0, stats["remote_storage_error"], stats)

    def compiled(self, machine: str, *options: str) -> bytes:
        """The object, as ccache makes it on a machine: with a local cache of its own."""
        home = self.scratch / machine
        home.mkdir(exist_ok=True)
        (home / "ccache.conf").write_text(self.settings(*options))
        target = self.work / "table.o"
        target.unlink(missing_ok=True)
        subprocess.run(["ccache", "g++", "-c", "table.cc", "-o", "table.o"], cwd=self.work,
                       env=self.environment(machine), stdin=subprocess.DEVNULL, check=True,
                       timeout=60)
        return target.read_bytes()

    def settings(self, *options: str) -> str:
        """What `farmhand client ccache` prints."""
        return subprocess.run(
            [node.program(), "client", "ccache", "--listen", self.node.reapi, *options],
            stdin=subprocess.DEVNULL, capture_output=True, check=True, text=True, timeout=30,
        ).stdout

    def stats(self, machine: str) -> dict[str, int]:
        """What ccache has counted there."""
        printed = subprocess.run(["ccache", "--print-stats"], env=self.environment(machine),
                                 stdin=subprocess.DEVNULL, capture_output=True, check=True,
                                 text=True, timeout=30).stdout
        counts = (line.split("\t") for line in printed.splitlines())
        return {name: int(count) for name, count in counts}

    def environment(self, machine: str) -> dict[str, str]:
        """That of a user whose cache and settings are in a directory of his own."""
        home = self.scratch / machine
        return {"PATH": os.environ["PATH"], "HOME": str(home), "CCACHE_DIR": str(home),
                "CCACHE_NOHASHDIR": "1"}
