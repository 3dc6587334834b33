"""Answers as they come, and conversations that remember."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Protocol

from edge_interleave.decoding.generation import Answer, Generation, GenerationOptions
from edge_interleave.decoding.held_answer import HeldAnswer
from edge_interleave.decoding.sampling import SamplingOptions
from edge_interleave.decoding.scheduler import EngineScheduler
from edge_interleave.decoding.session import Choice, Session
from edge_interleave.decoding.stats import rate
from edge_interleave.decoding.timeline import Input, TextInput, VisualInput
from edge_interleave.errors import UsageError
from edge_interleave.prompt.builder import ImageSegment, Segment
from edge_interleave.prompt.messages import Content, Message, media_of, messages_of
from edge_interleave.util.engine_lock import check_process
from edge_interleave.vision.media_encoder import EncodedMedia, MediaEncoder

CLOSED = "the chat is closed; begin another one"
GREEDY = SamplingOptions()
MAX_TOKENS = 256
FRAMES = 8
"""Frames taken of a video that does not say how many."""


class Prompts(Protocol):
    """What turns messages into segments: `prompt.PromptBuilder`, or another."""

    def build(self, messages: Sequence[Message], counts: Sequence[int] | None = None) -> list[Segment]:
        """The whole conversation, up to where the model's answer begins. See `PromptBuilder.build`."""
        ...

    def follow_up(self, messages: Sequence[Message], counts: Sequence[int] | None = None) -> list[Segment] | None:
        """What comes after the text of the last answer; None where that cannot be told apart. See `PromptBuilder`."""
        ...


class Chat:
    """A conversation. Each turn computes only what is new: the question, its images, and the end of the last answer.

    Its methods may be called from any thread: questions are answered one after the other, each seeing those before it.

    The earlier answers stay in the timeline as the tokens that the model gave, even where the template would write
    them otherwise (llava-hf's puts two newlines before an earlier answer, and one where an answer begins).
    """

    def __init__(
        self, session: Session, prompts: Prompts, media_encoder: MediaEncoder, messages: Sequence[Message]
    ) -> None:
        """Use `Model.chat`."""
        self._session = session
        self._prompts = prompts
        self._media_encoder = media_encoder
        self._opening = tuple(messages)
        self._said = _Said(self._opening)

    @property
    def messages(self) -> tuple[Message, ...]:
        """What has been said so far."""
        return self._said.messages

    def ask(
        self,
        content: Content,
        *,
        max_tokens: int = MAX_TOKENS,
        stop: Sequence[str] = (),
        sampling: SamplingOptions = GREEDY,
        frames: int = FRAMES,
        pool: int = 1,
        tiles: bool = False,
        cancel: threading.Event | None = None,
    ) -> Answer:
        """Say something and wait for the whole answer. Parameters and errors as `Model.ask`.

        After an error the conversation is as before the call.
        """
        stream = self.stream(
            content,
            max_tokens=max_tokens,
            stop=stop,
            sampling=sampling,
            frames=frames,
            pool=pool,
            tiles=tiles,
            cancel=cancel,
        )
        return stream.wait()

    def stream(
        self,
        content: Content,
        *,
        max_tokens: int = MAX_TOKENS,
        stop: Sequence[str] = (),
        sampling: SamplingOptions = GREEDY,
        frames: int = FRAMES,
        pool: int = 1,
        tiles: bool = False,
        cancel: threading.Event | None = None,
    ) -> AnswerStream:
        """As `ask`, but the text comes piece by piece; an answer left early is remembered as far as it went."""
        check_process()
        options = GenerationOptions(max_tokens, stops_of(stop), sampling)
        turn = self._turn(content, frames, pool, tiles)

        def generate() -> Generation:
            nonlocal turn
            turn = self._renewed(turn)
            return self._session.stream(turn.prompt, options, cancel)

        def remember(answer: Answer) -> None:
            answered = (*turn.messages, Message("assistant", (answer.text,)))
            self._said = _Said(answered, turn.media, (*turn.prompt, TextInput(answer.token_ids)))

        return AnswerStream(generate, self._session.scheduler, cancel, turn.new_media, remember)

    def choose(
        self,
        content: Content,
        options: Sequence[str],
        *,
        frames: int = FRAMES,
        pool: int = 1,
        tiles: bool = False,
    ) -> list[Choice]:
        """The probability of each given answer, as `Session.choose`; the conversation forgets that it was asked."""
        check_process()
        turn = self._turn(content, frames, pool, tiles)
        with self._session.scheduler.question():
            return self._session.choose(self._renewed(turn).prompt, options)

    def reset(self) -> None:
        """Begin anew, with the system message if there was one. Waits for the answers of other threads."""
        with self._session.scheduler.question():
            self._session.reset()
            self._said = _Said(self._opening)

    def close(self) -> None:
        """Free the conversation's KV cache, in the middle of an answer too. A second call does nothing."""
        self._session.close(CLOSED)

    def _turn(self, content: Content, frames: int, pool: int, tiles: bool) -> _Turn:
        """The conversation with what is said now, its images encoded."""
        new = asking(content)
        encoded = self._media_encoder.encode(media_of(new), frames=frames, stride=pool, tiles=tiles)
        return self._after(self._said, new, encoded)

    def _renewed(self, turn: _Turn) -> _Turn:
        """The same question where it has its turn: another thread's may have been answered meanwhile."""
        return turn if turn.before is self._said else self._after(self._said, turn.new, turn.new_media)

    def _after(self, before: _Said, new: Sequence[Message], new_media: EncodedMedia) -> _Turn:
        messages, media = (*before.messages, *new), before.media + new_media
        more = self._prompts.follow_up(messages, media.counts) if before.inputs else None
        segments = self._prompts.build(messages, media.counts) if more is None else more
        prompt = (*(() if more is None else before.inputs), *inputs_of(segments, media.images))
        return _Turn(before, new, new_media, messages, media, prompt)

    def __enter__(self) -> Chat:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class _Said:
    """A conversation so far."""

    messages: tuple[Message, ...]
    media: EncodedMedia = field(default_factory=EncodedMedia)
    """All images of the conversation."""
    inputs: tuple[Input, ...] = ()
    """What it is in the timeline; empty before the first question."""


