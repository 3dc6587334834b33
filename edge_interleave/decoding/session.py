"""One conversation with one decoder: what is new is prefilled, answers are streamed, given answers are weighed.

A session compares each prompt with its timeline and computes only what comes after their common beginning; an image
counts as the same where its visual tokens are. Knows nothing about messages, templates or pixels.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from edge_interleave.answer import Choice
from edge_interleave.decoding.decoder import Decoder
from edge_interleave.decoding.generation import Generation, GenerationOptions, LogitsSource, Prefill
from edge_interleave.decoding.grammar import Grammar
from edge_interleave.decoding.inputs import Input, TextInput, VisualInput
from edge_interleave.decoding.sampling import Probabilities, log_softmax, softmax
from edge_interleave.decoding.scheduler import EngineScheduler
from edge_interleave.decoding.spellings import Spelled, tokenized
from edge_interleave.decoding.timeline import Key, Timeline
from edge_interleave.errors import BackendError, ContextFullError, EdgeInterleaveError, InputError, UsageError
from edge_interleave.prompt.tokenizer import TextTokenizer
from edge_interleave.util.arrays import FloatArray
from edge_interleave.util.engine_lock import EngineLock
from edge_interleave.util.progress import QuestionProgress

ANSWER_ROOM = 512
"""Entries kept free for an answer when the KV cache grows with a prompt; positions, before gaps are closed."""
_NEGLIGIBLE = math.log(1e-4)
"""Spellings that are less likely than this, beside what is known of their option, are left out; a logarithm."""


CLOSED = "the decoder is closed; open the model again"
_P = ParamSpec("_P")
_T = TypeVar("_T")


def _with_engine(method: Callable[Concatenate[Session, _P], _T]) -> Callable[Concatenate[Session, _P], _T]:
    """Hold the engine during a method. Raises UsageError where that cannot be (`EngineLock`)."""

    @wraps(method)
    def holding(session: Session, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        with session._engine:
            return method(session, *args, **kwargs)

    return holding


class Session:
    """One timeline.

    Each method has the engine to itself, and raises UsageError once the session is closed, or in a forked child. What
    takes several calls (an answer, a frame) needs a turn: see `scheduler`.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: TextTokenizer,
        eos_token_ids: Sequence[int],
        reopen: Callable[[int], Decoder] | None = None,
        progress: QuestionProgress | None = None,
    ) -> None:
        """`reopen` opens the same decoder with a KV cache of so many entries, for prompts that need a larger one.

        `progress` is called before each part of a prompt that is prefilled.
        """
        self.timeline = Timeline()
        self._decoder = decoder
        self._reopen = reopen
        self._progress = progress
        self._tokenizer = tokenizer
        self._eos = frozenset(eos_token_ids)
        self._room = ANSWER_ROOM
        self.turn = 0
        """Counts the uses of the timeline; an answer that is not finished when the next use begins is cancelled."""
        self.scheduler = EngineScheduler()
        """Whose turn it is, where several threads use the timeline."""
        self._engine = EngineLock(self.interrupt)
        self._interrupted = False

    @property
    def decoder(self) -> Decoder:
        """The decoder that holds the timeline. Change it through the session only."""
        return self._decoder

    def grammar(self, schema: Any) -> Grammar:
        """What allows only JSON of this schema (`grammar.schema_of`). Raises UsageError, BackendError."""
        return Grammar.of_schema(schema, self._tokenizer, self._decoder.facts.vocab_size, tuple(sorted(self._eos)))

    @_with_engine
    def prefill(self, prompt: Sequence[Input], cancel: threading.Event | None = None) -> Prefill | None:
        """Bring the timeline to hold exactly the prompt, computing what is new; None where it was cancelled.

        Raises ContextFullError, with the timeline unchanged, where it does not fit.
        """
        self.turn += 1
        started = time.perf_counter()
        units = _units(prompt)
        if not units:
            raise UsageError("the prompt is empty; give a question, an image or both")
        total = sum(unit.size for unit in units)
        self._grow(total)
        self._check_room(total)
        # The last unit is computed even where it is there: its logits are wanted.
        kept = min(self.timeline.common_prefix([unit.key for unit in units]), len(units) - 1)
        cached = sum(unit.size for unit in units[:kept])
        self._decoder.truncate(self.timeline.truncate(kept))
        return self._compute(units[kept:], prompt, cached, started, cancel)

    @_with_engine
    def extend(self, more: Sequence[Input], cancel: threading.Event | None = None) -> Prefill | None:
        """Compute more after what lies in the timeline; None where it was cancelled, with a part of it computed.

        Closes the gaps that evictions left only where positions would pass the trained context.
        Raises ContextFullError, with the timeline unchanged, where it does not fit.
        """
        self.turn += 1
        started = time.perf_counter()
        units = _units(more)
        if not units:
            raise UsageError("there is nothing to add; give a question, an image or both")
        self._check_room(self.timeline.length + sum(unit.size for unit in units))
        return self._compute(units, more, self.timeline.length, started, cancel)

    @_with_engine
    def truncate(self, count: int) -> None:
        """Keep the timeline's first `count` spans."""
        self.turn += 1
        self._decoder.truncate(self.timeline.truncate(count))

    @_with_engine
    def evict(self, first: int, last: int) -> None:
        """Forget the timeline's spans first <= index < last; nothing else is computed anew."""
        self.turn += 1
        self._decoder.evict(*self.timeline.evict(first, last))

    @_with_engine
    def recompute(self, first: int, inputs: Sequence[Input]) -> None:
        """Compute the spans from `first` on anew, so that they know nothing of what was evicted before them.

        `inputs`: what they were computed from. Later spans stay as they are.
        Raises BackendError where the engine fails: these spans are forgotten then.
        """
        self.turn += 1
        try:
            self._decoder.recompute(*self._range_of(first, inputs), _parts(inputs))
        except BackendError:
            self.timeline.evict(first, first + len(_units(inputs)))
            raise

    @_with_engine
    def prepare(self, first: int, inputs: Sequence[Input], leaving: tuple[int, int], rows: int) -> bool:
        """Work ahead on `recompute(first, inputs)`, as it will be when the spans `leaving` are evicted.

        At most `rows` rows are computed; True where a further call would compute more. Nothing that can be seen
        changes, and an answer that is being drawn goes on. `leaving`: first <= index < last, all before `first`.
        Raises BackendError where the engine fails.
        """
        gone = self.timeline.spans[slice(*leaving)]
        start, end = self._range_of(first, inputs)
        return self._decoder.prepare(start, end, _parts(inputs), (gone[0].start, gone[-1].end), rows)

    def stream(
        self,
        prompt: Sequence[Input],
        options: GenerationOptions,
        cancel: threading.Event | None = None,
        through: LogitsSource | None = None,
    ) -> Generation:
        """Answer a prompt. Nothing is computed before the first piece of text is asked for.

        `through`: prefills the prompt and appends the answer's tokens, on this session; None: the session itself.
        Where the KV cache grows with prompts, it grows for the longest answer that was asked for, too.
        """
        self._room = max(self._room, options.max_tokens)
        return Generation(self if through is None else through, self._tokenizer, self._eos, prompt, options, cancel)

    def choose(self, prompt: Sequence[Input], options: Sequence[str]) -> list[Choice]:
        """How likely each of the given answers is, in the order given. The timeline then holds the prompt.

        An option counts in its usual spellings (`spellings`: case, leading space, full stop, ...). A spelling's
        probability is that of its tokens and of the end of the turn after them (so that "2" does not stand for "20").
        Longer options are not favoured back. `Choice.total_probability` says whether the model would say any of them.
        Raises UsageError for no options, empty or repeated ones; ContextFullError.
        """
        self._tokenized(options)
        prefilled = self.prefill(prompt)
        assert prefilled is not None
        return self.weigh(prefilled.logits, options)

    @_with_engine
    def weigh(self, logits: FloatArray, options: Sequence[str]) -> list[Choice]:
        """As `choose`, of what lies in the timeline already, whose last logits are given; the timeline stays as it is.

        Raises UsageError, ContextFullError.
        """
        answers = self._tokenized(options)
        longest = max(len(next(iter(answer))) for answer in answers)
        facts = self._decoder.facts
        room = min(facts.capacity - self.timeline.length, facts.trained_context - self.timeline.position)
        if longest > room:
            raise ContextFullError(f"an option needs {longest} entries, the context has {room} left; use a larger one")
        count = len(self.timeline.spans)
        try:
            scores = self._scores(logits, answers, room)
        finally:
            self._decoder.truncate(self.timeline.truncate(count))
        total = float(np.exp(np.logaddexp.reduce(scores)))
        return [
            Choice(option, float(probability), float(score), min(total, 1.0))
            for option, probability, score in zip(options, softmax(scores), scores, strict=True)
        ]

    def weigh_first_tokens(self, logits: FloatArray, options: Sequence[str]) -> list[Choice]:
        """How likely an answer begins with each option, from the logits of its first token, float32 (vocab_size,).

        A token counts for an option if spellings of that option, and of no other, begin with it. What follows the token
        does not count: "Yes, there is." begins with yes. `Choice.log_probability` is that of these tokens.
        Raises UsageError as `choose`.
        """
        log_probabilities = log_softmax(logits)
        firsts = [{ids[0] for ids in spelled} for spelled in self._tokenized(options)]
        shared = Counter(token for tokens in firsts for token in tokens)
        scores = [
            float(np.logaddexp.reduce(log_probabilities[[token for token in sorted(tokens) if shared[token] == 1]]))
            for tokens in firsts
        ]
        total = float(np.logaddexp.reduce(scores))
        return [
            Choice(option, math.exp(score - total), score, min(math.exp(total), 1.0))
            for option, score in zip(options, scores, strict=True)
        ]

    @_with_engine
    def append_token(self, token: int) -> FloatArray:
        """Put one token at the end; gives its logits. Raises ContextFullError."""
        logits = self._decoder.append_tokens([token])
        self.timeline.add(token)
        return logits

    @_with_engine
    def reset(self) -> None:
        """Forget everything."""
        self.turn += 1
        self._decoder.truncate(self.timeline.truncate(0))

    @_with_engine
    def save(self, path: Path, prompt: Sequence[Input]) -> None:
        """Write the KV cache of the prompt to a file, as far as it is computed. Whatever else is computed is dropped.

        Raises InputError if the file cannot be written.
        """
        self.turn += 1
        keys = [unit.key for unit in _units(prompt)]
        self._decoder.truncate(self.timeline.truncate(self.timeline.common_prefix(keys)))
        self._decoder.save(path)

    @_with_engine
    def load(self, path: Path, prompt: Sequence[Input]) -> None:
        """Replace the timeline by the one that `save` wrote for the same prompt.

        Raises InputError, with the timeline empty, if the file does not hold the beginning of the prompt;
        ContextFullError if the prompt does not fit.
        """
        self.turn += 1
        units = _units(prompt)
        total = sum(unit.size for unit in units)
        self._grow(total)
        self._check_room(total)
        self._decoder.truncate(self.timeline.truncate(0))
        self._decoder.load(path)
        for unit in units:
            if self.timeline.length >= self._decoder.length:
                break
            self.timeline.add(unit.key, unit.size)
        if not self.timeline.length == self._decoder.length == self._decoder.position:
            self._decoder.truncate(self.timeline.truncate(0))
            raise InputError(f"{path}: not of this conversation")

    def interrupt(self) -> None:
        """From any thread, before `close`: have what is being computed fail at once."""
        self._interrupted = True
        self._decoder.interrupt()

    @_with_engine
    def close_gaps(self) -> None:
        """Give the entries the positions that they would have if nothing had been evicted."""
        self._decoder.rebase()
        self.timeline.rebase()

    def close(self, reason: str = CLOSED) -> None:
        """From any thread: break off what is being computed, then free the decoder. A second call does nothing.

        `reason`: the UsageError that an open answer, whoever waits for a turn, and later calls get.
        In a forked child it does nothing: the decoder is the parent's.
        """
        self.turn += 1
        self.scheduler.close(reason)
        self._engine.close(reason, self._free)

    def _free(self) -> None:
        self._decoder.close()

    def _range_of(self, first: int, inputs: Sequence[Input]) -> tuple[int, int]:
        """Positions of the spans that were computed from the inputs, the first of them given."""
        spans = self.timeline.spans[first : first + len(_units(inputs))]
        return spans[0].start, spans[-1].end

    def _tokenized(self, options: Sequence[str]) -> list[Spelled]:
        if isinstance(options, str) or not options or not all(isinstance(o, str) and o.strip() for o in options):
            raise UsageError("give one or more options, none of them empty")
        if len({option.strip() for option in options}) != len(options):
            raise UsageError("the same option is given twice")
        answers = tokenized(options, self._tokenizer.encode_plain)
        if not all(answers):
            raise UsageError("an option is nothing to the model's tokenizer; give another one")
        return answers

    def _scores(self, logits: FloatArray, answers: Sequence[Spelled], room: int) -> Probabilities:
        """Logarithms of the answers' probabilities; what is computed is left in the timeline.

        `room`: entries that spellings may take; longer ones are left out.
        """
        eos = [token for token in self._eos if token < len(logits)]
        scores = np.full(len(answers), -np.inf)
        root = _spelling_tree(answers, room)
        pending = [_Branch(root, 0.0, len(self.timeline.spans))]
        while pending:
            branch = pending.pop()
            # The score is an upper bound on those of all spellings below.
            if all(branch.score < scores[answer] + _NEGLIGIBLE for answer in branch.node.answers):
                continue
            if branch.node is not root:
                self._decoder.truncate(self.timeline.truncate(branch.place))
                logits = self.append_token(branch.token)
            likely = log_softmax(logits)
            if branch.node.ends:
                end = branch.score + float(np.logaddexp.reduce(likely[eos]))
                for answer, share in branch.node.ends.items():
                    scores[answer] = np.logaddexp(scores[answer], end + np.log(share))
            place = len(self.timeline.spans)
            below = [
                _Branch(node, branch.score + float(likely[token]), place, token)
                for token, node in branch.node.next.items()
            ]
            # The likeliest comes next: the sooner an answer has its score, the more can be left out.
            pending += sorted(below, key=lambda one: one.score)
        return scores

    def _grow(self, total: int) -> None:
        """A larger KV cache where the prompt and an answer need it: by doubling, so that a long chat rarely pays."""
        facts = self._decoder.facts
        needed = min(total + self._room, facts.trained_context)
        if self._reopen is None or needed <= facts.capacity or total > facts.trained_context:
            return
        self._decoder.close()
        self.timeline.truncate(0)
        try:
            self._decoder = self._reopen(1 << (needed - 1).bit_length())
        except EdgeInterleaveError:
            self._decoder = self._reopen(facts.capacity)
            raise
        finally:
            if self._interrupted:  # while there was no decoder to interrupt
                self._decoder.interrupt()

    def _check_room(self, total: int) -> None:
        most = min(self._decoder.facts.capacity, self._decoder.facts.trained_context)
        if total > most:
            raise ContextFullError(
                f"the prompt needs {total} entries, the context holds {most}; "
                "use fewer images or frames, a larger pooling stride, or a larger context"
            )

    def _compute(
        self,
        units: Sequence[_Unit],
        given: Sequence[Input],
        cached: int,
        started: float,
        cancel: threading.Event | None,
    ) -> Prefill | None:
        new = sum(unit.size for unit in units)
        gaps = self.timeline.position > self.timeline.length
        if gaps and self.timeline.position + new + ANSWER_ROOM > self._decoder.facts.trained_context:
            self.close_gaps()
        logits, done = None, 0
        for run in _runs(units):
            if cancel is not None and cancel.is_set():
                return None
            if self._progress is not None:
                self._progress("prefill", done, new)
            logits = self._append(run)
            done += sum(unit.size for unit in run)
        assert logits is not None
        return Prefill(
            logits=logits,
            prompt_tokens=cached + new,
            visual_tokens=sum(part.size for part in given if isinstance(part, VisualInput)),
            cached_tokens=cached,
            seconds=time.perf_counter() - started,
        )

    def _append(self, run: Sequence[_Unit]) -> FloatArray:
        image = run[0].image
        logits = (
            self._decoder.append_tokens([unit.key for unit in run if isinstance(unit.key, int)])
            if image is None
            else self._decoder.append_embeddings(image.embeddings)
        )
        for unit in run:
            self.timeline.add(unit.key, unit.size)
        return logits


