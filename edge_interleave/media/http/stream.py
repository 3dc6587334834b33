"""Reads one HTTP response incrementally, with size and time limits; another thread can abort it at any time.

At most MAX_REDIRECTS redirects are followed, to http and https only. A password is sent only if the server asks for it
(Basic or Digest), and never to another host. No proxy is used, because cameras are on the local network.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import socket
import ssl
import threading
import time
from urllib.parse import SplitResult, unquote, urljoin, urlsplit, urlunsplit
from urllib.request import AbstractDigestAuthHandler, HTTPPasswordMgr, Request, parse_http_list, parse_keqv_list

from edge_interleave.errors import MediaError, one_line
from edge_interleave.media.http.dial import dial

MAX_REDIRECTS = 5
MAX_URL = 8192
_CHUNK = 64 << 10


class HttpStream:
    """A GET request and its response. One thread calls `connect` and `read`; any thread may call `close`."""

    def __init__(self, url: str, name: str, open_timeout_s: float) -> None:
        self.url = url
        """The address after redirects; without name and password after a redirect to another host."""
        self.content_type = ""
        """The Content-Type in lower case, without parameters."""
        self.boundary = ""
        """The Content-Type's parameter `boundary`."""
        self.length: int | None = None
        """The Content-Length in bytes, if the server sent one."""
        self._name = name
        self._open_timeout_s = open_timeout_s
        self._stop = threading.Event()
        self._using = threading.Lock()
        self._sockets = threading.Lock()
        self._socket: socket.socket | None = None
        self._connection: http.client.HTTPConnection | None = None
        self._response: http.client.HTTPResponse | None = None

    def connect(self) -> None:
        """Send the request and read the response's headers. Raises MediaError unless the status is 200."""
        deadline = time.monotonic() + self._open_timeout_s
        # A socket's time limit applies to each read, and a server may send one byte at a time.
        watchdog = threading.Timer(self._open_timeout_s, self._break_off)
        watchdog.daemon = True
        watchdog.start()
        try:
            with self._using:
                self._follow(deadline)
        except (OSError, http.client.HTTPException, ValueError) as error:
            late = time.monotonic() >= deadline
            raise MediaError(f"{self._name}: {_reason(error, late)}; check the address and that it is on") from error
        finally:
            watchdog.cancel()
            watchdog.join()

    def read(self, timeout_s: float) -> bytes:
        """Up to 64 KiB of the body, as soon as any arrive; b"" at the end.

        Raises TimeoutError after `timeout_s` seconds without data, OSError or HTTPException if the connection fails.
        """
        with self._using:
            if self._stop.is_set() or self._response is None:
                return b""
            if self._socket is not None:
                self._socket.settimeout(max(timeout_s, 0.01))
            try:
                return self._response.read1(_CHUNK)
            # http.client raises ValueError for chunks without a size and for a closed response.
            except ValueError as error:
                raise http.client.HTTPException(str(error)) from error

    def close(self) -> None:
        """Free the connection; a thread that waits for data gets an error. A second call does nothing."""
        self._stop.set()
        self._break_off()
        with self._using:
            self._hang_up()

    def _follow(self, deadline: float) -> None:
        authorization: str | None = None
        for _ in range(MAX_REDIRECTS + 2):
            parts = urlsplit(self.url)
            response = self._ask(parts, authorization, deadline)
            if response.status in (301, 302, 303, 307, 308):
                self._redirect(parts, response.getheader("Location", ""))
                authorization = None
            elif response.status == 401 and authorization is None and parts.username is not None:
                authorization = _authorization(parts, response.headers.get_all("WWW-Authenticate", []))
                if authorization is None:
                    raise self._refused(response)
            elif response.status == 200:
                self.content_type = response.headers.get_content_type()
                boundary = response.headers.get_param("boundary", "")
                self.boundary = boundary if isinstance(boundary, str) else ""
                self.length = response.length
                return
            else:
                raise self._refused(response)
            self._hang_up()
        raise MediaError(f"{self._name}: redirects more than {MAX_REDIRECTS} times; give the stream's own address")

    def _ask(self, parts: SplitResult, authorization: str | None, deadline: float) -> http.client.HTTPResponse:
        secure = parts.scheme.lower() == "https"
        host, port = parts.hostname, parts.port or (443 if secure else 80)
        if not host:
            raise ValueError("the address has no host")
        plain = dial(host, port, deadline, self._stop)
        self._hold(plain)
        plain.settimeout(self._open_timeout_s)
        channel: socket.socket = plain
        if secure:
            # The handshake is a separate step, so that `close` can already abort it through this socket.
            context = ssl.create_default_context()
            channel = context.wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False)
            self._hold(channel)
            channel.do_handshake()
        self._connection = http.client.HTTPConnection(host, port)
        self._connection.sock = channel
        headers = {"User-Agent": "edge-interleave", "Accept": "*/*", "Connection": "close"}
        if authorization is not None:
            headers["Authorization"] = authorization
        self._connection.request("GET", _target(parts), headers=headers)
        self._response = self._connection.getresponse()
        return self._response

    def _redirect(self, parts: SplitResult, location: str) -> None:
        target = urlsplit(urljoin(_without_login(parts), location))
        if not location or target.scheme not in ("http", "https") or len(location) > MAX_URL:
            raise MediaError(
                f"{self._name}: redirects to an address that is not http(s); give the stream's own address"
            )
        same = (target.scheme, target.hostname, target.port) == (parts.scheme.lower(), parts.hostname, parts.port)
        login = parts.netloc.rpartition("@")[0] if same else ""
        bare = target.netloc.rpartition("@")[2]
        self.url = urlunsplit(target._replace(netloc=f"{login}@{bare}" if login else bare))

    def _refused(self, response: http.client.HTTPResponse) -> MediaError:
        status = response.status
        if status == 401:
            return MediaError(f"{self._name}: needs a name and a password; give them as in http://name:password@host/")
        reason = " ".join(response.reason.split())[:80]
        answer = f"{status} {reason}" if reason.isprintable() else str(status)
        return MediaError(f"{self._name}: answers {answer}; check the address")

    def _hold(self, channel: socket.socket) -> None:
        with self._sockets:
            self._socket = channel
        if self._stop.is_set():
            raise InterruptedError("closed")

    def _break_off(self) -> None:
        """Wake a thread that waits for the socket. Only `_hang_up` frees the handle, which may be in use here."""
        with self._sockets:
            if self._socket is not None:
                # The plain socket's method: the TLS socket's would change state that the other thread uses.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _hang_up(self) -> None:
        with self._sockets:
            held, self._socket = self._socket, None
        for handle in (self._response, self._connection, held):
            if handle is not None:
                handle.close()
        self._response = self._connection = None


