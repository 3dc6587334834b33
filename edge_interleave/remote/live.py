"""A live window whose questions are answered by a model behind a URL.

The latest frames are kept as pictures and sent with each question. A server that caches prefixes computes a picture
once while its position stays the same; `edge-interleave serve` also reuses pictures after older ones have left.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

from edge_interleave.answer import Answer, Choice
from edge_interleave.errors import BackendError, MediaError, UsageError
from edge_interleave.live.live import CLOSED, NO, YES, WindowFrame
from edge_interleave.live.stats import LiveStats, RollingTiming
from edge_interleave.options import AnswerOptions, check_names
from edge_interleave.remote.answer_stream import RemoteAnswerStream
from edge_interleave.remote.content import picture_part, text_part
from edge_interleave.remote.endpoint import Endpoint
from edge_interleave.util.process_memory import memory_bytes, peak_memory_bytes

if TYPE_CHECKING:
    from edge_interleave.media.frame import Frame
    from edge_interleave.media.pictures.image import ImageSource
    from edge_interleave.media.pipeline import FramePipeline
    from edge_interleave.media.reader import SourceStatus
    from edge_interleave.media.sources.base import Source

_ALTERNATIVES = 20
"""Number of likeliest first tokens to request, the maximum of OpenAI's interface."""


