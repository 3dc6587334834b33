"""The requests as pydantic models: the fields that OpenAI's clients send, and this server's extensions.

A field that changes the answer is supported or refused by name. Fields that cannot change it (`user`, `metadata`, ...)
are accepted and ignored. Unknown fields are refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Detail = Literal["low", "high", "auto"]
_Stride = Annotated[int, Field(ge=1, le=64)]
_Frames = Annotated[int, Field(ge=1, le=1024)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class _Tolerant(BaseModel):
    """For parts of histories, which clients may send back with fields of other servers."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class TextPart(_Tolerant):
    """Text of a message."""

    type: Literal["text", "input_text", "output_text"]
    text: str


class ImageUrl(_Tolerant):
    """The location of an image."""

    url: str
    """`data:image/jpeg;base64,...`; `https://...` if the server allows it."""
    detail: Detail = "auto"
    """`low`: a quarter of the visual tokens; `high`: all; `auto`: as many as fit."""


class ImagePart(_Tolerant):
    """An image of a message."""

    type: Literal["image_url"]
    image_url: ImageUrl | str


class InputImagePart(_Tolerant):
    """An image in the form of `/v1/responses`."""

    type: Literal["input_image"]
    image_url: str
    detail: Detail = "auto"


class VideoUrl(_Tolerant):
    """The location of a video."""

    url: str
    """`data:video/mp4;base64,...`; `data:video/jpeg;base64,A,B,C` for frames, one after the other."""
    frames: _Frames | None = None
    """Number of evenly spaced frames."""
    fps: Annotated[float, Field(gt=0, le=240)] | None = None
    """Alternatively, frames per second."""
    detail: Detail = "auto"


class VideoPart(_Tolerant):
    """A video of a message, in the form of vLLM and SGLang."""

    type: Literal["video_url"]
    video_url: VideoUrl | str


class InputVideo(_Tolerant):
    """A video's content."""

    data: str | None = None
    """Base64, without `data:`."""
    url: str | None = None
    format: str | None = None
    frames: _Frames | None = None
    fps: Annotated[float, Field(gt=0, le=240)] | None = None
    detail: Detail = "auto"


class InputVideoPart(_Tolerant):
    """A video of a message, in the form of llama.cpp's server."""

    type: Literal["input_video"]
    input_video: InputVideo | str


class RefusalPart(_Tolerant):
    """Another model's refusal, in a history."""

    type: Literal["refusal"]
    refusal: str


Part = Annotated[
    TextPart | ImagePart | InputImagePart | VideoPart | InputVideoPart | RefusalPart, Field(discriminator="type")
]


class ChatMessage(_Tolerant):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None
    refusal: str | None = None
    tool_calls: list[Any] | None = Field(default=None, max_length=0)
    function_call: None = None


class StreamOptions(_Tolerant):
    """How a stream is sent."""

    include_usage: bool = False


class JsonSchema(_Tolerant):
    """The schema of an answer."""

    name: str = "answer"
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextFormat(_Tolerant):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(_Tolerant):
    """Any JSON object, or one by a schema, as in llama.cpp's server."""

    type: Literal["json_object"]
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")


class JsonSchemaFormat(_Tolerant):
    """JSON by a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


class TemplateOptions(_Strict):
    """Values for a chat template. These models do not think, so switching it off or on changes nothing."""

    enable_thinking: bool | None = None


class Sampling(_Strict):
    """Sampling of the answer. Without a temperature, the likeliest token is always taken."""

    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=1 << 31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    """llama.cpp's name for `repetition_penalty`."""
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None


class Pictures(_Strict):
    """This server's extensions: how images and videos are shown to the model."""

    pool: _Stride | None = None
    """Pooling stride of all images; None: by each one's `detail`."""
    frames: _Frames | None = None
    """Frames of each video that sets no number."""
    tiles: bool = False
    """Large images as overview plus tiles."""


class ChatRequest(Sampling, Pictures):
    """`POST /v1/chat/completions`."""

    model: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1 << 31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=1 << 31)] | None = None
    n: Literal[1] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    chat_template_kwargs: TemplateOptions | None = None
    timings_per_token: bool | None = None
    """As llama.cpp's server: `timings` in every chunk of a stream."""

    # Refused unless empty, since they would change the answer.
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    functions: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    function_call: Literal["none", "auto"] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    modalities: list[Literal["text"]] | None = None
    audio: None = None
    prediction: None = None
    web_search_options: None = None

    # Ignored.
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    parallel_tool_calls: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    cache_prompt: Any = None
    id_slot: Any = None
    context_size: Any = None
    """Sent by Frigate's plugin for llama.cpp."""


class ResponsesMessage(_Tolerant):
    """One item of `input`."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]


class ResponsesSchemaFormat(_Tolerant):
    """JSON by a schema, in the form of `/v1/responses`."""

    type: Literal["json_schema"]
    name: str = "answer"
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None
    description: str | None = None


class ResponsesText(_Tolerant):
    """The format of the answer's text."""

    format: Annotated[TextFormat | JsonObjectFormat | ResponsesSchemaFormat, Field(discriminator="type")] | None = None
    verbosity: Any = None


class ResponsesRequest(Sampling, Pictures):
    """`POST /v1/responses`."""

    model: str | None = None
    input: str | Annotated[list[ResponsesMessage], Field(min_length=1)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=1 << 31)] | None = None
    stream: bool | None = None
    stream_options: Any = None
    text: ResponsesText | None = None

    # Refused unless empty.
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    previous_response_id: None = None
    conversation: None = None
    background: Literal[False] | None = None
    prompt: None = None
    include: Annotated[list[Any], Field(max_length=0)] | None = None
    top_logprobs: Literal[0] | None = None

    # Ignored; nothing is stored.
    store: Any = None
    user: Any = None
    metadata: Any = None
    parallel_tool_calls: Any = None
    service_tier: Any = None
    truncation: Literal["disabled", "auto"] | None = None
    reasoning: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    max_tool_calls: Any = None


class LiveRequest(_Strict):
    """`POST /v1/live`: opens a window over a stream of frames."""

    model: str | None = None
    window: Annotated[int, Field(ge=1, le=1024)] = 8
    pool: _Stride | Annotated[list[_Stride], Field(min_length=1, max_length=64)] = 1
    mode: Literal["sliding", "exact"] = "sliding"
    keep_answers: bool = False
    """Whether the last few questions and answers stay as text."""
    system: str | None = None


class FramesRequest(_Strict):
    """`POST /v1/live/{id}/frames` as JSON; one picture may also be the body itself."""

    images: Annotated[list[ImageUrl | str], Field(min_length=1)]
    time_s: float | None = None
    """When the first was taken, in seconds."""


class LiveQuestion(Sampling):
    """`POST /v1/live/{id}/ask`."""

    question: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1 << 31)] | None = None
    response_format: ResponseFormat | None = None


class LiveCheck(_Strict):
    """A message of the WebSocket: how likely is the answer yes?"""

    check: str


class LiveReopen(_Strict):
    """A message of the WebSocket: open another window instead."""

    reopen: LiveRequest


class LiveWatch(_Strict):
    """A message of the WebSocket: add frames of a source of the server's own."""

    watch: str | None
    """The source's name; None: stop."""
    fps: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Frames per second, at most."""
