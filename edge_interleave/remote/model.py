"""A model behind a URL, with the methods of a local one: `ask`, `stream`, `chat` and `live`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NoReturn, Self, Unpack

from edge_interleave.answer import Answer, Choice
from edge_interleave.decoding.grammar import schema_of
from edge_interleave.decoding.sampling import SamplingOptions
from edge_interleave.errors import UsageError
from edge_interleave.options import AnswerOptions, AskOptions, MediaOptions, check_names
from edge_interleave.prompt.familiarity import QuestionModel
from edge_interleave.prompt.messages import Content, Message, as_messages
from edge_interleave.remote.answer_stream import RemoteAnswerStream
from edge_interleave.remote.content import request_messages
from edge_interleave.remote.endpoint import Endpoint
from edge_interleave.remote.live import RemoteLive

_NO_CHOICES = "--choose and choose() weigh answers by the model's own logits; they need a model on this machine"
_DEFAULTS = SamplingOptions()
_NAMES = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed")
"""Sampling options of OpenAI's interface."""
_MORE_NAMES = ("top_k", "min_p", "repetition_penalty")
"""Further ones that vLLM, SGLang and llama.cpp's server accept."""


class RemoteModel:
    """A model behind a URL. All methods may be called from any thread."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Use `load(url=...)`."""
        self.endpoint = endpoint
        self.name = endpoint.model
        self.questions: QuestionModel | None = None
        """As `Model.questions`; None, since a server does not report which questions its model knows."""

    def ask(self, content: Content, **options: Unpack[AskOptions]) -> Answer:
        """As `Model.ask`."""
        return self.stream(content, **options).wait()

    def stream(self, content: Content, **options: Unpack[AskOptions]) -> RemoteAnswerStream:
        """As `Model.stream`. `cancel` is checked between two pieces."""
        check_names(options, AskOptions)
        started = time.perf_counter()
        messages = as_messages(content, options.get("images", ()), options.get("videos", ()))
        sent = request_messages(messages, options)
        wanted = request_options(options)
        encode_s = time.perf_counter() - started
        return RemoteAnswerStream(lambda: self.endpoint.chunks(sent, **wanted), encode_s, options.get("cancel"))

    def choose(self, content: Content, options: Sequence[str], **media: Unpack[MediaOptions]) -> list[Choice]:
        """Not supported by models behind a URL. Raises UsageError."""
        raise UsageError(_NO_CHOICES)

    def chat(self, system: str | None = None, *, resume: str | Path | None = None) -> RemoteChat:
        """As `Model.chat`: each question sends the whole conversation, of which the server reuses what it cached."""
        if resume is not None:
            raise UsageError("a saved conversation holds the KV cache of a model on this machine; leave out resume")
        return RemoteChat(self.endpoint, system)

    def live(
        self,
        window: int = 8,
        pool: int | Sequence[int] = 1,
        *,
        mode: Literal["sliding", "exact"] = "sliding",
        keep_answers: bool = False,
        system: str | None = None,
    ) -> RemoteLive:
        """As `Model.live`; each question sends the window's pictures. `mode` is ignored."""
        if keep_answers:
            raise UsageError("keep_answers needs a model on this machine; leave it out")
        strides = (pool,) if isinstance(pool, int) else tuple(pool)
        return RemoteLive(self.endpoint, window, strides, system, request_options)

    def close(self) -> None:
        """Close the connections."""
        self.endpoint.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class RemoteChat:
    """A conversation with a model behind a URL."""

    def __init__(self, endpoint: Endpoint, system: str | None) -> None:
        """Use `RemoteModel.chat`."""
        self._endpoint = endpoint
        self._system = [] if system is None else [Message("system", (system,))]
        self._messages: tuple[Message, ...] = tuple(self._system)
        self._sent: list[dict[str, Any]] = request_messages(self._system, {})

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation so far."""
        return self._messages

    def ask(self, content: Content, **options: Unpack[AskOptions]) -> Answer:
        """As `Chat.ask`."""
        return self.stream(content, **options).wait()

    def stream(self, content: Content, **options: Unpack[AskOptions]) -> RemoteAnswerStream:
        """As `Chat.stream`."""
        check_names(options, AskOptions)
        started = time.perf_counter()
        new = as_messages(content, options.get("images", ()), options.get("videos", ()))
        sent = [*self._sent, *request_messages(new, options)]
        messages = (*self._messages, *new)
        wanted = request_options(options)
        encode_s = time.perf_counter() - started

        def complete(answer: Answer) -> None:
            self._messages = (*messages, Message("assistant", (answer.text,)))
            self._sent = [*sent, {"role": "assistant", "content": answer.text}]

        return RemoteAnswerStream(
            lambda: self._endpoint.chunks(sent, **wanted), encode_s, options.get("cancel"), complete
        )

    def choose(self, content: Content, options: Sequence[str], **media: Unpack[MediaOptions]) -> list[Choice]:
        """Not supported by models behind a URL. Raises UsageError."""
        raise UsageError(_NO_CHOICES)

    def reset(self) -> None:
        """Start a new conversation with the same system message."""
        self._messages = tuple(self._system)
        self._sent = request_messages(self._system, {})

    def save(self, path: str | Path) -> NoReturn:
        """Not supported by models behind a URL. Raises UsageError."""
        raise UsageError("a conversation is saved with its KV cache; that needs a model on this machine")

    def close(self) -> None:
        """Do nothing: there is nothing to free."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def request_options(options: AnswerOptions) -> dict[str, Any]:
    """The options of an answer as OpenAI's interface names them; those at their defaults are left out."""
    stop, schema = options.get("stop", ()), options.get("schema")
    stops = [stop] if isinstance(stop, str) else list(stop)
    sampling = options.get("sampling", _DEFAULTS)
    wanted: dict[str, Any] = {"max_tokens": options.get("max_tokens", 256), "temperature": sampling.temperature}
    if stops:
        wanted["stop"] = stops
    if schema is not None:
        wanted["response_format"] = _response_format(schema_of(schema))
    changed = {name: getattr(sampling, name) for name in (*_NAMES, *_MORE_NAMES)}
    changed = {name: value for name, value in changed.items() if value != getattr(_DEFAULTS, name)}
    more = {name: changed.pop(name) for name in _MORE_NAMES if name in changed}
    return {**wanted, **changed, **({"extra_body": more} if more else {})}


def _response_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": dict(schema)}}
