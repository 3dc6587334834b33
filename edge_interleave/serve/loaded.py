"""Answers questions with a loaded model and its shared timelines."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edge_interleave.answer import CANCELLED
from edge_interleave.chat import with_encode_stats
from edge_interleave.decoding.generation import Generation, GenerationOptions
from edge_interleave.decoding.grammar import Grammar
from edge_interleave.decoding.inputs import as_inputs
from edge_interleave.decoding.session import ANSWER_ROOM
from edge_interleave.errors import ContextFullError, EdgeInterleaveError, UsageError
from edge_interleave.live.layout import WindowLayout
from edge_interleave.live.prompt import LivePrompt
from edge_interleave.model import Model
from edge_interleave.prompt.builder import ImageSegment, Segment
from edge_interleave.prompt.messages import Image, Media, Message, Video
from edge_interleave.prompt.video_times import with_time_instructions
from edge_interleave.serve.content import Clip, Picture
from edge_interleave.serve.errors import ApiError, api_error, wrong
from edge_interleave.serve.handle import Begun, Done, Ended, Handle, Piece, Timings
from edge_interleave.serve.question import Format, Question
from edge_interleave.serve.schema import LiveRequest
from edge_interleave.serve.settings import Limits
from edge_interleave.serve.timelines import TimelinePool
from edge_interleave.vision.media_encoder import EncodedMedia, PictureGroup
from edge_interleave.vision.pooling import coarsest_stride, tokens_of_frame

if TYPE_CHECKING:
    from PIL.Image import Image as Pixels

    from edge_interleave.live.live import Live

_LOW_STRIDE = 2
_STRIDES = (1, 2, 3, 4, 6, 9)
"""Pooling strides that `auto` tries, the finest first."""
_PLACES: dict[type, Media] = {Picture: Image(b""), Clip: Video("")}


@dataclass(frozen=True)
class _Shown:
    """One image or clip of a question."""

    media: Picture | Clip
    frames: tuple[Pixels, ...]
    """Its frames; empty for a picture that is opened only when it is encoded."""
    tiles: bool
    """Whether it is split into tiles although the model would not do so by itself."""
    instruction: str = ""
    """The text after a clip, if the model was trained with it."""

    @property
    def count(self) -> int:
        return max(1, len(self.frames))


@dataclass(frozen=True)
class PoolingChoice:
    """What the context allows at one pooling stride."""

    pool: int
    tokens: int
    """Visual tokens of a frame."""
    frames: int
    """The largest window; 0 if not even one frame fits."""


@dataclass(frozen=True)
class Checked:
    """How likely the answer to a question is yes."""

    number: int
    """The window's newest frame; 0: it is empty."""
    probability: float
    """P(yes) / (P(yes) + P(no))."""
    certainty: float
    """P(yes) + P(no): near 0, the question is not one for yes or no."""
    seconds: float


