"""What connects a request in the event loop with its job in a model's worker thread."""

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
    """The request is sound, its images are encoded; the prompt is about to be computed."""

    model: str


@dataclass(frozen=True)
class Timings:
    """What a request has cost so far. Counts are tokens."""

    cached: int = 0
    """Of the prompt, not computed."""
    computed: int = 0
    """Of the prompt."""
    answered: int = 0
    encode_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0


@dataclass(frozen=True)
class Piece:
    """Text of the answer."""

    text: str
    scores: tuple[TokenScore, ...] = ()
    """Of the tokens that the text is made of, where they were asked for."""
    timings: Timings = field(default_factory=Timings)


@dataclass(frozen=True)
class Ended:
    """The answer is through."""

    answer: Answer
    scores: tuple[TokenScore, ...] = ()
    """Of tokens that came after the last piece."""
    slid: Slid = field(default_factory=Slid)
    timings: Timings = field(default_factory=Timings)


@dataclass(frozen=True)
class Done:
    """Something other than an answer is through."""

    value: object = None


@dataclass(frozen=True)
class Failed:
    """There is no answer, or no rest of it."""

    error: ApiError


Event = Begun | Piece | Ended | Done | Failed


class Handle:
    """A request's side of a job: its events, and the way to end it."""

    def __init__(self, limit_s: float) -> None:
        """In the event loop. `limit_s`: after so long the job is ended."""
        self.cancel = threading.Event()
        """Set: the job ends at its next step."""
        self.arrived = time.perf_counter()
        self.when_closed: Callable[[], object] = lambda: None
        """Called once nobody waits for the job any more."""
        self._first: Event | None = None
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(limit_s, lambda: self.end(too_late(limit_s)))

    def end(self, reason: ApiError) -> None:
        """From any thread: have the job end, and its request told the reason. Only the first call counts."""
        if not self.cancel.is_set():
            self.cancel.set()
            self.emit(Failed(reason))

    def emit(self, event: Event) -> None:
        """From any thread: tell the request something. Nothing is told once the event loop has ended."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def begun(self) -> None:
        """Wait for the first event, which `next` still gives. Raises ApiError where it is `Failed`."""
        self._first = await self.next()

    async def next(self) -> Event:
        """The next event. Raises ApiError instead of `Failed`."""
        event, self._first = self._first, None
        event = event or await self._events.get()
        if isinstance(event, Failed):
            raise event.error
        return event

    async def events(self) -> AsyncIterator[Event]:
        """All events up to the last."""
        while True:
            event = await self.next()
            yield event
            if isinstance(event, (Ended, Done)):
                return

    def close(self) -> None:
        """The request is over: nothing is told any more, and the job ends."""
        self._timer.cancel()
        self.cancel.set()
        self.when_closed()
