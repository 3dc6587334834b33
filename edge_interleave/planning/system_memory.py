"""How much memory a person means, how much there is, and how to keep the C library from hoarding it.

Knows nothing about models.
"""

from __future__ import annotations

import ctypes
import math
import os
import re
import sys
from pathlib import Path

from edge_interleave.errors import ResourceError, UsageError

_UNITS = {"b": 1} | {
    name: base**power
    for base, names in ((1000, ("kb", "mb", "gb", "tb")), (1024, ("kib", "mib", "gib", "tib")))
    for power, name in enumerate(names, 1)
}
_ARENAS = 2
_M_ARENA_MAX = -8  # of glibc's malloc.h


def parse_memory(text: str) -> int:
    """Bytes of `2GB`, `1.5GiB`, `800MB` or of a share of what is free now, `50%`.

    Raises UsageError, ResourceError where the system does not say how much is free.
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-z]+|%)\s*", text, re.IGNORECASE | re.ASCII)
    if found is None or (found[2] != "%" and found[2].lower() not in _UNITS):
        raise UsageError(f"no amount of memory: {text!r}; give one as 2GB, 1.5GiB, 800MB or 50%")
    amount = float(found[1])
    if found[2] == "%":
        if not 0 < amount <= 100:
            raise UsageError(f"{text.strip()} of the free memory makes no sense; give 1% to 100%")
        return int(free_memory() * amount / 100)
    size = amount * _UNITS[found[2].lower()]
    if not 1 <= size < 1 << 63:
        raise UsageError(f"no amount of memory: {text!r}; give one as 2GB, 1.5GiB, 800MB or 50%")
    return int(size)


def free_memory() -> int:
    """Bytes that this process may still take: what the system calls available, or less where a control group says so.

    Where the system does not say (macOS), all that is built in. Raises ResourceError where it says neither.
    """
    rooms = [room for room in (_available(), _group_room()) if room is not None]
    if not rooms:
        raise ResourceError("this system does not say how much memory is free; give an amount, as 2GB")
    return min(rooms)


def in_words(size: int) -> str:
    """An amount of memory that `parse_memory` takes, rounded up."""
    return f"{math.ceil(size / 1e6)}MB" if size < 10_000_000_000 else f"{math.ceil(size / 1e8) / 10:.1f}GB"


def limit_allocator() -> None:
    """Have the C library keep freed memory of all threads in few places, where the next one finds it. glibc only."""
    library = _glibc()
    if library is not None:
        library.mallopt(_M_ARENA_MAX, _ARENAS)


def give_back() -> None:
    """Give memory that was freed back to the system. glibc only."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None


def _available() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _group_room() -> int | None:
    """What the control groups (version 2) around this process leave it."""
    try:
        line = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::/"))
    except (OSError, StopIteration, UnicodeError):
        return None
    top = Path("/sys/fs/cgroup")
    folder = top / line.removeprefix("0::/")
    rooms = []
    for group in (folder, *folder.parents):
        if not group.is_relative_to(top):
            break
        try:
            most = (group / "memory.max").read_text().strip()
            used = int((group / "memory.current").read_text())
        except (OSError, ValueError):
            continue
        if most.isdecimal():
            rooms.append(max(0, int(most) - used))
    return min(rooms, default=None)
