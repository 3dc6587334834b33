"""The figures of one answer: counts, seconds, rates, memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stats:
    """Figures of one answer. Seconds are wall-clock time; a rate is 0 where nothing was done."""

    prompt_tokens: int
    """Entries of the prompt, visual tokens included, whether computed or reused."""
    visual_tokens: int
    """Of those, visual tokens."""
    cached_tokens: int
    """Of `prompt_tokens`, those that lay in the timeline already and were not computed again."""
    answer_tokens: int
    encode_s: float
    """Opening, preparing and encoding images and videos."""
    prefill_s: float
    """Computing the prompt's entries."""
    first_token_s: float
    """From the call to the answer's first token, encode and prefill included."""
    decode_tokens_per_s: float
    """Of the answer's tokens after the first."""
    prefill_tokens_per_s: float
    """Of the prompt's entries that were not cached."""
    encode_images_per_s: float
    """Of images and frames, those found in the cache of embeddings included."""
    peak_memory_bytes: int
    """The most memory the process has held at any time so far (resident set); 0 where the system does not say."""
    vision_provider: str = ""
    """ONNX Runtime's name of what ran the vision tower; empty where there was no image."""


def rate(count: int, seconds: float) -> float:
    """Count per second; 0 where either is 0."""
    return count / seconds if count and seconds > 0 else 0.0
