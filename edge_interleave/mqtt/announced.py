"""Remembers on disk what was announced and retained, so that what a later start no longer has can be removed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from edge_interleave.util.atomic_file import atomic_file

_NAME = "announced.json"
_MAX_BYTES = 4 << 20


@dataclass(frozen=True)
class Announced:
    """What the broker keeps of this program."""

    devices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Discovery topic of each device to its components: key to platform."""
    retained: frozenset[str] = frozenset()
    """Topics with a retained message."""


def read_announced(folder: Path) -> Announced:
    """What an earlier process announced; nothing if there is no such file, or it is damaged."""
    path = folder / _NAME
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        if path.stat().st_size <= _MAX_BYTES:
            found = json.loads(path.read_text("utf-8"))
            devices = {
                str(topic): {str(key): str(platform) for key, platform in components.items()}
                for topic, components in found["devices"].items()
            }
            return Announced(devices, frozenset(map(str, found["retained"])))
    return Announced()


def merged(one: Announced, other: Announced) -> Announced:
    """What either of them names."""
    devices = dict(other.devices)
    for topic, components in one.devices.items():
        devices[topic] = {**components, **devices.get(topic, {})}
    return Announced(devices, one.retained | other.retained)


def write_announced(folder: Path, announced: Announced) -> None:
    """Replace the file. A failure is ignored: then the broker keeps what it has."""
    with suppress(OSError), atomic_file(folder / _NAME) as temporary:
        found = {"devices": announced.devices, "retained": sorted(announced.retained)}
        temporary.write_text(json.dumps(found, indent=1), "utf-8")
