"""Runs all that computes with MLX in one thread of its own, in the order in which it is asked for.

Two threads that compute at once end the process. And MLX keeps things for each thread that ever computed: streams, with
a thread of the system's each, which it never ends, and compiled functions, whose release ends the process by a signal
where a thread ends as the program does.
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
"""At the program's end, for what is still being computed."""
_P = ParamSpec("_P")
_T = TypeVar("_T")


def in_mlx_thread(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Have a function run in MLX's thread; callers wait for it. Raises UsageError in a forked child."""

    @wraps(function)
    def handed_over(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        return cast(_T, _WORKER.run(lambda: function(*args, **kwargs)))

    return handed_over


def later_in_mlx_thread(call: Callable[[], object]) -> None:
    """Have something done there, without waiting: the garbage collector may ask for it anywhere, in a child too."""
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
        """The result. What interrupts the waiting, ctrl-C say, is raised once the work is done: it is never torn."""
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
            self._error = None  # else its traceback would keep this, and all that the call held


class _Worker:
    """A thread that begins with the first task. It works until the program ends, and the engines have."""

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
                raise BackendError("the program ends, and MLX with it")
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._work, name="mlx", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                raise BackendError(f"the system has no thread for MLX ({error}); end other programs") from error
            self._thread = thread
            when_engines_ended(self._end)

    def _work(self) -> None:
        while True:
            call = self._calls.get()
            call()
            del call  # nothing is kept while this waits

    def _end(self) -> None:
        """Leave the thread waiting: MLX cannot end a thread while the interpreter is torn down.

        The threads of its streams go on for a moment, too, and drop what they held, which may be Python's.
        """
        self._ended = True
        synchronized = threading.Event()
        self._calls.put(mx.synchronize)
        self._calls.put(synchronized.set)
        synchronized.wait(_END_S)


_WORKER = _Worker()
