"""What the commands print, and where: results to stdout, all else to stderr. Knows no command.

Rich's markup is off throughout: names, answers and messages come from files of strangers.
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
    # Rich is imported where something is drawn: it would double the time that `--help` takes.
    from rich.console import Console
    from rich.progress import TaskID
    from rich.table import Table

ProgressCall = Callable[[str, int, int], None]
"""Called with the stage's name, how much of it is done, and how much it is in all."""
_SECONDS_A_LINE = 2.0
_ROOM = 400
"""Characters that surely fit where a pipe says that it has room (PIPE_BUF, 512 bytes or more; 4096 on Linux)."""
_TICK_S = 0.1
_PATIENCE_S = 1.0
_abandoned: threading.Event | None = None
_WORD_COLUMNS = 28


class OutputError(EdgeInterleaveError):
    """Results cannot be written to stdout: it is closed, or what it leads to is full."""

    exit_code = 4


class Abandoned(OutputError):
    """Nobody reads stdout, and the command ends; see `abandoned_by`."""


def out() -> Console:
    """The console of stdout."""
    from rich.console import Console

    return Console(markup=False, highlight=False, emoji=False)


def err() -> Console:
    """The console of stderr."""
    from rich.console import Console

    return Console(markup=False, highlight=False, emoji=False, stderr=True)


def json_text(value: Any) -> str:
    """A value as JSON that stdout can encode: escaped where it is not UTF-8, whatever its own way with errors."""
    return json.dumps(value, ensure_ascii=not _is_utf8(sys.stdout), allow_nan=False)


def print_json(value: Any) -> None:
    """Print one JSON value on one line of stdout. Raises OutputError, BrokenPipeError."""
    _emit(json_text(value) + "\n")


def write(text: str) -> None:
    """Write a piece of an answer to stdout, at once, without control characters, which a terminal would obey.

    Raises OutputError, BrokenPipeError.
    """
    _emit(printable(text))


def flush() -> None:
    """Write what stdout still holds. Raises OutputError, BrokenPipeError; what is held is dropped then."""
    _emit("")


def open_missing_streams() -> None:
    """Put something where stdin, stdout or stderr were closed before this program began.

    Otherwise the next file that is opened gets its number, and what an engine prints is written into that file.
    Writing to the stdout made here fails, as writing to a closed one does: results must not vanish silently.
    """
    for number, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, mode), True)  # the lowest free number is this one
    sys.stdin = sys.stdin or os.fdopen(0, "r", encoding="utf-8", closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8", closefd=False)


def drop(stream: TextIO) -> None:
    """Lead a stream that cannot be written nowhere, so that no later write or flush fails, Python's own included."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _print(console: Console, text: str, style: str = "") -> None:
    """Wrapped between words on a terminal, where a path stays whole; elsewhere as long as it is."""
    lines = printable(text).split("\n")
    if console.is_terminal:
        lines = [
            part
            for line in lines
            for part in textwrap.wrap(line, console.width, break_long_words=False, break_on_hyphens=False) or [""]
        ]
    console.print("\n".join(lines), soft_wrap=True, style=style)


@contextmanager
def abandoned_by(event: threading.Event) -> Iterator[None]:
    """Within the block, once `event` is set, a stdout that nobody reads is given up: who writes gets Abandoned.

    A write to a full pipe cannot be interrupted, so none is begun before there is room for it.
    """
    global _abandoned
    _abandoned = event
    try:
        yield
    finally:
        _abandoned = None


def _emit(text: str) -> None:
    event = _abandoned
    try:
        if event is None:
            sys.stdout.write(text)
            sys.stdout.flush()
            return
        for start in range(0, len(text), _ROOM):
            _wait_for_room(event)
            sys.stdout.write(text[start : start + _ROOM])
            sys.stdout.flush()
    except BrokenPipeError:
        drop(sys.stdout)
        raise
    except OSError as error:
        drop(sys.stdout)
        raise OutputError(f"stdout cannot be written ({error.strerror}); send it to a file or a terminal") from error


def _wait_for_room(event: threading.Event) -> None:
    try:
        number = sys.stdout.fileno()
    # A stream of Python's own, which always has room.
    except (OSError, ValueError):
        return
    if os.name != "posix":
        return
    given_up_at: float | None = None
    while not select.select([], [number], [], _TICK_S)[1]:
        now = time.monotonic()
        if given_up_at is None and event.is_set():
            given_up_at = now + _PATIENCE_S
        if given_up_at is not None and now >= given_up_at:
            drop(sys.stdout)
            raise Abandoned("stdout is full and nobody reads it; its last lines are lost")


def _is_utf8(stream: TextIO) -> bool:
    try:
        return codecs.lookup(stream.encoding or "").name == "utf-8"
    except LookupError:
        return False


def printable(text: str) -> str:
    """The text without control characters other than newline and tab."""
    return "".join(c for c in text if c in "\n\t" or not (ord(c) < 32 or 127 <= ord(c) < 160))


def note(text: str, style: str = "") -> None:
    """A line for the user on stderr: wrapped at words on a terminal, else as long as it is. Never fails."""
    try:
        if sys.stderr.isatty():
            _print(err(), text, style)
        else:
            # Rich would end the program where the reader of stderr has gone away.
            print(printable(text), file=sys.stderr, flush=True)
    except OSError:
        drop(sys.stderr)


def say(text: str) -> None:
    """A line for the user on stdout, wrapped as a `note` is."""
    _print(out(), text)


def listed(text: str) -> str:
    """A list as lines of at most the width of stdout, each broken behind a comma."""
    width, lines = out().width, [""]
    for part in text.split(", "):
        if lines[-1] and len(lines[-1]) + len(part) + 3 > width:
            lines.append("")
        lines[-1] += f"{part}, "
    return "\n".join(line.rstrip() for line in lines).removesuffix(",")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> Table:
    """A plain table; the columns in `right` are set to the right."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold", show_header=any(columns))
    for index, column in enumerate(columns):
        number = column in right
        # At least the longest word, so that a line breaks between words; a path may be longer than any line.
        words = " ".join([column, *(row[index].lstrip() for row in rows)]).split()
        least = min(max(map(len, words), default=0), _WORD_COLUMNS)
        made.add_column(column, justify="right" if number else "left", overflow="fold", no_wrap=number, min_width=least)
    for row in rows:
        made.add_row(*(Text(printable(cell)) for cell in row))
    return made


