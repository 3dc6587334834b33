"""A status line on the terminal until the first text of an answer: loading, encoding, prefill.

It is written to stderr and removed afterwards. Without a terminal nothing is shown.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from edge_interleave.cli import output

if TYPE_CHECKING:
    from rich.status import Status

    from edge_interleave.util.progress import Stage

SHOW_AFTER_S = 0.3
"""Seconds before the line appears."""


class StatusLine:
    """Shows a status line until `stop`, and again at the next call. Implements `QuestionProgress`."""

    def __init__(self) -> None:
        self._console = output.err()
        self._visible = self._console.is_terminal and not self._console.is_dumb_terminal
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._status: Status | None = None
        self._text = ""

    def __call__(self, stage: Stage, done: int, total: int, /) -> None:
        """Show the progress of a question."""
        if stage == "encode":
            self.show(f"encoding image {min(done + 1, total)} of {total}")
        else:
            self.show(f"reading {total:,} tokens" + (f", {done:,} done" if 10 * done >= total else ""))

    def show(self, text: str) -> None:
        """Replace the status line."""
        if not self._visible:
            return
        with self._lock:
            self._text = text
            if self._status is not None:
                self._status.update(text)
            elif self._timer is None:
                self._timer = threading.Timer(SHOW_AFTER_S, self._begin)
                self._timer.daemon = True
                self._timer.start()

    def stop(self) -> None:
        """Remove the status line. Cheap if there is none."""
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

    def __enter__(self) -> StatusLine:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
