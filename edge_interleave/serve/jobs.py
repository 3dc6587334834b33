"""Submits requests to the engines, waits for them, and ends them if their client disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.types import Receive

from edge_interleave.serve.errors import ApiError
from edge_interleave.serve.handle import Done, Ended, Handle
from edge_interleave.serve.hub import Card
from edge_interleave.serve.loaded import LoadedModel
from edge_interleave.serve.metrics import Metrics

Run = Callable[[LoadedModel, Handle], None]
"""A job's work, in the worker's thread of its model."""
_GONE = ApiError(499, "the client has gone")


class Jobs:
    """Jobs of one server."""

    def __init__(self, limit_s: float, metrics: Metrics) -> None:
        """`limit_s`: seconds after which a job is ended."""
        self._limit_s = limit_s
        self._metrics = metrics

    def submit(self, card: Card, client: str, run: Run) -> Handle:
        """Queue a job of a client. Raises ApiError if it is refused."""
        handle = Handle(self._limit_s)
        try:
            job = card.engine.submit(client, handle, lambda model: run(model, handle))
            handle.when_closed = lambda: card.engine.forget(job)
        except ApiError:
            handle.close()
            raise
        return handle

    async def run(self, card: Card, client: str, run: Run, receive: Receive | None = None) -> Any:
        """Run a job that ends with `Done`; returns its value. Raises ApiError."""
        handle = self.submit(card, client, run)
        watch = Watch(handle, receive)
        try:
            event = await handle.next()
        finally:
            watch.end()
        assert isinstance(event, Done)
        return event.value

    async def counting(self, events: AsyncIterator[Any], card: Card) -> AsyncIterator[Any]:
        """The events of an answer; counts it in the metrics when it is complete."""
        async for event in events:
            if isinstance(event, Ended):
                self._metrics.answered(card.id, event)
            yield event


class Watch:
    """Ends a job early if its client disconnects."""

    def __init__(self, handle: Handle, receive: Receive | None) -> None:
        """`receive`: the request's, after its body was read; None: disconnection cannot be detected."""
        self._handle = handle
        self._gone = None if receive is None else asyncio.create_task(self._wait(receive))

    def end(self) -> None:
        """Stop watching, and end the job if it still runs."""
        if self._gone is not None:
            self._gone.cancel()
        self._handle.close()

    async def _wait(self, receive: Receive) -> None:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self._handle.end(_GONE)
                return
