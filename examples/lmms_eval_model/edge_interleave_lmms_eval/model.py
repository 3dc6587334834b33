"""Runs a bundle as a model of lmms-eval."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from tqdm import tqdm

import edge_interleave as ei

MARKER = "<image>"
_ROLES = ("system", "user", "assistant")


class EdgeInterleave(lmms):
    """Runs a bundle. The arguments are those of `--model_args`, as strings or numbers."""

    is_simple = False

    def __init__(
        self,
        pretrained: str | None = None,
        pool: int = 1,
        frames: int = 8,
        backend: str | None = None,
        context: int | None = None,
        threads: int | None = None,
        kv_precision: str = "f16",
        max_new_tokens: int = 1024,
        batch_size: int | str = 1,
        device: str | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        # lmms-eval passes these to every model.
        unknown = {name: value for name, value in unknown.items() if value is not None and name != "max_batch_size"}
        if unknown:
            raise ei.UsageError(f"unknown model argument {', '.join(unknown)}; leave it out")
        if str(batch_size) not in ("1", "auto"):
            raise ei.UsageError(f"batch_size {batch_size}: questions are answered one at a time; use batch_size 1")
        self._shown = {"pool": int(pool), "frames": int(frames)}
        self._max_new_tokens = int(max_new_tokens)
        self._model = ei.load(
            pretrained,
            backend=backend,
            context=None if context is None else int(context),
            threads=None if threads is None else int(threads),
            kv_precision=kv_precision,
        )

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """An answer to each request, in order."""
        answers = []
        for request in tqdm(requests, desc="edge-interleave", disable=self.rank != 0):
            # Some versions put the text first; the messages contain it too.
            doc_to_messages, how, doc_id, task, split = request.args[-5:]
            messages = doc_to_messages(self.task_dict[task][split][doc_id])
            answer = self._model.ask(
                [_message(message) for message in messages],
                max_tokens=int(how.get("max_new_tokens") or self._max_new_tokens),
                stop=_stops(how.get("until")),
                sampling=_sampling(how),
                **self._shown,
            )
            answers.append(answer.text)
        return answers

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not supported; raises NotImplementedError."""
        raise NotImplementedError("edge_interleave runs generation tasks only, not log-likelihood tasks")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not supported; raises NotImplementedError."""
        raise NotImplementedError("edge_interleave runs single-round tasks only")

    def clean(self) -> None:
        """Free the model."""
        self._model.close()


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """Convert a message of lmms-eval, with parts such as `{"type": "image", "url": picture}`."""
    content = message["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    media = [_media(part) for part in parts if part["type"] != "text"]
    texts = [part["text"] for part in parts if part["type"] == "text"]
    markers = sum(text.count(MARKER) for text in texts)
    if message["role"] not in _ROLES:
        raise ei.UsageError(f"no role {message['role']!r}")
    if markers == len(media):
        return {"role": message["role"], "content": [*media, *texts]}
    # Surplus markers would be counted as images.
    made = [_media(part) if part["type"] != "text" else part["text"].replace(MARKER, "") for part in parts]
    return {"role": message["role"], "content": made}


def _media(part: dict[str, Any]) -> ei.Image | ei.Video:
    if part["type"] == "image":
        url = part["url"]
        return ei.Image(Path(url) if isinstance(url, str) else url)
    if part["type"] == "video" and isinstance(part["url"], (str, Path)):
        return ei.Video(part["url"])
    raise ei.UsageError(f"edge_interleave takes text, images and video files, not {part['type']}")


def _stops(until: str | Sequence[str] | None) -> tuple[str, ...]:
    given = [until] if isinstance(until, str) else until or []
    return tuple(text for text in given if text)


def _sampling(how: dict[str, Any]) -> ei.SamplingOptions:
    temperature = float(how.get("temperature") or 0)
    if temperature <= 0 or how.get("do_sample") is False:
        return ei.SamplingOptions()
    return ei.SamplingOptions(temperature=temperature, top_p=float(how.get("top_p") or 1.0), seed=0)
