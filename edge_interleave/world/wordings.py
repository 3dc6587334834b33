"""Rewords the world's questions as people type them; a fifth of the wordings, and some words, are held out.

`reworded` parses a question of `scene_questions.py` or `group_questions.py` into its kind and the names in it, and
fills another template: lower case, no question mark, "what's", "color", "photo", commands, "the second picture".

`wordings.txt` holds the templates: `(a|b)` are alternatives, `(a|)` is an option; `{thing}`, `{place}`, ... are names
in the question, `{a thing}` with its article, `{things}` in the plural. Lines marked `-` are held out of training.
"""

from __future__ import annotations

import itertools
import random
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

from edge_interleave.world.phrases import article, plural
from edge_interleave.world.scene import PLACES
from edge_interleave.world.vocabulary import COLOURS

_MACROS = {
    "$P": "(picture|image|photo|pic|drawing)",
    "$see": "(do you see|can you see|are there|do we have)",
    "$O": "(object|thing|item)",
    "$C": "(colour|color)",
    "$tell": "(tell me|say|can you tell me|could you tell me|i want to know|do you know)",
    "$both": "(both|the two|these two|the)",
    "$F": "(frame|picture|image)",
}
HELD_OUT_WORDS = {"picture": "snapshot", "image": "snapshot", "photo": "snapshot", "see": "notice", "please": "kindly"}
"""Words of training, and the held-out words that sometimes replace them."""
SYNONYMS = {
    "bicycle": ("bike",),
    "rabbit": ("bunny",),
    "dog": ("puppy", "doggy"),
    "cat": ("kitty", "kitten"),
    "moon": ("crescent",),
    "cross": ("plus",),
    "diamond": ("rhombus",),
    "balloon": ("baloon",),
    "circle": ("disc", "dot"),
    "car": ("auto", "automobile"),
    "square": ("box", "block"),
    "butterfly": ("buterfly",),
    "cup": ("mug",),
    "clock": ("alarm clock",),
    "hat": ("cap",),
    "turtle": ("tortoise",),
}
"""Other names for a thing; answers use the key."""
_PLURAL_SYNONYMS = {plural(kind): tuple(map(plural, names)) for kind, names in SYNONYMS.items()}
_SYNONYM_SHARE = 0.08
"""How often a thing that has another name is called by it."""
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
_DIGIT_ORDINALS = ("1st", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th")
_PLACE_WORDS = {
    "top left": ("at the top left", "in the top left", "in the top left corner", "on the top left", "top left"),
    "top": ("at the top", "on top", "in the top middle", "at the top center", "on the top"),
    "top right": ("at the top right", "in the top right", "in the top right corner", "on the top right", "top right"),
    "left": ("at the left", "on the left", "on the left side", "to the left", "at the left side"),
    "center": ("at the center", "in the center", "in the middle", "in the centre", "at the centre"),
    "right": ("at the right", "on the right", "on the right side", "to the right", "at the right side"),
    "bottom left": ("at the bottom left", "in the bottom left", "in the bottom left corner", "in the lower left"),
    "bottom": ("at the bottom", "on the bottom", "in the bottom middle", "at the bottom center"),
    "bottom right": ("at the bottom right", "in the bottom right", "in the bottom right corner", "in the lower right"),
}


def _read() -> dict[str, tuple[list[str], list[str], list[str]]]:
    """For each kind: the world's own wordings, those of training, the held-out ones."""
    found: dict[str, tuple[list[str], list[str], list[str]]] = {}
    text = (resources.files(__package__) / "wordings.txt").read_text(encoding="utf-8")
    for line in text.splitlines():
        if line.startswith("["):
            lists = found[line[1:-1]] = ([], [], [])
        elif line and not line.startswith("#"):
            lists["=+-".index(line[0])].append(line[2:])
    return found


_TEMPLATES = _read()
KINDS = tuple(_TEMPLATES)
"""The kinds of questions with other wordings."""
_COMPARISONS = {
    "bigger": ("bigger", "larger", "taller"),
    "smaller": ("smaller", "littler"),
    "biggest": ("biggest", "largest"),
    "smallest": ("smallest", "tiniest"),
    "darkest": ("darkest",),
    "blurriest": ("blurriest", "least sharp"),
    "noisiest": ("noisiest", "most noisy"),
}
_OPENINGS = (
    "i would like to know: ",
    "question: ",
    "quick question, ",
    "tell me this: ",
    "my question is: ",
    "let me ask, ",
    "look closely, ",
    "one more thing: ",
    "i was wondering, ",
    "next question: ",
    "this time: ",
)
_SMALL = (
    "the", "a", "an", "is", "are", "do", "does", "you", "me", "of", "to", "in", "here", "there", "this",
    "that", "it", "say", "tell", "find", "show", "be", "would", "could", "can", "might", "have", "i",
    "please", "give", "see", "which", "what", "for", "with",
)  # fmt: skip
"""Words that a question can usually do without."""
_PATTERNS = {
    "thing": r"[a-z]+(?: [a-z]+)?",
    "other": r"[a-z]+(?: [a-z]+)?",
    "a thing": r"an? [a-z]+(?: [a-z]+)?",
    "where": r"(?: in image \d)?",
    "in": r" in image \d",
    "place": "|".join(sorted(PLACES, key=len, reverse=True)),
    "nouns": r"[a-z]+(?: [a-z]+)?",
    "n": r"\d",
    "colour": "|".join(COLOURS),
    "statement": r".+",
    "text": r"[a-z]+|\d+",
    "choices": r"A: .+",
    "most": "|".join(_COMPARISONS),
    "more": "bigger|smaller",
}
_FIELD = re.compile(r"\{([^}]+)\}")


@dataclass(frozen=True)
class Asked:
    """A parsed question of the world."""

    kind: str
    """One of KINDS."""
    fields: dict[str, str]
    """The names in it, by placeholder."""


def understood(question: str) -> Asked | None:
    """Parse a question in the world's own wording; None for any other question."""
    for kind, pattern in _canonical():
        found = pattern.fullmatch(question)
        if found:
            return Asked(kind, {name.replace("_", " "): text for name, text in found.groupdict().items()})
    return None


def reworded(rng: random.Random, question: str, held_out: bool = False) -> str:
    """The question in another wording: one of training's, or a held-out one.

    A question that `understood` does not know is returned as it is.
    """
    asked = understood(question)
    if asked is None:
        return question
    template = rng.choice(wordings(asked.kind, held_out=held_out))
    if asked.fields.get("where") and "{where}" in template and rng.random() < 0.2:
        template = "in {which picture}, " + template.replace("{where}", "")
    names = {name: _called(rng, text) for name, text in asked.fields.items() if name in ("thing", "other")}
    fields = {**asked.fields, **names}
    if "a thing" in fields:
        fields["thing"] = _called(rng, fields["a thing"].split(" ", 1)[1])
    text = _FIELD.sub(lambda found: _filled(rng, found[1], fields), template)
    return _styled(rng, re.sub(r" +([?.,:])", r"\1", re.sub(r" {2,}", " ", text)), held_out)


@cache
def wordings(kind: str, *, held_out: bool) -> tuple[str, ...]:
    """A kind's templates with all alternatives written out: those of training, or the held-out ones.

    Each template takes up an equal share of the result, however many alternatives it has.
    """
    expanded = [_expanded(template) for template in _TEMPLATES[kind][2 if held_out else 1]]
    if held_out:
        # Two templates may expand to the same text.
        trained = set(wordings(kind, held_out=False))
        expanded = [[text for text in texts if text not in trained] for texts in expanded]
        expanded = [texts for texts in expanded if texts]
    most = max(map(len, expanded))
    return tuple(text for texts in expanded for text in (texts * (most // len(texts) + 1))[:most])


def number_of_wordings(kind: str, *, held_out: bool) -> int:
    """The number of different wordings of a kind, before case, contractions and politeness."""
    return len(set(wordings(kind, held_out=held_out)))


@cache
def _canonical() -> tuple[tuple[str, re.Pattern[str]], ...]:
    found = []
    for kind, (canonical, *_) in _TEMPLATES.items():
        for template in canonical:
            parts = re.split(r"(\{[^}]+\})", template)
            pattern = ""
            for part in parts:
                if part.startswith("{"):
                    name = part[1:-1]
                    pattern += f"(?P<{name.replace(' ', '_')}>{_PATTERNS[name]})"
                else:
                    pattern += re.escape(part)
            found.append((kind, re.compile(pattern)))
    # Longer patterns first: "Where is the car going?" is not about a "car going".
    return tuple(sorted(found, key=lambda pair: len(pair[1].pattern), reverse=True))


def _expanded(template: str) -> list[str]:
    for macro, text in _MACROS.items():
        template = template.replace(macro + "s", "(" + text[1:-1].replace("|", "s|") + "s)").replace(macro, text)
    texts = [template]
    while any("(" in text for text in texts):
        texts = list(itertools.chain.from_iterable(_once(text) for text in texts))
    return [re.sub(r" +", " ", text).strip() for text in dict.fromkeys(texts)]


def _once(text: str) -> list[str]:
    found = re.search(r"\(([^()]*)\)", text)
    if found is None:
        return [text]
    return [text[: found.start()] + option + text[found.end() :] for option in found[1].split("|")]


def _filled(rng: random.Random, name: str, fields: dict[str, str]) -> str:
    if name == "where":
        where = fields.get("where", "")
        return rng.choice((" in ", " in ", " on ")) + _picture(rng, int(where[-1])) if where else ""
    if name == "which picture":
        return _picture(rng, int((fields.get("where") or fields["in"])[-1]))
    if name == "pic n":
        return _picture(rng, int(fields["n"]))
    if name in ("a thing", "a thing plain"):
        return article(fields["thing"])
    if name == "another":
        return article(fields["other"])
    if name == "a colour":
        return article(fields["colour"])
    if name == "things":
        return plural(fields["thing"])
    if name == "at":
        return rng.choice(_PLACE_WORDS[fields["place"]])
    if name == "nouns":
        return _called_many(rng, fields["nouns"])
    if name in ("most", "more"):
        return rng.choice(_COMPARISONS[fields[name]])
    return fields[name]


def _called(rng: random.Random, name: str) -> str:
    """The thing's name or, sometimes, another name for it: a bike, the red thing."""
    *colours, kind = name.split()
    if kind == "object":
        kind = rng.choice(("object", "thing", "one", "shape", "item"))
    elif kind in SYNONYMS and rng.random() < _SYNONYM_SHARE:
        kind = rng.choice(SYNONYMS[kind])
    return " ".join((*colours, kind))


def _called_many(rng: random.Random, nouns: str) -> str:
    """The things to count or, sometimes, another name for them: bikes, the red things."""
    *colours, kinds = nouns.split()
    if kinds == "objects":
        kinds = rng.choice(("objects", "things", "items"))
    elif kinds in _PLURAL_SYNONYMS and rng.random() < _SYNONYM_SHARE:
        kinds = rng.choice(_PLURAL_SYNONYMS[kinds])
    return " ".join((*colours, kinds))


def _picture(rng: random.Random, number: int) -> str:
    noun = rng.choice(("image", "image", "picture", "picture", "photo", "pic"))
    style = rng.random()
    if style < 0.45:
        return f"{noun} {number}"
    if style < 0.9:
        return f"the {_ORDINALS[number - 1]} {rng.choice((noun, noun, noun, 'one'))}"
    return f"the {_DIGIT_ORDINALS[number - 1]} {noun}"


def _styled(rng: random.Random, text: str, held_out: bool) -> str:
    """The text with case, punctuation, contractions, politeness and typing errors as people have them."""
    choices = ""
    if " A: " in text or text.startswith("A: "):
        text, choices = text.split("A: ", 1)
        choices = "A: " + choices
    if held_out and rng.random() < 0.25:
        for word, other in rng.sample(sorted(HELD_OUT_WORDS.items()), len(HELD_OUT_WORDS)):
            if re.search(rf"\b{word}\b", text):
                text = re.sub(rf"\b{word}\b", other, text, count=1)
                break
    if rng.random() < 0.4:
        text = text.replace("what is ", rng.choice(("what's ", "what's ", "whats ")), 1)
        text = text.replace("where is ", rng.choice(("where's ", "wheres ")), 1).replace("who is ", "who's ", 1)
    if not choices and rng.random() < 0.14:
        before = rng.choice(("please ", "please, ", "hey, ", "hi, ", "ok, ", "so, ", "and ", "now, ", "well, "))
        text = before + text
    ends_with_mark = text.rstrip().endswith(("?", "."))
    if not choices and not held_out and rng.random() < 0.06:
        text = rng.choice(_OPENINGS) + text
    if not choices and not held_out and rng.random() < 0.1:
        text = _garbled(rng, text)
    if not choices and rng.random() < 0.08:
        mark = "?" if text.endswith("?") else ""
        text = text.rstrip("?.") + rng.choice((" please", ", please", " now")) + mark
    if rng.random() < 0.06:
        text = _slipped(rng, text)
    if choices:
        text = text.rstrip(" .")
    elif rng.random() < 0.45:
        text = text.rstrip("?.")
    elif not ends_with_mark and rng.random() < 0.6:
        text = text.rstrip() + "."
    if rng.random() < 0.35:
        text = text[:1].upper() + text[1:]
    if choices:
        text = f"{text.rstrip()} {choices}"
    return text.strip()


def _garbled(rng: random.Random, text: str) -> str:
    """The text with one small word left out or replaced."""
    words = text.split(" ")
    small = [i for i, word in enumerate(words) if word.lower().strip("?.,:") in _SMALL]
    if len(words) < 4 or not small:
        return text
    at = rng.choice(small)
    word = rng.choice(("", "", "".join(rng.choice("abcdefghilmnoprstuw") for _ in range(rng.randint(2, 7)))))
    words[at] = word or rng.choice((*_SMALL, ""))
    return " ".join(filter(None, words))


def _slipped(rng: random.Random, text: str) -> str:
    """The text with one letter of a longer word left out, doubled or swapped with its neighbour."""
    words = list(re.finditer(r"[a-z]{4,}", text))
    if not words:
        return text
    word = rng.choice(words)
    at = rng.randrange(word.start() + 1, word.end() - 1)
    slip = rng.randrange(3)
    if slip == 0:
        return text[:at] + text[at + 1 :]
    if slip == 1:
        return text[:at] + text[at] + text[at:]
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
