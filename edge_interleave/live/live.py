"""A live conversation: the latest frames of a stream stay in a window, and questions about them can come at any time.

    with model.live(window=8, pool=2) as live:
        live.watch("camera:0", fps=2)
        print(live.ask("What is happening?"))

Frames come from a source, which threads read, encode and add in the background, or one by one through `add`. A question
waits for the frame being computed; frames wait for the answer. Frames that a live source provides meanwhile are dropped
and counted as late. In idle time the window prefetches work for the next frame.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from edge_interleave.answer import CANCELLED, Answer, Choice
from edge_interleave.decoding.answer_stream import AnswerStream
from edge_interleave.decoding.generation import Generation, GenerationOptions
from edge_interleave.decoding.inputs import TextInput
from edge_interleave.decoding.session import Session
from edge_interleave.errors import BackendError, MediaError, UsageError
from edge_interleave.live.idle_worker import IdleWorker, StepResult
from edge_interleave.live.prompt import LivePrompt
from edge_interleave.live.stats import LiveStats, RollingTiming
from edge_interleave.live.window import FrameWindow
from edge_interleave.options import AnswerOptions, check_names, generation_options
from edge_interleave.prompt.familiarity import QuestionModel, is_familiar
from edge_interleave.prompt.messages import Message
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
_POLL_S = 0.1
_T = TypeVar("_T")


@dataclass(frozen=True)
class WindowFrame:
    """A frame in the window."""

    number: int
    """Running number, from 1. The model sees it, so a question can refer to it."""
    time_s: float
    """Seconds from the source's beginning."""
    tokens: int
    """Visual tokens."""


