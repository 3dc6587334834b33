"""For a process that works for another one: it ends as soon as that one has ended, however that was."""

from __future__ import annotations

import os
import threading


def end_with_parent() -> None:
    """End this process when its standard input is closed: by the other process, or by the system where it was killed.

    What the other process has to say on it must have been read.
    """
    threading.Thread(target=_wait, daemon=True).start()


def _wait() -> None:
    # Not by sys.stdin: a thread that waits in its buffer's lock makes an interpreter that ends abort.
    while os.read(0, 1):
        pass
    os._exit(0)
