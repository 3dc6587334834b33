"""OpenAI's error responses: a status and `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_interleave.errors import (
    ContextFullError,
    EdgeInterleaveError,
    MediaError,
    ResourceError,
    UsageError,
)

INVALID = "invalid_request_error"


@dataclass(eq=False)
class ApiError(Exception):
    """An error response for the client."""

    status: int
    message: str
    param: str | None = None
    """The field of the request that is wrong."""
    code: str | None = None
    kind: str = INVALID
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """The JSON object of the response."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def wrong(param: str, message: str, code: str | None = None) -> ApiError:
    """400: a field of the request is wrong or not supported."""
    return ApiError(400, message, param, code)


def busy(message: str, retry_after_s: float) -> ApiError:
    """429: the server is busy; the client may retry after so many seconds."""
    after = str(max(1, round(retry_after_s)))
    return ApiError(429, message, None, "rate_limit_exceeded", "rate_limit_error", {"Retry-After": after})


def stopping() -> ApiError:
    """503: the server shuts down before it can answer."""
    return ApiError(503, "the server is shutting down", None, "shutting_down", "server_error", {"Retry-After": "5"})


def too_late(seconds: float) -> ApiError:
    """504: the request reached its time limit."""
    return ApiError(504, f"no answer within the time limit of {seconds:g} s", None, "timeout", "server_error")


def api_error(error: Exception) -> ApiError:
    """The response for any exception. Unknown ones become 500 without their message."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ContextFullError):
        return ApiError(400, str(error), "messages", "context_length_exceeded")
    if isinstance(error, MediaError):
        return ApiError(400, str(error), "messages", "invalid_image")
    if isinstance(error, UsageError):
        return ApiError(400, str(error))
    if isinstance(error, ResourceError):
        return ApiError(503, str(error), None, "no_memory", "server_error", {"Retry-After": "30"})
    if isinstance(error, EdgeInterleaveError):
        return ApiError(500, str(error), None, "engine_failed", "server_error")
    # The message may contain paths or values of the server.
    return ApiError(500, "internal error; the server's log says more", None, "internal_error", "server_error")
