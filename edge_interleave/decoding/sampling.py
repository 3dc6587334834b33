"""Draws one token from logits.

The steps and their order are those of Hugging Face transformers' logits processors: repetition penalty, temperature,
top-k, top-p, min-p. Temperature 0 is greedy: the penalties, then the largest logit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_interleave.errors import UsageError
from edge_interleave.util.arrays import FloatArray

Probabilities = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SamplingOptions:
    """How an answer's tokens are drawn. The default is greedy. Raises UsageError for a value out of range."""

    temperature: float = 0.0
    """0: take the most likely token. Above 0: divide the logits by it, then draw."""
    top_k: int = 0
    """Draw from the k most likely tokens; 0: from all."""
    top_p: float = 1.0
    """Draw from the fewest most likely tokens whose probabilities sum to at least this; 1: from all."""
    min_p: float = 0.0
    """Draw from tokens whose probability is at least this times that of the most likely one; 0: from all."""
    repetition_penalty: float = 1.0
    """Penalise tokens of the prompt and of the answer; 1 disables it."""
    presence_penalty: float = 0.0
    """Subtracted from the logit of each token that occurs in the answer."""
    frequency_penalty: float = 0.0
    """Subtracted from the logit of a token for each of its occurrences in the answer. Both penalties follow OpenAI's
    definition and come after the repetition penalty."""
    seed: int | None = None
    """The same seed gives the same answer; None: a random seed."""

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, 0.0 <= self.temperature < math.inf, "a number from 0")
        _check("top_k", self.top_k, self.top_k >= 0, "a whole number from 0")
        _check("top_p", self.top_p, 0.0 < self.top_p <= 1.0, "above 0 and at most 1")
        _check("min_p", self.min_p, 0.0 <= self.min_p <= 1.0, "from 0 to 1")
        _check("repetition_penalty", self.repetition_penalty, 0.0 < self.repetition_penalty < math.inf, "above 0")
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            _check(name, value, -100.0 <= value <= 100.0, "from -100 to 100")
        _check("seed", self.seed, self.seed is None or self.seed >= 0, "a whole number from 0")


class Sampler:
    """Draws the tokens of one answer with a random generator of its own."""

    def __init__(self, options: SamplingOptions) -> None:
        self._options = options
        self._random = np.random.default_rng(options.seed)

    def pick(self, logits: FloatArray, history: Sequence[int], answer: Sequence[int] = ()) -> int:
        """Draw the next token. `logits`: float32 (vocab_size,). `history`: all token ids so far, prompt and answer.

        `answer`: the token ids of the answer, for the presence and frequency penalties.
        """
        if self._options.temperature == 0.0:
            return int(np.argmax(_penalised(logits, history, answer, self._options)))
        cumulative = np.cumsum(distribution(logits, history, self._options, answer))
        drawn = np.searchsorted(cumulative, self._random.random() * cumulative[-1], side="right")
        return int(min(drawn, len(cumulative) - 1))


def distribution(
    logits: FloatArray, history: Sequence[int], options: SamplingOptions, answer: Sequence[int] = ()
) -> Probabilities:
    """The probability of each token to be drawn, float64 (vocab_size,). The temperature must be above 0."""
    scores = _penalised(logits, history, answer, options) / options.temperature
    if 0 < options.top_k < len(scores):
        scores[scores < np.partition(scores, -options.top_k)[-options.top_k]] = -np.inf
    if options.top_p < 1.0:
        order = np.argsort(scores, kind="stable")
        tail = np.cumsum(softmax(scores)[order])
        removed = tail <= 1.0 - options.top_p
        removed[-1] = False
        scores[order[removed]] = -np.inf
    if options.min_p > 0.0:
        probabilities = softmax(scores)
        scores[probabilities < options.min_p * probabilities.max()] = -np.inf
    return softmax(scores)


def softmax(scores: npt.NDArray[np.floating]) -> Probabilities:
    """Probabilities of scores, in float64."""
    return np.exp(log_softmax(scores))


def log_softmax(scores: npt.NDArray[np.floating]) -> Probabilities:
    """Natural logarithms of the probabilities of scores, in float64."""
    shifted: Probabilities = scores.astype(np.float64) - scores.max()
    shifted -= np.log(np.exp(shifted).sum())
    return shifted


def _penalised(
    logits: FloatArray, history: Sequence[int], answer: Sequence[int], options: SamplingOptions
) -> Probabilities:
    scores = logits.astype(np.float64)
    penalty = options.repetition_penalty
    if penalty != 1.0 and len(history):
        seen = np.unique(np.asarray(history))
        scores[seen] = np.where(scores[seen] < 0, scores[seen] * penalty, scores[seen] / penalty)
    if len(answer) and (options.presence_penalty or options.frequency_penalty):
        used, counts = np.unique(np.asarray(answer), return_counts=True)
        scores[used] -= options.presence_penalty + options.frequency_penalty * counts
    return scores


def _check(name: str, value: object, valid: bool, what: str) -> None:
    if not valid:
        raise UsageError(f"{name} must be {what}, not {value}")
