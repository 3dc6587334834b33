"""Sends requests to a server with OpenAI's interface through OpenAI's client, and converts its errors."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from edge_interleave.errors import BackendError, ContextFullError, UsageError, shown
from edge_interleave.util.addresses import check_login, without_secrets

if TYPE_CHECKING:
    from openai import OpenAI

_TIMEOUT_S = 600.0


class Endpoint:
    """One model of one server. All methods may be called from any thread."""

    def __init__(self, url: str, model: str | None, api_key: str | None) -> None:
        """`url`: up to and including `/v1`. `model`: None means the first one that the server lists.

        Raises UsageError for an invalid address, BackendError if the server cannot be reached or has no model.
        """
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"{shown(url)}: not an http(s) address; give one like http://host:8000/v1")
        check_login(url)
        try:
            from openai import OpenAI
        except ImportError as error:
            raise BackendError(f"--url needs {error.name}; pip install 'edge-interleave[openai]'") from error
        self.name = without_secrets(url)
        """The address without secrets, for messages."""
        self._client: OpenAI = OpenAI(base_url=url, api_key=api_key or "none", timeout=_TIMEOUT_S, max_retries=2)
        self.model = model or self._first_model()

    def complete(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> Any:
        """A whole chat completion. Raises BackendError, ContextFullError, UsageError."""
        create: Any = self._client.chat.completions.create
        with _errors(self.name):
            return create(model=self.model, messages=list(messages), **options)

    def chunks(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> Generator[Any, None, None]:
        """The chunks of a streamed completion, the last with its usage. Closing the iterator ends the answer."""
        create: Any = self._client.chat.completions.create
        wanted = {"stream": True, "stream_options": {"include_usage": True}, **options}
        with _errors(self.name), create(model=self.model, messages=list(messages), **wanted) as stream:
            yield from stream

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _first_model(self) -> str:
        with _errors(self.name):
            models = self._client.models.list().data
        if not models:
            raise BackendError(f"{self.name}: the server lists no model; name one with --model")
        return str(models[0].id)


@contextmanager
def _errors(name: str) -> Iterator[None]:
    """Raise this package's errors instead of the client's: BackendError, ContextFullError, UsageError."""
    import openai

    try:
        yield
    except openai.BadRequestError as error:
        message = _message(error)
        kind = ContextFullError if error.code == "context_length_exceeded" or "context" in message else UsageError
        raise kind(f"{name}: {message}") from error
    except openai.AuthenticationError as error:
        raise UsageError(f"{name}: the server refuses the API key; name its variable with --api-key-env") from error
    except openai.APIConnectionError as error:
        raise BackendError(f"{name}: no answer; check the address, and that the server runs") from error
    except openai.OpenAIError as error:
        raise BackendError(f"{name}: {_message(error)}") from error


def _message(error: Exception) -> str:
    return " ".join(str(getattr(error, "message", None) or error).split())[:300]
