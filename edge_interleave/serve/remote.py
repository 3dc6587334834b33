"""Fetches images from http(s) addresses on the public internet only, against server-side request forgery.

Every IP address of a host name must be public, and the connection goes to a checked one, so the name cannot resolve to
another host a moment later. Redirects are checked likewise. Sizes and times are bounded. Proxies of the environment,
cookies and passwords in addresses are not used.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from urllib.parse import urljoin, urlsplit

from edge_interleave.serve.errors import ApiError, wrong

_REDIRECTS = 4
_SECONDS = 20.0
_PORTS = {"http": 80, "https": 443}
_CHUNK = 1 << 16


def fetch_public(url: str, most_bytes: int, param: str) -> bytes:
    """Download an address. Raises ApiError if that is not allowed or fails."""
    deadline = time.monotonic() + _SECONDS
    try:
        for _ in range(_REDIRECTS + 1):
            found = _get(url, most_bytes, param, deadline)
            if isinstance(found, bytes):
                return found
            url = urljoin(url, found)
    except ApiError:
        raise
    except (OSError, http.client.HTTPException, UnicodeError, ValueError) as error:
        # The system's message is left out: it would reveal which hosts and ports answer.
        raise wrong(param, "the address cannot be fetched; send the content as a data URI", "fetch_failed") from error
    raise wrong(param, f"more than {_REDIRECTS} redirects", "fetch_failed")


def _get(url: str, most_bytes: int, param: str, deadline: float) -> bytes | str:
    """The content (bytes), or the target of a redirect (str)."""
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname or parts.username or parts.password:
        raise wrong(param, "only http(s) addresses without a password are fetched", "fetch_refused")
    port = parts.port or _PORTS[parts.scheme]
    address = _public_address(parts.hostname, port, param)
    left = max(0.1, deadline - time.monotonic())
    raw = socket.create_connection((address, port), timeout=left)
    try:
        if parts.scheme == "https":
            raw = ssl.create_default_context().wrap_socket(raw, server_hostname=parts.hostname)
        connection = http.client.HTTPConnection(parts.hostname, port, timeout=left)
        connection.sock = raw
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", target, headers={"User-Agent": "edge-interleave", "Accept": "image/*, video/*"})
        response = connection.getresponse()
        if response.status in (301, 302, 303, 307, 308):
            return response.headers.get("Location", "")
        if response.status != 200:
            raise wrong(param, f"the address answers with status {response.status}", "fetch_failed")
        return _body(response, raw, most_bytes, param, deadline)
    finally:
        raw.close()


def _body(
    response: http.client.HTTPResponse, raw: socket.socket, most_bytes: int, param: str, deadline: float
) -> bytes:
    content = bytearray()
    while chunk := response.read1(_CHUNK):
        content += chunk
        if len(content) > most_bytes:
            raise wrong(param, f"the address holds more than {most_bytes} bytes", "too_large")
        left = deadline - time.monotonic()
        if left <= 0:
            raise wrong(param, f"the address is not read within {_SECONDS:g} s", "fetch_failed")
        raw.settimeout(left)
    return bytes(content)


def _public_address(host: str, port: int, param: str) -> str:
    """An IP address of the host. Raises ApiError unless all its addresses are public."""
    found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    for text in found:
        if not _is_public(ipaddress.ip_address(text.partition("%")[0])):
            raise wrong(param, "only public addresses of the internet are fetched", "fetch_refused")
    return found[0]


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is not None and not _is_public(inner):
            return False
        if address in ipaddress.ip_network("64:ff9b::/96"):  # NAT64 leads to any IPv4 address
            return _is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return address.is_global and not address.is_multicast and not address.is_reserved
