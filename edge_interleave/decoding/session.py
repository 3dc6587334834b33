"""One timeline in one decoder: prefills prompts, streams answers, and computes the probabilities of given answers.

A session compares each prompt with its timeline and computes only the part after their common beginning. Two images are
equal if their visual tokens are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from edge_interleave.answer import Choice
from edge_interleave.decoding.choosing import choices, first_token_scores, spelling_scores, tokenized_options
from edge_interleave.decoding.decoder import Decoder
from edge_interleave.decoding.generation import Generation, GenerationOptions, LogitsSource, Prefill
from edge_interleave.decoding.grammar import Grammar
from edge_interleave.decoding.inputs import Input, PromptSpan, TextInput, VisualInput, runs_of, spans_of
from edge_interleave.decoding.scheduler import EngineScheduler
from edge_interleave.decoding.spellings import Spelled
from edge_interleave.decoding.timeline import Timeline
from edge_interleave.errors import BackendError, ContextFullError, EdgeInterleaveError, InputError, UsageError
from edge_interleave.prompt.tokenizer import TextTokenizer
from edge_interleave.util.aborting import aborting
from edge_interleave.util.arrays import FloatArray
from edge_interleave.util.engine_lock import EngineLock
from edge_interleave.util.progress import QuestionProgress

ANSWER_ROOM = 512
"""KV entries reserved for an answer when the cache grows, and positions reserved before gaps are closed."""
CLOSED = "the decoder is closed; open the model again"
_P = ParamSpec("_P")
_T = TypeVar("_T")


def _with_engine(method: Callable[Concatenate[Session, _P], _T]) -> Callable[Concatenate[Session, _P], _T]:
    """Hold the engine during a method. Raises UsageError as `EngineLock`."""

    @wraps(method)
    def holding(session: Session, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        with session._engine:
            return method(session, *args, **kwargs)

    return holding


class Session:
    """One timeline.

    Each method holds the engine alone. It raises UsageError once the session is closed, and in a forked child. Work of
    several calls (an answer, a frame) needs a turn: see `scheduler`.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: TextTokenizer,
        eos_token_ids: Sequence[int],
        reopen: Callable[[int], Decoder] | None = None,
        progress: QuestionProgress | None = None,
    ) -> None:
        """`reopen`: opens the decoder again with this many KV entries, for larger prompts; None: the cache never grows.

        `progress`: called before each part of a prompt is prefilled.
        """
        self.timeline = Timeline()
        self._decoder = decoder
        self._reopen = reopen
        self._progress = progress
        self._tokenizer = tokenizer
        self._eos = frozenset(eos_token_ids)
        self._room = ANSWER_ROOM
        self.turn = 0
        """Counts the uses of the timeline. An unfinished answer is cancelled when the next use begins."""
        self.scheduler = EngineScheduler()
        """Arbitrates the timeline between threads."""
        self._engine = EngineLock(self.interrupt)
        self._interrupted = False

    @property
    def decoder(self) -> Decoder:
        """The decoder that holds the timeline. Change it through the session only."""
        return self._decoder

    def grammar(self, schema: Any) -> Grammar:
        """A grammar that allows only JSON of this schema (`grammar.schema_of`). Raises UsageError, BackendError."""
        return Grammar.of_schema(schema, self._tokenizer, self._decoder.facts.vocab_size, tuple(sorted(self._eos)))

    @_with_engine
    def prefill(self, prompt: Sequence[Input], cancel: threading.Event | None = None) -> Prefill | None:
        """Bring the timeline to hold exactly the prompt, computing only the new part; None if cancelled.

        `cancel` aborts a running computation within a tenth of a second; the timeline then holds a part of the prompt.
        Raises ContextFullError, with the timeline unchanged, if the prompt does not fit.
        """
        self.turn += 1
        started = time.perf_counter()
        spans = spans_of(prompt)
        if not spans:
            raise UsageError("the prompt is empty; give a question, an image or both")
        total = sum(span.size for span in spans)
        self._grow(total)
        self._check_room(total)
        # The last span is always computed, for its logits.
        kept = min(self.timeline.common_prefix([span.key for span in spans]), len(spans) - 1)
        cached = sum(span.size for span in spans[:kept])
        self._decoder.truncate(self.timeline.truncate(kept))
        return self._compute(spans[kept:], prompt, cached, started, cancel)

    @_with_engine
    def extend(self, more: Sequence[Input], cancel: threading.Event | None = None) -> Prefill | None:
        """Append to the timeline; None if cancelled (as in `prefill`), with a part appended.

        Closes the gaps of evictions only if positions would pass the trained context.
        Raises ContextFullError, with the timeline unchanged, if the inputs do not fit.
        """
        self.turn += 1
        started = time.perf_counter()
        spans = spans_of(more)
        if not spans:
            raise UsageError("nothing to append; give a question, an image or both")
        self._check_room(self.timeline.length + sum(span.size for span in spans))
        return self._compute(spans, more, self.timeline.length, started, cancel)

    @_with_engine
    def truncate(self, count: int) -> None:
        """Keep the timeline's first `count` spans."""
        self.turn += 1
        self._decoder.truncate(self.timeline.truncate(count))

    @_with_engine
    def evict(self, first: int, last: int) -> None:
        """Remove the timeline's spans first <= index < last. Nothing is recomputed."""
        self.turn += 1
        self._decoder.evict(*self.timeline.evict(first, last))

    @_with_engine
    def recompute(self, first: int, inputs: Sequence[Input], cancel: threading.Event | None = None) -> bool:
        """Recompute the spans of `inputs`, the first at index `first`, without traces of evicted ones.

        `inputs`: the inputs they were computed from. Later spans do not change. Returns False if it was cancelled (as
        in `prefill`), with these spans removed. Raises BackendError, with these spans removed, if the engine fails.
        """
        self.turn += 1
        try:
            with self._aborting(cancel):
                self._decoder.recompute(*self._range_of(first, inputs), _parts(inputs))
        except BackendError:
            self.timeline.evict(first, first + len(spans_of(inputs)))
            if self._is_cancelled(cancel):
                return False
            raise
        return True

    @_with_engine
    def prefetch(self, first: int, inputs: Sequence[Input], leaving: tuple[int, int], rows: int) -> bool:
        """Prefetch scratch entries for `recompute(first, inputs)` after the spans `leaving` are evicted.

        `leaving`: first <= index < last, all before `first`. Computes at most `rows` KV entries; returns whether a
        further call would compute more. The timeline does not change, and an open answer continues.
        Raises BackendError if the engine fails.
        """
        leaving_spans = self.timeline.spans[slice(*leaving)]
        start, end = self._range_of(first, inputs)
        return self._decoder.prefetch(start, end, _parts(inputs), (leaving_spans[0].start, leaving_spans[-1].end), rows)

    def stream(
        self,
        prompt: Sequence[Input],
        options: GenerationOptions,
        cancel: threading.Event | None = None,
        through: LogitsSource | None = None,
    ) -> Generation:
        """Answer a prompt. Nothing is computed before the first piece of text is taken.

        `through`: a wrapper of this session that prefills the prompt and appends the answer's tokens; None: the session
        itself. A KV cache that grows leaves room for the longest answer requested so far.
        """
        self._room = max(self._room, options.max_tokens)
        return Generation(self if through is None else through, self._tokenizer, self._eos, prompt, options, cancel)

    def choose(self, prompt: Sequence[Input], options: Sequence[str]) -> list[Choice]:
        """The probability of each option, in the order given. The timeline then holds the prompt.

        An option counts in its usual spellings (`spellings`: case, leading space, full stop, ...). The probability of a
        spelling is that of its tokens and of the end of the turn after them, so "2" does not count for "20". Longer
        options get no bonus. A low `Choice.total_probability` means that the model would give another answer.
        Raises UsageError for no options, and for empty or repeated ones; ContextFullError.
        """
        self._tokenized(options)
        prefilled = self.prefill(prompt)
        assert prefilled is not None
        return self.weigh(prefilled.logits, options)

    @_with_engine
    def weigh(self, logits: FloatArray, options: Sequence[str]) -> list[Choice]:
        """As `choose`, for the prompt that the timeline holds already. The timeline does not change.

        `logits`: of the timeline's last position, float32 (vocab_size,). Raises UsageError, ContextFullError.
        """
        answers = self._tokenized(options)
        longest = max(len(next(iter(answer))) for answer in answers)
        facts = self._decoder.facts
        room = min(facts.capacity - self.timeline.length, facts.trained_context - self.timeline.position)
        if longest > room:
            raise ContextFullError(
                f"an option needs {longest} entries, the context has {room} left; use a larger context"
            )
        count = len(self.timeline.spans)

        def append(depth: int, token: int) -> FloatArray:
            self._decoder.truncate(self.timeline.truncate(count + depth))
            return self.append_token(token)

        try:
            scores = spelling_scores(logits, answers, self._eos, room, append)
        finally:
            self._decoder.truncate(self.timeline.truncate(count))
        return choices(options, scores)

    def weigh_first_tokens(self, logits: FloatArray, options: Sequence[str]) -> list[Choice]:
        """The probability that an answer begins with each option, in the order given. Computes nothing in the decoder.

        `logits`: of the answer's first token, float32 (vocab_size,). A token counts for an option if spellings of that
        option, and of no other, begin with it. Later tokens do not count: "Yes, there is." begins with yes.
        Raises UsageError as `choose`.
        """
        return choices(options, first_token_scores(logits, self._tokenized(options)))

    @_with_engine
    def append_token(self, token: int) -> FloatArray:
        """Append one token; returns its logits, float32 (vocab_size,). Raises ContextFullError."""
        logits = self._decoder.append_tokens([token])
        self.timeline.add(token)
        return logits

    @_with_engine
    def reset(self) -> None:
        """Empty the timeline."""
        self.turn += 1
        self._decoder.truncate(self.timeline.truncate(0))

    @_with_engine
    def save(self, path: Path, prompt: Sequence[Input]) -> None:
        """Write the KV entries of the prompt, as far as they are computed, to a file. Drops the rest of the timeline.

        Raises InputError if the file cannot be written.
        """
        self.turn += 1
        keys = [span.key for span in spans_of(prompt)]
        self._decoder.truncate(self.timeline.truncate(self.timeline.common_prefix(keys)))
        self._decoder.save(path)

    @_with_engine
    def load(self, path: Path, prompt: Sequence[Input]) -> None:
        """Replace the timeline by the one that `save` wrote for the same prompt.

        Raises InputError, with the timeline empty, if the file does not hold the beginning of the prompt;
        ContextFullError if the prompt does not fit.
        """
        self.turn += 1
        spans = spans_of(prompt)
        total = sum(span.size for span in spans)
        self._grow(total)
        self._check_room(total)
        self._decoder.truncate(self.timeline.truncate(0))
        self._decoder.load(path)
        for span in spans:
            if self.timeline.length >= self._decoder.length:
                break
            self.timeline.add(span.key, span.size)
        if not self.timeline.length == self._decoder.length == self._decoder.position:
            self._decoder.truncate(self.timeline.truncate(0))
            raise InputError(f"{path}: not of this conversation")

    def interrupt(self) -> None:
        """Make the running computation fail at once. May be called from any thread; `close` must follow."""
        self._interrupted = True
        self._decoder.interrupt()

    @_with_engine
    def close_gaps(self) -> None:
        """Renumber the KV entries without gaps."""
        self._decoder.rebase()
        self.timeline.rebase()

    def close(self, reason: str = CLOSED) -> None:
        """Abort the running computation and free the decoder. May be called from any thread, and again.

        `reason`: the text of the UsageError for an open answer, for waiting threads and for later calls.
        Does nothing in a forked child: the decoder is the parent's.
        """
        self.turn += 1
        self.scheduler.close(reason)
        self._engine.close(reason, self._free)

    def _free(self) -> None:
        self._decoder.close()

    def _range_of(self, first: int, inputs: Sequence[Input]) -> tuple[int, int]:
        """Start and end position of the spans of `inputs`; `first` is the index of the first span."""
        spans = self.timeline.spans[first : first + len(spans_of(inputs))]
        return spans[0].start, spans[-1].end

    def _tokenized(self, options: Sequence[str]) -> list[Spelled]:
        return tokenized_options(options, self._tokenizer.encode_plain)

    def _grow(self, total: int) -> None:
        """Enlarge the KV cache if prompt and answer need it. It doubles, so a long chat rarely pays for that."""
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
            if self._interrupted:  # while no decoder was open
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
        spans: Sequence[PromptSpan],
        given: Sequence[Input],
        cached: int,
        started: float,
        cancel: threading.Event | None,
    ) -> Prefill | None:
        new = sum(span.size for span in spans)
        gaps = self.timeline.position > self.timeline.length
        if gaps and self.timeline.position + new + ANSWER_ROOM > self._decoder.facts.trained_context:
            self.close_gaps()
        logits, done = None, 0
        try:
            with self._aborting(cancel):
                for run in runs_of(spans):
                    if cancel is not None and cancel.is_set():
                        return None
                    if self._progress is not None:
                        self._progress("prefill", done, new)
                    logits = self._append(run)
                    done += sum(span.size for span in run)
        except BackendError:
            if self._is_cancelled(cancel):
                return None
            raise
        assert logits is not None
        return Prefill(
            logits=logits,
            prompt_tokens=cached + new,
            visual_tokens=sum(part.size for part in given if isinstance(part, VisualInput)),
            cached_tokens=cached,
            seconds=time.perf_counter() - started,
        )

    @contextmanager
    def _aborting(self, cancel: threading.Event | None) -> Iterator[None]:
        """Abort the decoder's computation in this block once `cancel` is set."""
        if cancel is None:
            yield
            return
        decoder = self._decoder
        try:
            with aborting(cancel.is_set, decoder.interrupt):
                yield
        finally:
            if cancel.is_set():
                decoder.resume()
                if self._interrupted:  # by `interrupt`, which is for good
                    decoder.interrupt()

    def _is_cancelled(self, cancel: threading.Event | None) -> bool:
        return cancel is not None and cancel.is_set() and not self._interrupted

    def _append(self, run: Sequence[PromptSpan]) -> FloatArray:
        image = run[0].image
        logits = (
            self._decoder.append_tokens([span.key for span in run if isinstance(span.key, int)])
            if image is None
            else self._decoder.append_embeddings(image.embeddings)
        )
        for span in run:
            self.timeline.add(span.key, span.size)
        return logits


def _parts(inputs: Sequence[Input]) -> list[Sequence[int] | FloatArray]:
    return [part.ids if isinstance(part, TextInput) else part.embeddings for part in inputs]
