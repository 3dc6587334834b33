"""Worker processes that feed the training: each draws a share of the pool, then packs batches about its share.

Pictures go into array files (`pool.py`), batches through a queue. The trainer can read finished rows while others are
being drawn. The workers are forked, so start the pipeline before the device is used.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import random
import time
from collections.abc import Callable
from multiprocessing.queues import Queue
from pathlib import Path
from types import TracebackType
from typing import Self

import pool
from packing import Packed

MakePacker = Callable[[pool.Share, random.Random], Callable[[], Packed]]
"""Takes a share and a random source; returns a function that makes the next batch."""
_AHEAD = 2
"""Queued batches for each process."""


class Pipeline:
    """The workers, their arrays and their batches."""

    def __init__(
        self,
        folder: Path,
        counts: dict[str, int],
        seed: int,
        shares: int,
        make_packer: MakePacker,
        *,
        draw_seconds: float | None = None,
    ) -> None:
        """Start drawing; returns when the number of pictures is known.

        counts: number of groups of each kind. draw_seconds: time limit for drawing, after which missing groups are
        dropped; None draws all. A folder with a part of the same pool is resumed.
        """
        fork = multiprocessing.get_context("fork")
        self._batches: Queue[Packed] = fork.Queue(_AHEAD * shares)
        self._drawn = fork.Array("q", shares, lock=False)
        self._sizes = fork.Array("q", shares, lock=False)
        self._ready = fork.Array("b", shares, lock=False)
        self._open, self._stop = fork.Event(), fork.Event()
        tag = f"{seed}-{shares}-" + "-".join(f"{kind}{count}" for kind, count in counts.items())
        until = None if draw_seconds is None else time.monotonic() + draw_seconds

        parent = os.getpid()

        def stopped() -> bool:
            # A killed trainer cannot set the event.
            return self._stop.is_set() or os.getppid() != parent

        def work(number: int) -> None:
            os.nice(5)
            share = pool.share_of(counts, seed, number, shares)
            self._sizes[number] = share.images
            while not self._open.wait(0.5):
                if stopped():
                    return
            sizes = list(self._sizes)
            arrays = pool.open_arrays(folder, tag, sum(sizes))
            done = folder / f"drawn-{tag}-{number}.txt"

            def told(drawn: int) -> None:
                self._drawn[number] = drawn

            pool.draw_share(share, sum(sizes[:number]), arrays, done, told, until)
            self._ready[number] = 1
            draw = make_packer(share, random.Random(f"pack/{seed}/{number}/{time.time_ns()}"))
            while not stopped():
                batch = draw()
                while not stopped():
                    try:
                        self._batches.put(batch, timeout=0.5)
                        break
                    except queue.Full:
                        pass
            self._batches.cancel_join_thread()

        self._processes = [fork.Process(target=work, args=(number,), daemon=True) for number in range(shares)]
        for process in self._processes:
            process.start()
        while not all(self._sizes):
            self._check()
            time.sleep(0.1)
        self.images = sum(self._sizes)
        self.arrays = pool.open_arrays(folder, tag, self.images, new=True)
        self._open.set()

    def drawn(self) -> list[tuple[int, int]]:
        """For each process its finished rows: the first, and one past the last."""
        self._check()
        offsets = [sum(self._sizes[:number]) for number in range(len(self._processes))]
        return [(first, first + drawn) for first, drawn in zip(offsets, self._drawn, strict=True)]

    def all_drawn(self) -> bool:
        """Whether every process has finished drawing."""
        return all(self._ready)

    def batch(self) -> Packed:
        """Wait for the next batch of any process."""
        while True:
            try:
                return self._batches.get(timeout=5)
            except queue.Empty:
                self._check()

    def close(self) -> None:
        """End the processes."""
        self._stop.set()
        self._open.set()
        for process in self._processes:
            process.join(2)
            if process.is_alive():
                process.terminate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self) -> None:
        dead = [p.exitcode for p in self._processes if p.exitcode not in (None, 0)]
        if dead:
            raise RuntimeError(f"a worker ended with exit code {dead[0]}; its output is above")
