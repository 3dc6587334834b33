"""Ctrl-C that ends work at a good place. Knows nothing about the work."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def set_by_interrupt() -> Iterator[threading.Event]:
    """An event that the first ctrl-C sets; the second interrupts as ever. The engine is never torn off mid-step."""
    interrupted = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
