"""Amounts of RAM: parses and formats them, reads what is free, and makes the C library release freed memory."""

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
    """Bytes of an amount: `2GB`, `1.5GiB`, `800MB`, or `50%` of the memory that is free now.

    Raises UsageError for other texts, ResourceError if the system does not say how much memory is free.
    """
    wrong = UsageError(f"{text!r} is not an amount of memory; give one like 2GB, 1.5GiB, 800MB or 50%")
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-z]+|%)\s*", text, re.IGNORECASE | re.ASCII)
    if found is None or (found[2] != "%" and found[2].lower() not in _UNITS):
        raise wrong
    amount = float(found[1])
    if found[2] == "%":
        if not 0 < amount <= 100:
            raise UsageError(f"{text.strip()} of the free memory is not possible; give 1% to 100%")
        return int(free_memory() * amount / 100)
    size = amount * _UNITS[found[2].lower()]
    if not 1 <= size < 1 << 63:
        raise wrong
    return int(size)


def free_memory() -> int:
    """Bytes that this process can still take: the system's available memory, or less if its control groups limit it.

    On systems that do not report available memory (macOS), all installed memory. Raises ResourceError if neither is
    known.
    """
    limits = [limit for limit in (_available(), _cgroup_available()) if limit is not None]
    if not limits:
        raise ResourceError("this system does not report how much memory is free; give an amount like 2GB")
    return min(limits)


def format_memory(size: int) -> str:
    """Write bytes as an amount that `parse_memory` reads, rounded up."""
    if size < 1_000_000:
        return f"{math.ceil(size / 1e3)}KB"
    return f"{math.ceil(size / 1e6)}MB" if size < 10_000_000_000 else f"{math.ceil(size / 1e8) / 10:.1f}GB"


def limit_allocator() -> None:
    """Let all threads share few malloc arenas, so that memory freed by one is reused by others. glibc only."""
    library = _glibc()
    if library is not None:
        library.mallopt(_M_ARENA_MAX, _ARENAS)


def release_freed_memory() -> None:
    """Return freed memory to the system. glibc only."""
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


def _cgroup_available() -> int | None:
    """Bytes that the control groups (version 2) of this process leave it."""
    try:
        line = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::/"))
    except (OSError, StopIteration, UnicodeError):
        return None
    root = Path("/sys/fs/cgroup")
    folder = root / line.removeprefix("0::/")
    limits = []
    for group in (folder, *folder.parents):
        if not group.is_relative_to(root):
            break
        try:
            maximum = (group / "memory.max").read_text().strip()
            used = int((group / "memory.current").read_text())
        except (OSError, ValueError):
            continue
        if maximum.isdecimal():
            limits.append(max(0, int(maximum) - used))
    return min(limits, default=None)
