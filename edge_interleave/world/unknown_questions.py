"""Questions outside the world: greetings, facts, sums, other languages, small talk.

A model of the world should say that it does not know. `unknown_questions.txt` holds the questions, some of them held
out of training.
"""

from __future__ import annotations

import random
import re
from importlib import resources

_TEXT = (resources.files(__package__) / "unknown_questions.txt").read_text(encoding="utf-8").splitlines()


def _marked(mark: str) -> tuple[str, ...]:
    return tuple(line[2:] for line in _TEXT if line.startswith(f"{mark} "))


TRAINED, HELD_OUT, _PATTERNS = _marked("+"), _marked("-"), _marked("*")
_HELD_OUT_PLAIN = frozenset(text.rstrip("?!.") for text in HELD_OUT)
_WORDS = {found[1]: tuple(found[2].split()) for line in _TEXT if (found := re.fullmatch(r"([a-z]+): (.+)", line))}
# Beginnings and ends of made-up syllables; none of either is common.
_STARTS = (*"bcdfghjklmnprstvwz", "bl", "ch", "dr", "fl", "gr", "pr", "qu", "sh", "st", "tr", "")
_ENDS = (*"bdlmnprstx", "ck", "ll", "nd", "rt", "st", "", "")
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
    text = rng.choice(HELD_OUT) if held_out else _training_text(rng)
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


def _training_text(rng: random.Random) -> str:
    return _of_pattern(rng) if rng.random() < 0.55 else rng.choice(TRAINED)


def _of_pattern(rng: random.Random) -> str:
    """A question of one of the patterns, never a held-out one. One word in twelve is a made-up one."""

    def word(found: re.Match[str]) -> str:
        kind = found[2]
        if kind == "number":
            return str(rng.randint(1, 99))
        made = _made_up(rng) if kind == "new" or rng.random() < 1 / 12 else rng.choice(_WORDS[kind])
        return f"{'an' if made[0] in 'aeiou' else 'a'} {made}" if found[1] else made

    while True:
        text = re.sub(r"\{(a )?([a-z]+)\}", word, rng.choice(_PATTERNS))
        if text.rstrip("?!.") not in _HELD_OUT_PLAIN:
            return text


def _made_up(rng: random.Random) -> str:
    """A word of one to three syllables that no language has."""
    return "".join(rng.choice(_STARTS) + rng.choice("aeiouy") + rng.choice(_ENDS) for _ in range(rng.randint(1, 3)))


def _nonsense(rng: random.Random) -> str:
    """Random letters, or the shuffled words of two questions."""
    if rng.random() < 0.5:
        words = ("".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 8))) for _ in range(3))
        return " ".join(list(words)[: rng.randint(1, 3)])
    words_of = " ".join(rng.choice(TRAINED) for _ in range(2)).replace("?", "").split()
    rng.shuffle(words_of)
    return " ".join(words_of[:6])
