"""What `edge-interleave serve` does under load: many clients, clients that vanish, a signal, thousands of requests.

    python benchmarks/serve_load.py                   # all of it, minutes
    python benchmarks/serve_load.py --only vanish     # one of: clients, vanish, early, signal, memory
    python benchmarks/serve_load.py --only early --bundle FOLDER

Each part starts a server in a process of its own, of the embedded model (`early`: of --bundle, or of random weights),
and prints one line of figures; it fails where a promise of docs/guides/serve.md is not kept.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image
from serve_history import random_bundle

SHORT: dict[str, Any] = {"messages": [{"role": "user", "content": "What can you see?"}], "max_tokens": 8}
# The embedded model writes as many numbers as it must.
LONG: dict[str, Any] = {
    "messages": [{"role": "user", "content": "How many?"}],
    "max_tokens": 2000,
    "stream": True,
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": {"type": "array", "items": {"type": "integer"}, "minItems": 1500}},
    },
}
CHAT = "/v1/chat/completions"


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    url: str
    process: subprocess.Popen[str]

    def metric(self, client: httpx.Client, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = client.get(f"{self.url}/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))


@contextmanager
def serving(*arguments: str) -> Iterator[Server]:
    """A server for as long as the block lasts."""
    command = [sys.executable, "-m", "edge_interleave", "serve", "--port", "0", "--threads", "1", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    ready = next(line for line in process.stderr if line.startswith("ready: "))
    try:
        yield Server(ready.split()[1].removesuffix("/v1"), process)
    finally:
        process.terminate()
        process.wait(60)


def clients(count: int = 200, seconds: float = 60.0) -> str:
    """Many clients that ask again and again: answers or 429, nothing else."""

    async def one(client: httpx.AsyncClient, url: str, until: float, statuses: Counter[int]) -> None:
        while time.monotonic() < until:
            answer = await client.post(f"{url}{CHAT}", json=SHORT)
            statuses[answer.status_code] += 1
            if answer.status_code == 429:
                assert int(answer.headers["Retry-After"]) >= 1
                await asyncio.sleep(0.5)

    async def run(url: str) -> Counter[int]:
        statuses: Counter[int] = Counter()
        until = time.monotonic() + seconds
        limits = httpx.Limits(max_connections=count, max_keepalive_connections=count)
        async with httpx.AsyncClient(timeout=600, limits=limits) as client:
            await asyncio.gather(*(one(client, url, until, statuses) for _ in range(count)))
        return statuses

    with serving() as server:
        statuses = asyncio.run(run(server.url))
    assert set(statuses) <= {200, 429}, statuses
    return f"{count} clients, {seconds:g} s: {statuses[200]} answers, {statuses[429]} times 429, nothing else"


def vanish(times: int = 20) -> str:
    """Clients that go in the middle of an answer: how long until the engine is free."""
    waits, looks = [], []
    with serving() as server, httpx.Client(timeout=60) as watching:
        for _ in range(times):
            with httpx.Client(timeout=60) as client, client.stream("POST", f"{server.url}{CHAT}", json=LONG) as answer:
                pieces = answer.iter_lines()
                for _ in range(9):
                    next(pieces)
                assert server.metric(watching, "edge_interleave_busy") == 1
            gone = time.perf_counter()
            while server.metric(watching, "edge_interleave_busy"):
                time.sleep(0.001)
            waits.append(time.perf_counter() - gone)
            started = time.perf_counter()
            server.metric(watching, "edge_interleave_busy")
            looks.append(time.perf_counter() - started)
    return (
        f"a client that vanishes frees the engine after {statistics.median(waits) * 1000:.0f} ms "
        f"(median of {times}; the most {max(waits) * 1000:.0f} ms), one look at the metrics included, which takes "
        f"{statistics.median(looks) * 1000:.0f} ms"
    )


def early(times: int = 20, bundle: Path | None = None) -> str:
    """Clients that go before the first token, while pictures are encoded or the prompt is prefilled."""

    def body(number: int) -> dict[str, Any]:
        parts: list[dict[str, Any]] = [noise(100 * number + picture, 448) for picture in range(6)]
        return {"messages": [{"role": "user", "content": [*parts, {"type": "text", "text": "?"}]}], "max_tokens": 1}

    def busy() -> float:
        return server.metric(watching, "edge_interleave_busy")

    waits: list[float] = []
    with ExitStack() as stack:
        if bundle is None:
            bundle = random_bundle(Path(stack.enter_context(tempfile.TemporaryDirectory())), "middle")
        server = stack.enter_context(serving("--model", str(bundle)))
        watching = stack.enter_context(httpx.Client(timeout=600))
        address = httpx.URL(server.url)
        for number in range(2):  # the first loads the tower
            started = time.perf_counter()
            assert watching.post(f"{server.url}{CHAT}", json=body(number)).status_code == 200
            whole = time.perf_counter() - started
        for number in range(times):
            content = json.dumps(body(number + 2)).encode()
            head = f"POST {CHAT} HTTP/1.1\r\nHost: {address.host}\r\nContent-Length: {len(content)}\r\n\r\n"
            with socket.create_connection((address.host, address.port or 80)) as connection:
                connection.sendall(head.encode() + content)
                while not busy():
                    time.sleep(0.001)
                time.sleep(whole * 0.9 * number / times)
                if not busy():  # on a busy machine one request is faster than another
                    continue
            gone = time.perf_counter()
            while busy():
                time.sleep(0.001)
            waits.append(time.perf_counter() - gone)
    assert len(waits) > times / 2, "most requests were through before their client went"
    return (
        f"a client that vanishes before the first token, at {len(waits)} moments spread over {whole:.1f} s, frees the "
        f"engine after {statistics.median(waits) * 1000:.0f} ms (median; the most {max(waits) * 1000:.0f} ms), a look "
        "at the metrics included"
    )


def noise(seed: int, side: int) -> dict[str, Any]:
    """A picture like no other, as a part of a message."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG")
    url = f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def stop() -> str:
    """SIGTERM while answers are given: those that have begun come to their end, others say why not."""

    body = {**LONG, "max_tokens": 200}

    async def stream(url: str, lines: list[str], begun: asyncio.Event) -> None:
        async with httpx.AsyncClient(timeout=120) as client, client.stream("POST", f"{url}{CHAT}", json=body) as answer:
            assert answer.status_code in (200, 503), answer.status_code
            async for line in answer.aiter_lines():
                lines.append(line)
                begun.set()

    async def run(server: Server) -> tuple[int, int]:
        answers: list[list[str]] = [[] for _ in range(8)]
        begun = [asyncio.Event() for _ in answers]
        running = [
            asyncio.create_task(stream(server.url, lines, event)) for lines, event in zip(answers, begun, strict=True)
        ]
        await asyncio.wait([asyncio.create_task(event.wait()) for event in begun], return_when="FIRST_COMPLETED")
        server.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*running)
        whole = sum(lines[-2:] == ["data: [DONE]", ""] for lines in answers)
        refused = sum("shutting down" in "".join(lines) for lines in answers)
        return whole, refused

    with serving() as server:
        whole, refused = asyncio.run(run(server))
        code = server.process.wait(60)
    assert whole >= 1, "the answer that had begun was lost"
    assert whole + refused == 8
    assert code == 0
    return f"SIGTERM with 8 requests: {whole} that had begun came whole, {refused} were told why not; exit code {code}"


