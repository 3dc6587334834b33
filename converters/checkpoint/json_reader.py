"""Typed, checked reading of a JSON object that came from a stranger. Knows nothing about what the fields mean."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from edge_interleave.errors import CheckpointError, one_line, shown

JSON_BYTES_MAX = 64 << 20


def read_json(path: Path, most: int = JSON_BYTES_MAX) -> Any:
    """The JSON value of a file of at most `most` bytes. Raises CheckpointError."""
    try:
        if path.stat().st_size > most:
            raise CheckpointError(f"{path}: {path.stat().st_size} bytes is too large for this file; download it again")
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing; download the whole checkpoint") from None
    except (OSError, ValueError, RecursionError) as error:
        reason = one_line(error)
        raise CheckpointError(f"{path}: not readable as JSON ({reason}); download it again") from error


class Reader:
    """Fields of one JSON object, each with the default for when it is absent. Raises CheckpointError naming the field.

    A default of None means that the field must be there; `null` is what JSON's null stands for, where that is allowed.
    """

    def __init__(self, path: Path, raw: Any, prefix: str = "") -> None:
        if not isinstance(raw, dict):
            raise CheckpointError(
                f"{path}: {prefix.rstrip('.') or 'the file'} must be a JSON object; download it again"
            )
        self.path = path
        self.raw: dict[str, Any] = raw
        self.prefix = prefix

    def object(self, key: str) -> Reader:
        """A nested object that must be there."""
        return Reader(self.path, self.raw.get(key), f"{self.prefix}{key}.")

    def text(self, key: str, default: str, null: str | None = None) -> str:
        """A string."""
        value = self._value(key, default, null)
        if not isinstance(value, str):
            raise self.error(key, "a string")
        return value

    def boolean(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._value(key, default, default)
        if not isinstance(value, bool):
            raise self.error(key, "true or false")
        return value

    def integer(
        self, key: str, default: int | None, least: int = 1, most: int = 1 << 31, null: int | None = None
    ) -> int:
        """A whole number from `least` to `most`."""
        value = self._value(key, default, null)
        if type(value) is not int or not least <= value <= most:
            raise self.error(key, f"a whole number from {least} to {most}")
        return value

    def number(self, key: str, default: float | None, least: float, most: float) -> float:
        """A finite number from `least` to `most`."""
        value = self._value(key, default, None)
        if type(value) not in (int, float) or not math.isfinite(value) or not least <= value <= most:
            raise self.error(key, f"a number from {least:g} to {most:g}")
        return float(value)

    def expect(self, key: str, holds: bool, what: str) -> None:
        """Raise the field's error unless `holds`."""
        if not holds:
            raise self.error(key, what)

    def error(self, key: str, what: str) -> CheckpointError:
        """The error for a field that is not `what` it must be."""
        return CheckpointError(
            f"{self.path}: field '{self.prefix}{key}' must be {what}, not {shown(self.raw.get(key))}; "
            "is this an unchanged LLaVA-Interleave checkpoint?"
        )

    def _value(self, key: str, default: Any, null: Any) -> Any:
        value = self.raw.get(key, default)
        return null if value is None else value
