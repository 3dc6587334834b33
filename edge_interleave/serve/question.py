"""Converts requests of all interfaces to one form: turns of text, pictures and clips, and options of the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from edge_interleave.decoding.sampling import SamplingOptions
from edge_interleave.errors import UsageError
from edge_interleave.prompt.builder import MARKER
from edge_interleave.prompt.messages import Role
from edge_interleave.serve.content import Clip, MediaReader, Picture
from edge_interleave.serve.errors import ApiError, wrong
from edge_interleave.serve.schema import (
    ChatMessage,
    ChatRequest,
    ImagePart,
    InputImagePart,
    InputVideoPart,
    JsonObjectFormat,
    JsonSchemaFormat,
    LiveQuestion,
    Part,
    RefusalPart,
    ResponsesMessage,
    ResponsesRequest,
    ResponsesSchemaFormat,
    Sampling,
    TextFormat,
    TextPart,
    VideoPart,
)
from edge_interleave.serve.settings import Limits

_MARKER_AS_TEXT = "<image >"
MAX_TOKENS = 1024
"""Most tokens of an answer if the request sets no limit."""


@dataclass(frozen=True)
class Turn:
    """One message."""

    role: Role
    parts: tuple[str | Picture | Clip, ...]


@dataclass(frozen=True)
class Format:
    """Requires a JSON answer."""

    schema: dict[str, Any] | None
    """None: any object."""
    param: str
    """The field of the request that holds it."""


@dataclass(frozen=True)
class Question:
    """One request for an answer."""

    turns: tuple[Turn, ...] = ()
    max_tokens: int = MAX_TOKENS
    stop: tuple[str, ...] = ()
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    format: Format | None = None
    logprobs: int | None = None
    """Number of alternatives listed for each token of the answer; None: no probabilities."""
    pool: int | None = None
    """Pooling stride of all images; None: by each image's `detail`."""
    frames: int = 8
    """Frames of a clip that sets no number."""
    tiles: bool = False

    @property
    def media(self) -> list[Picture | Clip]:
        """The images and videos, in order."""
        return [part for turn in self.turns for part in turn.parts if not isinstance(part, str)]


def chat_question(request: ChatRequest, reader: MediaReader, limits: Limits) -> Question:
    """The question of a chat completion. Raises ApiError naming the field that is wrong or not supported."""
    if len(request.messages) > limits.messages:
        raise wrong("messages", f"{len(request.messages)} messages are more than {limits.messages}")
    turns = [_chat_turn(message, index, reader) for index, message in enumerate(request.messages)]
    if request.top_logprobs is not None and not request.logprobs:
        raise wrong("top_logprobs", "top_logprobs needs logprobs: true")
    question = Question(
        turns=tuple(turns),
        max_tokens=request.max_completion_tokens or request.max_tokens or MAX_TOKENS,
        stop=_stops(request.stop),
        sampling=_sampling(request),
        format=_format(request.response_format, "response_format"),
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        pool=request.pool,
        frames=request.frames or Question.frames,
        tiles=request.tiles,
    )
    return _checked(question, limits, "messages")


def responses_question(request: ResponsesRequest, reader: MediaReader, limits: Limits) -> Question:
    """The question of a request to `/v1/responses`. Raises ApiError."""
    turns: list[Turn] = []
    if request.instructions:
        turns.append(Turn("system", (request.instructions,)))
    items = [ResponsesMessage(role="user", content=request.input)] if isinstance(request.input, str) else request.input
    if len(items) > limits.messages:
        raise wrong("input", f"{len(items)} messages are more than {limits.messages}")
    for index, item in enumerate(items):
        where = f"input.{index}.content"
        turns.append(Turn(_role(item.role), _parts(item.role, item.content, where, reader)))
    question = Question(
        turns=tuple(_merged(turns)),
        max_tokens=request.max_output_tokens or MAX_TOKENS,
        sampling=_sampling(request),
        format=_format(request.text.format if request.text else None, "text.format"),
        pool=request.pool,
        frames=request.frames or Question.frames,
        tiles=request.tiles,
    )
    return _checked(question, limits, "input")


def live_question(request: LiveQuestion, limits: Limits) -> Question:
    """The question of a request about a live window. Raises ApiError."""
    if not request.question.strip():
        raise wrong("question", "the question is empty")
    if len(request.question) > limits.text_characters:
        raise wrong("question", f"the question has more than {limits.text_characters} characters")
    return Question(
        turns=(Turn("user", (request.question,)),),
        max_tokens=request.max_tokens or MAX_TOKENS,
        stop=_stops(request.stop),
        sampling=_sampling(request),
        format=_format(request.response_format, "response_format"),
    )


def _chat_turn(message: ChatMessage, index: int, reader: MediaReader) -> Turn:
    content = message.content
    if content is None:
        if message.role != "assistant":
            raise wrong(f"messages.{index}.content", "the message has no content")
        content = message.refusal or ""
    return Turn(_role(message.role), _parts(message.role, content, f"messages.{index}.content", reader))


