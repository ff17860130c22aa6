"""Clients that come from the Python package index, each in a virtual environment of its own in the cache.

Some run on certain versions of Python only. Those that this machine has are looked for on PATH and below
`~/.pyenv`; a client that none of them can run is missing, and says so.
"""

import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lib.packages import CACHE

PROBE = "import ensurepip, sys; print('%d.%d' % sys.version_info[:2])"


@dataclass(frozen=True)
class Release:
    """A version of a client, and the Pythons it runs on, the preferred one first."""

    version: str
    pythons: tuple[str, ...]


@dataclass(frozen=True)
class PythonClient:
    """A client, by its name in the index; the first of its releases that can run here is used."""

    name: str
    package: str
    releases: tuple[Release, ...]

    def choice(self) -> tuple[Release, Path] | None:
        """The release for this machine, and its Python."""
        found = interpreters()
        for release in self.releases:
            for python in release.pythons:
                if python in found:
                    return release, found[python]
        return None

    @property
    def version(self) -> str:
        """The version that is used here, or would be."""
        chosen = self.choice()
        return (chosen[0] if chosen else self.releases[0]).version

    @property
    def home(self) -> Path:
        """Its virtual environment."""
        return CACHE / f"{self.package}-{self.version}"

    def program(self, name: str) -> Path:
        """One of its commands."""
        return self.home / "bin" / name

    def file(self, path: str) -> Path:
        """A file that its wheel brought."""
        found = sorted(self.home.glob(f"lib/python3.*/site-packages/{path}"))
        return found[0] if found else self.home / "lib" / path

    def lacks_python(self) -> str | None:
        """Why it can never be installed here, if so."""
        if self.choice():
            return None
        wanted = " or ".join(python for release in self.releases for python in release.pythons)
        return f"{self.name} needs Python {wanted}, and this machine has {', '.join(interpreters()) or 'none'}"

    def missing(self) -> str | None:
        """Why it cannot be used here, if so."""
        if why := self.lacks_python():
            return why
        return None if self._stamp.exists() else f"{self.name} is not installed ({self.home})"

    def install(self, run) -> None:
        """Makes the virtual environment, or finishes one that was begun."""
        chosen = self.choice()
        assert chosen, "who asks has looked"
        release, python = chosen
        shutil.rmtree(self.home, ignore_errors=True)
        run([python, "-m", "venv", self.home])
        run([self.program("pip"), "install", "--quiet", "--disable-pip-version-check",
             f"{self.package}=={release.version}"])
        self._stamp.touch()

    @property
    def _stamp(self) -> Path:
        return self.home / "installed"


BUILDSTREAM = PythonClient("BuildStream", "BuildStream", (
    Release("2.8.1", ("3.11", "3.12", "3.13", "3.10")),))
# Its engine is compiled for this one alone. Debian 12 has none, and no index has an interpreter.
PANTS = PythonClient("Pants", "pantsbuild.pants", (Release("2.17.1", ("3.9",)),))
BGD = PythonClient("bgd", "buildgrid", (
    Release("0.9.1", ("3.13",)), Release("0.4.4", ("3.11", "3.12"))))

ALL = (BUILDSTREAM, PANTS, BGD)


@cache
def interpreters() -> dict[str, Path]:
    """The Pythons of this machine that can make virtual environments, by version."""
    found: dict[str, Path] = {}
    names = ("python3", *(f"python3.{minor}" for minor in range(9, 15)))
    candidates = [path for name in names if (path := shutil.which(name))]
    candidates += sorted(Path.home().glob(".pyenv/versions/3.*/bin/python3"))
    for path in candidates:
        probe = subprocess.run([path, "-c", PROBE], stdin=subprocess.DEVNULL, capture_output=True,
                               text=True, check=False)
        if probe.returncode == 0:
            found.setdefault(probe.stdout.strip(), Path(path))
    return found
