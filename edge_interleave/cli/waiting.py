"""What is shown on a terminal while nothing can be read yet: that a model is loaded, a picture encoded, a prompt read.

A line on stderr that goes away by itself. Through a pipe nothing is shown.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from edge_interleave.cli import output

if TYPE_CHECKING:
    from rich.status import Status

    from edge_interleave.util.progress import Stage

PATIENCE_S = 0.3
"""Of a wait that is shorter nothing is shown."""


class Waiting:
    """Shows what is waited for, until `stop`; then again with the next call. A `QuestionProgress`."""

    def __init__(self) -> None:
        self._console = output.err()
        self._visible = self._console.is_terminal and not self._console.is_dumb_terminal
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._status: Status | None = None
        self._text = ""

    def __call__(self, stage: Stage, done: int, total: int, /) -> None:
        """Show how far a question is."""
        if stage == "encode":
            self.show(f"encoding image {min(done + 1, total)} of {total}")
        else:
            self.show(f"reading {total:,} tokens" + (f", {done:,} done" if 10 * done >= total else ""))

    def show(self, text: str) -> None:
        """Show this instead of what was shown before."""
        if not self._visible:
            return
        with self._lock:
            self._text = text
            if self._status is not None:
                self._status.update(text)
            elif self._timer is None:
                self._timer = threading.Timer(PATIENCE_S, self._begin)
                self._timer.daemon = True
                self._timer.start()

    def stop(self) -> None:
        """Take away what is shown. Cheap where nothing is."""
        with self._lock:
            timer, self._timer = self._timer, None
            status, self._status = self._status, None
        if timer is not None:
            timer.cancel()
        if status is not None:
            status.stop()

    def _begin(self) -> None:
        with self._lock:
            if self._timer is not None:
                self._status = self._console.status(self._text)
                self._status.start()

    def __enter__(self) -> Waiting:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
