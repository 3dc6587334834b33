"""Runs low-priority work in small steps while the engine is idle.

One thread does all the work, because engines keep memory for every thread that ever used them. The thread waits while
there is no work, or while foreground work runs (which calls `begin` when it ends). It ends on `stop`, when its owner is
garbage-collected, or with the program.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from edge_interleave.util.engine_lock import is_forked


class StepResult(Enum):
    """The result of a step."""

    MORE = "more"
    """There is more work."""
    DONE = "done"
    """There is no work left."""
    LATER = "later"
    """Foreground work runs, or the step failed. The next `IdleWorker.begin` retries."""


class IdleWorker:
    """A thread that takes steps while there is work."""

    def __init__(self, step: Callable[[], StepResult]) -> None:
        """`step` is called from the thread; it should take a fraction of a second."""
        self._step = step
        self._state = _State()
        self._thread: threading.Thread | None = None
        # Not at exit: an engine then waits for the thread that uses it (see `EngineLock`).
        weakref.finalize(self, self._state.stop).atexit = False

    def begin(self) -> None:
        """Start or resume, because there may be work. Returns at once; may be called from any thread."""
        state = self._state
        with state.changed:
            if state.stopped:
                return
            if self._thread is None:
                thread = threading.Thread(
                    target=_work, args=(state, weakref.ref(self)), name="edge-interleave idle work", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError:  # the system refuses a thread, or the program ends
                    state.last = StepResult.LATER
                    return
                self._thread = thread
            state.wanted = True
            state.changed.notify_all()

    def wait(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until no work is left; returns whether none is left."""
        state = self._state
        with state.changed:
            state.changed.wait_for(lambda: state.stopped or state.finished, timeout)
            return state.finished and not state.stopped

    def stop(self) -> None:
        """Begin no further step. Returns at once."""
        self._state.stop()

    def close(self) -> None:
        """Stop, and wait for a running step. A second call does nothing."""
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


@dataclass(eq=False)
class _State:
    """The state that the thread shares with its `IdleWorker`, without keeping it alive."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    wanted: bool = False
    working: bool = False
    stopped: bool = False
    last: StepResult = StepResult.DONE

    def stop(self) -> None:
        if is_forked():  # the lock may be held by a thread that only exists in the parent
            return
        with self.changed:
            self.stopped = True
            self.changed.notify_all()

    @property
    def finished(self) -> bool:
        return not self.wanted and not self.working and self.last is StepResult.DONE


def _work(state: _State, owner: weakref.ref[IdleWorker]) -> None:
    """The thread: take steps while there is work, then wait for `begin`."""
    while True:
        with state.changed:
            state.changed.wait_for(lambda: state.stopped or state.wanted)
            if state.stopped:
                return
            state.wanted, state.working = False, True
        # In a function of its own: between steps, no variable here may keep the owner alive.
        result = _step_of(owner)
        with state.changed:
            state.working = False
            state.last = result
            state.wanted |= result is StepResult.MORE
            state.changed.notify_all()


def _step_of(owner: weakref.ref[IdleWorker]) -> StepResult:
    worker = owner()
    return StepResult.DONE if worker is None else worker._one_step()