@dataclass(frozen=True)
class _Unit:
    """What the timeline tells apart: one text token, or one image."""

    key: Key
    size: int = 1
    image: VisualInput | None = None


@dataclass
class _Node:
    """Where spellings that begin with the same tokens are together."""

    next: dict[int, _Node] = field(default_factory=dict)
    """By token."""
    ends: dict[int, float] = field(default_factory=dict)
    """Answers with a spelling that ends here, to how much of it counts for each."""
    answers: set[int] = field(default_factory=set)
    """Those with a spelling that ends here or further on."""


@dataclass(frozen=True)
class _Branch:
    """A node that is still to be computed."""

    node: _Node
    score: float
    """Logarithm of the probability of the tokens up to here."""
    place: int
    """Entries of the timeline before the last of them."""
    token: int = -1


def _spelling_tree(answers: Sequence[Spelled], room: int) -> _Node:
    root = _Node()
    for answer, spelled in enumerate(answers):
        for ids, share in spelled.items():
            if len(ids) > room:
                continue
            node = root
            node.answers.add(answer)
            for token in ids:
                node = node.next.setdefault(token, _Node())
                node.answers.add(answer)
            node.ends[answer] = share
    return root


def _units(prompt: Sequence[Input]) -> list[_Unit]:
    units: list[_Unit] = []
    for part in prompt:
        if isinstance(part, TextInput):
            units += map(_Unit, part.ids)
        else:
            units.append(_Unit(part.key, part.size, part))
    return units


def _parts(inputs: Sequence[Input]) -> list[Sequence[int] | FloatArray]:
    return [part.ids if isinstance(part, TextInput) else part.embeddings for part in inputs]


def _runs(units: Sequence[_Unit]) -> Iterator[list[_Unit]]:
    """Text tokens side by side together, each image alone."""
    run: list[_Unit] = []
    for unit in units:
        if run and (unit.image is not None or run[-1].image is not None):
            yield run
            run = []
        run.append(unit)
    if run:
        yield run
