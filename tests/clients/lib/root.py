"""A root file system with a shell and a C compiler, for actions whose input root is `/`.

It is made of Debian packages that are unpacked, not installed, and has nothing that the tests do not use.
"""

import os
import shutil
import subprocess
from pathlib import Path

from lib.packages import CACHE, Unavailable

PACKAGES = ("busybox-static", "tcc", "libc6", "libc6-dev")
ROOT = CACHE / "root-1"

COMMANDS = ("cat", "cp", "echo", "env", "head", "id", "kill", "ls", "mkdir", "mv", "rm", "sh", "sleep", "touch",
            "true", "uname")
# Most of its bytes: character sets, documentation, and libraries to link statically.
NOT_NEEDED = ("usr/share", "usr/lib/*/gconv", "usr/lib/*/audit", "usr/lib/*/libc.a",
              "usr/lib/*/libm*.a", "sbin", "usr/sbin", "etc")


def missing() -> str | None:
    """Why it cannot be used here, if so."""
    return None if ROOT.exists() else f"there is no root file system ({ROOT})"


def make() -> None:
    """Downloads and unpacks it; needs no root."""
    work = ROOT.with_name(f"{ROOT.name}.{os.getpid()}")
    root = work / "root"
    root.mkdir(parents=True)
    try:
        said = _run(["apt-get", "-o", "APT::Sandbox::User=", "download", *PACKAGES], work)
        debs = sorted(work.glob("*.deb"))
        if len(debs) != len(PACKAGES):
            raise Unavailable(f"not all of {', '.join(PACKAGES)} could be downloaded:\n{said}")
        for deb in debs:
            _run(["dpkg-deb", "--extract", deb.name, root], work)
        _finish(root)
        root.rename(ROOT)
    finally:
        shutil.rmtree(work)


def _finish(root: Path) -> None:
    for pattern in NOT_NEEDED:
        for path in root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in COMMANDS:
        (root / "bin" / name).symlink_to("busybox")
    (root / "tmp").mkdir()


def _run(argv: list, cwd: Path) -> str:
    done = subprocess.run(argv, cwd=cwd, text=True, check=False, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        raise Unavailable(f"{' '.join(map(str, argv))} failed:\n{done.stdout}")
    return done.stdout
