"""Reads JSON objects from untrusted files: checks each field's type and range, and reports errors in one line."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from edge_interleave.errors import InputError, one_line, shown


def read_json(path: Path, error: type[InputError], *, most: int, remedy: str, missing: str | None = None) -> Any:
    """Read the JSON value of a file of at most `most` bytes.

    Raises `error` with the `remedy` if the file is too large or not JSON; if the file does not exist, with `missing` in
    place of the remedy, if given.
    """
    try:
        size = path.stat().st_size
        if size > most:
            raise error(f"{path}: {size} bytes is too large for this file; {remedy}")
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise error(f"{path}: missing; {missing or remedy}") from None
    except (OSError, ValueError, RecursionError) as problem:
        raise error(f"{path}: not readable as JSON ({one_line(problem, 100)}); {remedy}") from problem


class JsonFields:
    """The fields of one JSON object.

    Every method takes a field's name and raises `error` if the field has a wrong type or value. `default`: the value of
    a missing field; None: the field is required. `null`: the value for JSON's null; None: null is not allowed.
    """

    def __init__(self, path: Path, raw: Any, error: type[InputError], *, remedy: str, prefix: str = "") -> None:
        """`path` and `prefix`: for messages, the file and the names of the objects around this one (`text_config.`).

        Raises `error` if `raw` is not an object.
        """
        if not isinstance(raw, dict):
            raise error(f"{path}: {prefix.rstrip('. ') or 'the file'} must be a JSON object; {remedy}")
        self.path = path
        self.raw: dict[str, Any] = raw
        self.prefix = prefix
        self._error = error
        self._remedy = remedy

    def object(self, key: str) -> JsonFields:
        """A nested object."""
        value = self.raw.get(key)
        if not isinstance(value, dict):
            raise self.error(key, "a JSON object")
        return self.nested(value, f"{self.prefix}{key}.")

    def objects(self, key: str) -> dict[str, JsonFields]:
        """An object whose values are all objects."""
        inner = self.object(key)
        return {name: inner.object(name) for name in inner.raw}

    def nested(self, raw: Any, prefix: str) -> JsonFields:
        """Another object of the same file; messages put `prefix` before its fields' names."""
        return JsonFields(self.path, raw, self._error, remedy=self._remedy, prefix=prefix)

    def text(self, key: str, default: str | None = None, null: str | None = None) -> str:
        """A string."""
        value = self._value(key, default, null)
        if not isinstance(value, str):
            raise self.error(key, "a string")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        value = self.raw.get(key)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(key, "a list of strings")
        return tuple(value)

    def choice(self, key: str, choices: Collection[str], default: str | None = None, null: str | None = None) -> str:
        """One of some strings."""
        value = self._value(key, default, null)
        if not isinstance(value, str) or value not in choices:
            raise self.error(key, f"one of {', '.join(choices)}")
        return value

    def boolean(self, key: str, default: bool | None = None) -> bool:
        """True or false; null is the default."""
        value = self._value(key, default, default)
        if not isinstance(value, bool):
            raise self.error(key, "true or false")
        return value

    def integer(
        self, key: str, default: int | None = None, least: int = 1, most: int = 1 << 31, null: int | None = None
    ) -> int:
        """A whole number from `least` to `most`."""
        value = self._value(key, default, null)
        if type(value) is not int or not least <= value <= most:
            raise self.error(key, f"a whole number from {least} to {most}")
        return value

    def number(self, key: str, default: float | None, least: float, most: float) -> float:
        """A finite number from `least` to `most`."""
        value = self._value(key, default, None)
        if not _is_number(value, least, most):
            raise self.error(key, f"a number from {least:g} to {most:g}")
        return float(value)

    def triple(self, key: str, *, least: float, most: float) -> tuple[float, float, float]:
        """A list of three numbers from `least` to `most`."""
        value = self.raw.get(key)
        if not isinstance(value, list) or len(value) != 3 or not all(_is_number(item, least, most) for item in value):
            raise self.error(key, f"three numbers from {least:g} to {most:g}")
        return float(value[0]), float(value[1]), float(value[2])

    def expect(self, key: str, holds: bool, what: str) -> None:
        """Raise the field's error unless `holds`."""
        if not holds:
            raise self.error(key, what)

    def error(self, key: str, what: str) -> InputError:
        """The error of a field that must be `what` and is not."""
        return self._error(
            f"{self.path}: field '{self.prefix}{key}' must be {what}, not {shown(self.raw.get(key))}; {self._remedy}"
        )

    def _value(self, key: str, default: Any, null: Any) -> Any:
        value = self.raw.get(key, default)
        return null if value is None else value


def _is_number(value: Any, least: float, most: float) -> bool:
    return type(value) in (int, float) and least <= value <= most