def size(count: int) -> str:
    """Bytes for people."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 999.5 or unit == "TB":
            break
    return f"{value:.3g} {unit}"


def probability(value: float) -> str:
    """A probability for people: 97.3%, 0.02%, below 0.01%."""
    return f"{value:.1%}" if value >= 0.01 else f"{value:.2%}" if value >= 0.0001 else "below 0.01%"


@contextmanager
def progress(counted: str = "") -> Iterator[ProgressCall]:
    """Show how far long work is, on stderr: a bar with the time left on a terminal, else now and then a line.

    `counted`: a stage whose parts are told by their number.
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
                # What was done before this began says nothing about the time that is left.
                tasks[stage] = shown.add_task(stage, total=None, completed=done, amount="")
            amount = f"{size(done)} of {size(total)}" if stage == "download" else ""
            amount = f"{done} of {total}" if stage == counted else amount
            shown.update(tasks[stage], completed=done, total=total or None, amount=amount)

        yield report


class _Lines:
    """Progress where nobody watches: a line for each tenth of a stage, where it takes its time.

    Of the stage that is counted a line for each hundredth, with the time left.
    """

    def __init__(self, counted: str = "") -> None:
        self._counted = counted
        self._told: tuple[str, int] = ("", 0)
        self._when = time.monotonic()
        self._began: tuple[float, int] | None = None
        """When the counted stage began, and how much of it was done by then."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        steps = 100 if stage == self._counted else 10
        if stage == self._counted and self._began is None:
            self._began = (time.monotonic(), done)
        now = (stage, done * steps // total if total else 0)
        if now != self._told and time.monotonic() - self._when >= _SECONDS_A_LINE:
            self._told, self._when = now, time.monotonic()
            print(f"{stage}: {now[1] * 100 // steps} %{self._left(stage, done, total)}", file=sys.stderr, flush=True)

    def _left(self, stage: str, done: int, total: int) -> str:
        if stage != self._counted or self._began is None:
            return ""
        began, before = self._began
        left = (time.monotonic() - began) / (done - before) * (total - done) if done > before else None
        return f", {done} of {total}" + ("" if left is None else f", about {lasting(left)} left")


def lasting(seconds: float) -> str:
    """A length of time for people, roughly: 40 s, 12 min, 3.5 h, 2.1 days."""
    for unit, length, most in (("s", 1, 100), ("min", 60, 100 * 60), ("h", 3600, 48 * 3600)):
        if seconds < most:
            return f"{seconds / length:.{int(unit == 'h')}f} {unit}"
    return f"{seconds / 86400:.1f} days"


def engine_name(provider: str) -> str:
    """ONNX Runtime's execution provider as people say it: CPU, CoreML."""
    return provider.removesuffix("ExecutionProvider")
