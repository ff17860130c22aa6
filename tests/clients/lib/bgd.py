"""BuildGrid's `bgd` as a client, called as `farmhand client bgd` says."""

import shutil
from pathlib import Path

from lib import pythons
from lib.command import Command


class Bgd:
    """A directory of inputs, and the command."""

    def __init__(self, scratch: Path, logs: Path):
        self.root = scratch / "bgd"
        self.root.mkdir()
        self.outputs = self.root / "made"
        self._log = logs / "bgd.log"
        self._settings = scratch / "bgd.sh"

    def point_at(self, settings: str) -> None:
        """Takes what `farmhand client bgd` printed, in place of what it printed before."""
        self._settings.write_text(settings)

    def execute(self, inputs: Path, script: str, *outputs: str, cached: bool = False) -> Command:
        """Has a shell script run on the inputs; what it made is brought to `self.outputs`."""
        words = ["command", "--output-directory", str(self.outputs),
                 *(["--enable-action-cache"] if cached else [])]
        for output in outputs:
            words += ["--output-file", output]
        return self._call([*words, str(inputs), "/bin/sh", "--", "-c", script])

    def clean(self) -> None:
        """Removes the outputs."""
        shutil.rmtree(self.outputs)

    def remote(self, *arguments: str, door: str) -> Command:
        """A command other than `execute`, which has no settings: the address is an option of each."""
        group, *rest = arguments
        return Command([pythons.BGD.program("bgd"), group, "--remote", door, *rest], self._log,
                       cwd=self.root, env={"HOME": str(self.root)})

    def _call(self, words: list[str]) -> Command:
        # A shell that has read the settings, as a person's has; replaced by the command, so that a
        # signal reaches that.
        call = f". {self._settings}; bgd() {{ exec {pythons.BGD.program('bgd')} \"$@\"; }}; farmhand_bgd \"$@\""
        return Command(["bash", "-c", call, "bash", *words], self._log, cwd=self.root,
                       env={"HOME": str(self.root)})