@dataclass(frozen=True)
class _Turn:
    """A conversation up to a question."""

    before: _Said
    new: Sequence[Message]
    """The question."""
    new_media: EncodedMedia
    """The images that came with it."""
    messages: tuple[Message, ...]
    media: EncodedMedia
    """All images of the conversation."""
    prompt: tuple[Input, ...]


class AnswerStream(HeldAnswer):
    """An answer as it comes: an iterator of pieces of text, then `answer`. Closing it early cancels the answer.

    Other threads' questions to the same model or chat wait from its first piece until it is through or closed; one of
    the thread that reads it raises UsageError.
    """

    def __init__(
        self,
        generate: Callable[[], Generation],
        scheduler: EngineScheduler,
        cancel: threading.Event | None,
        media: EncodedMedia,
        finished: Callable[[Answer], None] = lambda answer: None,
    ) -> None:
        """Use `Model.stream` or `Chat.stream`."""
        super().__init__(generate, scheduler, cancel)
        self._media = media
        self._remember = finished

    def _finished(self, answer: Answer) -> Answer:
        media = self._media
        stats = replace(
            answer.stats,
            encode_s=media.seconds,
            first_token_s=answer.stats.first_token_s + media.seconds,
            encode_images_per_s=rate(len(media.images), media.seconds),
            vision_provider=media.provider,
        )
        answer = replace(answer, stats=stats)
        self._remember(answer)
        return answer


def inputs_of(segments: Sequence[Segment], visuals: Sequence[VisualInput]) -> list[Input]:
    """What a session takes: the segments with their images' visual tokens."""
    return [
        visuals[segment.index] if isinstance(segment, ImageSegment) else TextInput(segment.ids) for segment in segments
    ]


def asking(content: Content) -> list[Message]:
    """The messages that content means. Raises UsageError where they do not end with something to answer."""
    messages = messages_of(content)
    if messages[-1].role == "assistant":
        raise UsageError("the last message is the assistant's; end with the user's")
    return messages


def stops_of(stop: Sequence[str]) -> tuple[str, ...]:
    """Stop texts, of which there may be a single one."""
    return (stop,) if isinstance(stop, str) else tuple(stop)
