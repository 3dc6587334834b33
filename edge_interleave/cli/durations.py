"""Options that take a duration."""

from __future__ import annotations

import click

from edge_interleave.util.durations import parse_duration


def duration(ctx: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """Callback of a click option: seconds, above 0 and at most a year. Raises BadParameter for other texts."""
    if value is None:
        return None
    seconds = parse_duration(value)
    if seconds is None:
        raise click.BadParameter(f"{value!r} is not a duration; give one like 2s, 500ms or 1m")
    return seconds
