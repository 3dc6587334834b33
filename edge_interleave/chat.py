"""A conversation that stays in the KV cache, so that each turn prefills only its new part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Protocol, Unpack

from edge_interleave.answer import Answer, Choice, rate
from edge_interleave.decoding.answer_stream import AnswerStream
from edge_interleave.decoding.conversation_file import Conversation, Origin, read_conversation, write_conversation
from edge_interleave.decoding.generation import Generation
from edge_interleave.decoding.inputs import Input, TextInput, as_inputs
from edge_interleave.decoding.session import Session
from edge_interleave.options import FRAMES, AskOptions, MediaOptions, check_names, generation_options
from edge_interleave.prompt.builder import Segment
from edge_interleave.prompt.familiarity import QuestionModel, is_familiar
from edge_interleave.prompt.messages import Content, Message, as_messages, media_of
from edge_interleave.prompt.video_times import with_time_instructions
from edge_interleave.util.engine_lock import check_process
from edge_interleave.vision.media_encoder import EncodedMedia, MediaEncoder

CLOSED = "the chat is closed; open another one"


class Prompts(Protocol):
    """Turns messages into segments: `prompt.PromptBuilder`, or an implementation of your own."""

    def build(self, messages: Sequence[Message], counts: Sequence[int] | None = None) -> list[Segment]:
        """Return the whole conversation, up to where the model's answer begins. See `PromptBuilder.build`."""
        ...

    def follow_up(self, messages: Sequence[Message], counts: Sequence[int] | None = None) -> list[Segment] | None:
        """Return the part after the text of the last answer; None if the template changes earlier answers."""
        ...


