"""What a model takes before its window does, found out by running it small: in a process of its own, which says so.

Libraries, engines and their threads differ from machine to machine, so they are measured; what grows with a window is
computed (`budget`). Knows nothing about budgets or goals.
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
from edge_interleave.planning.system_memory import give_back, limit_allocator
from edge_interleave.util.parent_process import end_with_parent
from edge_interleave.util.process_memory import memory_bytes, peak_memory_bytes

if TYPE_CHECKING:
    from edge_interleave.decoding.decoder import Backend

_TIMEOUT_S = 600
_WINDOW = 2
_FPS = 1.0
"""Of the demo's clip, which lasts some seconds."""
_BATCH = 32
_ROOTS = ("click", "edge_interleave", "rich")
"""Packages whose modules the process takes over from its parent, which is the one that will run the window."""
_USED = ("av", "onnxruntime", "edge_interleave.model")
"""What a live window imports when it is needed."""
_BLOCKS, _BLOCK_ROWS = 8, 128


def picture_bytes(width: int, height: int) -> int:
    """What a source's frames of so many pixels take on their way to the tower, all of them together.

    About nine pictures at 3 bytes a pixel (the source's slot, the one that is encoded, the latest, and their copies
    between colour orders), and ten that a video's decoder keeps at 1.5: found with videos of 96 x 96 and 1280 x 720.
    """
    return int(width * height * (9 * 3 + 10 * 1.5))


@dataclass(frozen=True)
class Rates:
    """Seconds that work takes on this machine."""

    encode: float
    """To encode one frame."""
    token: float
    """To put one visual token into an empty window."""
    token_per_entry: float
    """More, for each entry that is in the window already."""

    def append(self, tokens: int, entries: int) -> float:
        """To put a frame of so many tokens into a window of so many entries."""
        return tokens * (self.token + self.token_per_entry * entries)


@dataclass(frozen=True)
class Footprint:
    """Bytes of resident memory, and lengths in entries of the KV cache."""

    libraries: int
    """Interpreter and libraries."""
    tokenizer: int
    decoder: int
    """Weights and what else an open decoder has, its KV cache and compute buffers aside."""
    tower: int
    """Vision tower and projector."""
    working: int
    """What encoding a frame and answering a question take for a while, at the peak."""
    fixed_entries: int
    """Of any window: what goes before the frames, and room for a question and its answer."""
    frame_entries: int
    """Around the visual tokens of each frame."""
    rates: Rates | None = None


def measure(bundle: Bundle, backend: str, threads: int | None = None, *, rates: bool = False) -> Footprint:
    """Run the model small, in a process of its own, and say what it took. Takes seconds; once for each bundle.

    `rates`: how fast it is as well. Raises BundleError and whatever else opening the model raises, BackendError where
    the process fails.
    """
    alongside = tuple(sorted(name for name in sys.modules if name.split(".")[0] in _ROOTS))
    digest = tuple(sorted((name, file.sha256) for name, file in bundle.manifest.files.items()))
    return _measured(bundle.folder.resolve(), digest, backend, threads, rates, alongside)


