"""The order in which people expect names of files."""

from __future__ import annotations

import os
import re

_DIGITS = re.compile(r"([0-9]+)")


def natural_order(name: str) -> tuple[list[str | int], str, str]:
    """A key to sort by: f2 before f10, f before f2, whatever the case of letters and how the names end."""
    stem, ending = os.path.splitext(name)
    # Text and numbers take turns, so that like is compared with like.
    parts = _DIGITS.split(stem.casefold())
    return [int(part) if at % 2 else part for at, part in enumerate(parts)], ending, name
