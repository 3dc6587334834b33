"""Judges free answers: is an answer right that differs from the reference, and is it a sentence of the world at all?

Rules (`JUDGES`):

- `words`: both texts have the same content words. Small words (`a`, `the`, `there`, `is`, ...), case and punctuation do
  not count; a plural equals its singular. A thing, its number, its colour and its place form one word. Order counts
  between parts, which begin at `first`, `then`, `from`, `to`, `image 2` and so on, not within a part.
- `names`: both texts name the same things in the same colours, equally often; places do not count.
- `unknown`: the answer says that the model does not know, or has no picture.
"""

from __future__ import annotations

import re
from collections import Counter

from edge_interleave.world.phrases import EMPTY, NO_PICTURE, NUMBERS, UNKNOWN_PICTURE, UNKNOWN_QUESTION, plural
from edge_interleave.world.scene import PLACES
from edge_interleave.world.vocabulary import COLOURS, SHAPES, THINGS, WORDS

JUDGES = ("words", "names", "unknown")
_SMALL = frozenset((
    "a", "an", "the", "there", "is", "are", "at", "and", "it", "of", "in", "object", "objects", "has", "have",
    "its", "contains", "shows", "picture", "i", "see", "that", "all",
))  # fmt: skip
_SINGULAR = {plural(kind): kind for kind in (*SHAPES, *THINGS)}
_PART = re.compile(r"(\b(?:first|then|from|to|images? \d+)\b)|[.;:]\s*")
_NAMES = frozenset((*COLOURS, *SHAPES, *THINGS))
_UNKNOWN = (UNKNOWN_PICTURE, UNKNOWN_QUESTION, NO_PICTURE)


def is_right(answer: str, reference: str, judge: str) -> bool:
    """Whether an answer is right by a rule of JUDGES. Raises ValueError for an unknown rule."""
    if judge == "unknown":
        return answer.strip() in _UNKNOWN
    if judge == "names":
        return _names(answer) == _names(reference)
    if judge == "words":
        return _parts(answer) == _parts(reference)
    raise ValueError(f"unknown judge {judge!r}; one of {', '.join(JUDGES)}")


def is_sentence(answer: str) -> bool:
    """Whether an answer has the form of a right answer in the world, whatever it says."""
    return _SENTENCE.fullmatch(answer.strip()) is not None


def _words(text: str) -> list[str]:
    words = re.findall(r"[a-z]+|\d+", text.lower())
    return [_SINGULAR.get(word, word) for word in words]


