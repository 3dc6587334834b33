"""Frigate's HTTP interface: logs in, and gets a camera's latest picture. Another thread can abort it at any time.

Written against Frigate's documentation and public code: `POST /api/login` sets a cookie that later requests carry,
`GET /api/CAMERA/latest.jpg` sends the newest frame, and `X-Frigate-Offline: true` marks an old one.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
from contextlib import suppress
from http.cookies import CookieError, SimpleCookie
from urllib.parse import quote, urlsplit

from edge_interleave.errors import MediaError, one_line
from edge_interleave.media.http.dial import dial
from edge_interleave.media.sources.frigate_settings import FrigateSettings
from edge_interleave.mqtt.certificates import trusting

TIMEOUT_S = 10.0
"""Limit of one request, from connecting to the last byte."""
MAX_BYTES = 32 << 20


class CameraOffline(Exception):
    """Frigate has no new picture of the camera."""


class FrigateApi:
    """Requests to Frigate for one camera. One thread makes requests; any thread may call `close`."""

    def __init__(self, settings: FrigateSettings, name: str) -> None:
        """`name`: for messages. Raises InputError if the certificates cannot be read."""
        self._settings = settings
        self._name = name
        self._parts = urlsplit(settings.url)
        self._stop = threading.Event()
        self._socket: socket.socket | None = None
        self._cookies: dict[str, str] = {}
        self._tls = trusting(settings.ca_file) if self._parts.scheme == "https" else None

    def latest(self, camera: str) -> bytes:
        """The camera's newest picture, a JPEG. Raises MediaError, CameraOffline."""
        target = f"/api/{quote(camera, safe='')}/latest.jpg?quality=90"
        status, headers, body = self._request("GET", target)
        if status == 401 and self._settings.username is not None:
            self._log_in()
            status, headers, body = self._request("GET", target)
        if status == 401:
            raise MediaError(f"{self._name}: Frigate needs a login; set its 'username' and 'password'")
        if status == 403:
            raise MediaError(f"{self._name}: this user of Frigate may not see the camera")
        if status == 404:
            raise MediaError(f"{self._name}: Frigate has no such camera; check its name and Frigate's address")
        if status != 200:
            raise MediaError(f"{self._name}: Frigate answers {status}; check its address and its log")
        if headers.get("X-Frigate-Offline", "").lower() == "true":
            raise CameraOffline
        return body

    def close(self) -> None:
        """Abort a running request, and refuse later ones."""
        self._stop.set()
        self._cut()

    def _log_in(self) -> None:
        login = json.dumps({"user": self._settings.username, "password": self._settings.password}).encode()
        self._cookies = {}
        status, _, _ = self._request("POST", "/api/login", login)
        if status != 200 or not self._cookies:
            raise MediaError(f"{self._name}: Frigate refuses the login ({status}); check 'username' and 'password'")

    def _request(
        self, method: str, target: str, body: bytes | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        deadline = time.monotonic() + TIMEOUT_S
        # A socket's time limit applies to each read, and a server may send one byte at a time.
        watchdog = threading.Timer(TIMEOUT_S, self._cut)
        watchdog.daemon = True
        watchdog.start()
        connection: http.client.HTTPConnection | None = None
        try:
            connection = self._connect(deadline)
            headers = {"User-Agent": "edge-interleave", "Connection": "close"}
            if body is not None:
                headers["Content-Type"] = "application/json"
            if self._cookies:
                headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
            connection.request(method, self._parts.path.rstrip("/") + target, body, headers)
            response = connection.getresponse()
            content = response.read(MAX_BYTES + 1)
            if len(content) > MAX_BYTES:
                raise MediaError(f"{self._name}: Frigate sends more than {MAX_BYTES >> 20} MB for one picture")
            if time.monotonic() >= deadline:
                raise TimeoutError
            self._take_cookies(response.headers)
            return response.status, response.headers, content
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(error, ssl.SSLCertVerificationError):
                why = f"its certificate is not trusted ({error.verify_message}); set 'ca_file'"
            elif isinstance(error, TimeoutError) or time.monotonic() >= deadline:
                why = "no answer in time; check its address"
            else:
                reason = getattr(error, "strerror", None) or one_line(error, 80)
                why = f"cannot be reached ({reason}); check its address and that it runs"
            raise MediaError(f"{self._name}: Frigate: {why}") from error
        finally:
            watchdog.cancel()
            held, self._socket = self._socket, None
            for handle in (connection, held):
                if handle is not None:
                    handle.close()

    def _connect(self, deadline: float) -> http.client.HTTPConnection:
        parts = self._parts
        host, port = str(parts.hostname), parts.port or (443 if self._tls else 80)
        plain = dial(host, port, deadline, self._stop)
        self._socket = plain
        plain.settimeout(TIMEOUT_S)
        channel: socket.socket = plain
        if self._tls is not None:
            channel = self._tls.wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False)
            self._socket = channel
            channel.do_handshake()
        if self._stop.is_set():
            raise InterruptedError("closed")
        connection = http.client.HTTPConnection(host, port)
        connection.sock = channel
        return connection

    def _take_cookies(self, headers: http.client.HTTPMessage) -> None:
        for line in headers.get_all("Set-Cookie", []):
            with suppress(CookieError):
                self._cookies |= {name: morsel.value for name, morsel in SimpleCookie(line).items()}

    def _cut(self) -> None:
        channel = self._socket
        if channel is not None:
            with suppress(OSError):
                # The plain socket's method: the TLS socket's would change state that the other thread uses.
                socket.socket.shutdown(channel, socket.SHUT_RDWR)
