"""What can be seen of a node from outside: memory, descriptors, threads, disk, and what it must not
leave behind.
"""

import os
from dataclasses import dataclass
from pathlib import Path

KINDS = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")


@dataclass(frozen=True)
class Sample:
    """A node at one moment; sizes are bytes."""

    rss: int
    descriptors: int
    threads: int
    processes: int


def mounts_of(directory: Path) -> list[str]:
    """What is mounted on this machine below a directory, or from below it."""
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines()
            if str(directory) in line]


def cgroups_of(pids: list[int]) -> list[str]:
    """Control groups that nodes with these process ids have made."""
    names = {f"farmhand-{pid}" for pid in pids}
    return [path for path, _, _ in os.walk("/sys/fs/cgroup") if Path(path).name in names]


def sample(pid: int, members: list[int]) -> Sample:
    """The daemon `pid`, with its own children counted as processes."""
    return Sample(rss=rss(pid), descriptors=descriptors(pid),
                  threads=int(_status(pid, "Threads")), processes=len(members))


def rss(pid: int) -> int:
    """Resident bytes."""
    return _kib(_status(pid, "VmRSS"))


def peak_rss(pid: int) -> int:
    """The most resident bytes since `forget_peak`."""
    return _kib(_status(pid, "VmHWM"))


def forget_peak(pid: int) -> None:
    """Starts to look for the peak anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def descriptors(pid: int) -> int:
    """Open files and sockets, without the packs of the store: those are as many as its data needs."""
    targets = (_link(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd"))
    return sum(1 for target in targets if not target.endswith(".pack"))


def cpu_seconds(pids: list[int]) -> float:
    """Processor time used so far by those that are still there."""
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def share_of_memory(pids: list[int]) -> int:
    """Bytes of these processes together; what several share counts once."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for line in lines:
            if line.startswith("Pss:"):
                total += _kib(line.split(":")[1])
    return total


def disk_bytes(directory: Path, *, without: tuple[str, ...] = ()) -> int:
    """Blocks of all files below `directory`, but not of the entries named `without`. A file with
    several names counts once."""
    seen: dict[tuple[int, int], int] = {}
    for entry in os.scandir(directory):
        if entry.name in without:
            continue
        paths = [Path(entry.path)]
        if entry.is_dir(follow_symlinks=False):
            paths = [Path(at, name) for at, _, names in os.walk(entry.path) for name in names]
        for path in paths:
            try:
                facts = path.lstat()
            except FileNotFoundError:
                continue
            seen[facts.st_dev, facts.st_ino] = facts.st_blocks * 512
    return sum(seen.values())


def namespaces(pid: int) -> set[str]:
    """Names of the namespaces of a process that are not those of this one."""
    return {name for kind in KINDS
            if (name := _link(f"/proc/{pid}/ns/{kind}")) and name != _link(f"/proc/self/ns/{kind}")}


def living_in(wanted: set[str]) -> list[int]:
    """Processes that are in one of these namespaces."""
    return [int(name) for name in os.listdir("/proc")
            if name.isdigit() and namespaces(int(name)) & wanted]


def descendants(pid: int) -> list[int]:
    """Children of a process, and theirs."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (parent := _parent(int(name))) is not None:
            parents.setdefault(parent, []).append(int(name))
    found, waiting = [], [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


def _parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def _status(pid: int, key: str) -> str:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return line.split(":")[1]
    raise AssertionError(f"/proc/{pid}/status has no {key}")


def _kib(text: str) -> int:
    return int(text.split()[0]) * 1024


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
