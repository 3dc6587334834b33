"""Runs low-priority work in small steps while the engine is idle. Contains nothing about what the work is.

One thread does it all, from the first work to the end: engines keep something for every thread that ever used them.
It waits while there is nothing to do, or others need the processor (they call `begin` when they are through), and ends
on `stop`, with its owner, or with the program.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from edge_interleave.util.engine_lock import is_forked


class StepResult(Enum):
    """What came of a step."""

    MORE = "more"
    """Another one would go on."""
    DONE = "done"
    """There is nothing left to do."""
    LATER = "later"
    """Not now: others need the processor, or it failed. `IdleWorker.begin` is called when it is worth another try."""


@dataclass(eq=False)
class _State:
    """What a worker shares with its owner, which it does not keep alive."""

    news: threading.Condition = field(default_factory=threading.Condition)
    wanted: bool = False
    working: bool = False
    stopped: bool = False
    last: StepResult = StepResult.DONE

    def stop(self) -> None:
        if is_forked():  # a thread that only the parent has may hold the lock
            return
        with self.news:
            self.stopped = True
            self.news.notify_all()

    @property
    def through(self) -> bool:
        return not self.wanted and not self.working and self.last is StepResult.DONE


class IdleWorker:
    """A worker thread that takes steps, where there are any to take."""

    def __init__(self, step: Callable[[], StepResult]) -> None:
        """`step` is called from the thread; it should take a fraction of a second."""
        self._step = step
        self._state = _State()
        self._thread: threading.Thread | None = None
        # At the program's end, an engine waits for the thread that uses it: see `EngineLock`.
        weakref.finalize(self, self._state.stop).atexit = False

    def begin(self) -> None:
        """There may be something to do. From any thread; returns at once."""
        state = self._state
        with state.news:
            if state.stopped:
                return
            if self._thread is None:
                thread = threading.Thread(
                    target=_work, args=(state, weakref.ref(self)), name="edge-interleave ahead", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError:  # the system has no thread to give, or the program ends
                    state.last = StepResult.LATER
                    return
                self._thread = thread
            state.wanted = True
            state.news.notify_all()

    def wait(self, timeout: float) -> bool:
        """Wait until there is nothing left to do, at most `timeout` seconds; gives whether that is so."""
        state = self._state
        with state.news:
            state.news.wait_for(lambda: state.stopped or state.through, timeout)
            return state.through and not state.stopped

    def stop(self) -> None:
        """No step begins any more. Returns at once."""
        self._state.stop()

    def close(self) -> None:
        """Stop, and wait for the step that is being done. A second call does nothing."""
        self.stop()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _one_step(self) -> StepResult:
        try:
            return self._step()
        except BaseException as error:
            threading.excepthook(
                threading.ExceptHookArgs((type(error), error, error.__traceback__, threading.current_thread()))
            )
            return StepResult.LATER


def _work(state: _State, owner: weakref.ref[IdleWorker]) -> None:
    """The worker: steps while there are any, then wait for `begin`."""
    while True:
        with state.news:
            state.news.wait_for(lambda: state.stopped or state.wanted)
            if state.stopped:
                return
            state.wanted, state.working = False, True
        # Without a variable: between two steps nothing here may keep the owner alive.
        step = _step_of(owner)
        with state.news:
            state.working = False
            state.last = step
            state.wanted |= step is StepResult.MORE
            state.news.notify_all()


def _step_of(owner: weakref.ref[IdleWorker]) -> StepResult:
    ahead = owner()
    return StepResult.DONE if ahead is None else ahead._one_step()
