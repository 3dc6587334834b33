"""Reads the tables `[mqtt]` and `[frigate]` of the settings.

[mqtt]
host = "192.168.1.10"
username = "edge"
password = "${file:secrets/mqtt}"

[frigate]
url = "https://192.168.1.20:8971"
username = "viewer"
password = "${FRIGATE_PASSWORD}"
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from edge_interleave.errors import BackendError, UsageError
from edge_interleave.household.toml_table import TomlTable
from edge_interleave.media.sources.frigate_settings import FrigateSettings
from edge_interleave.mqtt.certificates import trusting
from edge_interleave.mqtt.settings import Broker, MqttSettings

MQTT_KEYS = ("host", "port", "tls", "ca_file", "username", "password", "prefix", "discovery", "outbox")
FRIGATE_KEYS = ("url", "username", "password", "ca_file", "prefix")

Secret = Callable[[TomlTable, str], str]
"""Reads a value whose references to secrets are filled in."""
_T = TypeVar("_T")


def read_mqtt(table: TomlTable, folder: Path, out: Path, secret: Secret) -> MqttSettings:
    """Read `[mqtt]`. `folder`: of the settings' file. `out`: where the outbox is, if not set. Raises InputError."""
    table.checked(None, _check_installed)
    host, port, username = table.text("host"), table.integer("port", None, 1, 65535), table.optional_text("username")
    password, ca_file = _password(table, secret), _ca_file(table, folder)
    tls = table.boolean("tls", ca_file is not None)
    broker = _made(table, lambda: Broker(host, port, username, password, tls, ca_file))
    discovery = None if table.is_false("discovery") else table.text("discovery", "homeassistant")
    outbox = folder / table.text("outbox", str(out / "mqtt-outbox"))
    prefix = table.text("prefix", MqttSettings.prefix)
    return _made(table, lambda: MqttSettings(broker, outbox, prefix, discovery))


def read_frigate(table: TomlTable, folder: Path, mqtt: MqttSettings | None, secret: Secret) -> FrigateSettings:
    """Read `[frigate]`, whose broker is that of `[mqtt]`. Raises InputError."""
    if mqtt is None:
        raise table.error(None, "[frigate] needs [mqtt], with the broker that Frigate publishes to")
    url, username, password = table.text("url"), table.optional_text("username"), _password(table, secret)
    ca_file, prefix = _ca_file(table, folder), table.text("prefix", FrigateSettings.prefix)
    return _made(table, lambda: FrigateSettings(url, mqtt.broker, username, password, ca_file, prefix))


def _made(table: TomlTable, make: Callable[[], _T]) -> _T:
    """Call a function that checks settings; its error gets the line of the setting that it names first."""
    try:
        return make()
    except UsageError as error:
        named = re.match(r"'(\w+)'", str(error))
        key = named[1] if named is not None and named[1] in table else None
        raise table.error(key, str(error)) from error


def _password(table: TomlTable, secret: Secret) -> str | None:
    """The password. Raises InputError if it is written into the file, which people show to each other."""
    if "password" not in table:
        return None
    text = table.text("password")
    if not (text.startswith("${") and text.endswith("}")):
        raise table.error("password", "write ${NAME}, a variable of the environment, or ${file:PATH} here instead")
    return secret(table, "password")


def _ca_file(table: TomlTable, folder: Path) -> Path | None:
    text = table.optional_text("ca_file")
    if text is None:
        return None
    path = folder / text
    table.checked("ca_file", lambda: trusting(path))
    return path


def _check_installed() -> None:
    if find_spec("paho") is None:
        raise BackendError("[mqtt] needs paho-mqtt; install it with: pip install 'edge-interleave[mqtt]'")
