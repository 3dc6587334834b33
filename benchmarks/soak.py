"""Measures endurance: many frames through a live window with questions in between. Reports memory, times, lost frames.

    python benchmarks/soak.py                       # 20,000 frames through the embedded model, as JSON
    python benchmarks/soak.py --die-every 500       # the source is lost and reopened every 500 frames
    python benchmarks/soak.py --frames 1000         # shorter

Frames are arrays from a generator; questions come from another thread. Mean times per frame include the questions asked
meanwhile; processor time excludes the time that the source was away and other programs. Needs only the package.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

import edge_interleave as ei
from edge_interleave.live.live import Live
from edge_interleave.media.frame import Frame
from edge_interleave.media.sources.base import SourceLost
from edge_interleave.media.sources.open import open_source
from edge_interleave.util.process_memory import memory_bytes
from edge_interleave.world.drawing import draw
from edge_interleave.world.scene import random_scene

SEED = 20
SCENES = 64
STRETCH = 1000
"""Frames at the beginning, and at the end, that are compared."""
ASK_EVERY = 20
MAX_TOKENS = 32
QUESTIONS = ("Describe the image.", "What color is the shape?", "How many shapes are there?")
FRAME_WAIT_S = 120.0


@dataclass(frozen=True)
class Figures:
    """The figures of a run."""

    frames_given: int
    """Frames from the source."""
    frames_in_window: int
    """Frames added to the window."""
    frames_counted_out: int
    """Frames counted as late, skipped or damaged."""
    frames_lost: int
    """Frames that no count accounts for."""
    questions: int
    deaths: int
    reconnects: int
    stretch: int
    """Frames at the beginning, and at the end, that the figures below cover."""
    memory_after_first_bytes: int
    """Resident set after the first stretch."""
    memory_end_bytes: int
    memory_growth_percent: float
    first_frame_s: float
    """Mean time per frame of the first stretch, questions included."""
    last_frame_s: float
    first_frame_cpu_s: float
    """The same in processor time of all threads."""
    last_frame_cpu_s: float
    seconds: float


@dataclass(frozen=True)
class Mark:
    """Time and memory when a frame was added."""

    frame: int
    wall_s: float
    cpu_s: float
    memory_bytes: int

    @staticmethod
    def at(frame: int) -> Mark:
        """Now."""
        return Mark(frame, time.perf_counter(), time.process_time(), memory_bytes())


class DyingSource:
    """A `Source` of generated pictures that is lost now and then."""

    def __init__(self, frames: int, die_every: int | None) -> None:
        """`die_every`: the source is lost after this many frames, until it is reopened; None: never."""
        self.name = "soak"
        self.live = False
        self.given = self.deaths = 0
        self._frames = frames
        self._inner = open_source(islice(cycle(draw_pictures()), frames))
        self._die_every = die_every

    def open(self) -> None:
        """Start, or continue after a loss."""
        self._inner.open()

    def read(self) -> Frame | None:
        """The next picture; None at the end. Raises SourceLost now and then."""
        if self._die_every and self.given // self._die_every > self.deaths and self.given < self._frames:
            self.deaths += 1
            raise SourceLost(f"{self.name}: gone after {self.given} frames")
        frame = self._inner.read()
        self.given += frame is not None
        return frame

    def close(self) -> None:
        """End the source."""
        self._inner.close()


def main() -> None:
    """Run and print JSON; progress goes to stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="a bundle folder (default: the embedded model)")
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--window", type=int, default=8)
    parser.add_argument("--pool", type=int, default=2, help="pooling stride")
    parser.add_argument("--ask-every", type=int, default=ASK_EVERY, help="frames between questions")
    parser.add_argument("--die-every", type=int, help="frames after which the source is lost")
    parser.add_argument("--threads", type=int, help="CPU threads (default: as many as there are cores)")
    arguments = parser.parse_args()
    if arguments.frames < 4:
        parser.error("give 4 frames or more")
    with ei.load(arguments.bundle, threads=arguments.threads) as model:
        figures = soak(
            model,
            arguments.frames,
            window=arguments.window,
            pool=arguments.pool,
            ask_every=arguments.ask_every,
            die_every=arguments.die_every,
            report=lambda line: print(line, file=sys.stderr, flush=True),
        )
    print(json.dumps(asdict(figures), indent=1))


def soak(
    model: ei.Model,
    frames: int,
    *,
    window: int,
    pool: int,
    ask_every: int = ASK_EVERY,
    die_every: int | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Figures:
    """Run once. `report` gets progress lines, and lines about the source."""
    stretch = min(STRETCH, frames // 4)
    marks: list[Mark] = []
    source = DyingSource(frames, die_every)

    def on_frame(number: int) -> None:
        if number % stretch == 0 or number in (1, frames - stretch, frames):
            marks.append(Mark.at(number))
            report(_line(marks[0], marks[-1]))

    with model.live(window, pool) as live:
        live.watch(source, on_frame=on_frame, on_status=lambda status: report(status.line))
        for target in range(ask_every, frames + 1, ask_every):
            _wait(live, target)
            live.ask(QUESTIONS[target // ask_every % len(QUESTIONS)], max_tokens=MAX_TOKENS)
        _wait(live, frames)
        while not live.ended:
            time.sleep(0.01)
        stats = live.stats()
    assert stats.source is not None
    counted_out = stats.damaged + sum(
        (stats.source.late, stats.source.rate_skipped, stats.source.same_skipped, stats.source.damaged)
    )
    by_frame = {mark.frame: mark for mark in marks}
    begin, first, before_last, last = (by_frame[n] for n in (1, stretch, frames - stretch, frames))
    return Figures(
        frames_given=source.given,
        frames_in_window=stats.frames,
        frames_counted_out=counted_out,
        frames_lost=source.given - stats.frames - counted_out,
        questions=stats.questions,
        deaths=source.deaths,
        reconnects=stats.source.reconnects,
        stretch=stretch,
        memory_after_first_bytes=first.memory_bytes,
        memory_end_bytes=last.memory_bytes,
        memory_growth_percent=100 * (last.memory_bytes / first.memory_bytes - 1) if first.memory_bytes else 0.0,
        first_frame_s=(first.wall_s - begin.wall_s) / (stretch - 1),
        last_frame_s=(last.wall_s - before_last.wall_s) / stretch,
        first_frame_cpu_s=(first.cpu_s - begin.cpu_s) / (stretch - 1),
        last_frame_cpu_s=(last.cpu_s - before_last.cpu_s) / stretch,
        seconds=last.wall_s - begin.wall_s,
    )


def draw_pictures() -> list[npt.NDArray[np.uint8]]:
    """Scenes of the embedded model's world, uint8 (height, width, 3)."""
    rng = random.Random(SEED)
    return [np.asarray(draw(random_scene(rng)), np.uint8) for _ in range(SCENES)]


def _wait(live: Live, number: int) -> None:
    deadline = time.monotonic() + FRAME_WAIT_S
    while live.wait_frame(number - 1, 1.0) < number:
        if live.ended or time.monotonic() > deadline:
            raise RuntimeError(f"frame {number} did not come ({live.number} is the newest): {live.error}")


def _line(begin: Mark, now: Mark) -> str:
    wall, cpu = now.wall_s - begin.wall_s, now.cpu_s - begin.cpu_s
    return f"{now.frame} frames, {wall:.0f} s, {cpu:.0f} s of processor, {now.memory_bytes / 1e6:.1f} MB"


if __name__ == "__main__":
    main()
