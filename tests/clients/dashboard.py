"""The dashboard on a real terminal, over a real node: what it shows of a real build, what its keys do, and that
it leaves the terminal as it found it, however it ends.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import unittest
from pathlib import Path

from lib import bazel, case, node, processes
from lib.node import fresh_marker, program
from lib.terminal import Terminal

# Views by their keys, with words that only they show.
VIEWS = {
    "1": ("Events",),
    "2": ("Tool", "Began"),
    "3": ("Missed", "Retried"),
    "4": ("No action is chosen",),
    "5": ("by sender",),
    "6": ("Press", "Heard"),
    "7": ("By kind", "leased"),
    "8": ("v level",),
}

SMALLEST = (20, 10)

# What stands over data that is not of now.
OLD = r"(STALE|NO NODE): .* \d+s"

# Sequences that colour: foregrounds and backgrounds, of all palettes.
COLOUR = re.compile(rb"\x1b\[(?:[0-9;:]*;)?(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:[;:][0-9;:]*)?m")


class DashboardTest(unittest.TestCase):
    """A test with a home of its own, and terminals."""

    def setUp(self) -> None:
        if not shutil.which("tmux"):
            self.skipTest("tmux is not installed")
        self.logs = case.logs_of(self)
        self.logs.mkdir(parents=True)
        # Short, because a Unix socket's path below it has at most 107 bytes.
        self.scratch = Path(tempfile.mkdtemp(prefix=""))
        self.addCleanup(shutil.rmtree, self.scratch, onerror=case.writable_first)
        # In the terminal: where the node is, and a port that nobody has.
        self.variables = {"FARMHAND_DATA_DIR": str(self.scratch / "node/data"),
                          "FARMHAND_RUNTIME_DIR": str(self.scratch / "node/run"),
                          "FARMHAND_LISTEN": "127.0.0.1:0", "FARMHAND_NO_DISCOVERY": "true",
                          "FARMHAND_NAME": "under-test", "FARMHAND_SLOTS": "2"}
        self.node = node.Node(self.scratch / "node", self.logs, "--slots", "2")
        self.farmhand = shlex.quote(str(program()))

    def terminal(self, columns: int = 120, rows: int = 40, **variables: str) -> Terminal:
        """A terminal with a shell."""
        opened = Terminal(self.scratch, self.logs, columns=columns, rows=rows,
                          environment={**self.variables, **variables})
        self.addCleanup(opened.close)
        return opened

    def serve(self) -> None:
        """A node of its own process."""
        self.node.start()
        self.addCleanup(lambda: self.node.stop() if self.node.running() else None)

    def run_action(self, script: str, target: str = "//a:b") -> None:
        """Runs a script as an action, to its end."""
        self.assertEqual(0, self.start_action(script, target).wait(60),
                         (self.logs / "drive.log").read_text())

    def start_action(self, script: str, target: str = "//a:b") -> subprocess.Popen:
        """Runs a script as an action, in the background."""
        return processes.start(
            [program(), "drive", f"unix:{self.node.runtime}/reapi.sock", "run", script,
             "--target", target], log=self.logs / "drive.log",
            env={"HOME": str(self.scratch), "PATH": os.defpath})


class Restored(DashboardTest):
    """However the dashboard ends, the terminal is as it was."""

    def setUp(self) -> None:
        super().setUp()
        self.screen = self.terminal()
        self.modes, self.facts = self.screen.modes(), self.screen.facts()

    def test_after_quitting(self) -> None:
        self.open()
        self.screen.press("q")
        self.assert_restored()
        self.screen.wait_for("the log of the node is in")

    def test_after_a_signal(self) -> None:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            with self.subTest(signal=number.name):
                self.open()
                os.kill(self.screen.job(), number)
                self.assert_restored()

    def test_after_a_panic(self) -> None:
        if program().parent.name != "debug":
            self.skipTest("only a debug build panics when it is asked to")
        self.open()
        os.kill(self.screen.job(), signal.SIGUSR1)
        self.assert_restored()
        self.screen.wait_for("error: the dashboard broke", "hint: ")
        log = self.node.data / "log" / "farmhand.log"
        self.assertIn("as asked by SIGUSR1", log.read_text())

    def test_after_a_panic_of_one_that_only_watches(self) -> None:
        if program().parent.name != "debug":
            self.skipTest("only a debug build panics when it is asked to")
        self.serve()
        self.open("top")
        os.kill(self.screen.job(), signal.SIGUSR1)
        self.assert_restored()
        self.screen.wait_for("as asked by SIGUSR1")
        self.assertTrue(self.node.running())

    def test_while_it_is_stopped(self) -> None:
        self.serve()
        self.open("top")
        self.screen.press("C-z")
        self.screen.wait_for("Stopped")
        self.assert_restored()
        self.screen.type("fg")
        self.screen.wait_for("1 Overview", *VIEWS["1"])
        self.screen.press("q")
        self.assert_restored()

    def open(self, command: str = "") -> None:
        """Opens the dashboard and waits for it."""
        self.screen.type(f"clear; {self.farmhand} {command}")
        self.screen.wait_for("1 Overview", *VIEWS["1"])
        self.assertEqual("1", self.screen.facts()["alternate_on"])

    def assert_restored(self) -> None:
        """The shell has the terminal, as it was."""
        self.screen.wait_for_prompt()
        self.assertEqual(self.facts, self.screen.facts())
        self.assertEqual(self.modes, self.screen.modes())


class Node(DashboardTest):
    """`farmhand` alone: which node it shows, and what becomes of it."""

    def test_its_own_node_lives_as_long_as_it(self) -> None:
        screen = self.terminal()
        screen.type(self.farmhand)
        screen.wait_for("1 Overview", "under-test")
        self.assertEqual("under-test", self.node.status()["node"]["name"])
        screen.press("q")
        screen.wait_for_prompt()
        self.assertEqual([], list(self.node.runtime.glob("*.sock")))
        log = (self.node.data / "log" / "farmhand.log").read_text()
        self.assertNotIn("\x1b", log)

    def test_a_node_that_runs_is_shown_and_left_alone(self) -> None:
        self.serve()
        screen = self.terminal()
        screen.type(self.farmhand)
        screen.wait_for("1 Overview", "under-test")
        screen.press("q")
        screen.wait_for_prompt()
        self.assertEqual(self.node.pid, self.node.status()["node"]["pid"])
        self.assertNotIn("the log of the node", screen.screen())

    def test_a_node_that_cannot_start_says_why(self) -> None:
        taken = self.node.start()
        self.addCleanup(self.node.stop)
        screen = self.terminal(FARMHAND_LISTEN=taken.reapi,
                               FARMHAND_RUNTIME_DIR=str(self.scratch / "other"))
        screen.type(self.farmhand)
        screen.wait_for("error: cannot listen on", "hint: another program has port")
        screen.wait_for_prompt()

    def test_without_a_screen_it_serves(self) -> None:
        screen = self.terminal()
        for line in (f"TERM=dumb {self.farmhand}", f"{self.farmhand} < /dev/null",
                     f"{self.farmhand} | cat"):
            with self.subTest(line=line):
                screen.type(f"clear; {line}")
                screen.wait_for("ready: reapi=127.0.0.1:")
                self.assertEqual("0", screen.facts()["alternate_on"])
                self.assertEqual("TERM=dumb" in line, "cannot show" in screen.screen())
                screen.press("C-c")
                screen.wait_for_prompt()

    def test_quitting_asks_while_actions_run(self) -> None:
        screen = self.terminal()
        screen.type(self.farmhand)
        screen.wait_for("1 Overview", "under-test")
        nap = f"600.{fresh_marker()}"
        self.start_action(f"sleep {nap}")
        processes.wait_until(lambda: processes.running_with(nap), seconds=60, what="it runs")
        screen.wait_for("1/2 slots")
        screen.press("q")
        screen.wait_for("1 action")
        screen.press("Escape")
        screen.wait_until_gone("Quit")
        self.assertTrue(processes.running_with(nap))
        screen.press("q")
        screen.wait_for("1 action")
        screen.press("y")
        screen.wait_for_prompt()
        self.assertEqual([], processes.running_with(nap))


class Watching(DashboardTest):
    """What it shows of a node that does not answer, and of one that comes back."""

    def setUp(self) -> None:
        super().setUp()
        self.serve()
        self.screen = self.terminal()
        self.screen.type(f"{self.farmhand} top")
        self.screen.wait_for("1 Overview", "under-test")

    def test_a_node_that_stands_still_is_stale_until_it_goes_on(self) -> None:
        os.kill(self.node.pid, signal.SIGSTOP)
        try:
            self.screen.wait_for_match(OLD)
            self.screen.press("2")
            self.screen.wait_for(*VIEWS["2"])
        finally:
            os.kill(self.node.pid, signal.SIGCONT)
        self.wait_until_fresh()

    def test_a_node_that_is_killed_and_started_again_is_found_again(self) -> None:
        self.run_action("echo before", target="//before:restart")
        self.screen.press("3")
        self.screen.wait_for("//before:restart")
        self.node.kill()
        self.screen.wait_for_match(OLD)
        self.screen.wait_for("//before:restart")
        self.node.start()
        self.wait_until_fresh()
        self.run_action("echo after", target="//after:restart")
        self.screen.wait_for("//after:restart")

    def wait_until_fresh(self) -> None:
        """Until nothing old is shown any more."""
        self.screen.wait_until_gone("NO NODE")
        self.screen.wait_until_gone("STALE")


class Looks(DashboardTest):
    """Terminals of all kinds."""

    def test_any_size(self) -> None:
        self.serve()
        screen = self.terminal(*SMALLEST)
        screen.type(f"{self.farmhand} top")
        screen.wait_for("needs")
        for key in "12345678":
            screen.press(key)
        for size in ((80, 24), (300, 90), (1, 1), SMALLEST, (120, 40)):
            screen.resize(*size)
        screen.press("1")
        screen.wait_for("1 Overview", *VIEWS["1"])

    def test_without_colours(self) -> None:
        self.serve()
        screen = self.terminal(NO_COLOR="1")
        before = len(screen.raw())
        screen.type(f"{self.farmhand} top")
        for key, words in VIEWS.items():
            screen.press(key)
            screen.wait_for(*words)
        self.assertEqual([], COLOUR.findall(screen.raw()[before:]))
        screen.press("q")
        screen.wait_for_prompt()
        # The same with colours has some: the search finds what it is for.
        screen.type(f"NO_COLOR= {self.farmhand} top")
        screen.wait_for("1 Overview")
        self.assertNotEqual([], COLOUR.findall(screen.raw()[before:]))

    def test_ascii(self) -> None:
        self.serve()
        screen = self.terminal(FARMHAND_ASCII="1")
        screen.type(f"{self.farmhand} top")
        for key, words in VIEWS.items():
            screen.press(key)
            shown = screen.wait_for(*words)
            self.assertTrue(shown.isascii(), shown)


class Hostile(DashboardTest):
    """What comes from outside is shown, and never obeyed by the terminal."""

    def test_escape_sequences_never_reach_the_terminal(self) -> None:
        self.serve()
        evil = "\x1b]0;owned\x07\x1b[2J\x1b[31mred\x9b31m\u202eback"
        self.run_action(f"echo 'arg {evil}'; printf '\\033]0;owned\\007 the-end\\n'; : ",
                        target=f"//evil:{evil}")
        screen = self.terminal()
        before = len(screen.raw())
        screen.type(f"{self.farmhand} top")
        screen.wait_for("1 Overview")
        screen.press("3")
        screen.wait_for("//evil:")
        screen.press("Enter")
        screen.wait_for("Summary", "Stdout")
        for _ in range(4):
            screen.press("Tab")
        screen.wait_for("the-end")
        for _ in range(5):
            screen.press("Tab")
        screen.wait_for("mnemonic")
        for key in "125678":
            screen.press(key)
        screen.wait_for("1 Overview")
        written = screen.raw()[before:]
        for sequence in (b"\x1b]0;", b"\x1b]2;", b"\x1b[31mred", b"\xc2\x9b", b"\x9b31m",
                         "\u202e".encode()):
            self.assertNotIn(sequence, written)


class Demo(DashboardTest):
    """`farmhand demo` in a terminal: alive with real actions, and gone without a trace."""

    def setUp(self) -> None:
        super().setUp()
        self.temporary = self.scratch / "tmp"
        self.temporary.mkdir()
        self.screen = self.terminal(TMPDIR=str(self.temporary))
        self.facts, self.modes = self.screen.facts(), self.screen.modes()
        self.screen.type(f"clear; {self.farmhand} demo --words")
        self.screen.wait_for("1 Overview", "farmhand-demo")

    def test_it_goes_on_until_one_leaves(self) -> None:
        self.screen.press("2")
        self.screen.wait_for("100%", *VIEWS["2"])
        # The fourth build and those after it are beyond what there is without a dashboard.
        self.screen.wait_for_match(r"(?s)(@demo .*){4}")
        self.screen.press("q")
        self.screen.wait_for("from cache", "again, nothing changed", "times faster")
        self.assert_gone()

    def test_it_cleans_up_however_it_ends(self) -> None:
        os.kill(self.screen.job(), signal.SIGTERM)
        self.assert_gone()
        self.screen.type(f"clear; {self.farmhand} demo --words")
        self.screen.wait_for("1 Overview", "farmhand-demo")
        if program().parent.name == "debug":
            os.kill(self.screen.job(), signal.SIGUSR1)
            self.assert_gone()

    def assert_gone(self) -> None:
        """No file of it is left, no process, and the terminal is as it was."""
        self.screen.wait_for_prompt()
        self.assertEqual([], list(self.temporary.iterdir()))
        self.assertEqual([], list(self.node.runtime.parent.glob("*")))
        self.assertEqual(self.facts, self.screen.facts())
        self.assertEqual(self.modes, self.screen.modes())


class Bazel(DashboardTest):
    """A real build, as the dashboard shows it."""

    def test_a_build_is_seen_from_all_sides(self) -> None:
        if why := bazel.BAZEL_4.missing():
            self.skipTest(why)
        screen = self.terminal()
        screen.type(self.farmhand)
        screen.wait_for("1 Overview", "under-test")
        workspace = bazel.Workspace(bazel.BAZEL_4, "slow", self.scratch, self.logs)
        self.addCleanup(workspace.shutdown)
        nap = f"600.{fresh_marker()}"
        (workspace.root / "seconds.txt").write_text(nap)
        self.addCleanup(lambda: processes.kill(processes.running_with(nap)))
        workspace.point_at(self.node.settings("bazel"))
        build = workspace.start_build("//:slow", "//:quick")
        screen.wait_for("//:slow_0", "//:slow_1", "2/2 slots")
        for key, words in VIEWS.items():
            screen.press(key)
            # Here it shows the action that was chosen in the view before it.
            screen.wait_for(*(words if key != "4" else ("Summary", "Genrule")))
        screen.press("2")
        screen.wait_for("bazel")
        screen.press("3")
        self.filter_and_open(screen)
        self.help_and_palette(screen)
        # The naps end, so the build does, and well.
        processes.kill(processes.running_with(nap))
        self.assertEqual({"remote": 10}, build.finish(bazel.SUCCESS).spawns)
        screen.press("2")
        screen.wait_for("0/2 slots", "bazel", "10")
        screen.press("q")
        screen.wait_for_prompt()

    def filter_and_open(self, screen: Terminal) -> None:
        """`/` narrows the list of actions, Enter opens one, Escape leads back."""
        screen.wait_for("//:slow_0", "//:slow_1")
        screen.press("/")
        screen.press(*"slow_1", "Enter")
        screen.wait_until_gone("//:slow_0")
        screen.press("Enter")
        screen.wait_for("//:slow_1", "Summary", "Genrule")
        screen.press("Escape")
        screen.wait_for("Missed")
        screen.press("Escape")
        screen.wait_for("//:slow_0")

    def help_and_palette(self, screen: Terminal) -> None:
        """`?` lists the keys, `:` takes a command."""
        screen.press("?")
        screen.wait_for("Open the action")
        screen.press("Escape")
        screen.wait_until_gone("Open the action")
        screen.press(":", *"builds", "Enter")
        screen.wait_for(*VIEWS["2"])
