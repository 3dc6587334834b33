"""Work that is done ahead, step by step, while nobody else needs the processor. Knows nothing about what it is.

A thread is there while there is something to do, and no longer: it ends when all is done, when others need the
processor (who says so when they are through), when it is stopped, and when the program ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import Enum


class Step(Enum):
    """What came of a step."""

    MORE = "more"
    """Another one would go on."""
    DONE = "done"
    """There is nothing left to do."""
    LATER = "later"
    """Not now: others need the processor, or it failed. `Ahead.begin` is called when it is worth another try."""


class Ahead:
    """A thread that takes steps, where there are any to take."""

    def __init__(self, step: Callable[[], Step]) -> None:
        """`step` is called from the thread; it should take a fraction of a second."""
        self._step = step
        self._news = threading.Condition()
        self._thread: threading.Thread | None = None
        self._runs = self._again = self._stopped = False
        self._last = Step.DONE

    def begin(self) -> None:
        """There may be something to do. From any thread; returns at once."""
        with self._news:
            # A thread that is started when the program is past its end never begins, and is waited for.
            if self._stopped or not threading.main_thread().is_alive():
                return
            self._again = True
            if self._runs:
                return
            self._runs = True
            # Not a daemon: an engine must not be torn off in a step when the program ends.
            self._thread = threading.Thread(target=self._run, name="edge-interleave ahead", daemon=False)
            try:
                self._thread.start()
            except RuntimeError:  # the system has no thread to give
                self._runs, self._thread, self._last = False, None, Step.LATER

    def wait(self, timeout: float) -> bool:
        """Wait until there is nothing left to do, at most `timeout` seconds; gives whether that is so."""
        with self._news:
            self._news.wait_for(lambda: self._stopped or self._through(), timeout)
            return self._through() and not self._stopped

    def stop(self) -> None:
        """No step begins any more. Returns at once."""
        with self._news:
            self._stopped = True
            self._news.notify_all()

    def close(self) -> None:
        """Stop, and wait for the step that is being done. A second call does nothing."""
        self.stop()
        with self._news:
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _through(self) -> bool:
        return not self._runs and self._last is Step.DONE

    def _run(self) -> None:
        step = Step.DONE
        try:
            while self._goes_on(step):
                step = self._step()
        except BaseException:
            with self._news:
                self._runs, self._last = False, Step.LATER
                self._news.notify_all()
            raise

    def _goes_on(self, step: Step) -> bool:
        """Whether to take another step. Where not, another thread takes the next."""
        with self._news:
            self._last = step
            # The main thread is through when a program ends that has closed nothing.
            more = (step is Step.MORE or self._again) and not self._stopped and threading.main_thread().is_alive()
            self._again = False
            if not more:
                self._runs = False
                self._news.notify_all()
            return more
