"""Decides whether a question is worded like those a model was trained on.

A small model gives confident nonsense for questions unlike its training. A bundle may hold `questions.json`: counts of
word pairs in the questions the model was trained on, and in other questions. A question is familiar if it is likelier
among the former, by a margin.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from edge_interleave.bundle.manifest import QUESTIONS_NAME, Bundle
from edge_interleave.errors import BundleError
from edge_interleave.prompt.builder import MARKER
from edge_interleave.prompt.messages import Message
from edge_interleave.util.json_fields import JsonFields, read_json

MAX_BYTES = 4 << 20
_VERSION = 1
_MARGIN_MAX = 1e9
_REMEDY = "convert or pull the model again"
_START, _END = "<s>", "</s>"
_MARKS = ".?!,\"'"
_WORD = re.compile(r"[^\W\d_](?:[^\W\d_]|')*|[0-9]+|[^\s\w]|_")
# The count assumed for a word that was never seen, and the number of such words assumed to exist.
_UNSEEN, _UNSEEN_WORDS = 0.1, 5000

Pairs = Mapping[str, Mapping[str, int]]
"""How often a word follows another: {"<s>": {"how": 12, ...}, "how": {"many": 9, ...}, ...}."""


class WordPairs:
    """A bigram model of questions, smoothed as by Witten and Bell (1991)."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs
        self._following = {word: sum(after.values()) for word, after in pairs.items()}
        self._counts: Counter[str] = Counter()
        for after in pairs.values():
            self._counts.update(after)
        self._total = sum(self._counts.values())

    @classmethod
    def of(cls, questions: Iterable[str]) -> WordPairs:
        """Count the pairs of words in questions."""
        pairs: dict[str, Counter[str]] = {}
        for question in questions:
            words = _words(question)
            for word, after in pairwise(words):
                pairs.setdefault(word, Counter())[after] += 1
        return cls(pairs)

    def log_likelihood(self, question: str) -> float:
        """Natural logarithm of the question's probability, per word; the question's end counts as a word."""
        words = _words(question)
        total = 0.0
        for word, after in pairwise(words):
            alone = (self._counts[after] + _UNSEEN) / (self._total + _UNSEEN * (len(self._counts) + _UNSEEN_WORDS))
            seen = self.pairs.get(word, {})
            # The more distinct words follow this one, the likelier a word that never followed it (Witten-Bell).
            kinds = max(len(seen), 1)
            total += math.log((seen.get(after, 0) + kinds * alone) / (self._following.get(word, 0) + kinds))
        return total / (len(words) - 1)


@dataclass(frozen=True)
class QuestionModel:
    """Compares a question with those the model was trained on."""

    about: WordPairs = field(repr=False)
    """The questions the model was trained to answer."""
    other: WordPairs = field(repr=False)
    """Other questions."""
    margin: float
    """The least `score` of a familiar question."""
    examples: tuple[str, ...]
    """Examples of familiar questions, one of each kind, for messages."""

    def score(self, question: str) -> float:
        """Log-likelihood ratio per word: how much likelier a question is under `about` than under `other`."""
        return self.about.log_likelihood(question) - self.other.log_likelihood(question)

    def familiar(self, question: str) -> bool:
        """Whether a question is worded like those the model was trained on."""
        return self.score(question) >= self.margin


def is_familiar(model: QuestionModel | None, messages: Sequence[Message]) -> bool | None:
    """Whether the last message's text is worded like the questions of training; None without a question model."""
    if model is None or not messages:
        return None
    text = " ".join(part for part in messages[-1].parts if isinstance(part, str))
    return model.familiar(text)


def read_question_model(bundle: Bundle) -> QuestionModel | None:
    """The bundle's question model; None if the bundle has none.

    Raises BundleError if the file is too large or is not a question model.
    """
    if not bundle.has(QUESTIONS_NAME):
        return None
    return load_question_model(bundle.file(QUESTIONS_NAME))


def load_question_model(path: Path) -> QuestionModel:
    """The question model in a file. Raises BundleError if the file is too large or is not a question model."""
    raw = read_json(path, BundleError, most=MAX_BYTES, remedy=_REMEDY)
    fields = JsonFields(path, raw, BundleError, remedy=_REMEDY)
    fields.expect("version", fields.raw.get("version") == _VERSION, str(_VERSION))
    margin, examples = fields.number("margin", None, -_MARGIN_MAX, _MARGIN_MAX), fields.texts("examples")
    fields.expect("examples", all(one.isprintable() for one in examples), "a list of lines of text")
    return QuestionModel(WordPairs(_pairs(fields, "about")), WordPairs(_pairs(fields, "other")), margin, examples)


def dump_question_model(model: QuestionModel) -> str:
    """The text of a `questions.json`."""
    content = {
        "version": _VERSION,
        "margin": model.margin,
        "examples": list(model.examples),
        "about": model.about.pairs,
        "other": model.other.pairs,
    }
    return json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":")) + "\n"


def _pairs(fields: JsonFields, key: str) -> Pairs:
    pairs = fields.object(key).raw
    if (
        not pairs
        or not all(isinstance(after, dict) and after for after in pairs.values())
        or not all(type(count) is int and 0 < count < 1 << 31 for after in pairs.values() for count in after.values())
    ):
        raise fields.error(key, "counts of word pairs")
    return pairs


def _words(question: str) -> list[str]:
    """Lower-case words, numbers and signs between start and end marks, without the punctuation that people omit."""
    text = question.replace(MARKER, " ").lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return [_START, *(word for word in _WORD.findall(text) if word not in _MARKS), _END]