@lru_cache(maxsize=32)
def _measured(
    folder: Path, digest: object, backend: str, threads: int | None, rates: bool, alongside: tuple[str, ...]
) -> Footprint:
    order = json.dumps([str(folder), backend, threads, rates, alongside])
    # -P: what lies in the current folder is not imported.
    command = [sys.executable, "-P", "-m", "edge_interleave.planning.footprint"]
    try:
        code, out, err = _ask(command, order)
        found = json.loads(out.splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendError(f"{folder}: could not be run to see what memory it takes ({error})") from error
    except (ValueError, IndexError):
        said = err.strip().splitlines() or [f"it ended with {code}"]
        raise BackendError(f"{folder}: could not be run to see what memory it takes ({said[-1]:.200})") from None
    if "error" in found:
        raise getattr(errors, found["kind"], BackendError)(found["error"])
    seconds = found.pop("rates")
    return Footprint(**found, rates=None if seconds is None else Rates(**seconds))


def _ask(command: list[str], order: str) -> tuple[int, str, str]:
    """Exit code and output of a process. Its standard input stays open: the process ends when that is closed."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        stdin, process.stdin = process.stdin, None  # which `communicate` would close
        assert stdin is not None
        with stdin:
            stdin.write(f"{order}\n")
            stdin.flush()
            try:
                out, err = process.communicate(timeout=_TIMEOUT_S)
            except BaseException:
                process.kill()
                raise
    return process.returncode, out, err


def main() -> None:
    """The process: an order on stdin, a line of JSON on stdout."""
    limit_allocator()
    folder, backend, threads, rates, alongside = json.loads(sys.stdin.buffer.readline())
    end_with_parent()
    try:
        found: dict[str, Any] = asdict(_run(Path(folder), backend, threads, rates, alongside))
    except EdgeInterleaveError as error:
        found = {"error": str(error), "kind": type(error).__name__}
    print(json.dumps(found), flush=True)


def _run(folder: Path, backend_name: str, threads: int | None, rates: bool, alongside: list[str]) -> Footprint:
    from edge_interleave.bundle.manifest import open_bundle
    from edge_interleave.decoding.decoder import DecoderOptions
    from edge_interleave.decoding.registry import find_backend
    from edge_interleave.decoding.session import Session
    from edge_interleave.live.live import Live
    from edge_interleave.live.prompt import LivePrompt
    from edge_interleave.live.window import FrameWindow, entries_needed
    from edge_interleave.prompt.builder import PromptBuilder
    from edge_interleave.prompt.tokenizer import TextTokenizer
    from edge_interleave.vision.media_encoder import MediaEncoder
    from edge_interleave.vision.pooling import image_tokens

    backend = find_backend(backend_name)
    for name in (*_USED, *alongside):
        import_module(name)
    _play(DEMO_CLIP)
    bundle = open_bundle(folder)
    libraries = _resident()

    tokenizer = TextTokenizer.open(bundle)
    prompt = LivePrompt(PromptBuilder(bundle, tokenizer), tokenizer)
    give_back()
    with_tokenizer = _resident()

    vision, mode = bundle.manifest.vision, bundle.manifest.pooling_mode
    stride = vision.grid  # one visual token, and the newline where there is one
    tokens = image_tokens(vision, stride, mode)
    one, two = (entries_needed(prompt, frames, [tokens], False) for frames in (1, 2))
    options = DecoderOptions(two, threads, batch=_BATCH)
    decoder = backend.open(bundle, options)
    memory = backend.memory(bundle, options)
    give_back()
    with_decoder = _resident()

    encoder = MediaEncoder(bundle, threads).live_encoder()
    with_tower = _resident()

    eos = bundle.manifest.prompt.eos_token_ids
    session = Session(decoder, tokenizer, eos)
    with Live(session, FrameWindow(session, prompt, _WINDOW), prompt, tokenizer, eos, encoder, [stride]) as live:
        live.watch(DEMO_CLIP, fps=_FPS)
        while not live.ended:
            live.wait_frame(live.number, _TIMEOUT_S)
        live.ask("?", max_tokens=2)
        live.probability("?")
        encode = live.stats().encode_s
    return Footprint(
        libraries=libraries,
        tokenizer=max(0, with_tokenizer - libraries),
        decoder=max(0, with_decoder - with_tokenizer - memory.cache),
        tower=max(0, with_tower - with_decoder),
        working=max(0, peak_memory_bytes() - with_tower - memory.compute - picture_bytes(*DEMO_CLIP_SIZE)),
        fixed_entries=2 * one - two,
        frame_entries=two - one - tokens,
        rates=_rates(bundle, backend, threads, encode) if rates else None,
    )


def _play(clip: Path) -> None:
    """Have the libraries that decode videos be there."""
    from edge_interleave.media.sources.video import VideoSource

    source = VideoSource(clip)
    source.open()
    source.read()
    source.close()


def _rates(bundle: Bundle, backend: Backend, threads: int | None, encode: float) -> Rates:
    """Time blocks of rows as the KV cache fills, and lay a line through the times."""
    from edge_interleave.decoding.decoder import DecoderOptions

    info = bundle.manifest.decoder
    rows = np.random.default_rng(0).standard_normal((_BLOCK_ROWS, info.hidden_size)).astype(np.float32)
    decoder = backend.open(bundle, DecoderOptions(min(_BLOCKS * _BLOCK_ROWS, info.context_length), threads))
    entries, seconds = [], []
    decoder.append_embeddings(rows)  # the first run is no measure
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
