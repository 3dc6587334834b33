"""Connects a request in the event loop with its job in a model's worker thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from edge_interleave.answer import Answer
from edge_interleave.decoding.generation import TokenScore
from edge_interleave.serve.errors import ApiError, too_late
from edge_interleave.serve.timelines import Slid


@dataclass(frozen=True)
class Begun:
    """The request is valid and its images are encoded; prefill starts."""

    model: str


@dataclass(frozen=True)
class Timings:
    """Tokens and seconds of a request so far."""

    cached: int = 0
    """Prompt tokens that were cached."""
    computed: int = 0
    """Prompt tokens that were prefilled."""
    answered: int = 0
    encode_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0


@dataclass(frozen=True)
class Piece:
    """Text of the answer."""

    text: str
    scores: tuple[TokenScore, ...] = ()
    """Scores of the text's tokens, if requested."""
    timings: Timings = field(default_factory=Timings)


@dataclass(frozen=True)
class Ended:
    """The answer is complete."""

    answer: Answer
    scores: tuple[TokenScore, ...] = ()
    """Scores of the tokens after the last piece."""
    slid: Slid = field(default_factory=Slid)
    timings: Timings = field(default_factory=Timings)


@dataclass(frozen=True)
class Done:
    """A job other than an answer is complete."""

    value: object = None


@dataclass(frozen=True)
class Failed:
    """The job failed, before or within its answer."""

    error: ApiError


Event = Begun | Piece | Ended | Done | Failed


class Handle:
    """A request's view of its job: receives events, and can end the job."""

    def __init__(self, limit_s: float) -> None:
        """Call it in the event loop. `limit_s`: seconds after which the job is ended."""
        self.cancel = threading.Event()
        """When set, the job ends at its next step."""
        self.arrived = time.perf_counter()
        self.when_closed: Callable[[], object] = lambda: None
        """Called when the request is over."""
        self._first: Event | None = None
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(limit_s, lambda: self.end(too_late(limit_s)))

    def end(self, reason: ApiError) -> None:
        """End the job and fail its request with the reason. Only the first call counts. Safe from any thread."""
        if not self.cancel.is_set():
            self.cancel.set()
            self.emit(Failed(reason))

    def emit(self, event: Event) -> None:
        """Send an event to the request; ignored after the event loop has closed. Safe from any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def begun(self) -> None:
        """Wait for the first event; `next` still returns it. Raises ApiError if it is `Failed`."""
        self._first = await self.next()

    async def next(self) -> Event:
        """The next event. Raises ApiError instead of `Failed`."""
        event, self._first = self._first, None
        event = event or await self._events.get()
        if isinstance(event, Failed):
            raise event.error
        return event

    async def events(self) -> AsyncIterator[Event]:
        """All events up to `Ended` or `Done`. Raises ApiError instead of `Failed`."""
        while True:
            event = await self.next()
            yield event
            if isinstance(event, (Ended, Done)):
                return

    def close(self) -> None:
        """End the request, and its job if it still runs."""
        self._timer.cancel()
        self.cancel.set()
        self.when_closed()
