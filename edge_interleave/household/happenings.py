"""What happens while several sources are watched, how a program is told of it, and how it can steer.

A view of the command line is such a program, and so is a bridge to a message broker:

    class Bridge:
        def begin(self, settings, controls): ...     # at the start, and again after the settings were read anew
        def tell(self, happening): ...               # something happened
        def close(self, timeout_s): ...              # the end

    with Household(read_settings(path), [Bridge()], print) as household:
        household.start()
        household.wait(3600, threading.Event())
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from edge_interleave.alerts.events import Event
from edge_interleave.household.settings import Settings

SourceState = Literal[
    "waiting", "up", "lost", "back", "broken", "whole", "frozen", "moving", "damaged", "paused", "resumed", "ended",
    "failed",
]  # fmt: skip


@dataclass(frozen=True)
class StatusChanged(Event):
    """A source's state changed. `question` is empty; `frame` and `frame_time_s` are those of the newest frame."""

    state: SourceState
    """`waiting` (not opened yet), `up` (its first frame came); `lost` or `back`; `broken` (all frames are damaged) or
    `whole`; `frozen` or `moving`; `damaged` (one frame); `paused` or `resumed`; `ended` (a recording); `failed`
    (an error ended the source)."""
    message: str
    """A line for people, without passwords."""
    seconds: float | None = None
    """How long the source was lost, or has been (or was) broken or frozen; None for other states."""

    kind: ClassVar[str] = "source"

    def event(self) -> dict[str, Any]:
        """The event as a JSON object: `event`, `time`, `source`, `state`, `line`; `seconds` and `file` if there are."""
        found = {"event": self.kind, "time": self.time, "source": self.source, "state": self.state}
        more = {"seconds": self.seconds, "line": self.message, "file": self.file}
        return {**found, **{name: value for name, value in more.items() if value is not None}}


@dataclass(frozen=True)
class QuestionChanged(Event):
    """A program changed the question of a rule; `question` is the new one."""

    kind: ClassVar[str] = "question"


@dataclass(frozen=True)
class Happening:
    """Something that happened at one source."""

    source: str
    """The source's name in the settings."""
    rule: str | None
    """The name of the rule or question; None for a `StatusChanged`."""
    event: Event
    """`Checked`, `Alert`, `Answered`, `StatusChanged` or `QuestionChanged`. `event.event()` is it as a JSON object."""
    picture: bytes | None = None
    """A JPEG file: an alert's best picture, an answer's newest frame. None for other events."""


class Controls(Protocol):
    """Steers the sources. Any thread may call it; it returns at once. Raises UsageError for an unknown name."""

    def ask_instead(self, source: str, rule: str, question: str) -> None:
        """Change the question of a rule until the settings change it. Raises UsageError for an empty question."""
        ...

    def pause(self, source: str) -> None:
        """Look at no frame of the source until `resume`. It stays connected. A second call does nothing."""
        ...

    def resume(self, source: str) -> None:
        """Look at its frames again. A second call does nothing."""
        ...


class Observer(Protocol):
    """Gets everything that happens. No method may raise an error or wait: work is for the observer's own thread."""

    def begin(self, settings: Settings, controls: Controls) -> None:
        """The watch begins with these settings, or goes on with them after they were read anew."""
        ...

    def tell(self, happening: Happening) -> None:
        """Something happened. Called from several threads at once. What rules find at one source keeps its order.

        Alerts are saved before they come here.
        """
        ...

    def close(self, timeout_s: float) -> None:
        """The watch has ended; send what waits within the time, and free everything."""
        ...
