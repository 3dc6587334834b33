"""What an answer cost: counts, seconds, rates, memory."""

from __future__ import annotations

import os
import sys
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


def peak_memory_bytes() -> int:
    """The most that this process has had resident so far; 0 where the system does not say (Windows).

    On Linux not what `getrusage` says, which counts what the process was before it became this program.
    """
    peak = peak_memory_of(os.getpid())
    if peak:
        return peak
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, KiB elsewhere


def peak_memory_of(process: int) -> int:
    """The most that a process of ours has had resident so far; 0 where the system does not say (it does on Linux)."""
    try:
        with open(f"/proc/{process}/status", encoding="ascii", errors="replace") as file:
            return int(file.read().split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        return 0


def memory_bytes() -> int:
    """The resident set of this process now; 0 where the system does not say (it does on Linux)."""
    try:
        with open("/proc/self/statm", "rb") as file:
            pages = int(file.read().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
