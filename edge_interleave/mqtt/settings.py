"""Settings of an MQTT broker and of what is published there."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from edge_interleave.errors import UsageError, shown

PORT = 1883
TLS_PORT = 8883
_PREFIX = re.compile(r"[^/+#$\x00-\x1f\x7f][^+#\x00-\x1f\x7f]{0,127}")


@dataclass(frozen=True)
class Broker:
    """How to reach a broker. Raises UsageError for values that cannot be right."""

    host: str
    """A host name or an address."""
    port: int | None = None
    """None: 1883, or 8883 with TLS."""
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    ca_file: Path | None = None
    """PEM file of the certificates to trust; None: those that the system trusts."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[^\s/@?#]{1,253}", self.host) or not self.host.isprintable():
            raise UsageError("'host' must be a host name or an address alone, without mqtt:// and without a login")
        if self.ca_file is not None and not self.tls:
            raise UsageError("'ca_file' needs tls = true")
        if self.password is not None and self.username is None:
            raise UsageError("'password' needs a 'username'")

    @property
    def tcp_port(self) -> int:
        """The port, or its default."""
        return self.port or (TLS_PORT if self.tls else PORT)

    @property
    def name(self) -> str:
        """The broker's address for messages, without the password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"mqtt{'s' if self.tls else ''}://{host}:{self.tcp_port}"


@dataclass(frozen=True)
class MqttSettings:
    """What is published, and where. Raises UsageError for a prefix that cannot be a topic."""

    broker: Broker
    outbox: Path
    """The folder of alerts that wait for the broker."""
    prefix: str = "edge-interleave"
    """First part of all topics."""
    discovery: str | None = "homeassistant"
    """Home Assistant's discovery prefix; None: announce nothing."""

    def __post_init__(self) -> None:
        for name, value in (("prefix", self.prefix), ("discovery", self.discovery)):
            if value is not None and (not _PREFIX.fullmatch(value) or value.endswith("/")):
                raise UsageError(
                    f"'{name}' must be a topic without + and #, and without / at its ends, not {shown(value)}"
                )
