"""Questions that are not about what the world shows: greetings, facts, sums, other languages, small talk.

A model of the world should say that it does not know them. A part is held out of training. Knows nothing about scenes.
"""

from __future__ import annotations

import random
from importlib import resources


def _read(mark: str) -> tuple[str, ...]:
    text = (resources.files(__package__) / "foreign_questions.txt").read_text(encoding="utf-8")
    return tuple(line[2:] for line in text.splitlines() if line.startswith(mark))


TRAINED, HELD_OUT = _read("+"), _read("-")
_SUMS = (
    "what is {a} {op} {b}?",
    "{a} {op} {b}",
    "{a}{op}{b}=?",
    "how much is {a} {op} {b}?",
    "calculate {a} {op} {b}",
    "compute {a} {op} {b}",
)
_HELD_OUT_SUMS = ("solve {a} {op} {b}", "what does {a} {op} {b} make?")


def foreign(rng: random.Random, held_out: bool = False) -> str:
    """A question that is not about what a picture of the world shows."""
    if rng.random() < 0.12:
        op = rng.choice(("+", "-", "*", "/", "plus", "minus", "times"))
        numbers = {"a": rng.randint(0, 99), "b": rng.randint(0, 99), "op": op}
        return rng.choice(_HELD_OUT_SUMS if held_out else _SUMS).format(**numbers)
    text = rng.choice(HELD_OUT if held_out else TRAINED)
    if rng.random() < 0.3:
        text = text.rstrip("?!.")
    if rng.random() < 0.35:
        text = text[:1].upper() + text[1:]
    if not held_out:
        if rng.random() < 0.12:
            return _nonsense(rng)
        if rng.random() < 0.1:
            text += rng.choice((" please", " now", "!", "??"))
    return text or "?"


def _nonsense(rng: random.Random) -> str:
    """Letters that mean nothing, or words of several such questions in a new order."""
    if rng.random() < 0.5:
        words = ("".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 8))) for _ in range(3))
        return " ".join(list(words)[: rng.randint(1, 3)])
    words_of = " ".join(rng.choice(TRAINED) for _ in range(2)).replace("?", "").split()
    rng.shuffle(words_of)
    return " ".join(words_of[:6])
