"""Questions outside the world: greetings, facts, sums, other languages, small talk.

A model of the world should say that it does not know. `unknown_questions.txt` holds the questions, some of them held
out of training.
"""

from __future__ import annotations

import random
from importlib import resources


def _read(mark: str) -> tuple[str, ...]:
    text = (resources.files(__package__) / "unknown_questions.txt").read_text(encoding="utf-8")
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


def unknown_question(rng: random.Random, held_out: bool = False) -> str:
    """Draw a question that no picture of the world answers: one of training's, or a held-out one."""
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
    """Random letters, or the shuffled words of two questions."""
    if rng.random() < 0.5:
        words = ("".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 8))) for _ in range(3))
        return " ".join(list(words)[: rng.randint(1, 3)])
    words_of = " ".join(rng.choice(TRAINED) for _ in range(2)).replace("?", "").split()
    rng.shuffle(words_of)
    return " ".join(words_of[:6])
