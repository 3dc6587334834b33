"""The usual ways to write one short answer: `yes`, `Yes`, ` yes`, `Yes.`, ... A model says one of them, a user another.

    spellings("yes")            {"yes": 0, "Yes": 1, "yes.": 1, "YES": 1, " yes": 1, "Yes.": 2, ...}
    tokenized(["yes", "no"], tokenizer.encode_plain)

No model and no probabilities here.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

Spelled = Mapping[tuple[int, ...], float]
"""Token ids of each spelling of one answer, the one that was given first; how much of the spelling counts for it."""

_BRACKETED = re.compile(r"\(([^\W_])\)|([^\W_])\)")
_STOPS = ".\u3002"
"""The full stop, and the one of Chinese and Japanese."""


def spellings(answer: str) -> dict[str, int]:
    """Each usual spelling of an answer, the answer itself first, and how many changes make it of the answer.

    `answer`: not empty; white space behind it is left out. A change is another case, a full stop more or less, a
    leading space more or less, brackets around a lone letter or digit (`A`, `A)`, `(A)`). The ideographic full stop is
    the one of a Chinese or Japanese answer.
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

    A spelling that several answers have (of `US` and `us`, say) counts for the one that it is nearest to, in equal
    parts where it is as near to others. An answer that is nothing to the tokenizer has none.
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
    """The answer without what goes around it, its own frame as a format string, and all usual frames of it."""
    bracketed = _BRACKETED.fullmatch(text)
    if bracketed:
        core, frame = (bracketed[1], "({})") if bracketed[1] else (bracketed[2], "{})")
    else:
        core = text[:-1] if text[-1] in _STOPS and text[-2:-1].isalnum() else text
        frame = "{}" + text[len(core) :]
    if not core[-1].isalnum():  # "really?", "...", "C++": ends as it does
        return core, frame, (frame,)
    stop = _STOPS[unicodedata.east_asian_width(core[-1]) in ("W", "F")]
    usual = ("{}", f"{{}}{stop}", *(("({})", "{})") if len(core) == 1 else ()))
    return core, frame, (*usual, *({frame} - {*usual}))


def _cases(core: str) -> dict[str, int]:
    """The text as it is, then in other cases, to the changes that takes: none or one."""
    lower = core.lower()
    first_letters = (core[:1].upper() + core[1:], lower if core.isupper() else core[:1].lower() + core[1:])
    return {**dict.fromkeys((*first_letters, lower, lower[:1].upper() + lower[1:], core.upper()), 1), core: 0}
