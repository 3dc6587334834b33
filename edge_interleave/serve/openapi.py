"""The OpenAPI description at `/openapi.json`, made from the pydantic models that check the requests."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from edge_interleave.serve.schema import ChatRequest, FramesRequest, LiveQuestion, LiveRequest, ResponsesRequest

_REF = "#/components/schemas/{model}"
_BODIES: tuple[type[BaseModel], ...] = (ChatRequest, ResponsesRequest, LiveRequest, FramesRequest, LiveQuestion)
_STREAM = "text/event-stream"
_ID = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
_MODEL = {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def description(*, with_key: bool) -> dict[str, Any]:
    """The document. `with_key`: whether the server requires an API key."""
    _, schemas = models_json_schema([(model, "validation") for model in _BODIES], ref_template=_REF)
    components: dict[str, Any] = {"schemas": {**schemas["$defs"], "Error": _error()}}
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "edge-interleave", "version": version("edge-interleave")},
        "paths": {
            "/v1/chat/completions": {"post": _with_body(ChatRequest, "An answer to a conversation.", stream=True)},
            "/v1/responses": {"post": _with_body(ResponsesRequest, "An answer, by the newer interface.", stream=True)},
            "/v1/models": {"get": _without_body("The models.")},
            "/v1/models/{name}": {"get": _without_body("One model.", parameters=[_MODEL])},
            "/v1/live": {"post": _with_body(LiveRequest, "Open a live window.", status="201", required=False)},
            "/v1/live/sources": {"get": _without_body("The server's own sources.")},
            "/v1/live/{id}": {
                "get": _without_body("The state of a live window.", parameters=[_ID]),
                "delete": _without_body("Close a live window.", parameters=[_ID]),
            },
            "/v1/live/{id}/frames": {"post": _frames()},
            "/v1/live/{id}/ask": {
                "post": _with_body(LiveQuestion, "Ask about a live window.", stream=True, parameters=[_ID])
            },
            "/props": {
                "get": _without_body("Properties, as llama.cpp's server reports them.", parameters=[_query("model")])
            },
            "/health": {"get": {**_without_body("Whether the server runs."), "security": []}},
            "/metrics": {"get": _without_body("Counters for Prometheus.", media="text/plain")},
        },
        "components": components,
    }
    if with_key:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document


def _without_body(summary: str, *, parameters: Any = (), media: str = "application/json") -> dict[str, Any]:
    return {
        "summary": summary,
        "parameters": list(parameters),
        "responses": {"200": {"description": "The result.", "content": {media: {}}}, **_errors()},
    }


def _with_body(
    model: type[BaseModel],
    summary: str,
    *,
    stream: bool = False,
    status: str = "200",
    required: bool = True,
    parameters: Any = (),
) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if stream:
        content[_STREAM] = {"schema": {"type": "string"}}
    schema = {"$ref": _REF.format(model=model.__name__)}
    return {
        "summary": summary,
        "parameters": list(parameters),
        "requestBody": {"required": required, "content": {"application/json": {"schema": schema}}},
        "responses": {status: {"description": "The result.", "content": content}, **_errors()},
    }


def _frames() -> dict[str, Any]:
    found = _with_body(FramesRequest, "Add pictures to a live window.", parameters=[_ID])
    found["requestBody"]["content"]["image/*"] = {"schema": {"type": "string", "format": "binary"}}
    return found


def _errors() -> dict[str, Any]:
    body = {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}}
    descriptions = {
        "400": "The request is wrong or not supported; `param` names the field.",
        "401": "No valid API key.",
        "403": "This host name or origin is not allowed.",
        "404": "There is no such model, window or route.",
        "413": "The request is too large.",
        "429": "The server is busy; see Retry-After.",
        "503": "The server is shutting down, or has no room for the model.",
        "504": "The request reached its time limit.",
    }
    return {status: {"description": text, "content": body} for status, text in descriptions.items()}


def _query(name: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": {"type": "string"}}


def _error() -> dict[str, Any]:
    text = {"type": ["string", "null"]}
    fields = {"message": {"type": "string"}, "type": {"type": "string"}, "param": text, "code": text}
    error = {"type": "object", "properties": fields, "required": list(fields)}
    return {"type": "object", "properties": {"error": error}, "required": ["error"]}
