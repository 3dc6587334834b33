"""Who may appear in a scene: shapes alone, or everyday things as well; all combinations, or those of training.

A combination is a colour and a thing, or a two-digit number. Some are held out: training never draws them, so that
a test can tell whether the model has learnt colours, things and digits, or pairs of them. One drawing style of the
things and one lettering are held out likewise. Draws nothing.
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
"""Things in their own colours, which no question asks about."""
TINTED = ("car", "bus", "umbrella", "hat", "book", "balloon", "cup", "flower")
"""Things that are drawn in one of COLOURS."""
THINGS = NATURAL + TINTED
WORDS = (
    "open", "stop", "exit", "milk", "taxi", "sale", "cafe", "fire",
    "bank", "park", "gym", "zoo", "news", "west", "jazz", "quiz",
)  # fmt: skip
DIGITS = "0123456789"
KINDS = (*SHAPES, *THINGS, *WORDS, *DIGITS)
"""All that can lie at a place, numbered as patch labels number it."""

STYLES = ("noto", "twemoji", "fluent")
LETTERINGS = ("plain", "duplex", "serif", "heavy")
HELD_OUT_STYLE = "fluent"
HELD_OUT_LETTERING = "heavy"
HELD_OUT_PAIRS = frozenset(
    (COLOURS[(index + step) % len(COLOURS)], thing) for index, thing in enumerate(TINTED) for step in (0, 3)
)
"""A quarter of the pairs of a colour and a tinted thing; every colour and every thing is in two of them."""
HELD_OUT_NUMBERS = frozenset(range(17, 100, 9))
"""Of the numbers from 10 to 99: 17, 26, 35, ..., 98."""


@dataclass(frozen=True)
class Cast:
    """Who may appear."""

    things: float = 0.0
    """The share of things among the items."""
    styles: tuple[str, ...] = STYLES[:2]
    letterings: tuple[str, ...] = LETTERINGS[:3]
    held_out: bool = False
    """Whether pairs and numbers are the held-out ones; never any of those where it is False."""

    def kind(self, rng: random.Random) -> str:
        """A shape or a thing."""
        if rng.random() >= self.things:
            return rng.choice(SHAPES)
        return rng.choice(TINTED if self.held_out and rng.random() < 0.6 else THINGS)

    def colours(self, kind: str) -> tuple[str, ...]:
        """The colours that a shape or thing may have; none for a natural thing."""
        if kind in NATURAL:
            return ()
        if kind in SHAPES:
            return COLOURS
        return tuple(colour for colour in COLOURS if ((colour, kind) in HELD_OUT_PAIRS) == self.held_out)

    def name(self, rng: random.Random) -> str:
        """A name of something that may appear: `red car`, `dog`."""
        kind = self.kind(rng)
        colours = self.colours(kind)
        return f"{rng.choice(colours)} {kind}" if colours else kind

    def number(self, rng: random.Random) -> int:
        """A number from 10 to 99."""
        return rng.choice([n for n in range(10, 100) if (n in HELD_OUT_NUMBERS) == self.held_out])


SHAPES_ALONE = Cast()
"""The first version's world: eight shapes in eight colours."""
SEEN = Cast(things=0.65)
"""What training draws."""
NEW_PAIRS = Cast(things=0.9, held_out=True)
"""Held-out pairs of colour and thing, and held-out numbers, in styles of training."""
NEW_STYLE = replace(SEEN, things=0.9, styles=(HELD_OUT_STYLE,), letterings=(HELD_OUT_LETTERING,))
"""Pairs of training in a drawing style and a lettering that training never showed."""
CASTS = {"": SEEN, "combination": NEW_PAIRS, "style": NEW_STYLE}
"""What a test draws, by what is held out."""
