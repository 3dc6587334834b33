"""Reads commands from MQTT. Anybody who may publish at the broker can send them, so each is checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edge_interleave.errors import shown
from edge_interleave.mqtt.discovery import MAX_STATE, AnnouncedSource
from edge_interleave.mqtt.topics import SET

_MAX_BYTES = 4 * MAX_STATE


class CommandError(Exception):
    """A command is refused; `str(error)` says why."""


@dataclass(frozen=True)
class Command:
    """A command for a source: another question, or to pause or resume it."""

    source: str
    rule: str | None
    """The rule whose question changes; None: the command pauses or resumes the source."""
    value: str
    """The new question; ON or OFF."""


def read_command(
    prefix: str, sources: Mapping[str, AnnouncedSource], topic: str, payload: bytes, retained: bool
) -> Command:
    """Check a command, whose topic is one of `Topics.commands`. Raises CommandError."""
    source, _, rest = topic.removeprefix(f"{prefix}/").removesuffix(SET).partition("/")
    rule = None if "/" not in rest else rest.partition("/")[0]
    announced = sources.get(source)
    if announced is None or (rule is not None and rule not in announced.rules and rule not in announced.asks):
        raise CommandError(f"there is no {shown(source)}" + ("" if rule is None else f" with {shown(rule)}"))
    if retained:
        raise CommandError("a retained command would be repeated for ever")
    if len(payload) > _MAX_BYTES:
        raise CommandError(f"{len(payload)} bytes are too long")
    try:
        value = payload.decode()
    except UnicodeDecodeError:
        raise CommandError("it is not UTF-8 text") from None
    if rule is None:
        if value not in ("ON", "OFF"):
            raise CommandError(f"it must be ON or OFF, not {shown(value, 20)}")
        return Command(source, None, value)
    value = value.strip()
    if not value:
        raise CommandError("the question is empty")
    if not value.isprintable():
        raise CommandError("a question must be one line without control characters")
    if len(value) > MAX_STATE:
        raise CommandError(f"{len(value)} characters are too long; at most {MAX_STATE}")
    return Command(source, rule, value)
