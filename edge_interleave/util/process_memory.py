"""How much memory a process holds, and has held."""

from __future__ import annotations

import os
import sys


def peak_memory_bytes() -> int:
    """The most that this process has had resident so far; 0 where the system does not say (Windows).

    On Linux not what `getrusage` says, which counts what the process was before it became this program.
    """
    peak = peak_memory_of(os.getpid())
    if peak:
        return peak
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, KiB elsewhere


def peak_memory_of(process: int) -> int:
    """The most that a process of ours has had resident so far; 0 where the system does not say (it does on Linux)."""
    try:
        with open(f"/proc/{process}/status", encoding="ascii", errors="replace") as file:
            return int(file.read().split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        return 0


def memory_bytes() -> int:
    """The resident set of this process now; 0 where the system does not say (it does on Linux)."""
    try:
        with open("/proc/self/statm", "rb") as file:
            pages = int(file.read().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
