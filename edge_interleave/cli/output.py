"""Prints for the commands: results to stdout, everything else to stderr; tables, progress bars, units.

Rich's markup is off: names, answers and messages come from untrusted files.
"""

from __future__ import annotations

import codecs
import json
import os
import select
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

from edge_interleave.errors import EdgeInterleaveError

if TYPE_CHECKING:
    # Rich is imported on first use: it would double the time of `--help`.
    from rich.console import Console
    from rich.progress import TaskID
    from rich.table import Table

ProgressCall = Callable[[str, int, int], None]
"""Called with a stage's name, the amount done, and the total."""
_LINE_INTERVAL_S = 2.0
_CHUNK_CHARACTERS = 400
"""Characters that fit into a pipe that select() reports writable (PIPE_BUF: at least 512 bytes, 4096 on Linux)."""
_POLL_S = 0.1
_GIVE_UP_S = 1.0
"""How long stdout may stay full after the event of `abandon_stdout_on`."""
_abandoned: threading.Event | None = None
_WORD_COLUMNS = 28


class OutputError(EdgeInterleaveError):
    """Results cannot be written to stdout: it is closed, or its disk is full."""

    exit_code = 4


class AbandonedError(OutputError):
    """Nobody reads stdout while the command ends; see `abandon_stdout_on`."""


def out() -> Console:
    """The console of stdout."""
    from rich.console import Console

    return Console(markup=False, highlight=False, emoji=False)


def err() -> Console:
    """The console of stderr."""
    from rich.console import Console

    return Console(markup=False, highlight=False, emoji=False, stderr=True)


def write(text: str) -> None:
    """Write a piece of an answer to stdout and flush; control characters, which a terminal would obey, are removed.

    Raises OutputError, BrokenPipeError.
    """
    _emit(printable(text))


def print_json(value: Any) -> None:
    """Print one JSON value on one line of stdout. Raises OutputError, BrokenPipeError."""
    _emit(json_text(value) + "\n")


def print_text(text: str) -> None:
    """Print a text on stdout, wrapped as `note` wraps."""
    _print(out(), text)


def note(text: str, style: str = "") -> None:
    """Print a message on stderr, wrapped at words on a terminal. Never fails."""
    try:
        if sys.stderr.isatty():
            _print(err(), text, style)
        else:
            # Rich exits the program if the reader of stderr is gone.
            print(printable(text), file=sys.stderr, flush=True)
    except OSError:
        discard(sys.stderr)


def flush() -> None:
    """Flush stdout. Raises OutputError, BrokenPipeError; the buffer is then discarded."""
    _emit("")


def json_text(value: Any) -> str:
    """A value as JSON that stdout can encode: non-ASCII is escaped unless stdout is UTF-8."""
    return json.dumps(value, ensure_ascii=not _is_utf8(sys.stdout), allow_nan=False)


def printable(text: str) -> str:
    """The text without control characters other than newline and tab."""
    return "".join(c for c in text if c in "\n\t" or not (ord(c) < 32 or 127 <= ord(c) < 160))


def wrap_at_commas(text: str) -> str:
    """Break a comma-separated text into lines of at most stdout's width, after commas."""
    width, lines = out().width, [""]
    for part in text.split(", "):
        if lines[-1] and len(lines[-1]) + len(part) + 3 > width:
            lines.append("")
        lines[-1] += f"{part}, "
    return "\n".join(line.rstrip() for line in lines).removesuffix(",")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> Table:
    """A plain table; the columns named in `right` are right-aligned."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold", show_header=any(columns))
    for index, column in enumerate(columns):
        number = column in right
        # At least as wide as the longest word, so lines break between words; a path may be longer than any line.
        words = " ".join([column, *(row[index].lstrip() for row in rows)]).split()
        least = min(max(map(len, words), default=0), _WORD_COLUMNS)
        made.add_column(column, justify="right" if number else "left", overflow="fold", no_wrap=number, min_width=least)
    for row in rows:
        made.add_row(*(Text(printable(cell)) for cell in row))
    return made


@contextmanager
def progress(counted: str = "") -> Iterator[ProgressCall]:
    """Show the progress of long work on stderr: a bar with the time left on a terminal, otherwise occasional lines.

    `counted`: the stage that is shown as "n of total".
    """
    console = err()
    if not console.is_terminal:
        yield _Lines(counted)
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )
    with Progress(*columns, console=console) as shown:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                # Work done earlier does not count towards the estimate of the time left.
                tasks[stage] = shown.add_task(stage, total=None, completed=done, amount="")
            amount = f"{size(done)} of {size(total)}" if stage == "download" else ""
            amount = f"{done} of {total}" if stage == counted else amount
            shown.update(tasks[stage], completed=done, total=total or None, amount=amount)

        yield report


def size(count: int) -> str:
    """A number of bytes in readable units: 12 B, 3.4 MB."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 999.5 or unit == "TB":
            break
    return f"{value:.3g} {unit}"


