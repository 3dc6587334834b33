"""What a question returns: an answer with its figures, or the probabilities of given options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

FinishReason = Literal["stop", "length", "cancelled"]
STOP: FinishReason = "stop"
LENGTH: FinishReason = "length"
CANCELLED: FinishReason = "cancelled"

UNLIKELY = 0.01
"""Below this total probability the options' shares mean little: the model would answer something else."""


@dataclass(frozen=True)
class Stats:
    """Figures of one answer. Seconds are wall-clock time. A rate is 0 if nothing was computed."""

    prompt_tokens: int
    """Tokens of the prompt, text and visual, computed or reused."""
    visual_tokens: int
    """How many of `prompt_tokens` are visual tokens."""
    cached_tokens: int
    """How many of `prompt_tokens` were in the KV cache already and were not computed again."""
    answer_tokens: int
    """Tokens of the answer, without the end-of-turn token."""
    encode_s: float
    """Time to open, prepare and encode images and videos."""
    prefill_s: float
    """Time to prefill the prompt."""
    first_token_s: float
    """Time from the call to the first token of the answer, encode and prefill included."""
    decode_tokens_per_s: float
    """Rate of the answer's tokens after the first."""
    prefill_tokens_per_s: float
    """Rate of the prompt's tokens that were not cached."""
    encode_images_per_s: float
    """Rate of images and frames, including those found in the cache of visual tokens."""
    peak_memory_bytes: int
    """The largest resident set of the process so far; 0 if the system does not report it."""
    vision_provider: str = ""
    """ONNX Runtime's name of the provider that ran the vision tower; empty without images."""


@dataclass(frozen=True, repr=False, eq=False)
class Answer(str):
    """An answer: a string with its figures.

    `len`, `in`, `==`, formatting, string methods and `json.dumps` treat it as its text.
    """

    text: str
    """The answer as a plain `str`."""
    finish_reason: FinishReason
    """`stop`: the model ended its turn, or a stop text came. `length`: `max_tokens` or the context was reached.
    `cancelled`: the answer was closed or cancelled."""
    stats: Stats
    token_ids: tuple[int, ...] = ()
    """The answer's tokens, without the end-of-turn token."""
    familiar: bool | None = None
    """Whether the question is worded like those the model was trained on; None if its bundle has no question model."""

    def __new__(cls, text: str, *_: object, **__: object) -> Self:
        """Create the string from the text; the dataclass sets the other fields."""
        return super().__new__(cls, text)

    def __repr__(self) -> str:
        return f"Answer({self.text!r}, finish_reason={self.finish_reason!r})"


@dataclass(frozen=True)
class Choice:
    """One of the options of `choose`, with its probability."""

    option: str
    probability: float
    """Share among the options; the shares sum to 1."""
    log_probability: float
    """Natural logarithm of the probability that the model answers this, in any usual spelling, and ends its turn."""
    total_probability: float
    """Probability that the model answers any of the options; the same for all of them. Below UNLIKELY the model would
    answer something else, and `probability` means little."""


def rate(count: int, seconds: float) -> float:
    """Count per second; 0 if either is 0."""
    return count / seconds if count and seconds > 0 else 0.0
