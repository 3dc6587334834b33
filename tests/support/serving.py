"""Runs `edge-interleave serve` as a user does: a process of its own, called over HTTP."""

from __future__ import annotations

import base64
import io
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from openai import OpenAI
from PIL import Image

from edge_interleave.embedded import DEMO_CLIP
from support.command_line import PROGRAM, environment

DEMO = DEMO_CLIP.parent
CARDS = [DEMO / f"card-{number}.png" for number in (1, 2, 3, 4)]
KEY = "clé of the house"
_START_S = 60.0


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    url: str
    """Without `/v1`."""
    process: subprocess.Popen[str]
    said: list[str]
    """Lines of its stderr."""

    def client(self, **options: Any) -> OpenAI:
        """OpenAI's own client; it does not try again."""
        return OpenAI(**{"base_url": f"{self.url}/v1", "api_key": "none", "max_retries": 0, "timeout": 60, **options})

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        """A request as any other client sends it."""
        return httpx.post(f"{self.url}{path}", json=body, timeout=60, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        """A request as any other client sends it."""
        return httpx.get(f"{self.url}{path}", timeout=60, **options)

    def metric(self, name: str) -> float:
        """The sum of a metric's values over its labels."""
        lines = self.get("/metrics").text.splitlines()
        found = [line for line in lines if re.match(rf"edge_interleave_{name}(\{{|\s)", line)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in found)


@contextmanager
def serving(home: Path, *arguments: object, **more: str) -> Iterator[Server]:
    """A server at a free port for as long as the block lasts."""
    command = [*PROGRAM, "serve", "--port", "0", "--threads", "1", *map(str, arguments)]
    process = subprocess.Popen(command, env=environment(home, **more), stderr=subprocess.PIPE, text=True)
    said: list[str] = []
    ready = threading.Event()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line.rstrip())
            if line.startswith("ready: "):
                ready.set()
        ready.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        assert ready.wait(_START_S), said
        found = [line for line in said if line.startswith("ready: ")]
        assert found, said
        yield Server(found[0].split()[1].removesuffix("/v1"), process, said)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join(5)
        if process.stderr is not None:
            process.stderr.close()


def data_uri(source: Path | Image.Image) -> str:
    """A picture as clients send it."""
    if isinstance(source, Path):
        kind = {".mp4": "video/mp4"}.get(source.suffix, f"image/{source.suffix[1:]}")
        return f"data:{kind};base64,{base64.b64encode(source.read_bytes()).decode()}"
    content = io.BytesIO()
    source.save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def image_part(source: Path | Image.Image, **more: Any) -> dict[str, Any]:
    """A part of a message."""
    return {"type": "image_url", "image_url": {"url": data_uri(source), **more}}


def user(*parts: Any) -> dict[str, Any]:
    """A message of text and pictures."""
    return {
        "role": "user",
        "content": [
            part
            if isinstance(part, dict)
            else {"type": "text", "text": part}
            if isinstance(part, str)
            else image_part(part)
            for part in parts
        ],
    }


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
