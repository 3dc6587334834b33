"""Reads settings from TOML: checks each field, and reports errors in one line with the file's name and the line."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, TypeVar

from edge_interleave.errors import EdgeInterleaveError, InputError, one_line, shown
from edge_interleave.household.toml_lines import Keys, lines_of
from edge_interleave.util.durations import parse_duration

_BYTES_MAX = 1 << 18
_SYNTAX = re.compile(r"(.*) \(at line (\d+), column \d+\)", re.DOTALL)
_T = TypeVar("_T")


class TomlFile:
    """A file's text and values."""

    def __init__(self, path: Path) -> None:
        """Raises InputError if the file cannot be read or is not TOML."""
        self.path = path
        try:
            with path.open("rb") as file:
                content = file.read(_BYTES_MAX + 1)
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}; give a file of settings in TOML") from error
        if len(content) > _BYTES_MAX:
            raise InputError(f"{path}: more than {_BYTES_MAX} bytes; give a file of settings in TOML")
        try:
            self._text = content.decode("utf-8").replace("\r\n", "\n")
            self.values = tomllib.loads(self._text)
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            raise InputError(f"{path}:{line}: not UTF-8 text; save the file as UTF-8") from error
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            found = _SYNTAX.fullmatch(str(error))
            where, why = (f"{path}:{found[2]}", found[1]) if found else (str(path), str(error))
            raise InputError(f"{where}: not valid TOML: {one_line(why)}") from error
        self._lines: dict[Keys, int] | None = None

    def where(self, keys: Keys) -> str:
        """The file and the line of a value, `cameras.toml:12`; of the table around it, if the value is missing."""
        if self._lines is None:
            self._lines = lines_of(self._text)
        while keys and keys not in self._lines:
            keys = keys[:-1]
        return f"{self.path}:{self._lines[keys]}" if keys else str(self.path)


class TomlTable:
    """A table of a file.

    Every method takes a key and raises InputError if its value has a wrong type or is out of range; a missing key has
    the given default, and is an error if there is none.
    """

    def __init__(self, file: TomlFile, keys: Keys, known: Collection[str] | None) -> None:
        """`keys`: lead to the table; a missing one is empty. `known`: the keys it may have; None: any.

        Raises InputError if it is not a table, or has another key.
        """
        self.file = file
        self._keys = keys
        value: Any = file.values
        for key in keys:
            value = value.get(key, {}) if isinstance(value, dict) else value[key]
        if not isinstance(value, dict):
            raise InputError(f"{file.where(keys)}: '{keys[-1]}' must be a table, not {shown(value)}")
        self._values: dict[str, Any] = value
        if known is not None:
            self._check_keys(known)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def where(self, key: str | None = None) -> str:
        """The file and the line of a value, or of the table."""
        return self.file.where(self._keys if key is None else (*self._keys, key))

    def error(self, key: str | None, what: str) -> InputError:
        """An error about a value, or about the table."""
        return InputError(f"{self.where(key)}: {what}")

    def checked(self, key: str | None, call: Callable[[], _T]) -> _T:
        """Call a function that checks a value; its error gets the value's line."""
        try:
            return call()
        except EdgeInterleaveError as error:
            raise InputError(f"{self.where(key)}: {error}") from error

    def table(self, key: str, known: Collection[str] | None = None) -> TomlTable:
        """A table in this one; empty, if it is missing."""
        return TomlTable(self.file, (*self._keys, key), known)

    def tables(self, key: str, known: Collection[str]) -> list[TomlTable]:
        """The tables of an array, `[[...]]`."""
        value = self._values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self._wrong(key, f"an array of tables; write [[{'.'.join(map(str, (*self._keys, key)))}]]")
        return [TomlTable(self.file, (*self._keys, key, index), known) for index in range(len(value))]

    def text(self, key: str, default: str | None = None) -> str:
        """A text that is not empty."""
        value = self._value(key, default)
        if not isinstance(value, str) or not value.strip():
            raise self._wrong(key, "a text")
        return value

    def optional_text(self, key: str) -> str | None:
        """A text; None if the key is missing."""
        return self.text(key) if key in self else None

    def choice(self, key: str, choices: Collection[str], default: str) -> str:
        """One of some texts."""
        value = self._value(key, default)
        if value not in choices:
            raise self._wrong(key, f"one of {', '.join(choices)}")
        return str(value)

    def boolean(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false")
        return value

    def is_false(self, key: str) -> bool:
        """Whether the value is false, which turns a setting off that is otherwise a text."""
        return self._values.get(key) is False

    def integer(self, key: str, default: int | None, least: int = 1, most: int = 1 << 20) -> int | None:
        """A whole number; None if the key is missing and there is no default."""
        if key not in self:
            return default
        value = self._values[key]
        if type(value) is not int or not least <= value <= most:
            raise self._wrong(key, f"a whole number from {least} to {most}")
        return value

    def number(
        self, key: str, default: float | None, least: float, most: float, *, above: bool = False
    ) -> float | None:
        """A number from `least` (or above it, if `above`) to `most`; None if the key is missing, without a default."""
        if key not in self:
            return default
        value = self._values[key]
        if type(value) not in (int, float) or not least <= value <= most or (above and value == least):
            raise self._wrong(key, f"a number {'above' if above else 'from'} {least:g} to {most:g}")
        return float(value)

    def seconds(self, key: str, default: float | None, most: float = 366 * 24 * 3600.0) -> float | None:
        """A duration like "2s" or "1m", or a number of seconds; None if the key is missing and has no default."""
        if key not in self:
            return default
        value = self._values[key]
        text = str(value) if type(value) in (int, float) else value
        seconds = parse_duration(text) if isinstance(text, str) else None
        if seconds is None or seconds > most:
            longest = f"{most:g} s" if most < 86400 else f"{most / 86400:g} days"
            raise self._wrong(key, f'a duration like "2s", "500ms" or "1m", of at most {longest}')
        return seconds

    def integers(self, key: str, default: tuple[int, ...], least: int = 1) -> tuple[int, ...]:
        """A whole number, or a list of them."""
        value = self._value(key, list(default))
        items = value if isinstance(value, list) else [value]
        if not items or any(type(item) is not int or item < least for item in items):
            raise self._wrong(key, f"a whole number from {least}, or a list of them")
        return tuple(items)

    def _value(self, key: str, default: Any) -> Any:
        if key not in self and default is None:
            raise self.error(None, f"'{key}' is missing")
        return self._values.get(key, default)

    def _wrong(self, key: str, what: str) -> InputError:
        return self.error(key, f"'{key}' must be {what}, not {shown(self._values[key])}")

    def _check_keys(self, known: Collection[str]) -> None:
        for key in self._values:
            if key not in known:
                close = difflib.get_close_matches(key, known, 1)
                hint = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(known)}"
                raise self.error(key, f"{shown(key)} is not a setting here; {hint}")
