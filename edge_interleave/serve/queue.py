"""A bounded line in which clients take turns: who asks a lot waits for itself, not for everybody."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class QueueFullError(Exception):
    """No more can wait."""


class QueueClosedError(Exception):
    """Nothing is taken any more."""


class FairQueue(Generic[T]):
    """First come, first served within a client; between clients in turn. Safe between threads."""

    def __init__(self, most: int) -> None:
        """`most`: items that wait, of all clients together."""
        self._most = most
        self._lines: OrderedDict[str, deque[T]] = OrderedDict()
        self._state = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        """Items that wait."""
        with self._state:
            return self._count()

    @property
    def closed(self) -> bool:
        """Whether nothing is taken any more."""
        return self._closed

    def put(self, client: str, item: T) -> None:
        """Wait in the client's line. Raises QueueFullError, QueueClosedError."""
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
        """Take an item out that still waits; whether it did."""
        with self._state:
            for client, line in self._lines.items():
                if item in line:
                    line.remove(item)
                    if not line:
                        del self._lines[client]
                    return True
            return False

    def close(self) -> list[T]:
        """Take nothing any more; gives what still waited."""
        with self._state:
            self._closed = True
            left = [item for line in self._lines.values() for item in line]
            self._lines.clear()
            self._state.notify_all()
            return left

    def _count(self) -> int:
        return sum(map(len, self._lines.values()))
