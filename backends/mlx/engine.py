"""Runs every MLX call in one thread, in the order of the calls.

Two threads that compute at once crash the process. MLX also keeps state for each thread that ever computed: streams,
each with a system thread that never ends, and compiled functions, whose release crashes if the thread ends at exit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar, cast

import mlx.core as mx

from edge_interleave.errors import BackendError
from edge_interleave.util.engine_lock import claim_process, is_forked, when_engines_ended

_END_S = 10.0
"""Seconds that the program's exit waits for a running computation."""
_P = ParamSpec("_P")
_T = TypeVar("_T")


def in_mlx_thread(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Make a function run in MLX's thread while its caller waits. Raises UsageError in a forked child."""

    @wraps(function)
    def handed_over(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        return cast(_T, _WORKER.run(lambda: function(*args, **kwargs)))

    return handed_over


def later_in_mlx_thread(call: Callable[[], object]) -> None:
    """Queue a call for MLX's thread without waiting, from any thread. Does nothing in a forked child."""
    if not is_forked():
        _WORKER.put(call)


class _Task:
    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._done = threading.Event()
        self._result: Any = None
        self._error: BaseException | None = None

    def work(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:
            self._error = error
        self._done.set()

    def wait(self) -> Any:
        """The result. An interruption, such as Ctrl-C, is raised when the work is done, so that work is never cut."""
        interruption: BaseException | None = None
        while not self._done.is_set():
            try:
                self._done.wait()
            except BaseException as error:
                interruption = error
        try:
            if interruption is not None or self._error is not None:
                raise interruption or self._error  # type: ignore[misc]
            return self._result
        finally:
            self._error = None  # its traceback would keep the call's objects alive


class _Worker:
    """A thread that starts with the first task and works until the program ends."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._ended = False

    def run(self, call: Callable[[], Any]) -> Any:
        claim_process()
        if threading.current_thread() is self._thread:
            return call()
        self._start()
        task = _Task(call)
        self._calls.put(task.work)
        return task.wait()

    def put(self, call: Callable[[], object]) -> None:
        self._calls.put(call)

    def _start(self) -> None:
        with self._starting:
            if self._ended:
                raise BackendError("MLX cannot be used while the program exits")
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._work, name="mlx", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                raise BackendError(f"cannot start a thread for MLX ({error}); close other programs") from error
            self._thread = thread
            when_engines_ended(self._end)

    def _work(self) -> None:
        while True:
            call = self._calls.get()
            call()
            del call  # keeps no objects alive while waiting

    def _end(self) -> None:
        """Wait for running work, then leave the thread waiting: MLX cannot end a thread during interpreter shutdown.

        The threads of its streams may also still release Python objects for a moment.
        """
        self._ended = True
        synchronized = threading.Event()
        self._calls.put(mx.synchronize)
        self._calls.put(synchronized.set)
        synchronized.wait(_END_S)


_WORKER = _Worker()