def _parts(
    role: str, content: str | Sequence[Part], where: str, reader: MediaReader
) -> tuple[str | Picture | Clip, ...]:
    parts = _read_parts(role, content, where, reader)
    texts = [part for part in parts if isinstance(part, str)]
    markers, media = sum(text.count(MARKER) for text in texts), len(parts) - len(texts)
    if role == "assistant" or markers in (0, media):
        return parts
    if media:
        raise wrong(
            where,
            f"{MARKER} markers in the text: {markers}, images and videos of the message: {media}; give one marker for "
            "each, or none",
        )
    # Where nothing can be placed, the word is text that somebody typed.
    return tuple(part.replace(MARKER, _MARKER_AS_TEXT) if isinstance(part, str) else part for part in parts)


def _read_parts(
    role: str, content: str | Sequence[Part], where: str, reader: MediaReader
) -> tuple[str | Picture | Clip, ...]:
    if isinstance(content, str):
        return (content,)
    parts: list[str | Picture | Clip] = []
    for number, part in enumerate(content):
        here = f"{where}.{number}"
        if isinstance(part, TextPart):
            parts.append(part.text)
        elif isinstance(part, RefusalPart):
            parts.append(part.refusal)
        elif role != "user":
            raise wrong(here, f"images and videos belong in messages of the user, not of the {role}")
        elif isinstance(part, ImagePart):
            image = part.image_url
            url, detail = (image, "auto") if isinstance(image, str) else (image.url, image.detail)
            parts.append(reader.picture(url, detail, f"{here}.image_url"))
        elif isinstance(part, InputImagePart):
            parts.append(reader.picture(part.image_url, part.detail, f"{here}.image_url"))
        elif isinstance(part, VideoPart):
            video = part.video_url
            if isinstance(video, str):
                parts.append(reader.clip(video, None, None, "auto", f"{here}.video_url"))
            else:
                parts.append(reader.clip(video.url, video.frames, video.fps, video.detail, f"{here}.video_url"))
        else:
            parts.append(_input_video(part, f"{here}.input_video", reader))
    return tuple(parts)


def _input_video(part: InputVideoPart, where: str, reader: MediaReader) -> Clip:
    video = part.input_video
    if isinstance(video, str):
        return reader.clip(video, None, None, "auto", where, plain=True)
    given = video.data or video.url
    if not given:
        raise wrong(where, "input_video needs data (base64) or url")
    return reader.clip(given, video.frames, video.fps, video.detail, where, plain=bool(video.data))


def _role(role: Literal["system", "developer", "user", "assistant"]) -> Role:
    return "system" if role == "developer" else role


def _merged(turns: Sequence[Turn]) -> list[Turn]:
    """Join the instructions with a system message right after them: templates take one system message."""
    merged: list[Turn] = []
    for turn in turns:
        if merged and turn.role == merged[-1].role == "system":
            merged[-1] = replace(merged[-1], parts=(*merged[-1].parts, *turn.parts))
        else:
            merged.append(turn)
    return merged


def _stops(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if not all(stops):
        raise wrong("stop", "stop texts must not be empty")
    return stops


def _sampling(request: Sampling) -> SamplingOptions:
    seed = request.seed
    try:
        return SamplingOptions(
            temperature=request.temperature or 0.0,
            top_k=max(request.top_k or 0, 0),
            top_p=request.top_p or 1.0,
            min_p=request.min_p or 0.0,
            repetition_penalty=request.repetition_penalty or request.repeat_penalty or 1.0,
            presence_penalty=request.presence_penalty or 0.0,
            frequency_penalty=request.frequency_penalty or 0.0,
            # Clients of llama.cpp's server send -1 for a seed of its choice.
            seed=None if seed is None or seed == -1 else seed % (1 << 64),
        )
    except UsageError as error:
        raise ApiError(400, str(error), str(error).split()[0]) from error


def _format(
    wanted: TextFormat | JsonObjectFormat | JsonSchemaFormat | ResponsesSchemaFormat | None, param: str
) -> Format | None:
    if wanted is None or isinstance(wanted, TextFormat):
        return None
    if isinstance(wanted, JsonSchemaFormat):
        schema, param = wanted.json_schema.schema_, f"{param}.json_schema.schema"
        if schema is None:
            raise wrong(param, "json_schema needs a schema")
        return Format(schema, param)
    return Format(wanted.schema_, f"{param}.schema")


def _checked(question: Question, limits: Limits, param: str) -> Question:
    turns = question.turns
    if turns[-1].role == "assistant":
        raise wrong(param, "the last message is the assistant's; end with the user's")
    characters = sum(len(part) for turn in turns for part in turn.parts if isinstance(part, str))
    if characters > limits.text_characters:
        raise wrong(param, f"{characters} characters of text are more than {limits.text_characters}")
    last = turns[-1]
    if last.role == "user" and not any(not isinstance(part, str) or part.strip() for part in last.parts):
        raise wrong(param, "the last message is empty; give a question, an image or both")
    shown = sum(part.most(question.frames) if isinstance(part, Clip) else 1 for part in question.media)
    if shown > limits.media:
        raise wrong(param, f"{shown} images and frames are more than {limits.media}; send fewer", "too_many_images")
    return question
