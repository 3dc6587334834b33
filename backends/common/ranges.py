"""Ranges of positions: lists of (start, end), start <= p < end, ascending, with gaps between. Knows nothing else."""

from __future__ import annotations

Ranges = list[tuple[int, int]]


def without(ranges: Ranges, start: int, end: int) -> Ranges:
    """What is left of ranges when the positions start <= p < end leave."""
    if start >= end:
        return ranges
    pieces = [piece for first, last in ranges for piece in ((first, min(last, start)), (max(first, end), last))]
    return [(first, last) for first, last in pieces if first < last]


def below(ranges: Ranges, end: int) -> Ranges:
    """What of ranges lies before `end`."""
    return [(first, min(last, end)) for first, last in ranges if first < end]


def check_range(start: int, end: int) -> None:
    """Raise ValueError where start <= p < end is no range of positions."""
    if not 0 <= start <= end:
        raise ValueError(f"no such range of positions: {start} to {end}")
