"""What scenes are made of (shapes, things, colours, words), and the splits: what training draws and what it holds out.

Training never draws the held-out combinations (pairs of a colour and a thing, two-digit numbers), so a test shows
whether the model learned colours, things and digits, or only pairs of them. One drawing style of the things and one
lettering are held out too.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "cross", "moon")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black")
NATURAL = (
    "dog", "cat", "rabbit", "bird", "fish", "frog", "turtle", "butterfly",
    "apple", "banana", "pizza", "house", "tree", "clock", "key", "bicycle",
)  # fmt: skip
"""Things in their own colours; no question asks for these colours."""
TINTED = ("car", "bus", "umbrella", "hat", "book", "balloon", "cup", "flower")
"""Things drawn in one of COLOURS."""
THINGS = NATURAL + TINTED
WORDS = (
    "open", "stop", "exit", "milk", "taxi", "sale", "cafe", "fire",
    "bank", "park", "gym", "zoo", "news", "west", "jazz", "quiz",
)  # fmt: skip
DIGITS = "0123456789"
KINDS = (*SHAPES, *THINGS, *WORDS, *DIGITS)
"""Everything that can lie at a place; the index is the class of a patch label."""

STYLES = ("noto", "twemoji", "fluent")
LETTERINGS = ("plain", "duplex", "serif", "heavy")
HELD_OUT_STYLE = "fluent"
HELD_OUT_LETTERING = "heavy"
HELD_OUT_PAIRS = frozenset(
    (COLOURS[(index + step) % len(COLOURS)], thing) for index, thing in enumerate(TINTED) for step in (0, 3)
)
"""A quarter of the pairs of a colour and a tinted thing; each colour and each thing is in two of them."""
HELD_OUT_NUMBERS = frozenset(range(17, 100, 9))
"""17, 26, 35, ..., 98, of the numbers from 10 to 99."""


@dataclass(frozen=True)
class Split:
    """What may be drawn in a scene."""

    things: float = 0.0
    """Share of things among the items; the rest are shapes."""
    styles: tuple[str, ...] = STYLES[:2]
    letterings: tuple[str, ...] = LETTERINGS[:3]
    held_out: bool = False
    """True: tinted things and numbers only in held-out combinations. False: never in those."""

    def kind(self, rng: random.Random) -> str:
        """Draw a shape or a thing."""
        if rng.random() >= self.things:
            return rng.choice(SHAPES)
        return rng.choice(TINTED if self.held_out and rng.random() < 0.6 else THINGS)

    def colours(self, kind: str) -> tuple[str, ...]:
        """The colours that a shape or thing may have; none for a thing in its own colours."""
        if kind in NATURAL:
            return ()
        if kind in SHAPES:
            return COLOURS
        return tuple(colour for colour in COLOURS if ((colour, kind) in HELD_OUT_PAIRS) == self.held_out)

    def name(self, rng: random.Random) -> str:
        """Draw a name: `red car`, `dog`."""
        kind = self.kind(rng)
        colours = self.colours(kind)
        return f"{rng.choice(colours)} {kind}" if colours else kind

    def number(self, rng: random.Random) -> int:
        """Draw a number from 10 to 99."""
        return rng.choice([n for n in range(10, 100) if (n in HELD_OUT_NUMBERS) == self.held_out])


SHAPES_ALONE = Split()
"""Eight shapes in eight colours, no things."""
TRAIN = Split(things=0.65)
"""What training draws, and a test that holds nothing out."""
UNSEEN_PAIRS = Split(things=0.9, held_out=True)
"""Held-out combinations in the styles of training."""
UNSEEN_STYLE = replace(TRAIN, things=0.9, styles=(HELD_OUT_STYLE,), letterings=(HELD_OUT_LETTERING,))
"""Combinations of training in the held-out style and lettering."""
SPLITS = {"": TRAIN, "combination": UNSEEN_PAIRS, "style": UNSEEN_STYLE}
"""The split of a test sample, by what is held out."""
