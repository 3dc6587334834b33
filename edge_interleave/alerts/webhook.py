"""A URL that each alert is posted to.

Knows nothing about when an alert is due, nor about the thread it runs in: `deliveries` does.
"""

from __future__ import annotations

import base64
import http.client
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import unquote, urlsplit

from edge_interleave.alerts.events import Alert
from edge_interleave.alerts.outbox import DeliveryError
from edge_interleave.errors import UsageError, one_line
from edge_interleave.util.addresses import check_login

WEBHOOK_SECONDS = 10.0
"""For each attempt, from connecting to the answer's status."""
ATTEMPTS = 4
BACK_OFF_SECONDS = 1.0
"""Before the second attempt; twice as long before each later one."""
_TRY_AGAIN = (408, 425, 429)


class Webhook:
    """Posts each alert's JSON line to a URL, http or https. Follows no redirect and reads no more than the status."""

    def __init__(
        self,
        url: str,
        limit_s: float = WEBHOOK_SECONDS,
        attempts: int = ATTEMPTS,
        back_off_s: float = BACK_OFF_SECONDS,
    ) -> None:
        """`user:password@` in the URL goes as basic authentication. Raises UsageError for other than http(s) URLs."""
        check_login(url)
        try:
            parts = urlsplit(url)
            port = parts.port
        # What it says may hold a part of a password.
        except ValueError:
            raise UsageError("the webhook's URL cannot be read; give http://... or https://...") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError("a webhook must be an http:// or https:// URL with a host")
        if not url.isascii() or not url.isprintable() or " " in url:
            raise UsageError("the webhook's URL holds characters that a URL cannot; percent-encode them")
        # The path is left out of messages: with many services it is the secret.
        self.name = f"webhook {parts.scheme}://{parts.hostname}"
        self._connection_to: Callable[[], http.client.HTTPConnection] = lambda: (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )(str(parts.hostname), port, timeout=limit_s)
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers = {"Content-Type": "application/json", "User-Agent": "edge-interleave"}
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            self._headers["Authorization"] = f"Basic {base64.b64encode(login).decode('ascii')}"
        self._limit = limit_s
        self._attempts = attempts
        self._back_off = back_off_s
        self._aborted = threading.Event()
        self._socket: socket.socket | None = None

    def send(self, alert: Alert) -> None:
        """Post it, again after a pause where that may help. Raises DeliveryError."""
        body = alert.line().encode()
        for attempt in range(1, self._attempts + 1):
            reason, again = self._post(body)
            if not reason:
                return
            pause = self._back_off * 2 ** (attempt - 1)
            if not again or (attempt < self._attempts and self._aborted.wait(pause)):
                break
        raise DeliveryError(f"{reason} ({attempt} attempt{'s' if attempt > 1 else ''})")

    def abort(self) -> None:
        """Cut a connection that is open."""
        self._cut(self._aborted)

    def _post(self, body: bytes) -> tuple[str, bool]:
        """Why it did not work ("" where it did), and whether another attempt may help."""
        if self._aborted.is_set():
            return "not posted, for the watch has ended", False
        connection = self._connection_to()
        late = threading.Event()
        # A socket's own time limit is for each read: a server that drips its answer would never reach it.
        deadline = threading.Timer(self._limit, lambda: self._cut(late))
        deadline.daemon = True
        deadline.start()
        try:
            connection.connect()
            self._socket = connection.sock
            if late.is_set() or self._aborted.is_set():
                raise TimeoutError
            connection.request("POST", self._target, body, self._headers)
            status = connection.getresponse().status
            # What was cut off reads as an answer that ended there.
            if late.is_set() or self._aborted.is_set():
                raise TimeoutError
        except (OSError, http.client.HTTPException) as error:
            if self._aborted.is_set():
                return "cut off, for the watch has ended", False
            if late.is_set() or isinstance(error, TimeoutError):
                return f"no answer within {self._limit:g} s", True
            return one_line(error), True
        finally:
            deadline.cancel()
            self._socket = None
            connection.close()
        if 200 <= status < 300:
            return "", False
        if 300 <= status < 400:
            return f"answered {status}, a redirect, which is not followed; give the address it leads to", False
        return f"answered {status}", status >= 500 or status in _TRY_AGAIN

    def _cut(self, why: threading.Event) -> None:
        why.set()
        connected = self._socket
        if connected is not None:
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)