def _without_login(parts: SplitResult) -> str:
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))


def _target(parts: SplitResult) -> str:
    return urlunsplit(("", "", parts.path or "/", parts.query, ""))


def _authorization(parts: SplitResult, challenges: list[str]) -> str | None:
    """The Authorization header for one of the challenges; Digest (RFC 7616) before Basic (RFC 7617)."""
    name, password = unquote(parts.username or ""), unquote(parts.password or "")
    ordered = sorted(challenges, key=lambda challenge: not challenge.lower().startswith("digest"))
    for challenge in ordered:
        scheme, _, rest = challenge.partition(" ")
        if scheme.lower() == "basic":
            return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()
        if scheme.lower() == "digest":
            try:
                facts = parse_keqv_list(parse_http_list(rest))
            except ValueError:
                continue
            url = _without_login(parts)
            passwords = HTTPPasswordMgr()
            passwords.add_password(facts.get("realm", ""), url, name, password)
            answer = AbstractDigestAuthHandler(passwords).get_authorization(Request(url), facts)
            if answer:
                return f"Digest {answer}"
    return None


def _reason(error: Exception, late: bool) -> str:
    if late or isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return "its certificate is not trusted"
    # Without the error number that an OSError's text contains.
    text = getattr(error, "strerror", None)
    return f"cannot be reached ({text or one_line(error, 160)})"
