"""A planned live window stays within its memory limit, and the plan's estimate is close to the real peak."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from memory_run import __file__ as run_file
from memory_video import write_video
from support.rtsp_server import playing

from edge_interleave.bundle import store
from edge_interleave.bundle.manifest import Bundle, open_bundle
from edge_interleave.media.capture.process import CaptureProcess
from edge_interleave.media.video.ffmpeg_options import RTSP_OPTIONS
from edge_interleave.planning.planner import plan

SIZE = (160, 120)
FRAMES = 40
MB = 1_000_000


@pytest.fixture(scope="module")
def embedded() -> Bundle:
    return open_bundle(store.resolve(None))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "video.avi", SIZE, FRAMES)


@pytest.fixture(scope="module")
def least(embedded: Bundle) -> int:
    """Bytes of a window of one frame on this machine."""
    return plan(embedded, frames=1, pool=2, frame_size=SIZE, threads=2).estimate


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is counted differently elsewhere")
@pytest.mark.parametrize(("more", "goal"), [(1 * MB, "coverage"), (3 * MB, "detail"), (40 * MB, "coverage")])
def test_the_peak_stays_within_the_limit_and_near_the_estimate(
    embedded: Bundle, video: Path, least: int, more: int, goal: str
) -> None:
    memory = least + more
    command = [sys.executable, run_file, embedded.folder, video, f"{SIZE[0]}x{SIZE[1]}", f"{memory}B", goal, "2"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["frames_seen"] == FRAMES
    assert found["frames"] == min(found["planned_frames"], FRAMES)
    assert found["memory_bytes"] == memory
    assert found["estimate_bytes"] <= memory
    assert found["peak_bytes"] <= memory
    assert found["estimate_bytes"] == pytest.approx(found["peak_bytes"], rel=0.1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is counted differently elsewhere")
@pytest.mark.parametrize("size", [(320, 240), (1280, 720)], ids=str)
def test_the_capture_process_takes_what_was_planned_for_it(
    embedded: Bundle, tmp_path: Path, size: tuple[int, int]
) -> None:
    write_video(tmp_path / "stream.ts", size, 30, "mp4v")
    with playing((tmp_path / "stream.ts").read_bytes(), then_silent=True) as url:
        costs = {cost.name: cost.bytes for cost in plan(embedded, frames=2, frame_size=size, source=url).costs}
        wanted = {"url": url, "options": RTSP_OPTIONS, "open_s": 10, "read_s": 10, "recorded": False}
        process = CaptureProcess("stream", wanted, 20, 20)
        process.start()
        for _ in range(20):
            captured = process.read()
            assert captured is not None
        peak = process.peak_memory_bytes
        process.close()
    assert captured.pixels is not None
    assert captured.pixels.shape == (size[1], size[0], 3)
    assert peak <= costs["the source's process"] <= 1.15 * peak


def test_a_source_without_a_capture_process_costs_nothing_more(embedded: Bundle, video: Path) -> None:
    assert plan(embedded, frames=2, source=video).estimate == plan(embedded, frames=2).estimate