def _names(text: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    times, colour = 1, ""
    for word in _words(text):
        if word in NUMBERS:
            times = NUMBERS.index(word)
        elif word in COLOURS:
            colour = word
        elif word in _NAMES:
            counts[f"{colour} {word}".strip()] += times
            times, colour = 1, ""
        else:
            colour = ""
    return +counts


def _parts(text: str) -> list[Counter[str] | str]:
    parts: list[Counter[str] | str] = []
    for piece in _PART.split(text.lower()):
        words = " ".join(word for word in _words(piece or "") if word not in _SMALL)
        things = [found[0] for found in _THING.finditer(words)]
        if words:
            parts.append(Counter([*things, *_THING.sub("", words).split()]))
    return parts


def _any(words: tuple[str, ...]) -> str:
    return "(?:" + "|".join(sorted(map(re.escape, words), key=len, reverse=True)) + ")"


_COLOUR, _KIND, _PLACE = _any(COLOURS), _any((*SHAPES, *THINGS)), _any(PLACES)
_NAME = rf"(?:(?:{_COLOUR} )?(?:{_KIND}|object))"
_THING = re.compile(rf"\b(?:{_any(NUMBERS)} )?(?:{_COLOUR} )?{_KIND}(?: {_PLACE})?\b")
_ONE = rf"(?:an? {_NAME})"
_ONES = rf"{_ONE}(?:(?:, | and ){_ONE})*"
_MANY = rf"(?:{_any(NUMBERS[2:])} (?:{_COLOUR} )?{_any(tuple(_SINGULAR))})"
_SOME = rf"(?:{_ONE}|{_MANY})(?:(?:, | and )(?:{_ONE}|{_MANY}))*"
_PLACED = rf"{_ONE} at the {_PLACE}(?:(?:, | and ){_ONE} at the {_PLACE})*"
_THE = rf"(?:the {_NAME})"
_CHANGED = (
    rf"(?:(?:A|An|a|an) {_NAME} appear(?:ed|s) at the {_PLACE}|[Tt]he {_NAME}(?: at the {_PLACE})? disappear(?:ed|s)|"
    rf"[Tt]he {_NAME} moves to the {_PLACE}|The {_NAME} moved from the {_PLACE} to the {_PLACE}|"
    rf"[Tt]he {_NAME}(?: at the {_PLACE})? bec(?:ame|omes) (?:{_COLOUR}|an? {_KIND}))"
)
_COUNTED = (
    rf"(?:is one (?:(?:{_COLOUR} )?(?:{_KIND}|object)|shape)|"
    rf"are {_any(NUMBERS)} (?:(?:{_COLOUR} )?(?:{_any(tuple(_SINGULAR))}|objects)|shapes))"
)
_COLOUR_LIST = rf"{_COLOUR}(?:(?:, | and ){_COLOUR})*"
_SAYS = rf"It says (?:{_any(WORDS)}|\d+)\."
_SENTENCE = re.compile(
    "|".join(
        (
            *map(re.escape, (*_UNKNOWN, EMPTY, "Yes.", "No.", "Nothing changed.", "There is nothing written.")),
            r"[A-D]",
            rf"There (?:is|are) {_SOME}(?: at the {_PLACE})?\.",
            rf"There is {_PLACED}\.",
            rf"There {_COUNTED}(?: in all)?\.",
            rf"There is no (?:{_COLOUR} )?{_KIND}\.",
            rf"There is nothing at the {_PLACE}\.",
            rf"The {_NAME} is (?:{_COLOUR}|an? {_KIND}|at the {_PLACE}|bigger|smaller)\.",
            rf"The {_KIND} has its own colours\.",
            rf"Nothing is {_COLOUR}\.",
            rf"The (?:{_any(NUMBERS)} )?{_any((*_SINGULAR, *SHAPES, *THINGS))}(?:(?:, | and )the (?:{_any(NUMBERS)} )?"
            rf"{_any((*_SINGULAR, *SHAPES, *THINGS))})* (?:is|are) {_COLOUR}\.",
            rf"The (?:biggest|smallest) object is the {_NAME}\.",
            rf"{_COLOUR_LIST.replace(_COLOUR, '(?i:' + _COLOUR + ')', 1)}\.",
            rf"{_SAYS}(?: There is {_PLACED}\.)?",
            r"The two images are (?:not )?the same\.",
            rf"{_CHANGED}\.",
            rf"Image \d contains {_ONES}(?:, and image \d contains {_ONES})?\.",
            rf"Image 1 contains (?:an? |no ){_NAME} and image 2 contains (?:an? |no ){_NAME}\. (?:True|False)\.",
            rf"(?:Add {_ONE} at|Remove {_THE} at) the {_PLACE}\.",
            rf"Move {_THE} from the {_PLACE} to the {_PLACE}\.",
            rf"(?:Make|Turn) {_THE} at the {_PLACE} (?:{_COLOUR}|into an? {_KIND})\.",
            rf"First there is {_ONE}(?:(?:, | and ){_ONE})*\.(?: Then {_CHANGED}\.)+",
            rf"The {_NAME} moves (?:up|down|to the left|to the right)\.",
            rf"The {_NAME} appears (?:in frame \d+|once|twice|three times)\.",
            rf"First {_THE}(?:, then {_THE})+\.",
            r"Image \d is the (?:darkest|blurriest|noisiest)\.",
            r"Image \d says (?:[a-z]+|\d+)\.",
            rf"The {_NAME} is hidden in image \d\.",
            r"The camera moved to the (?:left|right)\.",
            rf"An? {_NAME} completes the puzzle\.",
        )
    )
)
