"""Checks the memory promise at the released 0.5B model's dimensions: the real peak for three memory limits.

    python benchmarks/memory.py [--bundle FOLDER] [--memory 1.2GB --memory 1.4GB ...] [--goal coverage] [--json]

Without --bundle, a random checkpoint is written and converted first (about two minutes, 2.5 GB of disk), and deleted
afterwards. Each limit is planned, opened and run over a video (1280 x 720) in a process of its own. Exit code 1 if a
peak is above its limit, or an estimate is off by more than 10 %.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from memory_video import write_video
from random_checkpoint import Options, model_config, write_random_checkpoint

from edge_interleave.bundle.manifest import open_bundle
from edge_interleave.planning.planner import plan
from edge_interleave.planning.system_memory import parse_memory

MORE = (20, 70, 170)
"""Megabytes of each limit above the least in which one frame fits on this machine."""
SIZE = (1280, 720)
MAX_ERROR = 0.1
RUN = Path(__file__).with_name("memory_run.py")


def measure(bundle: Path, video: Path, size: tuple[int, int], memory: str, goal: str) -> dict[str, object]:
    """Plan and run in a process of its own. `kept` in the result: whether the promise was kept."""
    command = [sys.executable, str(RUN), str(bundle), str(video), f"{size[0]}x{size[1]}", memory, goal]
    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    off = found["estimate_bytes"] / found["peak_bytes"] - 1
    return {**found, "off": off, "kept": found["peak_bytes"] <= found["memory_bytes"] and abs(off) <= MAX_ERROR}


def main() -> None:
    """Measure and print. Exit code 1 if the promise was not kept."""
    parser = argparse.ArgumentParser(description="Peak memory of planned live windows.")
    parser.add_argument("--bundle", type=Path, help="a bundle (default: random weights of the 0.5B model's dimensions)")
    parser.add_argument("--memory", action="append", help=f"a memory limit (default: the least and {MORE} MB more)")
    parser.add_argument("--goal", default="coverage", choices=("coverage", "detail"))
    parser.add_argument("--frames", type=int, default=24, help="frames of the video")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="edge-interleave-memory-"))
    try:
        video = write_video(folder / "video.avi", SIZE, given.frames)
        bundle = given.bundle or _random_bundle(folder)
        least = plan(open_bundle(bundle), goal=given.goal, frames=1, frame_size=SIZE).estimate
        limits = given.memory or [f"{least // 10**6 + more}MB" for more in MORE]
        for memory in limits:
            parse_memory(memory)
        runs = [measure(bundle, video, SIZE, memory, given.goal) for memory in limits]
    finally:
        shutil.rmtree(folder)
    kept = all(run["kept"] for run in runs)
    if given.json:
        print(
            json.dumps(
                {
                    "bundle": open_bundle(bundle).manifest.name if given.bundle else "random 0.5b",
                    "runs": runs,
                    "kept": kept,
                }
            )
        )
    else:
        print(f"{'limit':>9} {'estimate':>9} {'peak':>9} {'off':>7} {'frames':>6} {'context':>7} kv     batch")
        for run in runs:
            sizes = "".join(f"{run[name] / 1e6:8.0f}M " for name in ("memory_bytes", "estimate_bytes", "peak_bytes"))
            print(
                f"{sizes}{run['off']:+7.1%} {run['frames']:6} {run['context']:7} {run['kv_precision']:6} {run['batch']}"
            )
        print("the promise was kept" if kept else "the promise was NOT kept")
    sys.exit(0 if kept else 1)


def _random_bundle(folder: Path) -> Path:
    from edge_interleave.converters.convert import convert

    checkpoint = write_random_checkpoint(folder / "checkpoint", model_config("0.5b"), Options(vocabulary="full"))
    convert(checkpoint, folder / "bundle")
    shutil.rmtree(checkpoint)
    return folder / "bundle"


if __name__ == "__main__":
    main()
