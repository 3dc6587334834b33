"""A live conversation: frames come in, the latest stay in a window, and questions about them can be asked at any time.

    with model.live(window=8, pool=2) as live:
        live.watch("camera:0", fps=2)
        print(live.ask("What is happening?"))

Frames come from a source, which threads read, encode and put into the window while the caller does something else; or
one by one through `add`. A question waits for the frame that is being computed, frames wait for the answer, and what
a live source shows meanwhile is counted as late. While there is neither, the window prepares for the next frame.
Knows nothing about how sources are read or windows kept.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

import numpy as np

from edge_interleave.answer import CANCELLED, Answer, Choice
from edge_interleave.decoding.answer_stream import AnswerStream
from edge_interleave.decoding.generation import Generation, GenerationOptions
from edge_interleave.decoding.inputs import TextInput
from edge_interleave.decoding.sampling import log_softmax
from edge_interleave.decoding.session import Session
from edge_interleave.decoding.spellings import tokenized
from edge_interleave.errors import BackendError, MediaError, UsageError
from edge_interleave.live.idle_worker import IdleWorker, StepResult
from edge_interleave.live.prompt import LivePrompt
from edge_interleave.live.stats import LiveStats, RollingTiming
from edge_interleave.live.window import FrameWindow
from edge_interleave.options import AnswerOptions, check_names, generation_options
from edge_interleave.prompt.tokenizer import TextTokenizer
from edge_interleave.util.arrays import FloatArray
from edge_interleave.util.engine_lock import check_process, is_forked
from edge_interleave.util.process_memory import memory_bytes, peak_memory_bytes

if TYPE_CHECKING:
    from edge_interleave.media.frame import Frame
    from edge_interleave.media.pictures.image import ImageSource
    from edge_interleave.media.pipeline import FramePipeline
    from edge_interleave.media.reader import SourceStatus
    from edge_interleave.media.sources.base import Source
    from edge_interleave.vision.image_encoder import ImageEncoder

CLOSED = "the window is closed; open another one"
YES, NO = "yes", "no"
_T = TypeVar("_T")


@dataclass(frozen=True)
class SeenFrame:
    """A frame that lies in the window."""

    number: int
    """Counted from 1 since the beginning; what the model knows the frame by."""
    time_s: float
    tokens: int
    """Visual tokens."""


class Live:
    """A window over a stream. Its methods may be called from any thread."""

    def __init__(
        self,
        session: Session,
        window: FrameWindow,
        prompt: LivePrompt,
        tokenizer: TextTokenizer,
        eos_token_ids: Sequence[int],
        encoder: ImageEncoder,
        strides: Sequence[int],
    ) -> None:
        """Use `Model.live`."""
        self._session = session
        self._window = window
        self._prompt = prompt
        self._tokenizer = tokenizer
        self._eos = frozenset(eos_token_ids)
        self._encoder = encoder
        self._strides = tuple(strides)
        self._ahead = IdleWorker(self._prepare)
        self._scheduler = session.scheduler
        self._scheduler.on_idle = self._ahead.begin
        self._adding = threading.RLock()
        """Held by who adds frames: their pooling strides follow a pattern, so they come one after the other."""
        self._news = threading.Condition()
        self._seen: deque[SeenFrame] = deque(maxlen=window.frames)
        self._latest: Frame | None = None
        self._pipeline: FramePipeline[FloatArray] | None = None
        self._closed = threading.Event()
        self._encoded = self._damaged = self._questions = 0
        self._encode_timing, self._append_timing = RollingTiming(), RollingTiming()
        self._yes, self._no = _first_tokens(tokenizer)

    def add(self, image: ImageSource, time_s: float | None = None) -> int:
        """Encode a frame and put it into the window; gives its number.

        `image`: as `open_image` takes it. `time_s`: when it was taken; None: a second after the one before.
        Raises MediaError, ContextFullError, UsageError while a source is watched, or this thread has an answer open.
        """
        check_process()
        from edge_interleave.media.frame import Frame
        from edge_interleave.media.pictures.image import open_image

        with self._adding:
            if not self.ended:
                raise UsageError(
                    "frames come from the source that is watched; wait for its end, or open another window"
                )
            after = self._seen[-1].time_s + 1.0 if self._seen else 0.0
            frame = Frame(open_image(image), after if time_s is None else time_s, self.number)
            with self._scheduler.frame_pending():
                return self._append(frame, self._encode(frame))

    def watch(
        self,
        source: str | Path | Iterable[Any] | Source,
        *,
        fps: float | None = None,
        change: float | None = None,
        realtime: bool = False,
        on_frame: Callable[[int], None] | None = None,
        on_unchanged: Callable[[float], None] | None = None,
        on_status: Callable[[SourceStatus], None] | None = None,
    ) -> None:
        """Begin to take frames from a source, in the background, until it ends or `close`.

        `source`: `camera:0`, a video, a folder that fills up, `http(s)://` or `rtsp://`, an iterable of pictures.
        `fps`: at most so many frames a second. `change`: skip frames that differ less than this from the last one taken
        (see `media.filters`). `realtime`: a video plays at its own pace. `on_status`: called when the source is lost,
        frozen or damaged, and when that ends; a status has a `line` for people (see `media.reader`).
        `on_frame`: gets the number of each frame that has come into the window, and may ask about it; the next frame
        waits until it is through. `on_unchanged`: gets the time of frames that `change` left out: what was found about
        the newest frame in the window still stands then.
        Raises MediaError where the source cannot be opened, UsageError while another is watched.
        """
        from edge_interleave.media.pipeline import FramePipeline
        from edge_interleave.media.reader import FrameReader
        from edge_interleave.media.sources.open import open_source

        check_process()

        def append(frame: Frame, rows: FloatArray) -> None:
            number = self._append(frame, rows)
            if on_frame is not None:
                on_frame(number)

        def unchanged(frame: Frame) -> None:
            if on_unchanged is not None:
                on_unchanged(frame.time_s)

        with self._adding:
            if self._closed.is_set():
                raise UsageError(CLOSED)
            if not self.ended:
                raise UsageError("a source is being watched; wait for its end, or open another window")
            if self._pipeline is not None:
                self._pipeline.close()
            reader = FrameReader(
                open_source(source, realtime=realtime),
                fps=fps,
                change=change,
                with_unchanged=on_unchanged is not None,
                on_status=on_status,
            )
            self._pipeline = FramePipeline(reader, self._encode_or_skip, append, self._tell, unchanged)
        if self._closed.is_set():  # meanwhile
            self._pipeline.close()
            raise UsageError(CLOSED)

    def stream(self, question: str, **options: Unpack[AnswerOptions]) -> AnswerStream:
        """Ask about the frames in the window; the text comes piece by piece. Closing it early forgets the answer.

        `options`: `max_tokens`, `stop`, `sampling`, `cancel`; see `AnswerOptions`.
        From the first piece on, other threads' questions and frames wait until the answer is exhausted or closed. A
        question or frame of the thread that reads it raises UsageError.
        """
        check_names(options, AnswerOptions)
        return self.answer(question, generation_options(options), options.get("cancel"))

    def answer(self, question: str, generation: GenerationOptions, cancel: threading.Event | None) -> AnswerStream:
        """As `stream`, for callers that have the options in their final form."""
        check_process()
        ids = self._prompt.question(question)

        def generate() -> Generation:
            self._questions += 1
            return Generation(self._window, self._tokenizer, self._eos, [TextInput(ids)], generation, cancel)

        def complete(answer: Answer) -> Answer:
            if answer.finish_reason != CANCELLED:
                self._window.finish(ids, answer.token_ids)
            return answer

        return AnswerStream(generate, self._scheduler, cancel, complete)

    def ask(self, question: str, **options: Unpack[AnswerOptions]) -> Answer:
        """Ask about the frames in the window and wait for the whole answer. Raises UsageError, ContextFullError."""
        return self.stream(question, **options).wait()

    def choose(self, question: str, options: Sequence[str]) -> list[Choice]:
        """The probability of each given answer; see `Session.choose`. The window forgets that it was asked."""
        return self._weighed(question, lambda logits: self._session.weigh(logits, options))

    def check(self, question: str) -> Choice:
        """How likely the answer begins with yes rather than with no: the choice `yes` of the options yes and no.

        From the logits of the answer's first token, over the first tokens of the spellings of YES and NO. What comes
        after ("Yes, there is.") does not matter. The window forgets that it was asked.
        """

        def of_yes(logits: FloatArray) -> Choice:
            likely = log_softmax(logits)
            yes, no = (float(np.logaddexp.reduce(likely[tokens])) for tokens in (self._yes, self._no))
            either = float(np.logaddexp(yes, no))
            return Choice(YES, math.exp(yes - either), yes, min(math.exp(either), 1.0))

        return self._weighed(question, of_yes)

    def probability(self, question: str) -> float:
        """P(yes) / (P(yes) + P(no)) of the answer's beginning; see `check`, which also gives P(yes) + P(no)."""
        return self.check(question).probability

    @property
    def frames(self) -> tuple[SeenFrame, ...]:
        """The frames in the window, oldest first."""
        check_process()
        with self._news:
            return tuple(self._seen)

    @property
    def number(self) -> int:
        """The newest frame's number; 0 before the first."""
        check_process()
        with self._news:
            return self._seen[-1].number if self._seen else 0

    @property
    def latest(self) -> Frame | None:
        """The newest frame in the window, with its picture."""
        return self._latest

    @property
    def ended(self) -> bool:
        """Whether no source is watched: none was, or it is through and all that it gave is in the window."""
        return self._pipeline is None or self._pipeline.ended

    @property
    def error(self) -> BaseException | None:
        """What ended the source, where it did not end by itself."""
        return None if self._pipeline is None else self._pipeline.error

    def wait_frame(self, after: int, timeout: float) -> int:
        """Wait for a frame numbered above `after`; gives the newest frame's number.

        Returns after `timeout` seconds at most, and at once when no more frames come.
        """
        check_process()
        with self._news:
            self._news.wait_for(lambda: self.number > after or self.ended or self._closed.is_set(), timeout)
            return self.number

    def wait_prepared(self, timeout: float) -> bool:
        """Wait until all is done that the next frame can find done, at most `timeout` seconds; gives whether it is.

        Nobody needs to wait: what is not done by then is done when the frame comes.
        """
        check_process()
        return self._ahead.wait(timeout)

    def stats(self) -> LiveStats:
        """What came in, what was left out, and what it took."""
        return LiveStats(
            frames=self.number,
            window=len(self.frames),
            questions=self._questions,
            damaged=self._damaged,
            entries=self._session.timeline.length,
            capacity=self._session.decoder.facts.capacity,
            encode_s=self._encode_timing.seconds,
            append_s=self._append_timing.seconds,
            frames_per_s=self._append_timing.rate,
            source=None if self._pipeline is None else self._pipeline.reader.stats(),
            memory_bytes=memory_bytes(),
            peak_memory_bytes=peak_memory_bytes(),
            vision_provider=self._encoder.provider,
        )

    def close(self) -> None:
        """End the source's threads and any answer, free the KV cache. A second call does nothing.

        What the engines are at is broken off, in the middle of a frame or of an answer's step. In a forked child it
        does nothing: the window is the parent's.
        """
        if is_forked():
            return
        self._closed.set()
        self._ahead.stop()
        if self._pipeline is not None:
            self._pipeline.stop()
        self._tell()
        self._encoder.stop(CLOSED)
        self._window.close(CLOSED)
        self._ahead.close()
        if self._pipeline is not None:
            self._pipeline.close()

    def __enter__(self) -> Live:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _encode(self, frame: Frame) -> FloatArray:
        started = time.perf_counter()
        with self._scheduler.frame_pending():
            (rows,) = self._encoder.encode([frame.image], stride=self._strides[self._encoded % len(self._strides)])
        self._encoded += 1
        ended = time.perf_counter()
        self._encode_timing.add(ended - started, ended)
        return rows

    def _encode_or_skip(self, frame: Frame) -> FloatArray | None:
        try:
            return self._encode(frame)
        except MediaError:
            self._damaged += 1
            return None

    def _append(self, frame: Frame, rows: FloatArray) -> int:
        with self._scheduler.frame():
            started = time.perf_counter()
            number = self._window.add(rows)
            ended = time.perf_counter()
        self._append_timing.add(ended - started, ended)
        with self._news:
            self._seen.append(SeenFrame(number, frame.time_s, len(rows)))
            self._latest = frame
            self._news.notify_all()
        return number

    def _prepare(self) -> StepResult:
        try:
            with self._scheduler.idle_step() as mine:
                if not mine:
                    return StepResult.LATER
                return StepResult.MORE if self._window.prepare() else StepResult.DONE
        except (BackendError, UsageError):  # closed; or an engine's failure, which the next frame meets again
            return StepResult.LATER

    def _weighed(self, question: str, weigh: Callable[[FloatArray], _T]) -> _T:
        check_process()
        ids = self._prompt.question(question)
        with self._scheduler.question():
            self._questions += 1
            prefilled = self._window.prefill([TextInput(ids)])
            assert prefilled is not None
            return weigh(prefilled.logits)

    def _tell(self) -> None:
        with self._news:
            self._news.notify_all()


def _first_tokens(tokenizer: TextTokenizer) -> tuple[list[int], list[int]]:
    """The tokens that an answer of yes and one of no can begin with."""
    yes, no = ({ids[0] for ids in spelled} for spelled in tokenized((YES, NO), tokenizer.encode_plain))
    # What both begin with (a space of its own, say) tells nothing.
    return sorted(yes - no), sorted(no - yes)
