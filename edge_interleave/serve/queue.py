"""A bounded queue in which clients take turns, so one busy client delays only itself."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class QueueFullError(Exception):
    """The queue is full."""


class QueueClosedError(Exception):
    """The queue is closed."""


class FairQueue(Generic[T]):
    """First in, first out for each client; round-robin between clients. Thread-safe."""

    def __init__(self, most: int) -> None:
        """`most`: greatest number of waiting items, of all clients together."""
        self._most = most
        self._lines: OrderedDict[str, deque[T]] = OrderedDict()
        self._state = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        """Number of waiting items."""
        with self._state:
            return self._count()

    @property
    def closed(self) -> bool:
        """Whether the queue is closed."""
        return self._closed

    def put(self, client: str, item: T) -> None:
        """Add an item of a client. Raises QueueFullError, QueueClosedError."""
        with self._state:
            if self._closed:
                raise QueueClosedError
            if self._count() >= self._most:
                raise QueueFullError
            self._lines.setdefault(client, deque()).append(item)
            self._state.notify()

    def get(self, timeout: float | None = None) -> T | None:
        """The next item; None once closed, or after `timeout` seconds without one."""
        with self._state:
            self._state.wait_for(lambda: self._lines or self._closed, timeout)
            if not self._lines:
                return None
            client, line = self._lines.popitem(last=False)
            item = line.popleft()
            if line:
                self._lines[client] = line
            return item

    def remove(self, item: T) -> bool:
        """Remove a waiting item. Returns whether it was in the queue."""
        with self._state:
            for client, line in self._lines.items():
                if item in line:
                    line.remove(item)
                    if not line:
                        del self._lines[client]
                    return True
            return False

    def close(self) -> list[T]:
        """Close the queue. Returns the items that still waited."""
        with self._state:
            self._closed = True
            left = [item for line in self._lines.values() for item in line]
            self._lines.clear()
            self._state.notify_all()
            return left

    def _count(self) -> int:
        return sum(map(len, self._lines.values()))
