"""Reads a process's resident memory, now and at its peak."""

from __future__ import annotations

import os
import sys


def peak_memory_bytes() -> int:
    """This process's peak resident memory; 0 if the system does not report it (Windows).

    On Linux it is not `getrusage`'s value, which includes the process's memory before it executed this program.
    """
    peak = peak_memory_of(os.getpid())
    if peak:
        return peak
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB elsewhere


def peak_memory_of(process: int) -> int:
    """The peak resident memory of the process with this id; 0 on systems other than Linux, or if it has ended."""
    try:
        with open(f"/proc/{process}/status", encoding="ascii", errors="replace") as file:
            return int(file.read().split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        return 0


def memory_bytes() -> int:
    """This process's resident memory now; 0 on systems other than Linux."""
    try:
        with open("/proc/self/statm", "rb") as file:
            pages = int(file.read().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
