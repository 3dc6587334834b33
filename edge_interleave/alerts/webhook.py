"""Posts each alert to a URL as JSON, with retries."""

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

WEBHOOK_TIMEOUT_S = 10.0
"""Limit of one attempt, from connecting to the response's status."""
ATTEMPTS = 4
BACKOFF_S = 1.0
"""Pause before the second attempt; it doubles before each later one."""
_RETRY_STATUSES = (408, 425, 429)


class Webhook:
    """Posts each alert's JSON to an http or https URL. Follows no redirect and reads only the response's status."""

    def __init__(
        self,
        url: str,
        timeout_s: float = WEBHOOK_TIMEOUT_S,
        attempts: int = ATTEMPTS,
        backoff_s: float = BACKOFF_S,
    ) -> None:
        """`user:password@` in the URL is sent as basic authentication. Raises UsageError if the URL is not http(s)."""
        check_login(url)
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:  # not shown: its text may contain a part of a password
            raise UsageError("the webhook's URL cannot be read; give http://... or https://...") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError("a webhook must be an http:// or https:// URL with a host")
        if not url.isascii() or not url.isprintable() or " " in url:
            raise UsageError("the webhook's URL has characters that are not allowed in a URL; percent-encode them")
        # Messages leave out the path: many services put the secret there.
        self.name = f"webhook {parts.scheme}://{parts.hostname}"
        self._connection_to: Callable[[], http.client.HTTPConnection] = lambda: (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )(str(parts.hostname), port, timeout=timeout_s)
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers = {"Content-Type": "application/json", "User-Agent": "edge-interleave"}
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            self._headers["Authorization"] = f"Basic {base64.b64encode(login).decode('ascii')}"
        self._timeout_s = timeout_s
        self._attempts = attempts
        self._backoff_s = backoff_s
        self._aborted = threading.Event()
        self._socket: socket.socket | None = None

    def send(self, alert: Alert) -> None:
        """Post the alert; retry with exponential backoff if a retry may help. Raises DeliveryError."""
        body = alert.line().encode()
        for attempt in range(1, self._attempts + 1):
            reason, may_retry = self._post(body)
            if not reason:
                return
            pause = self._backoff_s * 2 ** (attempt - 1)
            if not may_retry or (attempt < self._attempts and self._aborted.wait(pause)):
                break
        raise DeliveryError(f"{reason} ({attempt} attempt{'s' if attempt > 1 else ''})")

    def abort(self) -> None:
        """Cut an open connection and refuse later posts."""
        self._cut(self._aborted)

    def _post(self, body: bytes) -> tuple[str, bool]:
        """Return why the attempt failed ("" if it succeeded), and whether a retry may help."""
        if self._aborted.is_set():
            return "not posted: the watch has ended", False
        connection = self._connection_to()
        late = threading.Event()
        # A socket's timeout applies to each read: a server that sends byte by byte would never reach it.
        deadline = threading.Timer(self._timeout_s, lambda: self._cut(late))
        deadline.daemon = True
        deadline.start()
        try:
            connection.connect()
            self._socket = connection.sock
            if late.is_set() or self._aborted.is_set():
                raise TimeoutError
            connection.request("POST", self._target, body, self._headers)
            status = connection.getresponse().status
            # A connection that was cut may still yield a truncated response.
            if late.is_set() or self._aborted.is_set():
                raise TimeoutError
        except (OSError, http.client.HTTPException) as error:
            if self._aborted.is_set():
                return "cut off: the watch has ended", False
            if late.is_set() or isinstance(error, TimeoutError):
                return f"no response within {self._timeout_s:g} s", True
            return one_line(error), True
        finally:
            deadline.cancel()
            self._socket = None
            connection.close()
        if 200 <= status < 300:
            return "", False
        if 300 <= status < 400:
            return f"answered {status}, a redirect, which is not followed; give the address that it points to", False
        return f"answered {status}", status >= 500 or status in _RETRY_STATUSES

    def _cut(self, reason: threading.Event) -> None:
        reason.set()
        connected = self._socket
        if connected is not None:
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)
