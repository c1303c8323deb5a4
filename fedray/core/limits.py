"""The cores and the memory that this process may use, by the machine, the CPU affinity and the container, if any.

A container's limits are those of its cgroup and of all cgroups around it, of version 1 or 2. They are only read. A file
that cannot be read sets no limit.
"""

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath

ROOT = Path("/")
MIB = 2**20
NO_LIMIT = 2**62  # version 1 writes the largest multiple of a page for no limit, which is above this
MOUNT = r"^\S+ \S+ \S+ (/\S*) (/\S*) .* - cgroup(2?) \S+ (\S+)$"
"""A line of mountinfo: the cgroup that is mounted, its place, "2" for version 2, and the controllers of version 1."""


@dataclass(frozen=True)
class Limits:
    """The smallest limits of some cgroups: CPUs, bytes of memory, and bytes still `free` below a limit of memory."""

    cpus: float = math.inf
    memory: float = math.inf
    free: float = math.inf


def cores(root: Path = ROOT) -> int:
    """The cores that this process may keep busy, at least one."""
    return max(1, math.ceil(min(own_cores(), read_limits(root).cpus)))


def available_memory(root: Path = ROOT) -> int:
    """The bytes of memory that new processes can have."""
    import psutil

    return max(0, int(min(psutil.virtual_memory().available, read_limits(root).free)))


def describe_limits(root: Path = ROOT) -> str:
    """A container's limits in words, where they are below the machine's; empty where none is."""
    import psutil

    limits, words = read_limits(root), []
    if limits.cpus < own_cores():
        words.append(f"{limits.cpus:.4g} CPU{'s' * (limits.cpus > 1)}")
    if limits.memory < psutil.virtual_memory().total:
        words.append(f"{limits.memory // MIB:.0f} MiB of memory")
    return f"this container is limited to {' and '.join(words)}" if words else ""


def own_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_limits(root: Path = ROOT) -> Limits:
    """The cgroup limits of this process, from the files of /proc and of the cgroups below `root`."""
    found = [Limits(), *map(limits_of, cgroups(root))]
    return Limits(*(min(getattr(each, field.name) for each in found) for field in fields(Limits)))


def cgroups(root: Path) -> Iterator[Path]:
    """The folders of this process's cgroups and of the cgroups around them, in every mounted hierarchy."""
    own: dict[str, str] = {}
    for names, path in re.findall(r"^\d+:(.*?):(/.*)$", read(root / "proc/self/cgroup"), re.MULTILINE):
        own.update(dict.fromkeys(names.split(","), path))  # version 2 has no name
    for top, point, version, options in re.findall(MOUNT, read(root / "proc/self/mountinfo"), re.MULTILINE):
        names = [""] if version else options.split(",")
        path = next((own[name] for name in names if name in own), "")
        for part in below(PurePosixPath(unescape(top)), PurePosixPath(path)) if path else ():
            yield root / unescape(point).lstrip("/") / part


def below(top: PurePosixPath, path: PurePosixPath) -> list[PurePosixPath]:
    """The cgroups from the mounted `top` down to `path`, relative to `top`; none where `path` is not below `top`.

    In a cgroup namespace both are relative to its root. A `top` of `..` alone is above that root. The names in between
    are unknown, so `top` is then the only cgroup returned.
    """
    if path.is_relative_to(top):
        inner = path.relative_to(top)
        return [] if ".." in inner.parts else [inner, *inner.parents]
    return [PurePosixPath()] if set(top.parts) <= {"/", ".."} else []


def limits_of(folder: Path) -> Limits:
    """The limits of a single cgroup, of version 1 or 2."""
    stat = dict(re.findall(r"^(\w+) (\d+)$", read(folder / "memory.stat"), re.MULTILINE))
    v1, v2 = number(read(folder / "memory.usage_in_bytes")), number(read(folder / "memory.current"))
    used, cache = (v2, "inactive_file") if v2 is not None else (v1 or 0, "total_inactive_file")
    texts = [read(folder / name) for name in ("memory.max", "memory.high", "memory.limit_in_bytes")]
    texts.append(stat.get("hierarchical_memory_limit", ""))  # counts cgroups above that cannot be seen from here, too
    memory = min((size for text in texts if (size := number(text)) is not None and size < NO_LIMIT), default=math.inf)
    return Limits(cpus_of(folder), memory, memory - max(0, used - int(stat.get(cache, 0))))


def cpus_of(folder: Path) -> float:
    """The CPUs that a cgroup may keep busy: its quota over its period, both in microseconds."""
    both = read(folder / "cpu.max").split() or [read(folder / f"cpu.cfs_{part}_us") for part in ("quota", "period")]
    quota, period = (number(text) for text in [*both, "", ""][:2])
    return quota / period if quota and period else math.inf


def number(text: str) -> int | None:
    """A number of bytes or microseconds; None for `max`, -1 and other text."""
    return int(text) if re.fullmatch(r"[0-9]+\n?", text) else None


def read(file: Path) -> str:
    """A file's text, empty where it cannot be read."""
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError):
        return ""


def unescape(field: str) -> str:
    r"""A field of mountinfo, in which a space is \040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
