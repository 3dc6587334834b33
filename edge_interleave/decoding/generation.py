"""One answer: tokens drawn until something ends it, its text as it comes, its figures.

Knows nothing about messages or templates, nor about how a prompt comes to lie in the timeline.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from edge_interleave.decoding.sampling import Sampler, SamplingOptions
from edge_interleave.decoding.stats import Stats, rate
from edge_interleave.decoding.timeline import Input, TextInput
from edge_interleave.errors import ContextFullError, UsageError
from edge_interleave.prompt.tokenizer import TextTokenizer
from edge_interleave.util.arrays import FloatArray
from edge_interleave.util.process_memory import peak_memory_bytes

STOP, LENGTH, CANCELLED = "stop", "length", "cancelled"


@dataclass(frozen=True)
class GenerationOptions:
    """When an answer ends and how it is drawn."""

    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    """The answer ends before the first of these texts."""
    sampling: SamplingOptions = field(default_factory=SamplingOptions)

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise UsageError(f"max_tokens must be a whole number from 1, not {self.max_tokens}")
        if isinstance(self.stop, str) or not all(isinstance(text, str) and text for text in self.stop):
            raise UsageError("stop must be texts, none of them empty")


@dataclass(frozen=True)
class Answer:
    """What the model said. `str(answer)` is the text."""

    text: str
    finish_reason: str
    """`stop` (the model's own end, or a stop text), `length` (max_tokens, or the context is full) or `cancelled`."""
    stats: Stats
    token_ids: tuple[int, ...] = field(default=(), repr=False)
    """The answer's tokens, without the one that ended it."""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Prefill:
    """A prompt that lies in the timeline."""

    logits: FloatArray = field(repr=False)
    prompt_tokens: int
    visual_tokens: int
    cached_tokens: int
    seconds: float


class Appendable(Protocol):
    """What an answer needs of a session."""

    turn: int

    def prefill(self, prompt: Sequence[Input], cancel: threading.Event | None = None) -> Prefill | None:
        """Bring the timeline to hold exactly the prompt; None where it was cancelled."""
        ...

    def append_token(self, token: int) -> FloatArray:
        """Put one token at the end; gives its logits. Raises ContextFullError."""
        ...


class Generation(Iterator[str]):
    """An answer as it comes: an iterator of pieces of text, then `answer`. Leaving it early cancels it."""

    def __init__(
        self,
        session: Appendable,
        tokenizer: TextTokenizer,
        eos: frozenset[int],
        prompt: Sequence[Input],
        options: GenerationOptions,
        cancel: threading.Event | None,
    ) -> None:
        self._answer: Answer | None = None
        self._pieces = self._generate(session, tokenizer, eos, prompt, options, cancel)

    @property
    def answer(self) -> Answer:
        """The whole answer, once the pieces are through. Raises UsageError before."""
        if self._answer is None:
            raise UsageError("the answer is not finished; go through its pieces first, or close it")
        return self._answer

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """End the answer here. What has been computed stays in the timeline."""
        self._pieces.close()
        if self._answer is None:
            self._answer = nothing_said()

    def _generate(
        self,
        session: Appendable,
        tokenizer: TextTokenizer,
        eos: frozenset[int],
        prompt: Sequence[Input],
        options: GenerationOptions,
        cancel: threading.Event | None,
    ) -> Generator[str, None, None]:
        figures = _Figures()
        prefill = session.prefill(prompt, cancel)
        if prefill is None:
            self._answer = figures.answer("", CANCELLED, ())
            return
        figures.prefill = prefill
        turn = session.turn
        sampler, text, hold = Sampler(options.sampling), tokenizer.stream(), _Hold(options.stop)
        history = [token for part in prompt if isinstance(part, TextInput) for token in part.ids]
        ids: list[int] = []
        said: list[str] = []
        reason = CANCELLED
        try:
            logits = prefill.logits
            while True:
                token = sampler.pick(logits, history)
                figures.picked()
                if token in eos:
                    reason = STOP
                    break
                ids.append(token)
                history.append(token)
                piece = hold.push(text.push(token))
                if piece:
                    said.append(piece)
                    yield piece
                if hold.stopped or len(ids) >= options.max_tokens:
                    reason = STOP if hold.stopped else LENGTH
                    break
                if session.turn != turn or (cancel is not None and cancel.is_set()):
                    break
                figures.resume()
                try:
                    logits = session.append_token(token)
                except ContextFullError:
                    reason = LENGTH
                    break
            rest = "" if hold.stopped else hold.push(text.rest()) + hold.rest()
            if rest:
                said.append(rest)
                yield rest
        finally:
            # An answer that is open when the program ends ends with it, when nobody reads figures any more.
            if not sys.is_finalizing():
                whole = "".join(said)
                answer_ids = tokenizer.encode_plain(whole) if hold.stopped else ids
                self._answer = figures.answer(whole, reason, answer_ids)


def nothing_said() -> Answer:
    """An answer that was cancelled before its first piece."""
    return _Figures().answer("", CANCELLED, ())


class _Hold:
    """Holds back text that may be the beginning of a stop text."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stopped = False
        self._stops = stops
        self._held = ""

    def push(self, piece: str) -> str:
        """What can be said for certain."""
        self._held += piece
        found = [index for index in map(self._held.find, self._stops) if index >= 0]
        if found:
            self.stopped = True
            said, self._held = self._held[: min(found)], ""
            return said
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        said, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return said

    def rest(self) -> str:
        """What was held back, once no more comes."""
        return self._held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of the text that is a beginning of the stop text."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)


class _Figures:
    """Takes the times of one answer. The time that the reader of the pieces takes is not counted."""

    def __init__(self) -> None:
        self.prefill = Prefill(np.empty(0, np.float32), 0, 0, 0, 0.0)
        self._started = time.perf_counter()
        self._first_s: float | None = None
        self._resumed = 0.0
        self._decode_s = 0.0
        self._steps = 0

    def picked(self) -> None:
        now = time.perf_counter()
        if self._first_s is None:
            self._first_s = now - self._started
        else:
            self._decode_s += now - self._resumed
            self._steps += 1

    def resume(self) -> None:
        self._resumed = time.perf_counter()

    def answer(self, text: str, reason: str, ids: Sequence[int]) -> Answer:
        prefill = self.prefill
        stats = Stats(
            prompt_tokens=prefill.prompt_tokens,
            visual_tokens=prefill.visual_tokens,
            cached_tokens=prefill.cached_tokens,
            answer_tokens=len(ids),
            encode_s=0.0,
            prefill_s=prefill.seconds,
            first_token_s=self._first_s or 0.0,
            decode_tokens_per_s=rate(self._steps, self._decode_s),
            prefill_tokens_per_s=rate(prefill.prompt_tokens - prefill.cached_tokens, prefill.seconds),
            encode_images_per_s=0.0,
            peak_memory_bytes=peak_memory_bytes(),
        )
        return Answer(text, reason, stats, tuple(ids))
