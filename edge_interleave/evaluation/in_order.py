"""Calls a function for many items, several at once, and returns the results in the items' order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")
_AHEAD = 4
"""How many items a call begins ahead of the first one that is not done, times the number of threads."""


def in_order(
    call: Callable[[_T], _R], items: Iterable[_T], parallel: int, stop: Callable[[], None]
) -> Generator[tuple[_T, Callable[[], _R]], None, None]:
    """Each item with a function that waits for its result, or raises its error.

    `parallel`: how many calls run at once; 1: in the calling thread. `stop`: called when the caller takes no more
    results, to end the calls that still run.
    """
    if parallel == 1:
        for item in items:
            yield item, lambda item=item: call(item)  # type: ignore[misc]
        return
    pool = ThreadPoolExecutor(parallel, thread_name_prefix="edge-interleave eval")
    begun: deque[tuple[_T, Future[_R]]] = deque()
    try:
        for item in items:
            begun.append((item, pool.submit(call, item)))
            if len(begun) >= parallel * _AHEAD:
                first, future = begun.popleft()
                yield first, future.result
        while begun:
            first, future = begun.popleft()
            yield first, future.result
    finally:
        stop()
        pool.shutdown(cancel_futures=True)
