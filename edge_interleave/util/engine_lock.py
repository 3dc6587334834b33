"""Lets one thread at a time use a native engine, in the process that opened it, until it is closed.

Engines (llama.cpp, MLX, ONNX Runtime) crash the process if two threads use one at once, or if one thread frees it while
another computes. In a forked child they wait for ever for threads that exist only in the parent.
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
"""How long the program's end waits for an engine that ignores the interrupt."""

_process: int | None = None
"""The id of the process that opened an engine. A forked child inherits the value but has another id."""


def claim_process() -> None:
    """Record that this process opens an engine. Raises UsageError as `check_process`."""
    global _process
    check_process()
    _process = os.getpid()


def check_process() -> None:
    """Raise UsageError in a child forked from a process with an engine. Takes no lock."""
    if is_forked():
        raise UsageError(
            "this process was forked from one that had opened a model, and engines do not survive a fork; start it "
            "with multiprocessing's 'spawn' or 'forkserver', or open models only after the fork"
        )


def is_forked() -> bool:
    """Whether this process was forked from one with an open engine, which it may neither use nor free."""
    return _process is not None and _process != os.getpid()


def when_engines_ended(call: Callable[[], None]) -> None:
    """Register a function to call at the program's end, after all threads have stopped using engines."""
    _afterwards.append(call)


class EngineLock:
    """A reentrant lock around one engine, used as a context manager."""

    def __init__(self, interrupt: Callable[[], None]) -> None:
        """`interrupt`: a bound method that aborts the engine's computation from any thread; held weakly."""
        self._interrupt = weakref.WeakMethod(interrupt)
        self._lock = threading.RLock()
        self._depth = 0
        self._closed: str | None = None
        self._free: Callable[[], None] | None = None
        self._ended = False
        _locks.add(self)

    def __enter__(self) -> None:
        """Wait until the engine is free. Raises UsageError once closed, and in a forked child."""
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
        """Interrupt the engine, wait until no thread uses it, and call `free`. Later uses raise UsageError.

        `reason`: the text of the UsageError for running and later uses. A signal handler may call this while its own
        thread uses the engine, which is then freed when that use ends. Does nothing in a forked child, because the
        engine belongs to the parent.
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
        """Close the engine at the program's end. Daemon threads that use it, or try to, block from now on."""
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
