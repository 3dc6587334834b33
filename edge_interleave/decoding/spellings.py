"""The usual spellings of a short answer: `yes`, `Yes`, ` yes`, `Yes.`, ...

    spellings("yes")            {"yes": 0, "Yes": 1, "yes.": 1, "YES": 1, " yes": 1, "Yes.": 2, ...}
    tokenized(["yes", "no"], tokenizer.encode_plain)

A user names one spelling; the model may use another.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

Spelled = Mapping[tuple[int, ...], float]
"""Token ids of each spelling of one answer, the given one first, with the share of the spelling that counts for it."""

_BRACKETED = re.compile(r"\(([^\W_])\)|([^\W_])\)")
_STOPS = ".\u3002"
"""The full stop, and that of Chinese and Japanese."""


def spellings(answer: str) -> dict[str, int]:
    """Each usual spelling of an answer, the answer itself first, with its number of changes.

    `answer`: not empty; trailing white space is dropped. One change: another case; a full stop or leading space added
    or removed; other brackets around a lone letter or digit (`A`, `A)`, `(A)`). Chinese and Japanese answers take the
    ideographic full stop.
    """
    answer = answer.rstrip()
    core, frame, frames = _framed(answer.lstrip())
    found: dict[str, int] = {answer: 0}
    for written, changes in _cases(core).items():
        for other in frames:
            form = other.format(written)
            for spaced in (form, f" {form}"):
                moved = (other != frame) + (spaced[0].isspace() != answer[0].isspace())
                found[spaced] = min(changes + moved, found.get(spaced, changes + moved))
    return found


def tokenized(answers: Sequence[str], encode: Callable[[str], Sequence[int]]) -> list[Spelled]:
    """The spellings of several answers as token ids, in the order given.

    A spelling that several answers share (`US` and `us`) counts for the answer with the fewest changes, and is split
    equally in a tie. An answer without tokens has no spellings.
    """
    ways: list[dict[tuple[int, ...], int]] = []
    for answer in answers:
        way: dict[tuple[int, ...], int] = {}
        for text, changes in spellings(answer).items():
            ids = tuple(encode(text))
            if ids:
                way[ids] = min(changes, way.get(ids, changes))
        ways.append(way)
    nearest: dict[tuple[int, ...], int] = {}
    for way in ways:
        for ids, changes in way.items():
            nearest[ids] = min(changes, nearest.get(ids, changes))
    owners = Counter(ids for way in ways for ids, changes in way.items() if changes == nearest[ids])
    return [{ids: 1 / owners[ids] for ids, changes in way.items() if changes == nearest[ids]} for way in ways]


def _framed(text: str) -> tuple[str, str, tuple[str, ...]]:
    """The answer without brackets and full stop, its own frame as a format string, and all its usual frames."""
    bracketed = _BRACKETED.fullmatch(text)
    if bracketed:
        core, frame = (bracketed[1], "({})") if bracketed[1] else (bracketed[2], "{})")
    else:
        core = text[:-1] if text[-1] in _STOPS and text[-2:-1].isalnum() else text
        frame = "{}" + text[len(core) :]
    if not core[-1].isalnum():  # "really?", "...", "C++": takes no other ending
        return core, frame, (frame,)
    stop = _STOPS[unicodedata.east_asian_width(core[-1]) in ("W", "F")]
    usual = ("{}", f"{{}}{stop}", *(("({})", "{})") if len(core) == 1 else ()))
    return core, frame, (*usual, *({frame} - {*usual}))


def _cases(core: str) -> dict[str, int]:
    """The text in each case, with its number of changes: 0 for the given case, 1 for the others."""
    lower = core.lower()
    first_letters = (core[:1].upper() + core[1:], lower if core.isupper() else core[:1].lower() + core[1:])
    return {**dict.fromkeys((*first_letters, lower, lower[:1].upper() + lower[1:], core.upper()), 1), core: 0}
