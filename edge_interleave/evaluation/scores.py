"""How an answer is scored: the rules of LLaVA-NeXT's `llava/eval/evaluate_interleave.py`, to the last digit.

What those rules are, oddities included, is listed in docs/evaluation.md; tests hold this to a second reading of them.
Knows nothing about files, samples or models.
"""

from __future__ import annotations

import re

from rouge import Rouge

from edge_interleave.evaluation.samples import MULTI_CHOICE, OPEN_ENDED

ROUGE_L, ACCURACY = "ROUGE-L", "accuracy"
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_NUMBER_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
# The official script passes `re.UNICODE` where `re.sub` takes a count: so many periods are removed, later ones stay.
_PERIODS_REMOVED = int(re.UNICODE)
_PREDICTION_CHARACTERS = 512
_CHOICES = "abcdefgh"
# The package's table of two texts, words times words: a reference beyond all reason would fill the memory.
_CELLS_MAX = 2_000_000
_ROUGE = Rouge(metrics=["rouge-l"])


class UnscorableError(ValueError):
    """The official script would end with an error at this answer."""


def metric_of(dataset: str, question_type: str) -> str | None:
    """How a set is scored, by the question type of its first sample; None where the official script gives up."""
    if question_type == OPEN_ENDED:
        return ROUGE_L
    return ACCURACY if question_type == MULTI_CHOICE or dataset == "nlrv2" else None


def score(metric: str, prediction: str, reference: str) -> float | None:
    """The score of one answer, 0 to 1; None where it does not count (an empty reference, with ROUGE-L).

    Raises UnscorableError.
    """
    if metric == ACCURACY:
        return float(is_choice(prediction, reference))
    return rouge_l(prediction, reference)


def is_exact(prediction: str, reference: str) -> bool:
    """Whether the answer is the reference, white space around them aside. Not an official score."""
    return prediction.strip() == reference.strip()


def normalise(text: str) -> str:
    """What both sides are made into before they are compared.

    A punctuation mark vanishes where it stands beside a space anywhere in the text, or where the text has a comma
    between digits; else it becomes a space. Periods before digits stay.
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
    """ROUGE-L's F of the normalised texts, by the package `rouge`; 0 for an empty answer, None for an empty reference.

    Raises UnscorableError where the package does: where nothing but periods is left, or a text is too long for it.
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


def is_choice(prediction: str, reference: str) -> bool:
    """Whether the normalised texts are equal; of an answer with colons, the last lone letter a to h between them."""
    return (choice_of(prediction) or normalise(prediction)) == normalise(reference)


def choice_of(prediction: str) -> str | None:
    """The letter a to h that an answer is to `is_choice`; None where it is none (a sentence, another letter)."""
    letters = [part.strip() for part in normalise(prediction).split(":")]
    chosen = [letter for letter in letters if len(letter) == 1 and letter in _CHOICES]
    return chosen[-1] if chosen else None
