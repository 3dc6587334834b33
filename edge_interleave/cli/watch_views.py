"""How a watch shows itself: plain lines, lines of JSON, or a live view on a terminal. Knows nothing about models.

Results go to stdout, what is said about the watch itself to stderr; on the live view all of it is above the picture.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live as RichLive
from rich.text import Text

from edge_interleave.alerts.events import Alert, Answered, Event, Looked, now
from edge_interleave.cli import output
from edge_interleave.cli.durations import clock
from edge_interleave.cli.pictures import half_blocks

if TYPE_CHECKING:
    from edge_interleave.live.live import Live
    from edge_interleave.live.stats import LiveStats
    from edge_interleave.media.frame import Frame
    from edge_interleave.media.reader import SourceStatus

_PICTURE_WIDTH = 48
_REFRESHES_PER_S = 4


class View(Protocol):
    """Where events are shown. Called from one thread at a time, `say` from any."""

    def piece(self, text: str) -> None:
        """A piece of an answer, as it comes."""
        ...

    def show(self, event: Event) -> None:
        """Something happened."""
        ...

    def say(self, line: str) -> None:
        """A line for the user about the watch itself."""
        ...

    def status(self, status: SourceStatus) -> None:
        """Something happened to the source. `say` gets its line as well."""
        ...

    def begin(self, live: Live) -> None:
        """Frames come into this window from now on."""
        ...

    def close(self) -> None:
        """Nothing more comes. A second call does nothing."""
        ...


class Lines:
    """A line for each answer, alert, and end of an alert."""

    def __init__(self) -> None:
        self._raised = False

    def piece(self, text: str) -> None:
        """Lines are written whole."""

    def show(self, event: Event) -> None:
        """Write its line, where it has one."""
        line = _line(event, self._raised)
        if isinstance(event, Looked):
            self._raised = event.raised
        if line:
            output.write(f"{line}\n")

    def say(self, line: str) -> None:
        """To stderr."""
        output.note(line)

    def status(self, status: SourceStatus) -> None:
        """Its line says it."""

    def begin(self, live: Live) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


class JsonLines:
    """Each event, looks included, as one line of JSON."""

    def __init__(self) -> None:
        # What happens to a source comes from another thread than what is seen in its frames.
        self._writing = threading.Lock()

    def _write(self, value: dict[str, Any]) -> None:
        with self._writing:
            output.print_json(value)

    def piece(self, text: str) -> None:
        """Events are written whole."""

    def show(self, event: Event) -> None:
        """Write it."""
        self._write(event.event())

    def say(self, line: str) -> None:
        """To stderr."""
        output.note(line)

    def status(self, status: SourceStatus) -> None:
        """Write it."""
        found = asdict(status)
        if status.file is None:
            del found["file"]
        self._write({"event": "source", "time": now(), **found})

    def begin(self, live: Live) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


class Outlasting:
    """Another view, and the watch goes on where stdout is lost: for events that are kept or delivered elsewhere too."""

    def __init__(self, view: View) -> None:
        self.lost: output.OutputError | None = None
        """Why results can no longer be written to stdout; None while they can."""
        self._view = view

    def piece(self, text: str) -> None:
        """As the view does."""
        self._view.piece(text)

    def show(self, event: Event) -> None:
        """As the view does; where stdout is lost, that is said once, and nothing is shown any more."""
        try:
            self._view.show(event)
        except output.Abandoned:
            raise
        except output.OutputError as error:
            self.lost = error
            self.say(f"{error}; the watch goes on")

    def say(self, line: str) -> None:
        """As the view does."""
        self._view.say(line)

    def status(self, status: SourceStatus) -> None:
        """As the view does, for as long as stdout is there."""
        with suppress(output.OutputError):
            self._view.status(status)

    def begin(self, live: Live) -> None:
        """As the view does."""
        self._view.begin(live)

    def close(self) -> None:
        """As the view does."""
        self._view.close()


class Screen:
    """On a terminal: the newest frame, the answer as it comes, rates and memory; what is past scrolls away above."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._watched: Live | None = None
        self._shown: RichLive | None = None
        self._pending = ""
        self._look: Looked | None = None
        self._drawn: tuple[Frame | None, Text] = (None, Text())

    def begin(self, live: Live) -> None:
        """Show the view, and keep it fresh."""
        self._watched = live
        self._shown = RichLive(
            console=self._console, get_renderable=self._render, refresh_per_second=_REFRESHES_PER_S, transient=False
        )
        self._shown.start(refresh=True)

    def piece(self, text: str) -> None:
        """Shown with the next refresh."""
        self._pending += text

    def show(self, event: Event) -> None:
        """What is to be remembered scrolls away above; a look changes the view only."""
        line = _line(event, self._look is not None and self._look.raised)
        self._pending = ""
        if isinstance(event, Looked):
            self._look = event
        if line:
            self._console.print(output.printable(line), style="bold red" if isinstance(event, Alert) else "")

    def say(self, line: str) -> None:
        """Above the picture."""
        self._console.print(output.printable(line), style="dim")

    def status(self, status: SourceStatus) -> None:
        """Its line says it."""

    def close(self) -> None:
        """Leave the last view on the terminal."""
        if self._shown is not None:
            self._shown.stop()

    def _render(self) -> RenderableType:
        assert self._watched is not None
        parts: list[RenderableType] = [self._picture(self._watched.latest)]
        if self._pending:
            parts.append(Text(output.printable(self._pending)))
        look = self._look
        if look is not None:
            filled = round(look.probability * 20)
            parts.append(
                Text(
                    f"{'█' * filled}{'░' * (20 - filled)} {look.probability:.2f}{'  alert' if look.raised else ''}",
                    style="red" if look.raised else "",
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
            # Rows are half as many as pixels, and a view higher than the terminal would not stay in its place.
            rows = max(4, self._console.height - 8)
            width = min(_PICTURE_WIDTH, self._console.width, 2 * rows * frame.image.width // frame.image.height)
            self._drawn = (frame, half_blocks(frame.image, max(2, width)))
        return self._drawn[1]


def open_view(as_json: bool) -> View:
    """JSON where it is asked for, the live view on a terminal, plain lines elsewhere."""
    if as_json:
        return JsonLines()
    console = output.out()
    return Screen(console) if console.is_terminal and not console.is_dumb_terminal else Lines()


def rates(stats: LiveStats) -> str:
    """Two lines, of less than 80 columns each, on how fast it goes and what it takes."""
    source = stats.source
    lost = "" if source is None else _counted(late=source.late, damaged=source.damaged + stats.damaged)
    return (
        f"{stats.frames} frames, {stats.window} in the window, {stats.frames_per_s:.1f} frames/s{lost}\n"
        f"encode {stats.encode_s * 1000:.0f} ms, append {stats.append_s * 1000:.0f} ms, "
        f"memory {output.size(stats.memory_bytes)}"
    )


def stats_lines(stats: LiveStats) -> str:
    """All figures, for people."""
    lines = [
        f"frames   {stats.frames} in all, {stats.window} in the window, {stats.frames_per_s:.2f} frames/s of late; "
        f"{stats.questions} questions",
        f"cost     encode {stats.encode_s:.3f} s on {output.engine_name(stats.vision_provider)}, "
        f"append {stats.append_s:.3f} s a frame (medians of late)",
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


def _counted(**counts: int) -> str:
    return "".join(f", {count} {name.replace('_', ' ')}" for name, count in counts.items() if count)


def _line(event: Event, raised: bool) -> str:
    """An event for people, on one line, "" where there is nothing to say. `raised`: whether an alert stood before."""
    where = clock(event.frame_time_s) if event.file is None else event.file
    at = f"{where}  frame {event.frame}: "
    if isinstance(event, Answered):
        return at + " ".join(event.answer.split()) + " (cut off)" * (event.finish_reason == "length")
    if isinstance(event, Alert):
        saved = f"; {event.frames[-1]}" if event.frames else ""
        return f"{at}ALERT {event.question} {event.probability:.2f}{saved}"
    if isinstance(event, Looked) and raised and not event.raised:
        return f"{at}over {event.question} {event.probability:.2f}"
    return ""
