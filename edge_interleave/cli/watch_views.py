"""Shows the events of a watch: as plain lines, as JSON lines, or on a live screen.

Events go to stdout, notes about the watch itself to stderr; on the screen both scroll above the picture.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live as RichLive
from rich.text import Text

from edge_interleave.alerts.events import Alert, Answered, Checked, Event, now
from edge_interleave.cli import output
from edge_interleave.cli.pictures import half_blocks
from edge_interleave.util.durations import clock

if TYPE_CHECKING:
    from edge_interleave.live.live import Live
    from edge_interleave.live.stats import LiveStats
    from edge_interleave.media.frame import Frame
    from edge_interleave.media.reader import SourceStatus
    from edge_interleave.remote.live import RemoteLive

_PICTURE_WIDTH = 48
_REFRESHES_PER_S = 4


class View(Protocol):
    """Shows events. `note` and `status` may be called from any thread, the rest from one at a time."""

    def piece(self, text: str) -> None:
        """Show the next piece of an answer."""
        ...

    def show(self, event: Event) -> None:
        """Show an event."""
        ...

    def note(self, line: str) -> None:
        """Show a line about the watch itself."""
        ...

    def status(self, status: SourceStatus) -> None:
        """Show that the source was lost, came back, froze or was damaged."""
        ...

    def begin(self, live: Live | RemoteLive) -> None:
        """Start: frames come into this window from now on."""
        ...

    def close(self) -> None:
        """Stop. A second call does nothing."""
        ...


class Lines:
    """Writes a line for each answer, alert, and end of an alert."""

    def __init__(self) -> None:
        self._raised = False

    def piece(self, text: str) -> None:
        """Do nothing: the whole answer is one line."""

    def show(self, event: Event) -> None:
        """Write the event's line, if it has one."""
        line = event_line(event, self._raised)
        if isinstance(event, Checked):
            self._raised = event.raised
        if line:
            output.write(f"{line}\n")

    def note(self, line: str) -> None:
        """Write to stderr."""
        output.note(line)

    def status(self, status: SourceStatus) -> None:
        """Write the status to stderr."""
        output.note(status.line)

    def begin(self, live: Live | RemoteLive) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class JsonLines:
    """Writes each event, checks included, as one line of JSON."""

    def __init__(self) -> None:
        # Events come from two threads: the window's, and the one that reads the source.
        self._writing = threading.Lock()

    def _write(self, value: dict[str, Any]) -> None:
        with self._writing:
            output.print_json(value)

    def piece(self, text: str) -> None:
        """Do nothing: the answer is written whole, as an event."""

    def show(self, event: Event) -> None:
        """Write the event."""
        self._write(event.event())

    def note(self, line: str) -> None:
        """Write to stderr."""
        output.note(line)

    def status(self, status: SourceStatus) -> None:
        """Write the status as a `source` event, and its line to stderr."""
        output.note(status.line)
        found = asdict(status)
        if status.file is None:
            del found["file"]
        self._write({"event": "source", "time": now(), **found})

    def begin(self, live: Live | RemoteLive) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class LossTolerantView:
    """Wraps a view so that a watch whose events are also saved goes on if stdout is lost."""

    def __init__(self, view: View) -> None:
        self.lost: output.OutputError | None = None
        """The error that ended writing to stdout; None if there was none."""
        self._view = view

    def piece(self, text: str) -> None:
        """Pass on to the view."""
        self._view.piece(text)

    def show(self, event: Event) -> None:
        """Pass on to the view. If stdout is lost, keep the error and note it."""
        try:
            self._view.show(event)
        except output.AbandonedError:
            raise
        except output.OutputError as error:
            self.lost = error
            self.note(f"{error}; the watch goes on")

    def note(self, line: str) -> None:
        """Pass on to the view."""
        self._view.note(line)

    def status(self, status: SourceStatus) -> None:
        """Pass on to the view; ignored if stdout is lost."""
        with suppress(output.OutputError):
            self._view.status(status)

    def begin(self, live: Live | RemoteLive) -> None:
        """Pass on to the view."""
        self._view.begin(live)

    def close(self) -> None:
        """Pass on to the view."""
        self._view.close()


