"""Sorts file names in natural order: f2 before f10."""

from __future__ import annotations

import os
import re

_DIGITS = re.compile(r"([0-9]+)")


def natural_order(name: str) -> tuple[list[str | int], str, str]:
    """A sort key by stem, ignoring case: f before f2 before f10. Equal stems sort by ending, then by case."""
    stem, ending = os.path.splitext(name)
    # Text and numbers alternate, so text is compared with text and numbers with numbers.
    parts = _DIGITS.split(stem.casefold())
    return [int(part) if at % 2 else part for at, part in enumerate(parts)], ending, name