def probability(value: float) -> str:
    """A readable probability: 97.3%, 0.02%, below 0.01%."""
    return f"{value:.1%}" if value >= 0.01 else f"{value:.2%}" if value >= 0.0001 else "below 0.01%"


def duration(seconds: float) -> str:
    """A readable rough duration: 40 s, 12 min, 3.5 h, 2.1 days."""
    for unit, length, most in (("s", 1, 100), ("min", 60, 100 * 60), ("h", 3600, 48 * 3600)):
        if seconds < most:
            return f"{seconds / length:.{int(unit == 'h')}f} {unit}"
    return f"{seconds / 86400:.1f} days"


def engine_name(provider: str) -> str:
    """The short name of an ONNX Runtime execution provider: CPU, CoreML."""
    return provider.removesuffix("ExecutionProvider")


def open_missing_streams() -> None:
    """Reopen stdin, stdout and stderr if they were closed when the program started.

    Otherwise the next opened file gets the free number, and what an engine prints goes into that file. The reopened
    stdout is read-only, so writing to it fails: results must not vanish silently.
    """
    for number, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, mode), True)  # the lowest free number is this one
    sys.stdin = sys.stdin or os.fdopen(0, "r", encoding="utf-8", closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8", closefd=False)


def discard(stream: TextIO) -> None:
    """Redirect a broken stream to the null device, so that later writes and Python's own flush do not fail."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


@contextmanager
def abandon_stdout_on(event: threading.Event) -> Iterator[None]:
    """Within the block, once `event` is set, a write to a stdout that nobody reads raises AbandonedError.

    A write to a full pipe cannot be interrupted, so writes wait until the pipe has room.
    """
    global _abandoned
    _abandoned = event
    try:
        yield
    finally:
        _abandoned = None


def _print(console: Console, text: str, style: str = "") -> None:
    """Print a text; on a terminal wrapped between words, so that paths stay whole."""
    lines = printable(text).split("\n")
    if console.is_terminal:
        lines = [
            part
            for line in lines
            for part in textwrap.wrap(line, console.width, break_long_words=False, break_on_hyphens=False) or [""]
        ]
    console.print("\n".join(lines), soft_wrap=True, style=style)


def _emit(text: str) -> None:
    event = _abandoned
    try:
        if event is None:
            sys.stdout.write(text)
            sys.stdout.flush()
            return
        for start in range(0, len(text), _CHUNK_CHARACTERS):
            _wait_for_room(event)
            sys.stdout.write(text[start : start + _CHUNK_CHARACTERS])
            sys.stdout.flush()
    except BrokenPipeError:
        discard(sys.stdout)
        raise
    except OSError as error:
        discard(sys.stdout)
        raise OutputError(f"stdout cannot be written ({error.strerror}); send it to a file or a terminal") from error


def _wait_for_room(event: threading.Event) -> None:
    """Wait until stdout's pipe has room. Raises AbandonedError if it stays full after the event."""
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):  # a stream inside Python has no file number, and always has room
        return
    if os.name != "posix":
        return
    deadline: float | None = None
    while not select.select([], [number], [], _POLL_S)[1]:
        now = time.monotonic()
        if deadline is None and event.is_set():
            deadline = now + _GIVE_UP_S
        if deadline is not None and now >= deadline:
            discard(sys.stdout)
            raise AbandonedError("stdout is full and nobody reads it; its last lines are lost")


def _is_utf8(stream: TextIO) -> bool:
    try:
        return codecs.lookup(stream.encoding or "").name == "utf-8"
    except LookupError:
        return False


class _Lines:
    """Progress without a terminal: a line for each tenth of a slow stage.

    For the counted stage, a line for each hundredth, with the time left.
    """

    def __init__(self, counted: str = "") -> None:
        self._counted = counted
        self._shown: tuple[str, int] = ("", 0)
        self._shown_at = time.monotonic()
        self._began: tuple[float, int] | None = None
        """Start time of the counted stage, and the amount done by then."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        steps = 100 if stage == self._counted else 10
        if stage == self._counted and self._began is None:
            self._began = (time.monotonic(), done)
        now = (stage, done * steps // total if total else 0)
        if now != self._shown and time.monotonic() - self._shown_at >= _LINE_INTERVAL_S:
            self._shown, self._shown_at = now, time.monotonic()
            print(f"{stage}: {now[1] * 100 // steps} %{self._left(stage, done, total)}", file=sys.stderr, flush=True)

    def _left(self, stage: str, done: int, total: int) -> str:
        if stage != self._counted or self._began is None:
            return ""
        began, before = self._began
        left = (time.monotonic() - began) / (done - before) * (total - done) if done > before else None
        return f", {done} of {total}" + ("" if left is None else f", about {duration(left)} left")