class Screen:
    """A live screen on a terminal: the newest frame, the growing answer, rates and memory; past events scroll above."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._watched: Live | RemoteLive | None = None
        self._shown: RichLive | None = None
        self._pending = ""
        self._check: Checked | None = None
        self._drawn: tuple[Frame | None, Text] = (None, Text())

    def begin(self, live: Live | RemoteLive) -> None:
        """Show the screen and refresh it from now on."""
        self._watched = live
        self._shown = RichLive(
            console=self._console, get_renderable=self._render, refresh_per_second=_REFRESHES_PER_S, transient=False
        )
        self._shown.start(refresh=True)

    def piece(self, text: str) -> None:
        """Add the piece; the next refresh shows it."""
        self._pending += text

    def show(self, event: Event) -> None:
        """Print the event above the screen, if it has a line; a check only changes the screen."""
        line = event_line(event, self._check is not None and self._check.raised)
        self._pending = ""
        if isinstance(event, Checked):
            self._check = event
        if line:
            self._console.print(output.printable(line), style="bold red" if isinstance(event, Alert) else "")

    def note(self, line: str) -> None:
        """Print above the screen."""
        self._console.print(output.printable(line), style="dim")

    def status(self, status: SourceStatus) -> None:
        """Print the status above the screen."""
        self.note(status.line)

    def close(self) -> None:
        """Stop refreshing; the last screen stays."""
        if self._shown is not None:
            self._shown.stop()

    def _render(self) -> RenderableType:
        assert self._watched is not None
        parts: list[RenderableType] = [self._picture(self._watched.latest)]
        if self._pending:
            parts.append(Text(output.printable(self._pending)))
        check = self._check
        if check is not None:
            filled = round(check.probability * 20)
            parts.append(
                Text(
                    f"{'█' * filled}{'░' * (20 - filled)} {check.probability:.2f}{'  alert' if check.raised else ''}",
                    style="red" if check.raised else "",
                )
            )
        parts.append(Text(rates(self._watched.stats()), style="dim"))
        return Group(*parts)

    def _picture(self, frame: Frame | None) -> Text:
        if frame is None:
            return Text("waiting for the first frame", style="dim")
        if self._console.color_system not in ("truecolor", "256") or self._console.no_color:
            return Text(f"frame at {clock(frame.time_s)}, {frame.image.width} x {frame.image.height}", style="dim")
        if self._drawn[0] is not frame:
            # A text row shows two rows of pixels. A screen taller than the terminal would scroll.
            rows = max(4, self._console.height - 8)
            width = min(_PICTURE_WIDTH, self._console.width, 2 * rows * frame.image.width // frame.image.height)
            self._drawn = (frame, half_blocks(frame.image, max(2, width)))
        return self._drawn[1]


def open_view(as_json: bool) -> View:
    """JSON lines if asked for, the live screen on a terminal, plain lines elsewhere."""
    if as_json:
        return JsonLines()
    console = output.out()
    return Screen(console) if console.is_terminal and not console.is_dumb_terminal else Lines()


def rates(stats: LiveStats) -> str:
    """Frames, rates, times and memory, as two lines of less than 80 columns."""
    source = stats.source
    lost = "" if source is None else _counted(late=source.late, damaged=source.damaged + stats.damaged)
    return (
        f"{stats.frames} frames, {stats.window} in the window, {stats.frames_per_s:.1f} frames/s{lost}\n"
        f"encode {stats.encode_s * 1000:.0f} ms, append {stats.append_s * 1000:.0f} ms, "
        f"memory {output.size(stats.memory_bytes)}"
    )


def stats_lines(stats: LiveStats) -> str:
    """All figures, as lines for people."""
    lines = [
        f"frames   {stats.frames} in all, {stats.window} in the window, {stats.frames_per_s:.2f} frames/s lately; "
        f"{stats.questions} questions",
        f"cost     encode {stats.encode_s:.3f} s on {output.engine_name(stats.vision_provider)}, "
        f"append {stats.append_s:.3f} s a frame (recent medians)",
        f"context  {stats.entries} of {stats.capacity} entries   memory {output.size(stats.memory_bytes)}, "
        f"peak {output.size(stats.peak_memory_bytes)}",
    ]
    if stats.source is not None:
        source = stats.source
        counts = _counted(
            late=source.late,
            over_the_rate=source.rate_skipped,
            unchanged=source.same_skipped,
            black_at_the_start=source.dark_skipped,
            damaged=source.damaged + stats.damaged,
            reconnects=source.reconnects,
        )
        frozen = f", frozen for {source.frozen_s:.0f} s" if source.frozen_s else ""
        lines.insert(1, f"source   {source.captured} captured, {source.capture_fps:.2f} a second{counts}{frozen}")
    return "\n".join(lines)


def event_line(event: Event, raised: bool) -> str:
    """The event as a line for people; "" if it has none. `raised`: whether an alert was raised before."""
    where = clock(event.frame_time_s) if event.file is None else event.file
    at = f"{where}  frame {event.frame}: "
    if isinstance(event, Answered):
        return at + " ".join(event.answer.split()) + " (cut off)" * (event.finish_reason == "length")
    if isinstance(event, Alert):
        described = "" if event.description is None else f": {' '.join(event.description.split())}"
        saved = f"; {event.frames[-1]}" if event.frames else ""
        return f"{at}ALERT {event.question} {event.probability:.2f}{described}{saved}"
    if isinstance(event, Checked) and raised and not event.raised:
        return f"{at}over {event.question} {event.probability:.2f}"
    return ""


def _counted(**counts: int) -> str:
    return "".join(f", {count} {name.replace('_', ' ')}" for name, count in counts.items() if count)
