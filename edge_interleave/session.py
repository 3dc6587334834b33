"""One conversation with one decoder: what is new is prefilled, answers are streamed, given answers are weighed.

A session compares each prompt with its timeline and computes only what comes after their common beginning; an image
counts as the same where its visual tokens are. Knows nothing about messages, templates or pixels.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from .decoder import Decoder, FloatArray
from .errors import ContextFullError, UsageError
from .sampling import Sampler, SamplingOptions, log_softmax, softmax
from .stats import Stats, peak_memory_bytes, rate
from .timeline import Key, Timeline
from .tokenizer import TextTokenizer

STOP, LENGTH, CANCELLED = "stop", "length", "cancelled"


@dataclass(frozen=True)
class TextInput:
    """Text tokens of a prompt."""

    ids: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class VisualInput:
    """The visual tokens of one image in a prompt."""

    rows: FloatArray = field(repr=False)
    """float32 (tokens, hidden)."""

    def __post_init__(self) -> None:
        digest = hashlib.blake2b(np.ascontiguousarray(self.rows).data, digest_size=16).digest()
        object.__setattr__(self, "key", digest)

    key: bytes = field(init=False)


Input = TextInput | VisualInput


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
class Choice:
    """One of the answers that were given to choose from."""

    option: str
    probability: float
    """Among the options: they sum to 1."""
    log_probability: float
    """Natural logarithm of the probability that the model answers this and then ends its turn."""


@dataclass(frozen=True)
class Prefill:
    """A prompt that lies in the timeline."""

    logits: FloatArray = field(repr=False)
    prompt_tokens: int
    visual_tokens: int
    cached_tokens: int
    seconds: float


class Session:
    """One timeline. Not thread-safe, but for the events that cancel."""

    def __init__(self, decoder: Decoder, tokenizer: TextTokenizer, eos_token_ids: Sequence[int]) -> None:
        self.timeline = Timeline()
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._eos = frozenset(eos_token_ids)
        self._turn = 0

    @property
    def decoder(self) -> Decoder:
        """The decoder that holds the timeline. Change it through the session only."""
        return self._decoder

    def prefill(self, prompt: Sequence[Input], cancel: threading.Event | None = None) -> Prefill | None:
        """Bring the timeline to hold exactly the prompt, computing what is new; None where it was cancelled.

        Raises ContextFullError, with the timeline unchanged, where it does not fit.
        """
        self._turn += 1
        started = time.perf_counter()
        units = _units(prompt)
        if not units:
            raise UsageError("the prompt is empty; give a question, an image or both")
        # The last unit is computed even where it is there: its logits are wanted.
        kept = min(self.timeline.common_prefix([unit.key for unit in units]), len(units) - 1)
        cached = sum(unit.size for unit in units[:kept])
        total = sum(unit.size for unit in units)
        self._make_room(kept, total - cached, total)
        logits = None
        for run in _runs(units[kept:]):
            if cancel is not None and cancel.is_set():
                return None
            logits = self._append(run)
        assert logits is not None
        return Prefill(
            logits=logits,
            prompt_tokens=total,
            visual_tokens=sum(len(part.rows) for part in prompt if isinstance(part, VisualInput)),
            cached_tokens=cached,
            seconds=time.perf_counter() - started,
        )

    def stream(
        self,
        prompt: Sequence[Input],
        options: GenerationOptions,
        cancel: threading.Event | None = None,
    ) -> Generation:
        """Answer a prompt. Nothing happens before the first piece of text is asked for."""
        return Generation(self, prompt, options, cancel)

    def choose(self, prompt: Sequence[Input], options: Sequence[str]) -> list[Choice]:
        """How likely each of the given answers is, in the order given. The timeline then holds the prompt.

        An option's score is the sum of its tokens' log-probabilities and of the end of the turn after them (so that
        "2" does not stand for "20"); the probabilities are the scores' softmax. Longer options are not favoured back.
        Raises UsageError for no options, empty or repeated ones; ContextFullError.
        """
        if isinstance(options, str) or not options or not all(isinstance(o, str) and o.strip() for o in options):
            raise UsageError("give one or more options, none of them empty")
        if len(set(options)) != len(options):
            raise UsageError("the same option is given twice")
        answers = [self._tokenizer.encode_plain(option) for option in options]
        prefilled = self.prefill(prompt)
        assert prefilled is not None
        longest = max(map(len, answers))
        facts = self._decoder.facts
        room = min(facts.capacity - self.timeline.length, facts.trained_context - self.timeline.position)
        if longest > room:
            raise ContextFullError(f"an option needs {longest} entries, the context has {room} left; use a larger one")
        count = len(self.timeline.entries)
        scores = []
        for answer in answers:
            try:
                scores.append(self._score(prefilled.logits, answer))
            finally:
                self._decoder.truncate(self.timeline.truncate(count))
        probabilities = softmax(np.array(scores))
        return [
            Choice(option, float(probability), float(score))
            for option, probability, score in zip(options, probabilities, scores, strict=True)
        ]

    def reset(self) -> None:
        """Forget everything."""
        self._turn += 1
        self._decoder.truncate(self.timeline.truncate(0))

    def close(self) -> None:
        """Free the decoder."""
        self._turn += 1
        self._decoder.close()

    def _score(self, logits: FloatArray, answer: Sequence[int]) -> float:
        score = 0.0
        for token in answer:
            score += float(log_softmax(logits)[token])
            logits = self._append_token(token)
        ends = log_softmax(logits)[[token for token in self._eos if token < len(logits)]]
        return score + float(np.logaddexp.reduce(ends))

    def _make_room(self, kept: int, needed: int, total: int) -> None:
        facts = self._decoder.facts
        most = min(facts.capacity, facts.trained_context)
        if total > most:
            raise ContextFullError(
                f"the prompt needs {total} entries, the context holds {most}; "
                "use fewer images or frames, a larger pooling stride, or a larger context"
            )
        self._decoder.truncate(self.timeline.truncate(kept))
        if self.timeline.position + needed > facts.trained_context:
            self._decoder.rebase()
            self.timeline.rebase()

    def _append(self, run: Sequence[_Unit]) -> FloatArray:
        rows = run[0].rows
        logits = (
            self._decoder.append_tokens([unit.key for unit in run if isinstance(unit.key, int)])
            if rows is None
            else self._decoder.append_embeddings(rows)
        )
        for unit in run:
            self.timeline.add(unit.key, unit.size)
        return logits

    def _append_token(self, token: int) -> FloatArray:
        logits = self._decoder.append_tokens([token])
        self.timeline.add(token)
        return logits


class Generation(Iterator[str]):
    """An answer as it comes: an iterator of pieces of text, then `answer`. Leaving it early cancels it."""

    def __init__(
        self,
        session: Session,
        prompt: Sequence[Input],
        options: GenerationOptions,
        cancel: threading.Event | None,
    ) -> None:
        self._answer: Answer | None = None
        self._pieces = self._generate(session, prompt, options, cancel)

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
            self._answer = _Figures().answer("", CANCELLED, ())

    def _generate(
        self,
        session: Session,
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
        turn = session._turn
        sampler, text, hold = Sampler(options.sampling), session._tokenizer.stream(), _Hold(options.stop)
        history = [token for part in prompt if isinstance(part, TextInput) for token in part.ids]
        ids: list[int] = []
        said: list[str] = []
        reason = CANCELLED
        try:
            logits = prefill.logits
            while True:
                token = sampler.pick(logits, history)
                figures.picked()
                if token in session._eos:
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
                if session._turn != turn or (cancel is not None and cancel.is_set()):
                    break
                figures.resume()
                try:
                    logits = session._append_token(token)
                except ContextFullError:
                    reason = LENGTH
                    break
            rest = hold.rest()
            if rest:
                said.append(rest)
                yield rest
        finally:
            whole = "".join(said)
            answer_ids = session._tokenizer.encode_plain(whole) if hold.stopped else ids
            self._answer = figures.answer(whole, reason, answer_ids)


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


@dataclass(frozen=True)
class _Unit:
    """What the timeline tells apart: one text token, or one image."""

    key: Key
    size: int = 1
    rows: FloatArray | None = None


def _units(prompt: Sequence[Input]) -> list[_Unit]:
    units: list[_Unit] = []
    for part in prompt:
        if isinstance(part, TextInput):
            units += map(_Unit, part.ids)
        else:
            units.append(_Unit(part.key, len(part.rows), part.rows))
    return units


def _runs(units: Sequence[_Unit]) -> Iterator[list[_Unit]]:
    """Text tokens side by side together, each image alone."""
    run: list[_Unit] = []
    for unit in units:
        if run and (unit.rows is not None or run[-1].rows is not None):
            yield run
            run = []
        run.append(unit)
    if run:
        yield run
