"""Scores of one answer, by the exact rules of LLaVA-NeXT's `llava/eval/evaluate_interleave.py`.

docs/guides/evaluation.md lists the rules and their oddities; the tests compare with an independent implementation.
"""

from __future__ import annotations

import re

from rouge import Rouge

from edge_interleave.evaluation.samples import MULTI_CHOICE, OPEN_ENDED

ROUGE_L, ACCURACY = "ROUGE-L", "accuracy"
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_NUMBER_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
# The official script passes `re.UNICODE` as `re.sub`'s count, so it removes only this many periods.
_PERIODS_REMOVED = int(re.UNICODE)
_PREDICTION_CHARACTERS = 512
_CHOICES = "abcdefgh"
# The `rouge` package builds a table of words by words; this limit bounds its memory.
_CELLS_MAX = 2_000_000
_ROUGE = Rouge(metrics=["rouge-l"])


class UnscorableError(ValueError):
    """The official script would fail at this answer."""


def metric_of(dataset: str, question_type: str) -> str | None:
    """A set's metric, by the question type of its first sample; None if the official script does not score the set."""
    if question_type == OPEN_ENDED:
        return ROUGE_L
    return ACCURACY if question_type == MULTI_CHOICE or dataset == "nlrv2" else None


def score(metric: str, prediction: str, reference: str) -> float | None:
    """The score of one answer, 0 to 1; None if it does not count (ROUGE-L with an empty reference).

    Raises UnscorableError.
    """
    if metric == ACCURACY:
        return float(choice_match(prediction, reference))
    return rouge_l(prediction, reference)


def exact_match(prediction: str, reference: str) -> bool:
    """Whether the stripped texts are equal. Not an official score."""
    return prediction.strip() == reference.strip()


def normalise(text: str) -> str:
    """Normalise an answer or a reference before the comparison.

    A punctuation mark is removed if it stands next to a space anywhere in the text, or if the text has a comma between
    digits; otherwise it becomes a space. Periods before digits stay.
    """
    text = text.replace("\n", " ").replace("\t", " ").strip()
    numbers = _NUMBER_COMMA.search(text) is not None
    made = {
        ord(mark): "" if numbers or f"{mark} " in text or f" {mark}" in text else " "
        for mark in _PUNCTUATION
        if mark in text
    }
    return _PERIOD.sub("", text.translate(made), count=_PERIODS_REMOVED).strip("'").strip().lower()


def rouge_l(prediction: str, reference: str) -> float | None:
    """ROUGE-L F of the normalised texts, by the package `rouge`; 0 for an empty answer, None for an empty reference.

    Raises UnscorableError where the package fails: for nothing but periods, or a text that is too long.
    """
    reference, prediction = normalise(reference), normalise(prediction)
    if not reference:
        return None
    if not prediction:
        return 0.0
    prediction = prediction[:_PREDICTION_CHARACTERS]
    if len(reference.split()) * len(prediction.split()) > _CELLS_MAX:
        raise UnscorableError("the reference is too long for ROUGE-L")
    try:
        return float(_ROUGE.get_scores(prediction, reference)[0]["rouge-l"]["f"])
    except (ValueError, RecursionError) as error:
        raise UnscorableError(str(error)) from error


def choice_match(prediction: str, reference: str) -> bool:
    """Whether the normalised texts are equal; an answer with colons counts as its last lone letter a to h."""
    return (choice_of(prediction) or normalise(prediction)) == normalise(reference)


def choice_of(prediction: str) -> str | None:
    """The letter a to h that `choice_match` reads from an answer; None for any other text."""
    letters = [part.strip() for part in normalise(prediction).split(":")]
    chosen = [letter for letter in letters if len(letter) == 1 and letter in _CHOICES]
    return chosen[-1] if chosen else None
