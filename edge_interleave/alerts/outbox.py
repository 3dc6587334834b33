"""Delivers alerts in the background: one queue and one thread for each delivery, so that the watch never waits."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from edge_interleave.alerts.events import Alert

QUEUE_LENGTH = 64
"""Alerts that wait for one delivery; more are dropped and counted."""
_ABORT_WAIT_S = 0.5


class DeliveryError(Exception):
    """An alert could not be delivered; `str(error)` says why."""


class Delivery(Protocol):
    """A way to deliver alerts: a command, a webhook."""

    name: str
    """Names the delivery in messages."""

    def send(self, alert: Alert) -> None:
        """Deliver one alert within a time limit. Raises DeliveryError."""
        ...

    def abort(self) -> None:
        """End a running `send` and refuse later ones. May be called from another thread."""
        ...


@dataclass(frozen=True)
class OutboxStats:
    """Counts of one outbox's alerts."""

    sent: int
    failed: int
    """Alerts that were tried and could not be delivered."""
    dropped: int
    """Alerts that were never tried: the queue was full, or the outbox was closed first."""


class Outbox:
    """Queues alerts for one delivery and sends them from its own thread, oldest first."""

    def __init__(self, delivery: Delivery, on_failure: Callable[[str], None], queue_length: int = QUEUE_LENGTH) -> None:
        """`on_failure` gets a line, from the outbox's thread, when deliveries begin to fail; more are only counted."""
        self._delivery = delivery
        self._on_failure = on_failure
        self._queue_length = queue_length
        self._waiting: deque[Alert] = deque()
        self._changed = threading.Condition()
        self._closing = self._busy = False
        self._failing = False
        self._sent = self._failed = self._dropped = 0
        self._worker = threading.Thread(target=self._run, name=f"alerts to {delivery.name}", daemon=True)
        self._worker.start()

    @property
    def name(self) -> str:
        """The delivery's name."""
        return self._delivery.name

    def offer(self, alert: Alert) -> None:
        """Queue an alert; returns at once."""
        with self._changed:
            if self._closing or len(self._waiting) >= self._queue_length:
                self._dropped += 1
                return
            self._waiting.append(alert)
            self._changed.notify()

    @property
    def idle(self) -> bool:
        """Whether no alert is queued or being sent."""
        with self._changed:
            return not self._busy and not self._waiting

    def stats(self) -> OutboxStats:
        """Counts so far."""
        with self._changed:
            return OutboxStats(self._sent, self._failed, self._dropped)

    def close(self, timeout_s: float = 0.0) -> None:
        """Wait up to `timeout_s` for queued alerts, then abort the delivery. A second call does nothing."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._worker.join(timeout_s)
        with self._changed:
            self._dropped += len(self._waiting)
            self._waiting.clear()
        if self._worker.is_alive():
            self._delivery.abort()
            self._worker.join(_ABORT_WAIT_S)

    def _run(self) -> None:
        while (alert := self._next()) is not None:
            try:
                self._delivery.send(alert)
            except Exception as error:  # any failure: later alerts must still be delivered
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
            self._on_failure(f"{self.name}: {reason}; further failures are only counted until one delivery succeeds")
