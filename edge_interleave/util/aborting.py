"""Aborts an engine's computation from another thread as soon as a condition holds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_POLL_S = 0.02


@contextmanager
def aborting(when: Callable[[], bool], abort: Callable[[], None]) -> Iterator[None]:
    """Call `abort` once, from another thread, if `when` becomes true within the block.

    After the block, `abort` has returned or will never be called.
    """
    ended = threading.Event()

    def watch() -> None:
        while not when():
            if ended.wait(_POLL_S):
                return
        abort()

    thread = threading.Thread(target=watch, name="edge-interleave abort", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
