"""Generates one answer: prefill, then token by token until the model, a stop text, a limit or a cancel ends it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from edge_interleave.answer import CANCELLED, LENGTH, STOP, Answer, FinishReason, Stats, rate
from edge_interleave.decoding.inputs import Input, TextInput
from edge_interleave.decoding.sampling import Sampler, SamplingOptions, log_softmax
from edge_interleave.errors import ContextFullError, UsageError
from edge_interleave.prompt.tokenizer import TextTokenizer
from edge_interleave.util.arrays import FloatArray
from edge_interleave.util.process_memory import peak_memory_bytes

if TYPE_CHECKING:
    from edge_interleave.decoding.grammar import Grammar


@dataclass(frozen=True)
class GenerationOptions:
    """When an answer ends and how its tokens are drawn. Raises UsageError for a value out of range."""

    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    """The answer ends before the first of these texts."""
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    grammar: Grammar | None = None
    """Allows only some answers; None: all."""
    logprobs: int | None = None
    """Keep the log probability of each token and of this many alternatives (`Generation.scores`); None: keep none."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise UsageError(f"max_tokens must be a whole number of at least 1, not {self.max_tokens}")
        if isinstance(self.stop, str) or not all(isinstance(text, str) and text for text in self.stop):
            raise UsageError("stop must be texts, and none may be empty")


@dataclass(frozen=True)
class TokenScore:
    """A token of an answer with its probability: natural logarithms, before temperature and penalties."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()
    """The most likely tokens at this position, with their log probabilities."""


@dataclass(frozen=True)
class Prefill:
    """The result of a prefill: the logits after the prompt, and figures as in `Stats`."""

    logits: FloatArray = field(repr=False)
    """Of the last position, float32 (vocab_size,)."""
    prompt_tokens: int
    visual_tokens: int
    cached_tokens: int
    seconds: float


class LogitsSource(Protocol):
    """The timeline that an answer is generated on: a `Session` or a live window."""

    @property
    def turn(self) -> int:
        """Counts the uses of the timeline; an answer ends when another use begins."""
        ...

    def prefill(self, prompt: Sequence[Input], cancel: threading.Event | None = None) -> Prefill | None:
        """Bring the timeline to hold exactly the prompt; None if cancelled."""
        ...

    def append_token(self, token: int) -> FloatArray:
        """Append one token; returns its logits, float32 (vocab_size,). Raises ContextFullError."""
        ...


class Generation:
    """One answer being generated. Nothing is computed before the first piece is taken."""

    def __init__(
        self,
        timeline: LogitsSource,
        tokenizer: TextTokenizer,
        eos: frozenset[int],
        prompt: Sequence[Input],
        options: GenerationOptions,
        cancel: threading.Event | None,
    ) -> None:
        """`eos`: the tokens that end a turn."""
        self._answer: Answer | None = None
        self.scores: list[TokenScore] = []
        """One for each token so far, if `GenerationOptions.logprobs` is set."""
        self.tokens = 0
        """Tokens so far."""
        self.prefilled: Prefill | None = None
        """The result of the prefill; None before it."""
        self.pieces = self._generate(timeline, tokenizer, eos, prompt, options, cancel)
        """Pieces of text, one at a time."""

    def __iter__(self) -> Iterator[str]:
        return self.pieces

    @property
    def answer(self) -> Answer:
        """The whole answer, once the pieces are exhausted or closed. Raises UsageError before."""
        return finished(self._answer)

    def close(self) -> None:
        """End the answer here. The entries computed so far stay in the timeline."""
        self.pieces.close()
        if self._answer is None:
            self._answer = cancelled_answer()

    def _generate(
        self,
        timeline: LogitsSource,
        tokenizer: TextTokenizer,
        eos: frozenset[int],
        prompt: Sequence[Input],
        options: GenerationOptions,
        cancel: threading.Event | None,
    ) -> Generator[str, None, None]:
        figures = _Figures()
        prefill = timeline.prefill(prompt, cancel)
        if prefill is None:
            self._answer = figures.answer("", CANCELLED, ())
            return
        figures.prefill = self.prefilled = prefill
        turn = timeline.turn
        sampler, text, buffer = Sampler(options.sampling), tokenizer.stream(), _StopTextBuffer(options.stop)
        history = [token for part in prompt if isinstance(part, TextInput) for token in part.ids]
        constraint = None if options.grammar is None else options.grammar.begin()
        ids: list[int] = []
        pieces: list[str] = []
        reason: FinishReason = CANCELLED
        try:
            logits = prefill.logits
            while True:
                allowed = logits if constraint is None else constraint.masked(logits)
                token = sampler.pick(allowed, history, ids)
                figures.picked()
                if token in eos:
                    reason = STOP
                    break
                ids.append(token)
                self.tokens += 1
                history.append(token)
                if options.logprobs is not None:
                    self.scores.append(_score(token, logits, options.logprobs, tokenizer))
                if constraint is not None:
                    constraint.accept(token)
                piece = buffer.push(text.push(token))
                if piece:
                    pieces.append(piece)
                    yield piece
                if buffer.stopped or (constraint is not None and constraint.complete):
                    reason = STOP
                    break
                if len(ids) >= options.max_tokens:
                    reason = LENGTH
                    break
                if timeline.turn != turn or (cancel is not None and cancel.is_set()):
                    break
                figures.resume()
                try:
                    logits = timeline.append_token(token)
                except ContextFullError:
                    reason = LENGTH
                    break
            rest = "" if buffer.stopped else buffer.push(text.rest()) + buffer.rest()
            if rest:
                pieces.append(rest)
                yield rest
        finally:
            # At interpreter exit the tokenizer may be gone, and nobody reads the answer.
            if not sys.is_finalizing():
                whole = "".join(pieces)
                answer_ids = tokenizer.encode_plain(whole) if buffer.stopped else ids
                self._answer = figures.answer(whole, reason, answer_ids)


def cancelled_answer() -> Answer:
    """An answer that was cancelled before its first piece."""
    return _Figures().answer("", CANCELLED, ())


def finished(answer: Answer | None) -> Answer:
    """The answer. Raises UsageError if there is none yet."""
    if answer is None:
        raise UsageError("the answer is not finished; take its remaining pieces first, or close it")
    return answer


def _score(token: int, logits: FloatArray, alternatives: int, tokenizer: TextTokenizer) -> TokenScore:
    logprobs = log_softmax(logits)
    best = np.argsort(-logprobs, kind="stable")[:alternatives]
    top = tuple((tokenizer.decode([int(one)]), float(logprobs[one])) for one in best)
    return TokenScore(tokenizer.decode([token]), float(logprobs[token]), top)


class _StopTextBuffer:
    """Holds back text that may be the beginning of a stop text."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stopped = False
        self._stops = stops
        self._held = ""

    def push(self, piece: str) -> str:
        """Add a piece; returns the text that cannot belong to a stop text."""
        self._held += piece
        found = [index for index in map(self._held.find, self._stops) if index >= 0]
        if found:
            self.stopped = True
            text, self._held = self._held[: min(found)], ""
            return text
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        text, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return text

    def rest(self) -> str:
        """The text held back, at the end of the answer."""
        return self._held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest suffix of `text` that is a proper prefix of `stop`."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)


class _Figures:
    """Times one answer. The time that the caller spends between two pieces does not count."""

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

    def answer(self, text: str, reason: FinishReason, ids: Sequence[int]) -> Answer:
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
