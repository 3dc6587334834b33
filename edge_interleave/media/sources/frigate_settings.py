"""How to reach Frigate and its broker: settings, and their form in the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from edge_interleave.errors import UsageError
from edge_interleave.mqtt.settings import Broker
from edge_interleave.util.addresses import check_login, without_secrets
from edge_interleave.util.regular_file import display_name

_VARIABLES = "EDGE_INTERLEAVE_FRIGATE_URL and EDGE_INTERLEAVE_MQTT_HOST"


@dataclass(frozen=True)
class FrigateSettings:
    """How to reach Frigate and the broker that it publishes to. Raises UsageError for values that cannot be right."""

    url: str
    """`http://host:5000`, or `https://host:8971` with a login."""
    broker: Broker
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    """PEM file of the certificates to trust; None: those that the system trusts."""
    prefix: str = "frigate"
    """Frigate's `topic_prefix`."""

    def __post_init__(self) -> None:
        check_login(self.url)
        try:
            parts = urlsplit(self.url)
            valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            valid = False
        if not valid or parts.username is not None or parts.query or not self.url.isprintable():
            raise UsageError(
                f"'url' must be Frigate's address, http://host:5000 or https://host:8971, without a login, not "
                f"{display_name(without_secrets(self.url))}"
            )
        if (self.username is None) != (self.password is None):
            raise UsageError("'username' and 'password' of Frigate go together")


def frigate_from_environment(environment: Mapping[str, str] = os.environ) -> FrigateSettings:
    """Read the settings from `EDGE_INTERLEAVE_FRIGATE_...` and `EDGE_INTERLEAVE_MQTT_...`. Raises UsageError."""

    def value(name: str) -> str | None:
        return environment.get(f"EDGE_INTERLEAVE_{name}") or None

    url, host, port = value("FRIGATE_URL"), value("MQTT_HOST"), value("MQTT_PORT")
    if url is None or host is None:
        raise UsageError(f"frigate: needs Frigate's address and that of its MQTT broker; set {_VARIABLES}")
    if port is not None and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise UsageError("EDGE_INTERLEAVE_MQTT_PORT must be a whole number from 1 to 65535")
    mqtt_ca, frigate_ca = value("MQTT_CA_FILE"), value("FRIGATE_CA_FILE")
    broker = Broker(
        host,
        None if port is None else int(port),
        value("MQTT_USERNAME"),
        value("MQTT_PASSWORD"),
        tls=mqtt_ca is not None,
        ca_file=None if mqtt_ca is None else Path(mqtt_ca),
    )
    return FrigateSettings(
        url,
        broker,
        value("FRIGATE_USERNAME"),
        value("FRIGATE_PASSWORD"),
        None if frigate_ca is None else Path(frigate_ca),
        value("FRIGATE_PREFIX") or "frigate",
    )
