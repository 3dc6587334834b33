"""Measures the memory of a model without its window, by running a small window in a separate process.

Libraries, engines and their threads differ between machines, so they are measured. What grows with the window is
computed (`planner`).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_interleave import errors
from edge_interleave.bundle.manifest import Bundle
from edge_interleave.embedded import DEMO_CLIP, DEMO_CLIP_SIZE
from edge_interleave.errors import BackendError, EdgeInterleaveError
from edge_interleave.live.layout import WindowLayout
from edge_interleave.planning.system_memory import limit_allocator, release_freed_memory
from edge_interleave.util.parent_process import end_with_parent
from edge_interleave.util.process_memory import memory_bytes, peak_memory_bytes

if TYPE_CHECKING:
    from edge_interleave.decoding.decoder import Backend

_TIMEOUT_S = 600
_WINDOW = 2
_FPS = 1.0
"""Frames per second taken from the demo clip, which lasts a few seconds."""
_BATCH = 32
_ROOTS = ("click", "edge_interleave", "rich")
"""The process imports what its parent has imported of these packages, because the parent will run the window."""
_IMPORTED_LATE = ("av", "onnxruntime", "edge_interleave.model")
"""Modules that a live window imports only when it runs."""
_BLOCKS, _BLOCK_ROWS = 8, 128


def frame_buffer_bytes(width: int, height: int) -> int:
    """Bytes of all decoded frames between a source and the tower. `width`, `height`: of a frame, in pixels.

    About nine pictures at 3 bytes a pixel (the reader's slot, the one being encoded, the latest, and their copies in
    other colour orders), and ten at 1.5 in the video's decoder: measured with videos of 96 x 96 and 1280 x 720.
    """
    return int(width * height * (9 * 3 + 10 * 1.5))


@dataclass(frozen=True)
class Rates:
    """Times on this machine, in seconds."""

    encode: float
    """Time to encode one frame."""
    token: float
    """Time to prefill one visual token into an empty window."""
    token_per_entry: float
    """Further time for each KV entry already in the window."""

    def prefill_s(self, tokens: int, entries: int) -> float:
        """Time to prefill `tokens` visual tokens into a window of `entries` KV entries."""
        return tokens * (self.token + self.token_per_entry * entries)


@dataclass(frozen=True)
class Footprint:
    """Resident bytes of each part of a model, and the lengths of the window's text."""

    libraries: int
    """Interpreter and libraries."""
    tokenizer: int
    decoder: int
    """An open decoder without its KV cache and compute buffers: its weights, mostly."""
    tower: int
    """Vision tower and projector."""
    working: int
    """Temporary memory of encoding a frame and answering a question, at the peak."""
    layout: WindowLayout
    rates: Rates | None = None


def measure(bundle: Bundle, backend: str, threads: int | None = None, *, rates: bool = False) -> Footprint:
    """Run a small window in a separate process and measure it. Takes seconds; the result is kept for each bundle.

    `threads`: CPU threads, as in `load`. `rates`: measure the speed too. Raises BackendError if the process fails, and
    the errors of `load`.
    """
    parent_modules = tuple(sorted(name for name in sys.modules if name.split(".")[0] in _ROOTS))
    digest = tuple(sorted((name, file.sha256) for name, file in bundle.manifest.files.items()))
    return _measured(bundle.folder.resolve(), digest, backend, threads, rates, parent_modules)


def main() -> None:
    """Run in the separate process: read the request from stdin, print the footprint as a line of JSON."""
    limit_allocator()
    folder, backend, threads, rates, parent_modules = json.loads(sys.stdin.buffer.readline())
    end_with_parent()
    try:
        found: dict[str, Any] = asdict(_run(Path(folder), backend, threads, rates, parent_modules))
    except EdgeInterleaveError as error:
        found = {"error": str(error), "kind": type(error).__name__}
    print(json.dumps(found), flush=True)


