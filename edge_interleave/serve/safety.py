"""Access control as an ASGI layer around the application: API keys, host names, origins, sizes.

- `Host` must be an IP address, `localhost`, the machine's name or an allowed name. This stops DNS rebinding, in which
  a hostile page's host name is made to resolve to 127.0.0.1: the browser still sends that name.
- `Origin`, if present, must be the server's own or an allowed one; these get CORS headers.
- A browser's WebSocket cannot send an `Authorization` header. It names its key as a subprotocol, which unlike a URL is
  kept in no history or log.
- Bodies are counted while they are read, each one and all together.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import json
import socket
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_interleave.serve.errors import ApiError
from edge_interleave.serve.settings import Settings

OPEN_ROUTES = ("/", "/health", "/v1/health", "/readyz")
OPEN_FOLDER = "/page/"
"""Routes that need no key, and the folder of the page's files."""
SUBPROTOCOL = "edge-interleave"
KEY_SUBPROTOCOL = "edge-interleave.key."
"""A WebSocket's subprotocol, and the one that names the key: followed by its bytes as base64url without padding."""
_METHODS = "GET, POST, DELETE, OPTIONS"
_HEADERS = "authorization, content-type"


class Safety:
    """Checks each request before the application sees it."""

    def __init__(self, app: ASGIApp, settings: Settings, count: Callable[[str, int], None]) -> None:
        """`count` is called with route and status of each request refused here."""
        self._app = app
        self._count = count
        self._keys = [_digest(key) for key in settings.keys]
        self._hosts = {"localhost", *_own_names(), *(host.lower() for host in settings.hosts)}
        self._origins = {origin.lower().rstrip("/") for origin in settings.origins}
        self._bodies = _Bodies(settings.limits.all_bodies_bytes)
        self._body_bytes = settings.limits.body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        cors: Mapping[str, str] = {}
        try:
            self._check_host(headers)
            origin = self._checked_origin(headers, scope)
            if origin:
                cors = {"access-control-allow-origin": origin, "vary": "origin"}
            if scope["type"] == "http" and scope["method"] == "OPTIONS":
                await _send_empty(send, {**cors, **_preflight(headers)})
                return
            scope["edge_interleave.client"] = self._client(scope, headers)
        except ApiError as error:
            self._count("refused", error.status)
            await _refuse(scope, receive, send, error, cors)
            return
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
            return
        body = _Body(receive, self._body_bytes, self._bodies)
        scope["edge_interleave.body"] = body
        try:
            await self._app(scope, body.receive, _with(send, cors) if cors else send)
        finally:
            body.release()

    def _check_host(self, headers: Headers) -> None:
        host = _host_of(headers.get("host", ""))
        if host in self._hosts or _is_address(host):
            return
        raise ApiError(
            403,
            "this server does not answer to the host name of the request; call it by its address, or start it with "
            "--allow-host NAME",
            None,
            "unknown_host",
        )

    def _checked_origin(self, headers: Headers, scope: Scope) -> str | None:
        """The origin that may read the answer; None without an `Origin` header. Raises ApiError for others."""
        origin = headers.get("origin")
        if origin is None:
            return None
        given = origin.lower()
        if given in self._origins:
            return origin
        parts = urlsplit(given)
        if parts.scheme in ("http", "https") and parts.netloc == headers.get("host", "").lower():
            return origin
        raise ApiError(
            403, "pages of this origin may not call the server; start it with --allow-origin", None, "unknown_origin"
        )

    def _client(self, scope: Scope, headers: Headers) -> str:
        """Identifies the client for the queue: by its key, else its address. Raises ApiError without a valid key."""
        address = scope["client"][0] if scope.get("client") else "local"
        if not self._keys:
            return str(address)
        kind, _, key = headers.get("authorization", "").partition(" ")
        given = _digest(key.strip() if kind.lower() == "bearer" else _subprotocol_key(scope))
        # All keys are compared, so that timing reveals nothing about them.
        matches = [hmac.compare_digest(given, known) for known in self._keys]
        if any(matches):
            return f"key {matches.index(True)} {address}"
        if scope["path"] in OPEN_ROUTES or scope["path"].startswith(OPEN_FOLDER):
            return str(address)
        raise ApiError(
            401,
            "give the API key: Authorization: Bearer KEY",
            None,
            "invalid_api_key",
            "authentication_error",
            {"WWW-Authenticate": "Bearer"},
        )


class _Bodies:
    """Counts the bytes of all bodies in memory."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.bytes = 0


class _Body:
    """Counts a request's body while it is received."""

    def __init__(self, receive: Receive, most: int, bodies: _Bodies) -> None:
        self._receive = receive
        self._most = most
        self._bodies = bodies
        self._bytes = 0

    async def receive(self) -> Message:
        """The next message. Raises ApiError if the body, or all bodies together, are too large."""
        message = await self._receive()
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            if self._bytes + size > self._most:
                raise ApiError(413, f"the request has more than {self._most} bytes", None, "too_large")
            if self._bodies.bytes + size > self._bodies.most:
                raise ApiError(
                    429,
                    "too many large requests at a time; try again later",
                    None,
                    "rate_limit_exceeded",
                    "rate_limit_error",
                    {"Retry-After": "2"},
                )
            self._bytes += size
            self._bodies.bytes += size
        return message

    def release(self) -> None:
        """Uncount the body; call it at the end of the request."""
        self._bodies.bytes -= self._bytes
        self._bytes = 0


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _subprotocol_key(scope: Scope) -> str:
    for protocol in scope.get("subprotocols", ()):
        if protocol.startswith(KEY_SUBPROTOCOL):
            text = protocol.removeprefix(KEY_SUBPROTOCOL)
            try:
                return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
            except (binascii.Error, ValueError):
                return ""
    return ""


def _own_names() -> Iterable[str]:
    name = socket.gethostname().lower()
    return (name, f"{name.partition('.')[0]}.local", "host.docker.internal") if name else ()


def _host_of(header: str) -> str:
    """The host of a `Host` header, lower case, without port and brackets."""
    header = header.strip().lower()
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.rpartition(":")[0] if header.count(":") == 1 else header


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _preflight(headers: Headers) -> dict[str, str]:
    if "access-control-request-method" not in headers:
        return {"allow": _METHODS}
    return {
        "access-control-allow-methods": _METHODS,
        "access-control-allow-headers": headers.get("access-control-request-headers", _HEADERS),
        "access-control-max-age": "600",
    }


def _with(send: Send, more: Mapping[str, str]) -> Send:
    """`send` that adds headers to the response."""
    extra = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in more.items()]

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *extra]}
        await send(message)

    return sending


async def _send_empty(send: Send, headers: Mapping[str, str]) -> None:
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": 204, "headers": raw})
    await send({"type": "http.response.body", "body": b""})


async def _refuse(scope: Scope, receive: Receive, send: Send, error: ApiError, cors: Mapping[str, str]) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": error.message[:120]})
        return
    body = json.dumps(error.body()).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers, **cors}
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
