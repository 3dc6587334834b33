"""Answers as they come, and conversations that remember."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Protocol

from .errors import UsageError
from .generation import Answer, Generation, GenerationOptions
from .media import Eyes, Seen
from .messages import Content, Message, media_of, messages_of
from .prompt import ImageSegment, Segment
from .sampling import SamplingOptions
from .session import Choice, Session
from .stats import rate
from .timeline import Input, TextInput, VisualInput

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

    The earlier answers stay in the timeline as the tokens that the model gave, even where the template would write
    them otherwise (llava-hf's puts two newlines before an earlier answer, and one where an answer begins).
    """

    def __init__(self, session: Session, prompts: Prompts, eyes: Eyes, messages: Sequence[Message]) -> None:
        """Use `Model.chat`."""
        self._session = session
        self._prompts = prompts
        self._eyes = eyes
        self._opening = tuple(messages)
        self._messages = list(messages)
        self._seen = Seen()
        self._inputs: list[Input] = []

    @property
    def messages(self) -> tuple[Message, ...]:
        """What has been said so far."""
        return tuple(self._messages)

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
        options = GenerationOptions(max_tokens, stops_of(stop), sampling)
        turn = self._turn(content, frames, pool, tiles)

        def remember(answer: Answer) -> None:
            self._messages = [*turn.messages, Message("assistant", (answer.text,))]
            self._seen = turn.seen
            self._inputs = [*turn.prompt, TextInput(answer.token_ids)]

        return AnswerStream(self._session.stream(turn.prompt, options, cancel), turn.new, remember)

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
        return self._session.choose(self._turn(content, frames, pool, tiles).prompt, options)

    def reset(self) -> None:
        """Begin anew, with the system message if there was one."""
        self._session.reset()
        self._messages, self._seen, self._inputs = list(self._opening), Seen(), []

    def close(self) -> None:
        """Free the conversation's KV cache. A second call does nothing."""
        self._session.close()

    def _turn(self, content: Content, frames: int, pool: int, tiles: bool) -> _Turn:
        """The conversation with what is said now, its images encoded."""
        new = asking(content)
        looked = self._eyes.look(media_of(new), frames=frames, stride=pool, tiles=tiles)
        messages, seen = [*self._messages, *new], self._seen + looked
        more = self._prompts.follow_up(messages, seen.counts) if self._inputs else None
        segments = self._prompts.build(messages, seen.counts) if more is None else more
        prompt = ([] if more is None else self._inputs) + inputs_of(segments, seen.visuals)
        return _Turn(messages, seen, looked, prompt)

    def __enter__(self) -> Chat:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class _Turn:
    """A conversation up to a question."""

    messages: list[Message]
    seen: Seen
    """All images of the conversation."""
    new: Seen
    """Those that came with the question."""
    prompt: list[Input]


class AnswerStream(Iterator[str]):
    """An answer as it comes: an iterator of pieces of text, then `answer`. Closing it early cancels the answer."""

    def __init__(
        self, generation: Generation, seen: Seen, finished: Callable[[Answer], None] = lambda answer: None
    ) -> None:
        """Use `Model.stream` or `Chat.stream`."""
        self._generation = generation
        self._seen = seen
        self._finished = finished
        self._answer: Answer | None = None

    @property
    def answer(self) -> Answer:
        """The whole answer, once the pieces are through or the stream is closed. Raises UsageError before."""
        return self._answer or self._generation.answer

    def __next__(self) -> str:
        try:
            return next(self._generation)
        except StopIteration:
            self._finish()
            raise

    def wait(self) -> Answer:
        """Go through the pieces that are left and give the answer."""
        for _ in self:
            pass
        return self.answer

    def close(self) -> None:
        """End the answer here."""
        self._generation.close()
        self._finish()

    def __enter__(self) -> AnswerStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _finish(self) -> None:
        if self._answer is None:
            answer, seen = self._generation.answer, self._seen
            stats = replace(
                answer.stats,
                encode_s=seen.seconds,
                first_token_s=answer.stats.first_token_s + seen.seconds,
                encode_images_per_s=rate(len(seen.visuals), seen.seconds),
                vision_provider=seen.provider,
            )
            self._answer = replace(answer, stats=stats)
            self._finished(self._answer)


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
