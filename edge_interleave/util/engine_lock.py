"""Lets one thread at a time use a native engine, in the process that opened it, until it is closed.

Engines (llama.cpp, MLX, ONNX Runtime) end the process by a signal where two threads use one of them, or one thread
frees it while another computes. In a forked child they wait without end for threads that only the parent has.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable
from types import TracebackType

from edge_interleave.errors import EdgeInterleaveError, UsageError

_EXIT_WAIT_S = 10.0
"""At the program's end, for an engine that does not break off what it computes."""

_process: int | None = None
"""The process that opened an engine. A forked child inherits the number, and knows by it that it is one."""


def claim_process() -> None:
    """Note that this process opens an engine. Raises UsageError as `check_process`."""
    global _process
    check_process()
    _process = os.getpid()


def check_process() -> None:
    """Raise UsageError in a child that was forked from a process with an engine. Takes no lock."""
    if is_forked():
        raise UsageError(
            "this process was forked from one that had opened a model, and engines do not survive a fork; start it "
            "with multiprocessing's 'spawn' or 'forkserver', or open models only after the fork"
        )


def is_forked() -> bool:
    """Whether this process was forked from one that had opened an engine: nothing here may use or free it."""
    return _process is not None and _process != os.getpid()


def when_engines_ended(call: Callable[[], None]) -> None:
    """Have something done at the program's end, once no thread uses an engine any more."""
    _afterwards.append(call)


class EngineLock:
    """A lock around one engine, used as a context manager. The thread that holds it may take it again."""

    def __init__(self, interrupt: Callable[[], None]) -> None:
        """`interrupt`: a method that makes the engine fail at once, called from any thread; held weakly."""
        self._interrupt = weakref.WeakMethod(interrupt)
        self._lock = threading.RLock()
        self._depth = 0
        self._closed: str | None = None
        self._free: Callable[[], None] | None = None
        self._ended = False
        _locks.add(self)

    def __enter__(self) -> None:
        """Wait for the engine. Raises UsageError once closed, and in a forked child."""
        check_process()
        self._lock.acquire()
        if self._closed is not None:
            self._leave()
            raise UsageError(self._closed)
        self._depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        try:
            if self._depth == 0 and self._free is not None:
                free, self._free = self._free, None
                free()
        finally:
            self._leave()
        if self._closed is not None and isinstance(error, EdgeInterleaveError):
            raise UsageError(self._closed) from error

    def close(self, reason: str, free: Callable[[], None]) -> None:
        """Interrupt the engine, wait until nobody uses it, and free it. Nobody gets it afterwards.

        `reason`: what those who use it, or try to, get as UsageError. A signal handler may call this while its own
        thread uses the engine: it is freed when that use ends. Does nothing in a forked child: the engine is the
        parent's.
        """
        if is_forked():
            return
        if self._closed is None:
            self._closed = reason
        self._break_off()
        with self._lock:
            if self._depth:
                self._free = free
            else:
                free()

    def _leave(self) -> None:
        self._lock.release()
        if self._ended and threading.current_thread() is not threading.main_thread():
            _for_ever.acquire()

    def _break_off(self) -> None:
        interrupt = self._interrupt()
        if interrupt is not None:
            interrupt()

    def _end(self) -> None:
        """Keep everyone out while the program ends.

        Daemon threads that use the engine, or come to, stand still from now on: they have nobody to tell an error to.
        """
        self._ended = True
        self._closed = self._closed or "the program ends"
        self._break_off()
        self._lock.acquire(timeout=_EXIT_WAIT_S)


_locks: weakref.WeakSet[EngineLock] = weakref.WeakSet()
_afterwards: list[Callable[[], None]] = []
_for_ever = threading.Lock()
_for_ever.acquire()


@atexit.register
def _end_all() -> None:
    if not is_forked():
        for lock in list(_locks):
            lock._end()
        for call in _afterwards:
            call()
