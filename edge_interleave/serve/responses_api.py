"""`POST /v1/responses`: answers in the form of OpenAI's newer interface. Nothing is stored."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from edge_interleave.serve.chat_api import timings_of, usage_of
from edge_interleave.serve.handle import Begun, Ended, Event, Piece
from edge_interleave.serve.schema import ResponsesRequest


class ResponsesAnswer:
    """Turns the events of one answer into OpenAI's objects."""

    def __init__(self, model: str, request: ResponsesRequest) -> None:
        self._model = model
        self._request = request
        self._id = f"resp_{secrets.token_hex(16)}"
        self._item = f"msg_{secrets.token_hex(16)}"
        self._created = time.time()
        self._number = -1

    def whole(self, ended: Ended) -> dict[str, Any]:
        """The response."""
        cut = ended.answer.finish_reason == "length"
        found = self._response("incomplete" if cut else "completed")
        found["output"] = [self._message(ended.answer.text, "incomplete" if cut else "completed")]
        found["incomplete_details"] = {"reason": "max_output_tokens"} if cut else None
        usage = usage_of(ended.answer.stats, ended.slid)
        found["usage"] = {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": usage["prompt_tokens_details"],
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage["total_tokens"],
        }
        found["timings"] = timings_of(ended.timings)
        return found

    async def events(self, events: AsyncIterator[Event]) -> AsyncIterator[dict[str, Any]]:
        """The events of a stream."""
        place = {"item_id": self._item, "output_index": 0, "content_index": 0}
        text = ""
        async for event in events:
            if isinstance(event, Begun):
                yield self._event("response.created", response=self._response("in_progress"))
                yield self._event("response.in_progress", response=self._response("in_progress"))
                item = {**self._message("", "in_progress"), "content": []}
                yield self._event("response.output_item.added", output_index=0, item=item)
                yield self._event("response.content_part.added", **place, part=_part(""))
            elif isinstance(event, Piece):
                text += event.text
                yield self._event("response.output_text.delta", **place, delta=event.text, logprobs=[])
            elif isinstance(event, Ended):
                whole = self.whole(event)
                yield self._event("response.output_text.done", **place, text=text, logprobs=[])
                yield self._event("response.content_part.done", **place, part=_part(text))
                yield self._event("response.output_item.done", output_index=0, item=whole["output"][0])
                yield self._event(f"response.{whole['status']}", response=whole)

    def failed(self, error: dict[str, Any]) -> dict[str, Any]:
        """The last event of a stream that fails."""
        return self._event("error", code=error["code"], message=error["message"], param=error["param"])

    def _response(self, status: str) -> dict[str, Any]:
        request = self._request
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "model": self._model,
            "output": [],
            "error": None,
            "incomplete_details": None,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "metadata": {},
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "reasoning": None,
            "store": False,
            "temperature": request.temperature,
            "text": {"format": _format(request)},
            "tool_choice": "none",
            "tools": [],
            "top_p": request.top_p,
            "truncation": "disabled",
            "usage": None,
        }

    def _message(self, text: str, status: str) -> dict[str, Any]:
        return {
            "id": self._item,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": [_part(text)],
        }

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        self._number += 1
        return {"type": kind, "sequence_number": self._number, **fields}


def named_event_line(data: dict[str, Any]) -> bytes:
    """One server-sent event with its name."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    return f"event: {data['type']}\ndata: {text}\n\n".encode()


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _format(request: ResponsesRequest) -> dict[str, Any]:
    if request.text is None or request.text.format is None:
        return {"type": "text"}
    return request.text.format.model_dump(by_alias=True, exclude_none=True)