def memory(requests: int = 5000) -> str:
    """Thousands of requests with different pictures and texts: memory after a tenth of them, and after all."""

    def body(number: int) -> dict[str, Any]:
        parts = [noise(number, 48), {"type": "text", "text": f"What is {number}?"}]
        return {"messages": [{"role": "user", "content": parts}], "max_tokens": 2, "stream": number % 2 == 0}

    resident = {}
    with serving("--memory", "400MB") as server, httpx.Client(timeout=60) as client:
        for number in range(1, requests + 1):
            assert client.post(f"{server.url}{CHAT}", json=body(number)).status_code == 200
            if number in (requests // 10, requests // 2, requests):
                resident[number] = server.metric(client, "edge_interleave_memory_bytes") / 1e6
        peak = server.metric(client, "edge_interleave_peak_memory_bytes") / 1e6
    told = ", ".join(f"{size:.0f} MB after {number}" for number, size in resident.items())
    assert peak <= 400
    return f"memory: {told}; the most {peak:.0f} MB with --memory 400MB"


PARTS: dict[str, Callable[..., str]] = {
    "clients": clients,
    "vanish": vanish,
    "early": early,
    "signal": stop,
    "memory": memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--bundle", type=Path, help="Model of the part `early` (default: random weights).")
    parser.add_argument("--quick", action="store_true", help="A tenth of it.")
    chosen = parser.parse_args()
    for name, part in PARTS.items():
        if chosen.only in (None, name):
            options: dict[str, Any] = {}
            if chosen.quick:
                quick = {"clients": {"seconds": 6.0}, "vanish": {"times": 5}, "early": {"times": 5}}
                options = {**quick, "memory": {"requests": 500}}.get(name, {})
            if name == "early":
                options["bundle"] = chosen.bundle
            print(part(**options), flush=True)


if __name__ == "__main__":
    main()
