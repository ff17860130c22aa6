"""Pants as a client: a workspace, and a cache, of each test."""

import shutil
from pathlib import Path

from lib import pythons
from lib.command import Command, Run

WORKSPACE = Path(__file__).resolve().parent.parent / "pants"


class Workspace:
    """A copy of the workspace, with a home directory."""

    def __init__(self, scratch: Path, logs: Path):
        self.root = scratch / "pants"
        self._home = scratch / "pants-home"
        self._log = logs / "pants.log"
        shutil.copytree(WORKSPACE, self.root)
        self._home.mkdir()
        # A configuration of its own, over that of the workspace: both have a [GLOBAL].
        self._settings = self._home / "farmhand.toml"

    def point_at(self, settings: str) -> None:
        """Takes what `farmhand client pants` printed."""
        self._settings.write_text(settings)

    def build(self, target: str, code: int | None = 0) -> Run:
        """Makes a target, and all it needs, to the end."""
        return self.start_build(target).finish(code)

    def start_build(self, target: str) -> Command:
        """The same, in the background."""
        program = pythons.PANTS.program("pants")
        files = f"--pants-config-files=['{self.root / 'pants.toml'}', '{self._settings}']"
        return Command([program, files, "--no-verify-config", "export-codegen", target], self._log,
                       cwd=self.root, env={"HOME": str(self._home), "PANTS_BIN_NAME": "pants"})

    def output(self, path: str) -> Path:
        """Where an output lies."""
        return self.root / "dist/codegen" / path

    def forget(self) -> None:
        """Forgets everything that was built, or fetched."""
        shutil.rmtree(self._home / ".cache", ignore_errors=True)
        shutil.rmtree(self.root / "dist", ignore_errors=True)

    def plant(self, name: str, script: str, *, timeout: int = 60) -> str:
        """A new target that runs a script and makes `NAME.txt`; its address."""
        with open(self.root / "garden/BUILD", "a") as build:
            build.write(f"\nshell_command(name={name!r}, command=PATH + {script!r}, timeout={timeout}, "
                        f"tools=['sleep'], output_files=[{name + '.txt'!r}])\n")
        return f"garden:{name}"
