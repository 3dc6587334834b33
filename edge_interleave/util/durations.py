"""Durations as people type them: 2s, 500ms, 1.5m, 1h; a bare number means seconds. And times for people."""

from __future__ import annotations

import re

_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_LONGEST_S = 366 * 24 * 3600.0


def parse_duration(text: str) -> float | None:
    """Seconds; None if the text is not a duration from above 0 to a year."""
    found = re.fullmatch(r"\s*([0-9]{1,12}(?:\.[0-9]{1,12})?|\.[0-9]{1,12})\s*([a-z]*)\s*", text.lower(), re.ASCII)
    if found is None or found[2] not in _UNITS:
        return None
    seconds = float(found[1]) * _UNITS[found[2]]
    return seconds if 0 < seconds <= _LONGEST_S else None


def clock(seconds: float) -> str:
    """Format a time from the beginning for people: 0:01:02.5."""
    tenths = round(max(seconds, 0.0) * 10)
    return f"{tenths // 36000}:{tenths // 600 % 60:02d}:{tenths // 10 % 60:02d}.{tenths % 10}"