class RemoteLive:
    """The methods of `Live` that work with a model behind a URL. Thread-safe."""

    def __init__(
        self,
        endpoint: Endpoint,
        window: int,
        strides: Sequence[int],
        system: str | None,
        request_options: Callable[[AnswerOptions], dict[str, Any]],
    ) -> None:
        """Use `RemoteModel.live`."""
        if window < 1 or not strides or min(strides) < 1:
            raise UsageError("a window needs at least 1 frame, and pooling strides of at least 1")
        self._endpoint = endpoint
        self._strides = tuple(strides)
        self._system = [] if system is None else [{"role": "system", "content": system}]
        self._request_options = request_options
        self._changed = threading.Condition()
        self._frames: deque[tuple[WindowFrame, dict[str, Any]]] = deque(maxlen=window)
        self._latest: Frame | None = None
        self._pipeline: FramePipeline[dict[str, Any]] | None = None
        self._closed = threading.Event()
        self._encoding = threading.Lock()
        """Held while a frame is encoded: its stride follows from the number of frames encoded before it."""
        self._encoded = self._count = self._damaged = self._questions = 0
        self._timing = RollingTiming()

    def add(self, image: ImageSource, time_s: float | None = None) -> int:
        """As `Live.add`."""
        from edge_interleave.media.frame import Frame
        from edge_interleave.media.pictures.image import open_image

        if not self.ended:
            raise UsageError("a source adds frames to this window; wait for its end, or open another window")
        frames = self.frames
        after = frames[-1].time_s + 1.0 if frames else 0.0
        frame = Frame(open_image(image), after if time_s is None else time_s, self.number)
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
        """As `Live.watch`."""
        from edge_interleave.media.pipeline import watch_source

        if self._closed.is_set():
            raise UsageError(CLOSED)
        if not self.ended:
            raise UsageError("a source is already watched; wait for its end, or open another window")
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

    def stream(self, question: str, **options: Unpack[AnswerOptions]) -> RemoteAnswerStream:
        """As `Live.stream`, except that frames do not wait for the answer. `cancel` is checked between two pieces."""
        check_names(options, AnswerOptions)
        messages, wanted = self._messages(question), self._request_options(options)
        self._questions += 1
        return RemoteAnswerStream(lambda: self._endpoint.chunks(messages, **wanted), 0.0, options.get("cancel"))

    def ask(self, question: str, **options: Unpack[AnswerOptions]) -> Answer:
        """As `Live.ask`."""
        return self.stream(question, **options).wait()

    def check(self, question: str) -> Choice:
        """As `Live.check`, from the likeliest first tokens that the server reports.

        Raises BackendError if it reports none (start vLLM with --max-logprobs 20 or more), or neither yes nor no.
        """
        self._questions += 1
        found = self._endpoint.complete(
            self._messages(question), max_tokens=1, temperature=0.0, logprobs=True, top_logprobs=_ALTERNATIVES
        )
        scores = getattr(found.choices[0], "logprobs", None)
        tokens = (scores.content or []) if scores is not None else []
        if not tokens:
            raise BackendError(f"{self._endpoint.name}: the server reports no token probabilities, which alerts need")
        sums = {YES: 0.0, NO: 0.0}
        for token in tokens[0].top_logprobs or tokens:
            word = token.token.strip().strip(".").casefold()
            if word in sums:
                sums[word] += math.exp(token.logprob)
        total = sums[YES] + sums[NO]
        if total <= 0:
            raise BackendError(f"{self._endpoint.name}: the model answers neither yes nor no; ask a yes-or-no question")
        return Choice(YES, sums[YES] / total, math.log(sums[YES]) if sums[YES] else -math.inf, min(total, 1.0))

    def probability(self, question: str) -> float:
        """As `Live.probability`."""
        return self.check(question).probability

    @property
    def frames(self) -> tuple[WindowFrame, ...]:
        """The frames in the window, oldest first; their numbers of visual tokens are unknown (0)."""
        with self._changed:
            return tuple(frame for frame, _ in self._frames)

    @property
    def number(self) -> int:
        """The newest frame's number; 0 before the first."""
        return self._count

    @property
    def latest(self) -> Frame | None:
        """The newest frame in the window, with its picture."""
        return self._latest

    @property
    def ended(self) -> bool:
        """As `Live.ended`."""
        return self._pipeline is None or self._pipeline.ended

    @property
    def error(self) -> BaseException | None:
        """As `Live.error`."""
        return None if self._pipeline is None else self._pipeline.error

    def wait_frame(self, after: int, timeout: float) -> int:
        """As `Live.wait_frame`."""
        with self._changed:
            self._changed.wait_for(lambda: self._count > after or self.ended or self._closed.is_set(), timeout)
            return self._count

    def stats(self) -> LiveStats:
        """Counts and times so far. Figures of the server's KV cache are 0."""
        return LiveStats(
            frames=self._count,
            window=len(self._frames),
            questions=self._questions,
            damaged=self._damaged,
            entries=0,
            capacity=0,
            encode_s=self._timing.seconds,
            append_s=0.0,
            frames_per_s=self._timing.rate,
            source=None if self._pipeline is None else self._pipeline.reader.stats(),
            memory_bytes=memory_bytes(),
            peak_memory_bytes=peak_memory_bytes(),
            vision_provider="",
        )

    def close(self) -> None:
        """End the source. A second call does nothing."""
        self._closed.set()
        self._notify()
        if self._pipeline is not None:
            self._pipeline.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _messages(self, question: str) -> list[dict[str, Any]]:
        with self._changed:
            frames = list(self._frames)
        if not frames:
            return [*self._system, {"role": "user", "content": question}]
        parts: list[dict[str, Any]] = []
        for frame, part in frames:
            parts += [text_part(f"Frame {frame.number}:"), part]
        return [*self._system, {"role": "user", "content": [*parts, text_part(question)]}]

    def _encode(self, frame: Frame) -> dict[str, Any]:
        started = time.perf_counter()
        # A frame may be encoded before the one in front of it is appended, so those encoded are counted, as in `Live`.
        with self._encoding:
            part = picture_part(frame.image, self._strides[self._encoded % len(self._strides)])
            self._encoded += 1
        ended = time.perf_counter()
        self._timing.add(ended - started, ended)
        return part

    def _encode_or_skip(self, frame: Frame) -> dict[str, Any] | None:
        try:
            return self._encode(frame)
        except MediaError:
            self._damaged += 1
            return None

    def _append(self, frame: Frame, part: dict[str, Any]) -> int:
        with self._changed:
            self._count += 1
            self._frames.append((WindowFrame(self._count, frame.time_s, 0), part))
            self._latest = frame
            self._changed.notify_all()
            return self._count

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()
