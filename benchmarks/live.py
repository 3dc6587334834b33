"""Measures the time from a new frame to the first token of an answer about a window: ours against peers, same weights.

    python benchmarks/live.py                       # the 0.5B model's dimensions, random weights; about 40 minutes
    python benchmarks/live.py --json
    python benchmarks/live.py --size tiny --frames 20 --rounds 1      # a trial run of seconds

Ours encodes and pools the frame, evicts the oldest in place, and prefills the frame and the question. Each new frame
costs a second computation: the frame that becomes the oldest is recomputed. It is done in the pause before the frame,
if there is one, as with a camera; that time is not counted. So ours is measured twice: with a pause, which the floors
apply to, and without, where the new frame waits for it. Peers have no such step, no pooling and no sliding window: they
prefill all frames again, at as many visual tokens as the tower gives. `exact` shows the part of pooling: our window
prefilled again, at as many visual tokens as ours. Ours runs on this machine's default backend, and where that is not
llama.cpp, on llama.cpp as well. Contenders take turns, so that a slow phase of the machine slows all.

Needs the `llama-cpp` extra, and the `oracle` extra for transformers (`--peers mtmd` does not). Exit code 1 if a floor
is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from live_peers import CachedMtmdPeer, MtmdPeer, TransformersPeer
from mtmd import Mtmd
from PIL import Image
from random_checkpoint import Options, model_config, write_random_checkpoint
from rich.console import Console
from rich.table import Table

import edge_interleave as ei
from edge_interleave.bundle.manifest import GGUF_NAME, MMPROJ_NAME, Bundle, open_bundle
from edge_interleave.converters.convert import convert
from edge_interleave.decoding.registry import best_backend

QUESTION = "So?"
"""12 tokens at 0.5b with the chat template around it: the random checkpoint's tokenizer splits words finely."""
LLAMA_CPP = "ours-llama-cpp"
FLOORS = {LLAMA_CPP: 1.25, "mtmd": 25.0, "mtmd-cached": 15.0}
"""How many times faster ours must be, with a pause before the frame."""
PAUSE_S = 60.0
"""The longest pause."""
MAX_SPREAD = 1.3
"""Of ours: 95th percentile over median."""
PEERS = ("mtmd", "transformers")
FRAME_SIZE = (640, 480)
TURN = 5
"""Frames that ours measures in one turn."""
WITHOUT_PAUSE = "ours-without-pause"


@dataclass(frozen=True)
class Timing:
    """The times of one contender."""

    name: str
    what: str
    visual_tokens: int
    """Visual tokens of one frame."""
    seconds: list[float] = field(default_factory=list, repr=False)

    @property
    def median(self) -> float:
        """Median in seconds."""
        return statistics.median(self.seconds)


class Ours:
    """A live window of ours, through the public Python interface."""

    def __init__(
        self, model: ei.Model, window: int, stride: int, mode: str, frames: Iterator[Image.Image], pause: bool = True
    ) -> None:
        """`pause`: wait before each frame until its idle work is done."""
        self._frames = frames
        self._pause = pause
        self._live = model.live(window, stride, mode=mode)
        for _ in range(window):
            self._live.add(next(frames))
        self.question_tokens = 0
        self._rest()
        self.turn(1)

    @property
    def visual_tokens(self) -> int:
        """Visual tokens of one frame."""
        return self._live.frames[-1].tokens

    def turn(self, count: int) -> list[float]:
        """Seconds from a frame to the first token of an answer, for `count` frames. No work is left running."""
        if not self._pause:
            self._next()  # uses the idle work done after the previous turn
        seconds = []
        for _ in range(count):
            seconds.append(self._next())
            if self._pause:
                self._rest()
        self._rest()
        return seconds

    def _rest(self) -> None:
        if not self._live.wait_prefetched(PAUSE_S):
            sys.exit(f"the idle work was not done within {PAUSE_S:g} s")

    def _next(self) -> float:
        frame = next(self._frames)
        started = time.perf_counter()
        self._live.add(frame)
        answer = self._live.ask(QUESTION, max_tokens=1)
        seconds = time.perf_counter() - started
        self.question_tokens = answer.stats.prompt_tokens - answer.stats.cached_tokens
        return seconds

    def close(self) -> None:
        """Free the window."""
        self._live.close()


