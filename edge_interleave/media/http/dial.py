"""Opens TCP connections in a way that another thread can abort at any time."""

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
    """Connect to the first of the host's addresses that accepts, trying one after the other.

    `deadline`: by `time.monotonic`. Raises OSError, TimeoutError at the deadline, InterruptedError once `stop` is set.
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
    """Resolve the host in a thread, because the system's look-up cannot be aborted; the thread ends by itself."""
    found: list[_Address] = []
    failed: list[OSError] = []

    def ask() -> None:
        try:
            found.extend(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as error:
            failed.append(error)
        # The name cannot be encoded in IDNA.
        except UnicodeError as error:
            failed.append(OSError(str(error)))

    thread = threading.Thread(target=ask, name="edge-interleave name look-up", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_TICK_S)
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
