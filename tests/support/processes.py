"""Which processes this one has started."""

from __future__ import annotations

import os
import subprocess


def child_processes() -> set[int]:
    """The ids of this process's children, running or not yet waited for."""
    listing = subprocess.Popen(["ps", "-A", "-o", "pid=,ppid="], stdout=subprocess.PIPE, text=True)
    told, _ = listing.communicate()
    found = [tuple(map(int, line.split())) for line in told.splitlines()]
    return {pid for pid, parent in found if parent == os.getpid() and pid != listing.pid}
