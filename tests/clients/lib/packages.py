"""What the clients need on this machine, and how it gets there: Debian packages, npm, sources.

Only the registries' usual clients are used, with whatever sources this machine is set up for.
"""

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "farmhand-tests"

NPM_BAZEL_PACKAGE = "@bazel/bazel-linux_x64@2.1.0"
NPM_BAZEL = CACHE / "npm/node_modules/@bazel/bazel-linux_x64/bazel-2.1.0-linux-x86_64"

# A command that must be there, and the Debian package that brings it.
DEBIAN = {
    "bazel": "bazel-bootstrap",
    "bwrap": "bubblewrap",
    "ccache": "ccache",
    "dpkg-source": "dpkg-dev",
    "fusermount3": "fuse3",
    "g++": "g++",
    "java": "default-jre-headless",
    "npm": "npm",
    "tmux": "tmux",
}


# The same, for what the tests of the workspace use to harm a node, and to build with it meanwhile.
TOOLS = {
    "bazel": "bazel-bootstrap",
    "faketime": "faketime",
    "ip": "iproute2",
    "java": "default-jre-headless",
    "mkfs.ext4": "e2fsprogs",
    "strace": "strace",
}

# The Debian packages that the tests build from source.
SOURCES = ("lua5.4",)


class Unavailable(Exception):
    """A source could not be had; says why."""


def missing() -> list[str]:
    """What is needed and absent, in words; clients in virtual environments see to themselves."""
    return [*missing_debian(), *([] if NPM_BAZEL.exists() else [NPM_BAZEL_PACKAGE]),
            *(f"the source of {package}" for package in missing_sources())]


def missing_debian() -> list[str]:
    """The Debian packages that are needed and absent."""
    wanted = dict(DEBIAN)
    if NPM_BAZEL.exists():
        del wanted["npm"]
    return [*absent(wanted), *([] if can_make_environments() else ["python3-venv"])]


def can_make_environments() -> bool:
    """Whether the Python of this program can make virtual environments: Debian packs that apart."""
    return importlib.util.find_spec("ensurepip") is not None


def missing_tools() -> list[str]:
    """The Debian packages that the tests of the workspace need and that are absent."""
    return absent(TOOLS)


def absent(wanted: dict[str, str]) -> list[str]:
    """The packages whose commands are not there."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    return [package for command, package in wanted.items() if not shutil.which(command, path=path)]


def debian_version(package: str) -> str:
    """The version of an installed Debian package; empty if it is not installed."""
    return subprocess.run(["dpkg-query", "--show", "--showformat=${Version}", package],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.DEVNULL, check=False).stdout


def install_debian(packages: list[str], run) -> None:
    """Installs packages, as root or by a sudo that asks nothing."""
    prefix = root_prefix()
    run([*prefix, "apt-get", "update"])
    run([*prefix, "env", "DEBIAN_FRONTEND=noninteractive",
         "apt-get", "install", "--yes", "--no-install-recommends", *packages])


def may_install() -> bool:
    """Whether this process can become root."""
    return root_prefix() is not None


def root_prefix() -> list[str] | None:
    """What to put before a command to run it as root; None if that cannot be."""
    if os.geteuid() == 0:
        return []
    if not shutil.which("sudo"):
        return None
    probe = subprocess.run(["sudo", "-n", "true"], stdin=subprocess.DEVNULL,
                           capture_output=True, check=False)
    return ["sudo", "-n"] if probe.returncode == 0 else None


def install_npm_bazel(run) -> None:
    """Bazel 2.1.0, which no Debian release carries, into the cache."""
    if not NPM_BAZEL.exists():
        run(["npm", "install", "--no-audit", "--no-fund", "--prefix", CACHE / "npm",
             NPM_BAZEL_PACKAGE])


def source_of(package: str) -> Path:
    """Where the unpacked source of a Debian package lies once it is fetched."""
    return CACHE / "sources" / package


def missing_sources() -> list[str]:
    """The sources that are still to be fetched."""
    return [package for package in SOURCES if not source_of(package).exists()]


def fetch_source(package: str) -> None:
    """Fetches and unpacks the source of a Debian package; needs no root."""
    work = CACHE / "sources" / f"{package}.{os.getpid()}"
    work.mkdir(parents=True)
    try:
        _fetch_source(package, work)
        found = [path for path in work.iterdir() if (path / "debian").is_dir()]
        if len(found) != 1:
            raise Unavailable(f"the source of {package} unpacked to {found}")
        found[0].rename(source_of(package))
    finally:
        shutil.rmtree(work)


def _fetch_source(package: str, work: Path) -> None:
    parts, lists = work / "apt-parts", work / "apt-lists"
    (lists / "partial").mkdir(parents=True)
    parts.mkdir()
    _source_entries(parts)
    options = ["-o", "Dir::Etc::sourcelist=/dev/null", "-o", f"Dir::Etc::sourceparts={parts}",
               "-o", f"Dir::State::lists={lists}", "-o", "Dir::Cache::pkgcache=",
               "-o", "Dir::Cache::srcpkgcache=", "-o", "APT::Sandbox::User="]
    said = ""
    # A third party's list without source packages fails the update, but not what comes after it.
    for arguments in (["update"], ["source", package]):
        done = subprocess.run(["apt-get", *options, *arguments], cwd=work, text=True, check=False,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT)
        said += done.stdout
    if done.returncode != 0:
        raise Unavailable(f"no source of {package} from this machine's package sources:\n{said}")


def _source_entries(parts: Path) -> None:
    """The machine's own package sources, asking for source packages instead of binary ones."""
    etc = Path("/etc/apt")
    for path in (etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))):
        if path.suffix not in (".list", ".sources") or not path.exists():
            continue
        lines = path.read_text().splitlines()
        (parts / path.name).write_text("".join(f"{_for_sources(line)}\n" for line in lines))


def _for_sources(line: str) -> str:
    """A line of either format of source lists, with source packages for its type."""
    if line.startswith("Types:"):
        return "Types: deb-src"
    return re.sub(r"^deb\s", "deb-src ", line)
