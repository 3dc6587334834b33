"""`POST /v1/chat/completions`: the answer as OpenAI's interface writes it, whole or as a stream."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from edge_interleave.answer import Stats, rate
from edge_interleave.decoding.generation import TokenScore
from edge_interleave.serve.handle import Begun, Ended, Event, Piece, Timings
from edge_interleave.serve.timelines import Slid


class ChatAnswer:
    """Turns the events of one answer into OpenAI's objects."""

    def __init__(self, model: str, fingerprint: str, *, logprobs: bool = False) -> None:
        """`model`: the name that the client sees. `fingerprint`: identifies the bundle."""
        self._head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }
        self._logprobs = logprobs

    def whole(self, ended: Ended, scores: Sequence[TokenScore]) -> dict[str, Any]:
        """The completion."""
        answer = ended.answer
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": logprobs_of(scores) if self._logprobs else None,
            "finish_reason": answer.finish_reason,
        }
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [choice],
            "usage": usage_of(answer.stats, ended.slid),
            "timings": timings_of(ended.timings),
        }

    async def chunks(
        self, events: AsyncIterator[Event], *, with_usage: bool, with_timings: bool = False
    ) -> AsyncIterator[dict[str, Any]]:
        """The chunks of a stream.

        `with_usage`: add a last chunk with the usage (`stream_options`). `with_timings`: add the timings so far to each
        chunk (`timings_per_token`).
        """
        async for event in events:
            if isinstance(event, Begun):
                yield self._chunk({"role": "assistant", "content": "", "refusal": None})
            elif isinstance(event, Piece):
                chunk = self._chunk({"content": event.text}, event.scores)
                yield {**chunk, "timings": timings_of(event.timings)} if with_timings else chunk
            elif isinstance(event, Ended):
                if event.scores and self._logprobs:
                    yield self._chunk({"content": ""}, event.scores)
                last = self._chunk({}, reason=event.answer.finish_reason)
                yield {**last, "timings": timings_of(event.timings)}
                if with_usage:
                    head = {**self._head, "object": "chat.completion.chunk", "choices": []}
                    yield {
                        **head,
                        "usage": usage_of(event.answer.stats, event.slid),
                        "timings": timings_of(event.timings),
                    }

    def _chunk(
        self, delta: dict[str, Any], scores: Sequence[TokenScore] = (), reason: str | None = None
    ) -> dict[str, Any]:
        choice = {
            "index": 0,
            "delta": delta,
            "logprobs": logprobs_of(scores) if self._logprobs and scores else None,
            "finish_reason": reason,
        }
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}


def usage_of(stats: Stats, slid: Slid) -> dict[str, Any]:
    """OpenAI's `usage`: tokens of prompt and answer, and how many of the prompt were cached.

    Extensions: `visual_tokens`; `evicted_tokens` and `recomputed_tokens`, if the history slid; `approximate_tokens`,
    those of the prompt that still carry traces of evicted ones.
    """
    details = {
        "cached_tokens": stats.cached_tokens,
        "audio_tokens": 0,
        "visual_tokens": stats.visual_tokens,
        "evicted_tokens": slid.evicted,
        "recomputed_tokens": slid.recomputed,
        "approximate_tokens": slid.approximate,
    }
    return {
        "prompt_tokens": stats.prompt_tokens,
        "completion_tokens": stats.answer_tokens,
        "total_tokens": stats.prompt_tokens + stats.answer_tokens,
        "prompt_tokens_details": details,
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def timings_of(spent: Timings) -> dict[str, Any]:
    """The `timings` of llama.cpp's server, and `encode_ms` for the vision tower."""
    return {
        "cache_n": spent.cached,
        **_timed("prompt", spent.computed, spent.prefill_s),
        **_timed("predicted", spent.answered, spent.decode_s),
        "encode_ms": spent.encode_s * 1000,
    }


def _timed(name: str, count: int, seconds: float) -> dict[str, Any]:
    return {
        f"{name}_n": count,
        f"{name}_ms": seconds * 1000,
        f"{name}_per_token_ms": seconds * 1000 / count if count else 0.0,
        f"{name}_per_second": rate(count, seconds),
    }


def logprobs_of(scores: Sequence[TokenScore]) -> dict[str, Any]:
    """Natural logarithms of the tokens' probabilities, as the model gave them."""
    return {
        "content": [
            {**_token(score.text, score.logprob), "top_logprobs": [_token(text, value) for text, value in score.top]}
            for score in scores
        ],
        "refusal": None,
    }


def event_line(data: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


DONE_LINE = b"data: [DONE]\n\n"


def _token(text: str, logprob: float) -> dict[str, Any]:
    # Part of a character has no text, so its bytes are unknown.
    raw = None if "\ufffd" in text else list(text.encode())
    return {"token": text, "logprob": max(logprob, -9999.0), "bytes": raw}
