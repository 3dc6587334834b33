"""Alerts that wait to be delivered, each way of delivery with a thread of its own: nothing here holds up a watch.

Knows nothing about frames, models or when an alert is due.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from edge_interleave.alerts.events import Alert

ROOM = 64
"""Alerts that wait for one delivery at most; more are dropped and counted."""
_END_SECONDS = 0.5


class DeliveryError(Exception):
    """An alert could not be delivered; `str(error)` says why."""


class Delivery(Protocol):
    """A way for alerts to go."""

    name: str
    """For messages."""

    def send(self, alert: Alert) -> None:
        """Deliver one alert, within a time limit. Raises DeliveryError."""
        ...

    def abort(self) -> None:
        """From another thread: end a `send` that is under way, and refuse later ones."""
        ...


@dataclass(frozen=True)
class OutboxStats:
    """What became of the alerts."""

    sent: int
    failed: int
    """Tried, with all attempts, and not delivered."""
    dropped: int
    """Never tried: too many were waiting, or the end came first."""


class Outbox:
    """Alerts that wait for one delivery, and the thread that delivers them, oldest first."""

    def __init__(self, delivery: Delivery, say: Callable[[str], None], room: int = ROOM) -> None:
        """`say` is told, from the worker, when deliveries begin to fail; more failures are counted only."""
        self._delivery = delivery
        self._say = say
        self._room = room
        self._waiting: deque[Alert] = deque()
        self._changed = threading.Condition()
        self._closing = self._busy = False
        self._failing = False
        self._sent = self._failed = self._dropped = 0
        self._worker = threading.Thread(target=self._run, name=f"alerts to {delivery.name}", daemon=True)
        self._worker.start()

    @property
    def name(self) -> str:
        """Where the alerts go."""
        return self._delivery.name

    def offer(self, alert: Alert) -> None:
        """Take an alert; returns at once."""
        with self._changed:
            if self._closing or len(self._waiting) >= self._room:
                self._dropped += 1
                return
            self._waiting.append(alert)
            self._changed.notify()

    @property
    def idle(self) -> bool:
        """Whether nothing is under way or waiting."""
        with self._changed:
            return not self._busy and not self._waiting

    def stats(self) -> OutboxStats:
        """So far."""
        with self._changed:
            return OutboxStats(self._sent, self._failed, self._dropped)

    def close(self, patience: float = 0.0) -> None:
        """Wait `patience` seconds for what is under way and waiting, then end it. A second call does nothing."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._worker.join(patience)
        with self._changed:
            self._dropped += len(self._waiting)
            self._waiting.clear()
        if self._worker.is_alive():
            self._delivery.abort()
            self._worker.join(_END_SECONDS)

    def _run(self) -> None:
        while (alert := self._next()) is not None:
            try:
                self._delivery.send(alert)
            except Exception as error:  # whatever it is, the alerts after this one are still to be delivered
                self._count_failure(str(error) if isinstance(error, DeliveryError) else repr(error))
            else:
                with self._changed:
                    self._sent += 1
                    self._failing = False

    def _next(self) -> Alert | None:
        with self._changed:
            self._busy = False
            self._changed.wait_for(lambda: self._waiting or self._closing)
            self._busy = bool(self._waiting)
            return self._waiting.popleft() if self._waiting else None

    def _count_failure(self, reason: str) -> None:
        with self._changed:
            self._failed += 1
            first, self._failing = not self._failing, True
        if first:
            self._say(f"{self.name}: {reason}; until one gets through, failures are counted only")
