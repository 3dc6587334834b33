"""Ranges of positions: lists of (start, end), start <= p < end, ascending, with gaps between them."""

from __future__ import annotations

Ranges = list[tuple[int, int]]


def positions_in(ranges: Ranges) -> int:
    """The number of positions."""
    return sum(end - start for start, end in ranges)


def without(ranges: Ranges, start: int, end: int) -> Ranges:
    """The ranges without the positions start <= p < end."""
    if start >= end:
        return ranges
    pieces = [piece for first, last in ranges for piece in ((first, min(last, start)), (max(first, end), last))]
    return [(first, last) for first, last in pieces if first < last]


def below(ranges: Ranges, end: int) -> Ranges:
    """The positions of the ranges that are less than `end`."""
    return [(first, min(last, end)) for first, last in ranges if first < end]


def check_range(start: int, end: int) -> None:
    """Raise ValueError unless 0 <= start <= end."""
    if not 0 <= start <= end:
        raise ValueError(f"not a range of positions: {start} to {end}")
