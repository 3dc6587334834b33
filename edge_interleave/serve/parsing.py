"""Parses JSON of requests into pydantic models; errors name the wrong field as the client wrote it."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from edge_interleave.errors import shown
from edge_interleave.serve.errors import ApiError, wrong

_M = TypeVar("_M", bound=BaseModel)


def parse(model: type[_M], body: bytes) -> _M:
    """The body as a `model`. Raises ApiError (400) naming the field that is wrong."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        # Of a union's members, report the one whose validation got furthest: most likely the one that was meant.
        found = max(
            error.errors(include_url=False), key=lambda one: (len(one["loc"]), not one["type"].endswith("_type"))
        )
        if found["type"] == "json_invalid":
            why = found["msg"].removeprefix("Invalid JSON: ")
            raise ApiError(400, f"the body is not JSON: {why}", None, "invalid_json") from None
        where = _field_path(found["loc"])
        if found["type"] == "extra_forbidden":
            raise wrong(where, f"{where}: this server does not know this field", "unknown_parameter") from None
        if found["type"] == "missing":
            raise wrong(where, f"{where} is missing") from None
        if found["type"] == "union_tag_invalid":
            where = f"{where}.type"
        raise wrong(where, f"{where}: {_problem(found)}") from None


def _problem(found: Any) -> str:
    context = found.get("ctx", {})
    if found["type"] == "none_required" or context.get("max_length") == 0:
        return "not supported; leave it out"
    if found["type"] == "union_tag_invalid":
        return f"{shown(context['tag'], 40)} is not supported; give one of {context['expected_tags']}"
    return f"{found['msg']}, not {shown(found['input'], 40)}"


def _field_path(parts: tuple[int | str, ...]) -> str:
    """A field's path as the client wrote it, without the names of union members that pydantic adds."""
    named: list[str] = []
    for part in map(str, parts):
        is_type = part in ("str", "int", "float", "bool") or part[:1].isupper() or not part.isidentifier()
        if part.isdecimal() or (not is_type and part not in named[-1:]):
            named.append(part)
    return ".".join(named) or "body"
