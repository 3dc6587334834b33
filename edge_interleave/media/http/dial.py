"""A TCP connection that another thread can break off at any time. Knows nothing about what is said over it."""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
from typing import Any

_TICK_S = 0.1

_Address = tuple[int, int, int, str, Any]


def dial(host: str, port: int, deadline: float, stop: threading.Event) -> socket.socket:
    """A connected socket, to whichever of the host's addresses answers first.

    `deadline`: of `time.monotonic`. Raises OSError, TimeoutError at the deadline, InterruptedError once `stop` is set.
    """
    failure: OSError = OSError("no address")
    for family, kind, protocol, _, address in _look_up(host, port, deadline, stop):
        connection = socket.socket(family, kind, protocol)
        try:
            connection.setblocking(False)
            _connect(connection, address, deadline, stop)
        except (InterruptedError, TimeoutError):
            connection.close()
            raise
        except OSError as error:
            connection.close()
            failure = error
            continue
        connection.setblocking(True)
        return connection
    raise failure


def _look_up(host: str, port: int, deadline: float, stop: threading.Event) -> list[_Address]:
    """The system's look-up cannot be broken off, so it has a thread, which ends when the system has its answer."""
    found: list[_Address] = []
    failed: list[OSError] = []

    def ask() -> None:
        try:
            found.extend(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as error:
            failed.append(error)
        # A name that IDNA cannot express.
        except UnicodeError as error:
            failed.append(OSError(str(error)))

    asking = threading.Thread(target=ask, name="edge-interleave name look-up", daemon=True)
    asking.start()
    while asking.is_alive():
        asking.join(_TICK_S)
        _check(deadline, stop)
    if failed:
        raise failed[0]
    return found


def _connect(connection: socket.socket, address: Any, deadline: float, stop: threading.Event) -> None:
    try:
        connection.connect(address)
    except BlockingIOError:
        pass
    else:
        return
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_WRITE)
        while not selector.select(_TICK_S):
            _check(deadline, stop)
    code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


def _check(deadline: float, stop: threading.Event) -> None:
    if stop.is_set():
        raise InterruptedError("closed")
    if time.monotonic() > deadline:
        raise TimeoutError("no answer")
