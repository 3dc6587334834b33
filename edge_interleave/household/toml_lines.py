"""Finds the line of each value in a TOML text, which `tomllib` does not say.

A TOML text is a series of statements, each of which is TOML by itself: a table's header, or a key with its value. Lines
are collected until they are a statement, which `tomllib` decides; so no second parser has to agree with it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

Keys = tuple[str | int, ...]
"""The keys, and indices in lists, that lead to a value."""


def lines_of(text: str) -> dict[Keys, int]:
    """The number of the line, from 1, where the statement begins that first names each value. `text`: valid TOML."""
    found: dict[Keys, int] = {}
    counts: dict[Keys, int] = {}
    table: Keys = ()
    for number, statement, values in _statements(text):
        if statement.lstrip().startswith("["):
            table = _header(values, counts)
            for end in range(1, len(table) + 1):
                found.setdefault(table[:end], number)
        else:
            for keys in _paths(values):
                found.setdefault((*table, *keys), number)
    return found


def _statements(text: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Each statement's line, text and value."""
    first, collected = 0, ""
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if not collected:
            first = number
        collected += line + "\n"
        try:
            values = tomllib.loads(collected)
        except tomllib.TOMLDecodeError:
            continue
        if values:
            yield first, collected, values
        collected = ""


def _header(values: dict[str, Any], counts: dict[Keys, int]) -> Keys:
    """The path of a header's table. `counts`: the tables so far of each array of tables, by its path."""
    path: Keys = ()
    value: Any = values
    while value:
        if isinstance(value, list):  # [[...]]: the next table of the array
            counts[path] = counts.get(path, 0) + 1
            return (*path, counts[path] - 1)
        (key,) = value
        value = value[key]
        path = (*path, key)
        # A header below an array means the array's latest table.
        if path in counts and not isinstance(value, list):
            path = (*path, counts[path] - 1)
    return path


def _paths(value: Any) -> Iterator[Keys]:
    """The paths of a value and of all values in it."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield (key,)
        yield from ((key, *rest) for rest in _paths(item))
