"""A client that watches: a picture more a turn, the last ten turns kept, over HTTP. A turn's cost, at three servers.

    python benchmarks/serve_history.py --threads 1     # ten pictures, twenty turns; random weights, a few minutes
    python benchmarks/serve_history.py --size middle --turns 9 --kept 6

Camera programs send such requests: the history loses its oldest turn, so everything behind it differs from what any
prefix cache holds. Measured in turns, one after the other on the same weights: `edge-interleave serve` (slides), the
same with `--exact` (computes the rest again), and llama-cpp-python's own server, which encodes and computes all again
for each request with pictures. Also: the first token of a second question about the same pictures.
"""

from __future__ import annotations

import argparse
import base64
import io
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from llama_cpp_server import PEER
from PIL import Image, ImageDraw
from random_checkpoint import model_config, write_random_checkpoint

from edge_interleave.converters.convert import convert

_START_S = 120.0


SIZES = {
    "small": (
        {"hidden_size": 256, "intermediate_size": 704, "layers": 8, "heads": 4, "kv_heads": 4},
        {"image_size": 160, "hidden_size": 192, "intermediate_size": 512, "layers": 6, "heads": 3},
    ),
    "middle": (
        {"hidden_size": 512, "intermediate_size": 1408, "layers": 12, "heads": 8, "kv_heads": 8},
        {"image_size": 224, "hidden_size": 384, "intermediate_size": 1024, "layers": 8, "heads": 6},
    ),
}
"""Decoder and tower: 100 visual tokens an image and 8 layers, or 196 and 12."""


def random_bundle(folder: Path, size: str) -> Path:
    """A bundle of random weights, for llama.cpp's server, too."""
    config = model_config("0.5b")
    decoder = replace(config.decoder, vocab_size=2048, **SIZES[size][0])
    vision = replace(config.vision, patch_size=16, **SIZES[size][1])
    source = write_random_checkpoint(folder / "checkpoint", replace(config, decoder=decoder, vision=vision))
    return convert(source, folder / "bundle", quantization="q8_0", backends=["llama-cpp"], mmproj="f16").folder


@contextmanager
def ours(bundle: Path, threads: int, *more: str) -> Iterator[str]:
    """Our server; gives its URL."""
    command = [sys.executable, "-m", "edge_interleave", "serve", "--model", str(bundle), "--port", "0"]
    process = subprocess.Popen([*command, "--threads", str(threads), *more], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        ready = next(line for line in process.stderr if line.startswith("ready: "))
        yield ready.split()[1]
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def theirs(bundle: Path, threads: int) -> Iterator[str]:
    """llama-cpp-python's server with the same decoder and tower; gives its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", PEER, "--model", str(bundle / "decoder.gguf")]
    command += ["--clip_model_path", str(bundle / "mmproj.gguf"), "--chat_format", "llava-1-5", "--n_ctx", "8192"]
    command += ["--port", str(port), "--n_threads", str(threads), "--n_threads_batch", str(threads)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + _START_S
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/v1/models")
                break
            except httpx.TransportError:
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit("llama-cpp-python's server does not start; install its extra [server]") from None
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(60)


def picture(number: int) -> str:
    """A picture of its own, as a data URI."""
    drawn = Image.new("RGB", (224, 224), (number * 37 % 256, number * 91 % 256, number * 53 % 256))
    at = number * 29 % 120
    ImageDraw.Draw(drawn).ellipse([at, 40, at + 80, 120], fill=(255 - number * 11 % 256, 90, 40))
    content = io.BytesIO()
    drawn.save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def turn(number: int) -> dict[str, Any]:
    """What a watching client asks with a new picture."""
    image = {"type": "image_url", "image_url": {"url": picture(number), "detail": "high"}}
    return {"role": "user", "content": [image, {"type": "text", "text": "What changed?"}]}


def first_token(client: httpx.Client, url: str, messages: list[Any]) -> tuple[float, str]:
    """Seconds to the first piece of an answer of two tokens, and its text."""
    body = {"model": "bundle", "messages": messages, "max_tokens": 2, "temperature": 0.0, "stream": True}
    started, first, text = time.perf_counter(), 0.0, ""
    with client.stream("POST", f"{url}/chat/completions", json=body) as answer:
        for line in answer.iter_lines():
            if '"finish_reason"' in line and '"content"' in line and not first and '"role"' not in line:
                first = time.perf_counter() - started
        assert answer.status_code == 200, line
    return first or time.perf_counter() - started, text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, help="A bundle that `convert --mmproj` made (default: random weights).")
    parser.add_argument("--size", choices=SIZES, default="small", help="Of the random weights.")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--kept", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bundle = chosen.bundle or random_bundle(folder, chosen.size)
        servers = {
            "slides": stack.enter_context(ours(bundle, chosen.threads)),
            "exact": stack.enter_context(ours(bundle, chosen.threads, "--exact")),
            "llama-cpp-python": stack.enter_context(theirs(bundle, chosen.threads)),
        }
        # A connection each, for servers close those that are idle while another server has its turn.
        limits = httpx.Limits(max_keepalive_connections=0)
        client = stack.enter_context(httpx.Client(timeout=600, limits=limits))
        seconds: dict[str, list[float]] = {name: [] for name in servers}
        again: dict[str, list[float]] = {name: [] for name in servers}
        messages: list[Any] = []
        for number in range(chosen.turns):
            messages.append(turn(number))
            while sum(message["role"] == "user" for message in messages) > chosen.kept:
                del messages[:2]
            second = [*messages[:-1], {**messages[-1], "content": [*messages[-1]["content"][:1], _text("How many?")]}]
            for name, url in servers.items():
                took, _ = first_token(client, url, messages)
                seconds[name].append(took)
                again[name].append(first_token(client, url, second)[0])
            messages.append({"role": "assistant", "content": "Nothing."})
            print(f"turn {number + 1}: " + ", ".join(f"{name} {found[-1]:.2f} s" for name, found in seconds.items()))
        for what, found in (("a new picture, once the history slides", seconds), ("a second question", again)):
            late = {name: statistics.median(values[chosen.kept :]) for name, values in found.items()}
            best = late["slides"]
            print(
                f"{what}, first token, median: "
                + ", ".join(f"{name} {value:.2f} s ({value / best:.1f} times)" for name, value in late.items())
            )


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


if __name__ == "__main__":
    main()
