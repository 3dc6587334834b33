"""This machine's addresses on its networks."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress

_NO_ROUTE = ("192.0.2.1", 9)
"""An address for documentation (RFC 5737): a UDP socket "connected" to it sends nothing, but has a local address."""


def own_addresses() -> tuple[str, ...]:
    """This machine's addresses that other machines may reach, without loopback; the likeliest first."""
    found: list[str] = []
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(_NO_ROUTE)
        found.append(probe.getsockname()[0])
    with suppress(OSError):
        found += [str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
    return tuple(dict.fromkeys(address for address in found if not ipaddress.ip_address(address).is_loopback))
