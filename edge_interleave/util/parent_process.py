"""Makes a child process end as soon as its parent ends, even if the parent was killed."""

from __future__ import annotations

import os
import threading


def end_with_parent() -> None:
    """End this process when its standard input closes: the parent closes it, or the system does if the parent dies.

    Call it after reading everything that the parent sends.
    """
    threading.Thread(target=_wait, daemon=True).start()


def _wait() -> None:
    # os.read rather than sys.stdin: an interpreter that ends aborts if a thread holds the lock of sys.stdin's buffer.
    while os.read(0, 1):
        pass
    os._exit(0)