@lru_cache(maxsize=32)
def _measured(
    folder: Path, digest: object, backend: str, threads: int | None, rates: bool, parent_modules: tuple[str, ...]
) -> Footprint:
    request = json.dumps([str(folder), backend, threads, rates, parent_modules])
    # -P: nothing is imported from the current folder.
    command = [sys.executable, "-P", "-m", "edge_interleave.planning.footprint"]
    try:
        code, out, err = _ask(command, request)
        found = json.loads(out.splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendError(f"{folder}: its memory could not be measured ({error})") from error
    except (ValueError, IndexError):
        output = err.strip().splitlines() or [f"exit code {code}"]
        raise BackendError(f"{folder}: its memory could not be measured ({output[-1]:.200})") from None
    if "error" in found:
        raise getattr(errors, found["kind"], BackendError)(found["error"])
    layout, seconds = WindowLayout(**found.pop("layout")), found.pop("rates")
    return Footprint(**found, layout=layout, rates=None if seconds is None else Rates(**seconds))


def _ask(command: list[str], request: str) -> tuple[int, str, str]:
    """Run a process; return its exit code and output. It ends when its standard input closes, so that stays open."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        stdin, process.stdin = process.stdin, None  # `communicate` would close it
        assert stdin is not None
        with stdin:
            stdin.write(f"{request}\n")
            stdin.flush()
            try:
                out, err = process.communicate(timeout=_TIMEOUT_S)
            except BaseException:
                process.kill()
                raise
    return process.returncode, out, err


def _run(folder: Path, backend_name: str, threads: int | None, rates: bool, parent_modules: list[str]) -> Footprint:
    from edge_interleave.bundle.manifest import open_bundle
    from edge_interleave.decoding.decoder import DecoderOptions
    from edge_interleave.decoding.registry import find_backend
    from edge_interleave.decoding.session import Session
    from edge_interleave.live.opening import open_live
    from edge_interleave.live.prompt import LivePrompt
    from edge_interleave.prompt.builder import PromptBuilder
    from edge_interleave.prompt.tokenizer import TextTokenizer
    from edge_interleave.vision.media_encoder import MediaEncoder
    from edge_interleave.vision.pooling import coarsest_stride, tokens_of_frame

    backend = find_backend(backend_name)
    for name in (*_IMPORTED_LATE, *parent_modules):
        import_module(name)
    _play(DEMO_CLIP)
    bundle = open_bundle(folder)
    libraries = _resident()

    tokenizer = TextTokenizer.open(bundle)
    prompts = PromptBuilder(bundle, tokenizer)
    layout = WindowLayout.of(LivePrompt(prompts, tokenizer))
    release_freed_memory()
    with_tokenizer = _resident()

    # The decoder opens before the tower, as in a model, so the peak of loading the tower comes on top.
    manifest = bundle.manifest
    stride = coarsest_stride(manifest.vision)
    tokens = tokens_of_frame(manifest.vision, stride, manifest.pooling_mode)
    context = layout.context(_WINDOW, [tokens], False, sliding=True, limit=manifest.decoder.context_length)
    options = DecoderOptions(context, threads, batch=_BATCH)
    session = Session(backend.open(bundle, options), tokenizer, manifest.prompt.eos_token_ids)
    allocated = backend.memory(bundle, options)
    release_freed_memory()
    with_decoder = _resident()

    encoder = MediaEncoder(bundle, threads).live_encoder()
    with_tower = _resident()

    with open_live(prompts, tokenizer, encoder, lambda entries: session, _WINDOW, [stride], limit=context) as live:
        live.watch(DEMO_CLIP, fps=_FPS)
        while not live.ended:
            live.wait_frame(live.number, _TIMEOUT_S)
        live.ask("?", max_tokens=2)
        live.probability("?")
        encode = live.stats().encode_s
    return Footprint(
        libraries=libraries,
        tokenizer=max(0, with_tokenizer - libraries),
        decoder=max(0, with_decoder - with_tokenizer - allocated.cache),
        tower=max(0, with_tower - with_decoder),
        working=max(0, peak_memory_bytes() - with_tower - allocated.compute - frame_buffer_bytes(*DEMO_CLIP_SIZE)),
        layout=layout,
        rates=_rates(bundle, backend, threads, encode) if rates else None,
    )


def _play(clip: Path) -> None:
    """Read a frame, so that the libraries that decode videos are loaded."""
    from edge_interleave.media.sources.video import VideoSource

    source = VideoSource(clip)
    source.open()
    source.read()
    source.close()


def _rates(bundle: Bundle, backend: Backend, threads: int | None, encode: float) -> Rates:
    """Time the prefill of blocks of rows as the KV cache fills, and fit a line to the times."""
    from edge_interleave.decoding.decoder import DecoderOptions

    info = bundle.manifest.decoder
    rows = np.random.default_rng(0).standard_normal((_BLOCK_ROWS, info.hidden_size)).astype(np.float32)
    decoder = backend.open(bundle, DecoderOptions(min(_BLOCKS * _BLOCK_ROWS, info.context_length), threads))
    entries, seconds = [], []
    decoder.append_embeddings(rows)  # the first run also warms up
    decoder.truncate(0)
    while decoder.length + _BLOCK_ROWS <= decoder.facts.capacity:
        started = time.perf_counter()
        decoder.append_embeddings(rows)
        seconds.append((time.perf_counter() - started) / _BLOCK_ROWS)
        entries.append(decoder.length - _BLOCK_ROWS / 2)
    decoder.close()
    slope, start = np.polyfit(entries, seconds, 1) if len(entries) > 1 else (0.0, seconds[0])
    return Rates(encode, max(float(start), min(seconds) / 2), max(float(slope), 0.0))


def _resident() -> int:
    return memory_bytes() or peak_memory_bytes()


if __name__ == "__main__":
    main()
