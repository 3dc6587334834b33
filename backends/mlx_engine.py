"""Lets one thread at a time use MLX, on the same streams whichever thread it is.

MLX makes streams, with a thread of the system's each, for every thread that computes, and never ends them; and two
threads that compute at once end the process. So all decoders of a process share a lock and two streams.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import mlx.core as mx

from edge_interleave.engine_lock import claim_process

_lock = threading.RLock()


@contextmanager
def mlx_engine() -> Iterator[None]:
    """MLX for this thread alone, in a `with` block or around a function. Raises UsageError in a forked child."""
    claim_process()
    with _lock, mx.stream(_stream(mx.cpu)), mx.stream(_stream(mx.default_device().type)):
        yield


@cache
def _stream(kind: Any) -> Any:
    # MLX before 0.31.2 has one kind of stream, which any thread can use.
    make = getattr(mx, "new_thread_unsafe_stream", mx.new_stream)
    return make(kind)
