"""Runs one planned live window over a video and measures its peak memory. `memory.py` and the tests start it.

    python benchmarks/memory_run.py BUNDLE VIDEO WIDTHxHEIGHT MEMORY GOAL [THREADS]

Prints one JSON object.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from edge_interleave.bundle.manifest import open_bundle
from edge_interleave.planning.planner import plan
from edge_interleave.util.process_memory import peak_memory_bytes

WAIT_S = 3600.0


def run(
    bundle: Path, video: Path, size: tuple[int, int], memory: str, goal: str, threads: int | None
) -> dict[str, object]:
    """Plan, open, watch the video to its end, ask."""
    made = plan(open_bundle(bundle), memory, goal, frame_size=size, threads=threads)
    planned = peak_memory_bytes()
    with made.open() as model, model.live(made.frames, made.pool) as live:
        live.watch(video)
        live.ask("What do you see in these frames?", max_tokens=8)
        while not live.ended:
            live.wait_frame(live.number, WAIT_S)
        if live.error is not None:
            raise live.error
        live.ask("What do you see in these frames?", max_tokens=8)
        live.probability("Is there a red circle?")
        window, frames = len(live.frames), live.number
    return {
        "goal": goal,
        "memory_bytes": made.memory,
        "estimate_bytes": made.estimate,
        "peak_bytes": peak_memory_bytes(),
        "planning_peak_bytes": planned,
        "frames_seen": frames,
        "frames": window,
        "planned_frames": made.frames,
        "frame_tokens": made.frame_tokens,
        "context": made.context,
        "kv_precision": made.kv_precision,
        "batch": made.batch,
        "costs": {cost.name: cost.bytes for cost in made.costs},
    }


def main() -> None:
    """The command line."""
    bundle, video, size, memory, goal, *threads = sys.argv[1:]
    width, height = map(int, size.split("x"))
    found = run(Path(bundle), Path(video), (width, height), memory, goal, int(threads[0]) if threads else None)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