class Live:
    """A window over a stream of frames. All methods may be called from any thread."""

    def __init__(
        self,
        session: Session,
        window: FrameWindow,
        prompt: LivePrompt,
        encoder: ImageEncoder,
        strides: Sequence[int],
        questions: QuestionModel | None = None,
    ) -> None:
        """Use `Model.live`."""
        self._session = session
        self._window = window
        self._prompt = prompt
        self._encoder = encoder
        self._question_model = questions
        self._strides = tuple(strides)
        self._idle_worker = IdleWorker(self._prefetch)
        self._scheduler = session.scheduler
        self._scheduler.on_idle = self._idle_worker.begin
        self.idle_turn: Callable[[], AbstractContextManager[bool]] = lambda: nullcontext(True)
        """Asked before each step of idle work, and held during it; False: no step now, until `resume_idle_work`.

        A program with several windows sets it, so that one's idle work does not slow the others down.
        """
        self._adding = threading.RLock()
        """Held while a frame is added or a source opened, so that frames enter the window one after the other."""
        self._encoding = threading.Lock()
        """Held while a frame is encoded: its stride follows from the number of frames encoded before it."""
        self._changed = threading.Condition()
        self._frames: deque[WindowFrame] = deque(maxlen=window.frames)
        self._latest: Frame | None = None
        self._pipeline: FramePipeline[FloatArray] | None = None
        self._closed = threading.Event()
        self._encoded = self._damaged = self._questions = 0
        self._encode_timing, self._append_timing = RollingTiming(), RollingTiming()

    def add(self, image: ImageSource, time_s: float | None = None) -> int:
        """Encode a frame and add it to the window; returns its number.

        `image`: see `open_image`. `time_s`: its time in seconds; None: a second after the previous frame.
        Raises MediaError; ContextFullError; UsageError while a source is watched, or if this thread has an answer open.
        """
        check_process()
        self._scheduler.check_not_reading()
        from edge_interleave.media.frame import Frame
        from edge_interleave.media.pictures.image import open_image

        with self._one_at_a_time():
            if not self.ended:
                raise UsageError("a source adds frames to this window; wait for its end, or open another window")
            after = self._frames[-1].time_s + 1.0 if self._frames else 0.0
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
        """Add frames from a source, in the background, until it ends or the window is closed.

        `source`: `camera:0`, a video, a folder that keeps filling, `http(s)://` or `rtsp://`, an iterable of pictures.
        `fps`: frames per second, at most. `change`: skip frames that differ less than this from the last one taken (see
        `media.filters`). `realtime`: play a video at its own speed.
        `on_frame`: gets the number of each frame added, and may ask about it; the next frame waits until it returns.
        `on_unchanged`: gets the time, in seconds, of each frame that `change` skipped because it resembles the window's
        newest frame. `on_status`: called when the source is lost, frozen or damaged, and when it recovers;
        `SourceStatus.line` is a line for people.
        Raises MediaError if the source cannot be opened, UsageError while another source is watched.
        """
        from edge_interleave.media.pipeline import watch_source

        check_process()

        with self._one_at_a_time():
            if self._closed.is_set():
                raise UsageError(CLOSED)
            if not self.ended:
                raise UsageError("a source is already watched; wait for its end, or open another window")
            if self._pipeline is not None:
                self._pipeline.close()
            self._pipeline = watch_source(
                source,
                self._encode_or_skip,
                self._append,
                self._notify,
                fps=fps,
                change=change,
                realtime=realtime,
                on_frame=on_frame,
                on_unchanged=on_unchanged,
                on_status=on_status,
            )
        if self._closed.is_set():  # while the source was opened
            self._pipeline.close()
            raise UsageError(CLOSED)

    def stream(self, question: str, **options: Unpack[AnswerOptions]) -> AnswerStream:
        """Ask about the frames in the window; the text comes piece by piece. An answer closed early is not kept.

        `options`: `max_tokens`, `stop`, `sampling`, `cancel`; see `AnswerOptions`.
        After the first piece, other threads' questions and frames wait until the answer is exhausted or closed. A
        question or frame from the thread that reads it raises UsageError.
        """
        check_names(options, AnswerOptions)
        return self.answer(question, generation_options(options, self._session), options.get("cancel"))

    def answer(self, question: str, generation: GenerationOptions, cancel: threading.Event | None) -> AnswerStream:
        """As `stream`, with the options already merged by `generation_options`."""
        check_process()
        ids = self._prompt.question(question)

        def generate() -> Generation:
            self._questions += 1
            return self._window.stream(ids, generation, cancel)

        def complete(answer: Answer) -> Answer:
            if answer.finish_reason != CANCELLED:
                self._window.finish(ids, answer.token_ids)
            return replace(answer, familiar=is_familiar(self._question_model, [Message("user", (question,))]))

        return AnswerStream(generate, self._scheduler, cancel, complete)

    def ask(self, question: str, **options: Unpack[AnswerOptions]) -> Answer:
        """Ask about the frames in the window and wait for the whole answer. Raises UsageError, ContextFullError."""
        return self.stream(question, **options).wait()

    def choose(self, question: str, options: Sequence[str]) -> list[Choice]:
        """The probability of each given answer, in the order given; see `Session.choose`. The question is not kept."""
        return self._weighed(question, lambda logits: self._session.weigh(logits, options))

    def check(self, question: str) -> Choice:
        """How likely the answer begins with yes rather than no: the choice `yes` among the options yes and no.

        It is computed from the answer's first token alone; see `Session.weigh_first_tokens`. The question is not kept.
        """
        return self._weighed(question, lambda logits: self._session.weigh_first_tokens(logits, (YES, NO))[0])

    def probability(self, question: str) -> float:
        """P(yes) / (P(yes) + P(no)) of the answer's first token; `check` also returns P(yes) + P(no)."""
        return self.check(question).probability

    @property
    def frames(self) -> tuple[WindowFrame, ...]:
        """The frames in the window, oldest first."""
        check_process()
        with self._changed:
            return tuple(self._frames)

    @property
    def number(self) -> int:
        """The newest frame's number; 0 before the first."""
        check_process()
        with self._changed:
            return self._frames[-1].number if self._frames else 0

    @property
    def latest(self) -> Frame | None:
        """The newest frame in the window, with its picture."""
        return self._latest

    @property
    def ended(self) -> bool:
        """Whether no source is watched: there was none, or it has ended and all its frames were added."""
        return self._pipeline is None or self._pipeline.ended

    @property
    def error(self) -> BaseException | None:
        """The error that ended the source; None if there was none."""
        return None if self._pipeline is None else self._pipeline.error

    def wait_frame(self, after: int, timeout: float) -> int:
        """Wait for a frame with a number above `after`; returns the newest frame's number.

        Waits `timeout` seconds at most, and returns at once if no more frames come.
        """
        check_process()
        with self._changed:
            self._changed.wait_for(lambda: self.number > after or self.ended or self._closed.is_set(), timeout)
            return self.number

    def wait_prefetched(self, timeout: float) -> bool:
        """Wait until the idle work for the next frame is done, `timeout` seconds at most; returns whether it is.

        Waiting is optional, for measurements: work left undone is done when the frame comes.
        """
        check_process()
        return self._idle_worker.wait(timeout)

    def resume_idle_work(self) -> None:
        """Go on with idle work that `idle_turn` refused. Returns at once."""
        self._idle_worker.begin()

    def stats(self) -> LiveStats:
        """Counts, times and memory so far."""
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
        """End the source and any answer, and free the KV cache. A second call does nothing.

        Aborts running computations, in the middle of a frame or of an answer. Does nothing in a forked child.
        """
        if is_forked():
            return
        self._closed.set()
        self._idle_worker.stop()
        if self._pipeline is not None:
            self._pipeline.stop()
        self._notify()
        self._encoder.stop(CLOSED)
        self._window.close(CLOSED)
        self._idle_worker.close()
        if self._pipeline is not None:
            self._pipeline.close()

    def __enter__(self) -> Live:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        """Hold `_adding`. Raises UsageError if its holder waits for an answer that this thread has open."""
        while not self._adding.acquire(timeout=_POLL_S):
            self._scheduler.check_not_reading()
        try:
            yield
        finally:
            self._adding.release()

    def _encode(self, frame: Frame) -> FloatArray:
        started = time.perf_counter()
        # `add` and the encoding thread of a failed source may both run this: choosing a stride and counting the frame
        # must be one step.
        with self._scheduler.frame_pending(), self._encoding:
            stride = self._strides[self._encoded % len(self._strides)]
            rows = self._encoder.encode_frame(frame.image, stride)
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
        with self._changed:
            self._frames.append(WindowFrame(number, frame.time_s, len(rows)))
            self._latest = frame
            self._changed.notify_all()
        return number

    def _prefetch(self) -> StepResult:
        try:
            with self.idle_turn() as allowed, self._scheduler.idle_step() as granted:
                if not (allowed and granted):
                    return StepResult.LATER
                return StepResult.MORE if self._window.prefetch() else StepResult.DONE
        except (BackendError, UsageError):  # closed, or an engine failure that the next frame will report
            return StepResult.LATER

    def _weighed(self, question: str, weigh: Callable[[FloatArray], _T]) -> _T:
        check_process()
        ids = self._prompt.question(question)
        with self._scheduler.question():
            self._questions += 1
            prefilled = self._window.prefill([TextInput(ids)])
            assert prefilled is not None
            return weigh(prefilled.logits)

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()