class LoadedModel:
    """An open model. For one thread at a time, except for the methods that say otherwise."""

    def __init__(self, name: str, model: Model, sessions: int, exact: bool, limits: Limits) -> None:
        """`sessions`: number of KV caches that requests share."""
        self.name = name
        self.model = model
        self.windows = 0
        """Number of open live windows."""
        self.timelines = TimelinePool(model.new_session, sessions, exact)
        self._limits = limits
        manifest = model.bundle.manifest
        self._vocab_size = manifest.decoder.vocab_size
        self._eos = tuple(manifest.prompt.eos_token_ids)

    def answer(self, question: Question, handle: Handle) -> None:
        """Answer a question; the handle gets the events. Raises ApiError, EdgeInterleaveError."""
        options = self.options(question)
        shown = [self._open(item, question, handle.cancel) for item in question.media]
        messages = [
            Message(turn.role, tuple(part if isinstance(part, str) else _PLACES[type(part)] for part in turn.parts))
            for turn in question.turns
        ]
        messages = with_time_instructions(messages, [item.instruction for item in shown])
        segments = self.model.prompts.build(messages, [item.count for item in shown])
        encoded = self._encode(question, shown, segments, handle.cancel)
        if handle.cancel.is_set():
            return
        handle.emit(Begun(self.name))
        prompt = as_inputs(segments, encoded.images)
        timeline = self.timelines.take(prompt)
        began = time.perf_counter()
        generation = Generation(timeline, self.model.tokenizer, frozenset(self._eos), prompt, options, handle.cancel)
        emitted = 0
        for text in generation:
            scores = tuple(generation.scores[emitted:])
            emitted += len(scores)
            handle.emit(Piece(text, scores, _timings(generation, encoded.seconds, began)))
        answer = generation.answer
        if answer.finish_reason == CANCELLED:
            return
        rest = tuple(generation.scores[emitted:])
        spent = _timings(generation, encoded.seconds, began)
        handle.emit(Ended(with_encode_stats(answer, encoded), rest, timeline.slid, spent))

    def options(self, question: Question) -> GenerationOptions:
        """The options of the answer. Raises ApiError, naming the field, for a schema that is not supported."""
        return GenerationOptions(
            max_tokens=question.max_tokens,
            stop=question.stop,
            sampling=question.sampling,
            grammar=None if question.format is None else self._grammar(question.format),
            logprobs=question.logprobs,
        )

    def open_window(self, request: LiveRequest) -> Live:
        """Open a live window. Raises UsageError, ContextFullError."""
        pool = request.pool if isinstance(request.pool, int) else tuple(request.pool)
        live = self.model.live(
            request.window, pool, mode=request.mode, keep_answers=request.keep_answers, system=request.system
        )
        self.windows += 1
        return live

    def pooling_choices(
        self, most: int, system: str | None = None, *, keep_answers: bool = False
    ) -> tuple[PoolingChoice, ...]:
        """The windows that the context allows, of at most `most` frames, for each pooling stride."""
        vision, mode = self.model.bundle.manifest.vision, self.model.bundle.manifest.pooling_mode
        layout = WindowLayout.of(LivePrompt(self.model.prompts, self.model.tokenizer, system))
        limit, found = self.model.context_limit, []
        for stride in [stride for stride in _STRIDES if stride <= coarsest_stride(vision)]:
            tokens = tokens_of_frame(vision, stride, mode)
            room = limit - layout.entries(0, (tokens,), keep_answers)
            found.append(PoolingChoice(stride, tokens, max(0, min(most, room // (layout.around_frame + tokens)))))
        return tuple(found)

    def add_frames(
        self, live: Live, pictures: Sequence[Picture | Pixels], time_s: float | None, handle: Handle
    ) -> None:
        """Add pictures to a live window; the handle gets their numbers. Raises ApiError."""
        numbers = []
        for picture in pictures:
            if handle.cancel.is_set():
                return
            if isinstance(picture, Picture):
                with _naming(picture):
                    numbers.append(live.add(picture.data, time_s))
            else:
                numbers.append(live.add(picture, time_s))
            time_s = None
        handle.emit(Done(numbers))

    def ask_window(self, live: Live, question: Question, handle: Handle) -> None:
        """Answer a question about a live window; the handle gets the events."""
        began = time.perf_counter()
        options = self.options(question)
        (text,) = question.turns[0].parts
        assert isinstance(text, str)
        with live.answer(text, options, handle.cancel) as stream:
            handle.emit(Begun(self.name))
            for piece in stream:
                handle.emit(Piece(piece))
        if stream.answer.finish_reason != CANCELLED:
            stats = stream.answer.stats
            decode_s = time.perf_counter() - began - stats.prefill_s
            computed = stats.prompt_tokens - stats.cached_tokens
            spent = Timings(stats.cached_tokens, computed, stats.answer_tokens, 0.0, stats.prefill_s, decode_s)
            handle.emit(Ended(stream.answer, timings=spent))

    def check_window(self, live: Live, question: str, handle: Handle) -> None:
        """Compute how likely the answer about a live window is yes; the handle gets a `Checked`."""
        began = time.perf_counter()
        choice = live.check(question)
        handle.emit(
            Done(Checked(live.number, choice.probability, choice.total_probability, time.perf_counter() - began))
        )

    def close_window(self, live: Live) -> None:
        """Close a live window. Safe from any thread."""
        live.close()
        self.windows -= 1

    def close(self, reason: str) -> None:
        """Stop a running computation and free the model. Safe from any thread."""
        self.model.close()

    def _grammar(self, wanted: Format) -> Grammar:
        try:
            return Grammar.of_schema(wanted.schema, self.model.tokenizer, self._vocab_size, self._eos)
        except UsageError as error:
            raise wrong(wanted.param, str(error), "invalid_schema") from error

    def _open(self, item: Picture | Clip, question: Question, cancel: threading.Event) -> _Shown:
        # `detail: high` adds tiles only if the model was trained with them.
        high = item.detail == "high" and self.model.bundle.manifest.vision.tiling is not None
        tiles = question.tiles or (high and question.pool is None)
        split = self.model.media_encoder.splits(tiles=tiles, alone=_is_alone(question))
        if cancel.is_set() or (isinstance(item, Picture) and not split):
            return _Shown(item, (), tiles)
        with _naming(item):
            if isinstance(item, Picture):
                from edge_interleave.media.pictures.image import open_image

                return _Shown(item, (open_image(item.data),), tiles)
            from edge_interleave.serve.clips import clip_frames

            clip = clip_frames(item, question.frames, self._limits.media)
            instruction = self.model.media_encoder.time_instruction(clip)
            return _Shown(item, tuple(frame.image for frame in clip), tiles, instruction)

    def _encode(
        self, question: Question, shown: Sequence[_Shown], segments: Sequence[Segment], cancel: threading.Event
    ) -> EncodedMedia:
        """Encode all images. Raises ContextFullError, before encoding, if their visual tokens would not fit."""
        from edge_interleave.media.pictures.image import open_image

        text = sum(len(segment.ids) for segment in segments if not isinstance(segment, ImageSegment))
        limit = self.model.context_limit
        room = limit - text - min(question.max_tokens, ANSWER_ROOM)
        strides = self._strides(question, shown, room)
        if self._size(shown, strides, question) > room:
            shown = [replace(item, tiles=question.tiles) for item in shown]
            strides = self._strides(question, shown, room)
        total = text + self._size(shown, strides, question)
        if total >= limit:
            raise ContextFullError(
                f"the prompt needs {total} tokens, the context holds {limit}; send fewer images or frames, "
                'detail: "low", or a larger pool'
            )
        encoded = EncodedMedia()
        for item, stride in zip(shown, strides, strict=True):
            if cancel.is_set():
                return encoded
            with _naming(item.media):
                frames = (open_image(item.media.data),) if isinstance(item.media, Picture) else item.frames
                group = PictureGroup(frames, not isinstance(item.media, Picture))
                try:
                    encoded += self.model.media_encoder.encode_pictures(
                        [group], stride=stride, tiles=item.tiles, alone=_is_alone(question), cancel=cancel
                    )
                except UsageError:
                    if cancel.is_set():
                        return encoded
                    raise
        return encoded

    def _strides(self, question: Question, shown: Sequence[_Shown], room: int) -> list[int]:
        """The pooling stride of each image or clip."""
        if question.pool is not None:
            return [question.pool] * len(shown)
        coarsest = coarsest_stride(self.model.bundle.manifest.vision)
        fixed = {"low": min(_LOW_STRIDE, coarsest), "high": 1}
        strides: list[int] = []
        for auto in [stride for stride in _STRIDES if stride <= coarsest]:
            strides = [fixed.get(item.media.detail, auto) for item in shown]
            if self._size(shown, strides, question) <= room:
                break
        return strides

    def _size(self, shown: Sequence[_Shown], strides: Sequence[int], question: Question) -> int:
        """Number of visual tokens of all images."""
        encoder, alone = self.model.media_encoder, _is_alone(question)
        return sum(
            encoder.tokens_for(
                PictureGroup(item.frames or (None,), not isinstance(item.media, Picture)),
                stride,
                tiles=item.tiles,
                alone=alone,
            )
            for item, stride in zip(shown, strides, strict=True)
        )


def _is_alone(question: Question) -> bool:
    """Whether the question shows one image only. Clips do not count."""
    return sum(isinstance(item, Picture) for item in question.media) == 1


def _timings(generation: Generation, encode_s: float, began: float) -> Timings:
    """The timings of an answer so far. `began`: when its prefill started, by `time.perf_counter`."""
    found = generation.prefilled
    if found is None:
        return Timings(encode_s=encode_s)
    decode_s = time.perf_counter() - began - found.seconds
    computed = found.prompt_tokens - found.cached_tokens
    return Timings(found.cached_tokens, computed, generation.tokens, encode_s, found.seconds, decode_s)


@contextmanager
def _naming(item: Picture | Clip) -> Iterator[None]:
    """Make errors in the block name the field of the request that holds the image or clip."""
    try:
        yield
    except EdgeInterleaveError as error:
        found = api_error(error)
        raise ApiError(found.status, found.message, item.param, found.code, found.kind) from error
