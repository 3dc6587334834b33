"""Words and fixed sentences that the world's questions and answers share."""

from __future__ import annotations

from collections.abc import Sequence

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
QA = tuple[str, str]
"""A question and its right answer."""
EMPTY = "The picture is empty."
UNKNOWN_PICTURE = "I do not know this picture: I know drawings of shapes, things and signs."
UNKNOWN_QUESTION = "I do not know that: I can say what is in a picture, where it is, its colour and how many."
NO_PICTURE = "There is no picture: show me one, and I can say what is in it."


def article(name: str) -> str:
    """`a red circle`, `an orange star`."""
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def plural(noun: str) -> str:
    """`circles`, `crosses`, `boxes`, `butterflies`."""
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "sh", "x")) else f"{noun}s"


def join(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