class Chat:
    """A conversation. Each turn prefills only the end of the last answer and the new question with its images.

    Methods may be called from any thread. Questions are answered one after the other; each sees those before it.

    Earlier answers stay in the KV cache as the tokens that the model gave, even if the chat template would render them
    differently (llava-hf's puts two newlines before an earlier answer, but one where an answer begins).
    """

    def __init__(
        self,
        session: Session,
        prompts: Prompts,
        media_encoder: MediaEncoder,
        messages: Sequence[Message],
        origin: Origin,
        resume: Path | None = None,
        questions: QuestionModel | None = None,
    ) -> None:
        """Use `Model.chat`.

        `origin`: identifies model and backend in saved files. `resume`: a file of a saved conversation. `questions`:
        decides whether a question is familiar.
        """
        self._session = session
        self._prompts = prompts
        self._media_encoder = media_encoder
        self._origin = origin
        self._question_model = questions
        self._opening = tuple(messages)
        self._history = _History(self._opening)
        if resume is not None:
            self._resume(resume)

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation so far."""
        return self._history.messages

    def ask(self, content: Content, **options: Unpack[AskOptions]) -> Answer:
        """Ask the next question and wait for the whole answer. Parameters and errors as `Model.ask`.

        An error leaves the conversation unchanged.
        """
        return self.stream(content, **options).wait()

    def stream(self, content: Content, **options: Unpack[AskOptions]) -> AnswerStream:
        """As `ask`, but the text comes piece by piece. An answer closed early stays in the conversation, cut off."""
        check_process()
        check_names(options, AskOptions)
        generation = generation_options(options, self._session)
        cancel = options.get("cancel")
        turn = self._turn(content, options)

        def generate() -> Generation:
            nonlocal turn
            turn = self._renewed(turn)
            return self._session.stream(turn.prompt, generation, cancel)

        def complete(answer: Answer) -> Answer:
            messages = (*turn.messages, Message("assistant", (answer.text,)))
            self._history = _History(messages, turn.media, (*turn.prompt, TextInput(answer.token_ids)))
            familiar = is_familiar(self._question_model, turn.question)
            return replace(with_encode_stats(answer, turn.new_media), familiar=familiar)

        return AnswerStream(generate, self._session.scheduler, cancel, complete)

    def choose(self, content: Content, options: Sequence[str], **media: Unpack[MediaOptions]) -> list[Choice]:
        """The probability of each option, as `Model.choose`. The question does not stay in the conversation."""
        check_process()
        check_names(media, MediaOptions)
        turn = self._turn(content, media)
        with self._session.scheduler.question():
            return self._session.choose(self._renewed(turn).prompt, options)

    def reset(self) -> None:
        """Drop the conversation, except for its system message. Waits for the answers of other threads."""
        with self._session.scheduler.question():
            self._session.reset()
            self._history = _History(self._opening)

    def save(self, path: str | Path) -> None:
        """Write the conversation to a file, from which `Model.chat(resume=path)` continues. Waits for open answers.

        The file holds the messages, the visual tokens of the images and the KV cache, but not the images themselves.
        Only its owner can read it. Raises InputError if it cannot be written, ResourceError for a full disk.
        """
        with self._session.scheduler.question():
            history = self._history
            media = history.media
            conversation = Conversation(
                history.messages, len(self._opening), media.images, media.counts, history.inputs
            )
            write_conversation(
                Path(path), conversation, self._origin, lambda cache: self._session.save(cache, history.inputs)
            )

    def close(self) -> None:
        """Free the conversation's KV cache, even in the middle of an answer. A second call does nothing."""
        self._session.close(CLOSED)

    def __enter__(self) -> Chat:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _resume(self, path: Path) -> None:
        saved = read_conversation(
            path,
            self._origin,
            self._session.decoder.facts,
            lambda cache, conversation: self._session.load(cache, conversation.inputs),
        )
        self._opening = saved.messages[: saved.opening]
        self._history = _History(saved.messages, EncodedMedia(saved.images, saved.counts), saved.inputs)

    def _turn(self, content: Content, options: MediaOptions) -> _Turn:
        """The conversation with the new question, whose images are encoded here."""
        question = as_messages(content, options.get("images", ()), options.get("videos", ()))
        media = encode(self._media_encoder, question, options)
        return self._after(self._history, with_time_instructions(question, media.instructions), media)

    def _renewed(self, turn: _Turn) -> _Turn:
        """The same question, placed after the answers that other threads got in the meantime."""
        if turn.before is self._history:
            return turn
        return self._after(self._history, turn.question, turn.new_media)

    def _after(self, before: _History, question: Sequence[Message], new_media: EncodedMedia) -> _Turn:
        messages, media = (*before.messages, *question), before.media + new_media
        follow_up = self._prompts.follow_up(messages, media.counts) if before.inputs else None
        segments = self._prompts.build(messages, media.counts) if follow_up is None else follow_up
        prompt = (*(() if follow_up is None else before.inputs), *as_inputs(segments, media.images))
        return _Turn(before, question, new_media, messages, media, prompt)


def encode(media_encoder: MediaEncoder, messages: Sequence[Message], options: MediaOptions) -> EncodedMedia:
    """Encode the images and videos of the messages to visual tokens. Errors as `MediaEncoder.encode`."""
    return media_encoder.encode(
        media_of(messages),
        frames=options.get("frames", FRAMES),
        stride=options.get("pool", 1),
        tiles=options.get("tiles", False),
    )


def with_encode_stats(answer: Answer, media: EncodedMedia) -> Answer:
    """Add the figures of encoding an answer's images to it."""
    stats = replace(
        answer.stats,
        encode_s=media.seconds,
        first_token_s=answer.stats.first_token_s + media.seconds,
        encode_images_per_s=rate(len(media.images), media.seconds),
        vision_provider=media.provider,
    )
    return replace(answer, stats=stats)


@dataclass(frozen=True)
class _History:
    """A conversation up to its last answer."""

    messages: tuple[Message, ...]
    media: EncodedMedia = field(default_factory=EncodedMedia)
    """All images of the conversation."""
    inputs: tuple[Input, ...] = ()
    """The conversation as given to the decoder; empty before the first question."""


@dataclass(frozen=True)
class _Turn:
    """A conversation up to a question."""

    before: _History
    question: Sequence[Message]
    new_media: EncodedMedia
    """The images of the question."""
    messages: tuple[Message, ...]
    media: EncodedMedia
    """All images of the conversation."""
    prompt: tuple[Input, ...]