def main() -> None:
    """Measure and print. Exit code 1 if a floor is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("tiny", "0.5b"), default="0.5b")
    parser.add_argument("--window", type=int, default=8)
    parser.add_argument("--pool", type=int, default=2, help="pooling stride of ours")
    parser.add_argument("--frames", type=int, default=300, help="frames of ours, in total")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions of each peer")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1)
    parser.add_argument("--folder", type=Path, help="folder for checkpoint and bundle; kept for the next run")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.gettempdir()) / f"edge-interleave-live-{given.size}"
    bundle = prepare(folder, given.size)
    result = measure(bundle, folder / "checkpoint", given)
    print(json.dumps(result, indent=1)) if given.json else show(result)
    sys.exit(1 if result["missed"] else 0)


def prepare(folder: Path, size: str) -> Bundle:
    """Make the checkpoint and the bundle with its mmproj, once."""
    checkpoint = folder / "checkpoint"
    if not (folder / "bundle").is_dir():
        vocabulary = "trained" if size == "tiny" else "full"
        config = model_config(size)
        config = replace(config, decoder=replace(config.decoder, context_length=32768))
        write_random_checkpoint(checkpoint, config, Options(vocabulary=vocabulary))
        convert(checkpoint, folder / "bundle", backends=sorted({best_backend(), "llama-cpp"}), mmproj="f16")
    return open_bundle(folder / "bundle")


def measure(bundle: Bundle, checkpoint: Path, given: argparse.Namespace) -> dict[str, object]:
    """Measure all contenders in turns."""
    console = Console(stderr=True)
    frames = pictures()
    with ExitStack() as stack:
        backend = best_backend()
        model = stack.enter_context(ei.load(bundle.folder, backend=backend, threads=given.threads))
        ours = Ours(model, given.window, given.pool, "sliding", frames)
        stack.callback(ours.close)
        without_pause = Ours(model, given.window, given.pool, "sliding", frames, pause=False)
        stack.callback(without_pause.close)
        exact = Ours(model, given.window, given.pool, "exact", frames)
        stack.callback(exact.close)
        info = bundle.manifest.vision
        own = Timing("ours", f"ours, {backend}", ours.visual_tokens)
        back_to_back = Timing(WITHOUT_PAUSE, "ours, no pause", without_pause.visual_tokens)
        again = Timing("exact", "ours, exact", exact.visual_tokens)
        windows = [(own, ours, TURN), (back_to_back, without_pause, TURN), (again, exact, 1)]
        if backend != "llama-cpp":
            other = stack.enter_context(ei.load(bundle.folder, backend="llama-cpp", threads=given.threads))
            on_llama_cpp = Ours(other, given.window, given.pool, "sliding", frames)
            stack.callback(on_llama_cpp.close)
            windows.append((Timing(LLAMA_CPP, "ours, llama-cpp", on_llama_cpp.visual_tokens), on_llama_cpp, TURN))
        peers: list[tuple[Timing, Callable[[list[Image.Image], str], float]]] = []
        if "mtmd" in given.peers:
            context = given.window * (info.tokens + 32) + 256
            files = bundle.file(GGUF_NAME), bundle.file(MMPROJ_NAME)
            engine = stack.enter_context(Mtmd(*files, context=context, threads=given.threads))
            for mtmd in (MtmdPeer(engine), CachedMtmdPeer(engine)):
                peers.append((Timing(mtmd.name, mtmd.what, info.tokens), mtmd.first_token))
        if "transformers" in given.peers:
            peer = TransformersPeer(checkpoint, given.threads)
            peers.append((Timing(peer.name, peer.what, info.tokens), peer.first_token))

        window = deque([next(frames) for _ in range(given.window)], maxlen=given.window)
        with console.status("") as status:
            for number in range(given.rounds):
                window.append(next(frames))
                turns: list[tuple[Timing, Callable[[], list[float]]]] = [
                    (timing, partial(live.turn, count)) for timing, live, count in windows
                ]
                for timing, first_token in peers:
                    turns.append((timing, lambda ask=first_token: [ask(list(window), QUESTION)]))
                for timing, turn in turns:
                    status.update(f"round {number + 1} of {given.rounds}: {timing.name}")
                    timing.seconds.extend(turn())
            while len(own.seconds) < given.frames:
                status.update(f"ours: frame {len(own.seconds)} of {given.frames}")
                own.seconds.extend(ours.turn(1))
    timings = [timing for timing, *_ in windows] + [timing for timing, _ in peers]
    return summary(timings, ours.question_tokens, given)


def summary(timings: list[Timing], question_tokens: int, given: argparse.Namespace) -> dict[str, object]:
    """The result. Ratios are to our frames of the same rounds, with and without a pause."""
    own, *others = timings
    side_by_side = statistics.median(own.seconds[: TURN * given.rounds])
    spread = float(np.percentile(own.seconds, 95)) / own.median
    ratios = {timing.name: timing.median / side_by_side for timing in others}
    without_pause = {name: ratio / ratios[WITHOUT_PAUSE] for name, ratio in ratios.items() if name != WITHOUT_PAUSE}
    missed = [
        f"{name} takes {ratios[name]:.2f} times as long as ours, not {floor:g}"
        for name, floor in FLOORS.items()
        if name in ratios and ratios[name] < floor
    ]
    if spread > MAX_SPREAD:
        missed.append(f"the 95th percentile of ours is {spread:.2f} times the median, more than {MAX_SPREAD:g}")
    return {
        "size": given.size,
        "window": given.window,
        "stride": given.pool,
        "question_tokens": question_tokens,
        "threads": given.threads,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "ours_beside_peers_s": side_by_side,
        "contenders": [{**asdict(timing), "median_s": timing.median} for timing in timings],
        "times_as_long_as_ours": ratios,
        "times_as_long_as_ours_without_pause": without_pause,
        "percentile_95_over_median": spread,
        "floors": FLOORS,
        "max_spread": MAX_SPREAD,
        "missed": missed,
    }


def show(result: dict[str, Any]) -> None:
    """Print the table and its notes."""
    table = Table("", "tokens", "runs", "median", "times ours", "without pause")
    for timing in result["contenders"]:
        ratios = [
            result[key].get(timing["name"]) for key in ("times_as_long_as_ours", "times_as_long_as_ours_without_pause")
        ]
        table.add_row(
            timing["what"],
            str(timing["visual_tokens"]),
            str(len(timing["seconds"])),
            f"{timing['median_s']:.2f} s",
            *("" if ratio is None else f"{ratio:.1f}" for ratio in ratios),
        )
    console = Console()
    console.print(
        f"From a new frame to the first token of an answer: window {result['window']}, a question of "
        f"{result['question_tokens']} tokens, {result['size']} with random weights, {result['machine']}"
    )
    console.print(table)
    pooled, full = (result["contenders"][index]["visual_tokens"] for index in (0, -1))
    console.print(
        f"Tokens: visual tokens of a frame. Ours is pooled with stride {result['stride']} to {pooled}; the peers do "
        f"not pool and take {full}. Exact computes our window again; mtmd and transformers also encode all of it."
    )
    console.print(
        "Each new frame costs us a second computation: the frame that becomes the oldest. The first row does it in the "
        "pause before the frame, uncounted; the second has no pauses and counts it. The peers have no such step. The "
        "floors apply to the first row."
    )
    console.print(
        f"Ours over {len(result['contenders'][0]['seconds'])} frames: 95th percentile "
        f"{result['percentile_95_over_median']:.2f} times the median (at most {result['max_spread']})"
    )
    for line in result["missed"]:
        console.print(f"missed: {line}")
    if not result["missed"]:
        console.print("floors met")


def pictures() -> Iterator[Image.Image]:
    """Endless frames, all different: coarse noise at a camera's resolution."""
    random = np.random.default_rng(0)
    while True:
        coarse = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        yield Image.fromarray(coarse).resize(FRAME_SIZE, Image.Resampling.BICUBIC)


if __name__ == "__main__":
    main()
