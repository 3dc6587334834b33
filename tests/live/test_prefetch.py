"""Idle work of a live window: it yields to frames and questions, can be aborted, and changes no result."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import golden_prompts
import llama_cpp.llama_cpp as low
import numpy as np
import pytest

import edge_interleave as ei
from edge_interleave.converters.convert import convert
from edge_interleave.errors import UsageError
from edge_interleave.live.live import Live
from edge_interleave.live.window import FrameWindow

ENOUGH_S = 20.0
NAME = "edge-interleave idle work"
WINDOW = 3
QUESTION = "How many shapes are there?"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ei.Model]:
    """The embedded model in f16: with four bits, sums in another order differ too much."""
    folder = tmp_path_factory.mktemp("embedded") / "bundle"
    convert(golden_prompts.CHECKPOINT, folder, quantization="f16")
    with ei.load(folder, threads=1) as model:
        yield model


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not threads()


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == NAME]


def picture(number: int) -> np.ndarray:
    coarse = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((16, 16, 1), np.uint8))


def fill(live: Live, frames: int = WINDOW) -> None:
    for number in range(frames):
        live.add(picture(number))


class Gate:
    """Blocks each prefetch step of a full window until `open` is set; `begun` is set when one waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.open = threading.Event(), threading.Event()
        prefetch = FrameWindow.prefetch

        def blocked(window: FrameWindow) -> bool:
            if len(window) == WINDOW:
                self.begun.set()
                assert self.open.wait(ENOUGH_S)
            return prefetch(window)

        monkeypatch.setattr(FrameWindow, "prefetch", blocked)


def test_after_a_pause_a_frame_costs_its_own_rows(model: ei.Model, computed: Callable[[], int]) -> None:
    with model.live(WINDOW) as live:
        sink = live.stats().entries
        fill(live)
        for number in range(4):
            assert live.wait_prefetched(ENOUGH_S)
            before = live.stats().entries
            computed()
            live.add(picture(number))
            assert live.wait_prefetched(ENOUGH_S)
            # The frame, then the prefetch for the next one: each as many rows as the frame that left.
            assert live.stats().entries == before
            assert computed() == 2 * (before - sink) // WINDOW


def test_frames_with_and_without_pauses_give_the_same_window(model: ei.Model) -> None:
    shares = []
    for pause in (True, False):
        with model.live(WINDOW) as live:
            for number in range(8):
                live.add(picture(number))
                assert not pause or live.wait_prefetched(ENOUGH_S)
            shares.append(live.probability("Is there a red circle?"))
    assert shares[0] == pytest.approx(shares[1], abs=1e-3)


def test_a_source_with_pauses_finds_the_work_done(model: ei.Model, computed: Callable[[], int]) -> None:
    with model.live(WINDOW) as live:
        sink = live.stats().entries
        found: list[bool] = []

        def pausing() -> Iterator[np.ndarray]:
            for number in range(6):
                if live.number >= WINDOW:
                    found.append(live.wait_prefetched(ENOUGH_S))
                yield picture(number)

        live.watch(pausing())
        while not live.ended:
            live.wait_frame(live.number, 0.1)
        assert live.number == 6
        assert live.wait_prefetched(ENOUGH_S)
        assert all(found)
        computed()
        live.add(picture(9))
        assert live.wait_prefetched(ENOUGH_S)
        assert computed() == 2 * (live.stats().entries - sink) // WINDOW


def test_a_question_waits_for_one_step_and_the_work_resumes_afterwards(
    model: ei.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    with model.live(WINDOW) as live:
        fill(live)
        wanted = live.ask(QUESTION).text
    with model.live(WINDOW) as live:
        gate = Gate(monkeypatch)
        fill(live)
        assert gate.begun.wait(ENOUGH_S)
        answers: list[str] = []
        asking = threading.Thread(target=lambda: answers.append(live.ask(QUESTION).text))
        asking.start()
        assert not live.wait_prefetched(0.1)
        gate.open.set()
        asking.join(ENOUGH_S)
        assert answers == [wanted]
        assert live.wait_prefetched(ENOUGH_S)


def test_nothing_is_prefetched_while_an_answer_is_open(model: ei.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    with model.live(WINDOW) as live:
        gate = Gate(monkeypatch)
        fill(live)
        assert gate.begun.wait(ENOUGH_S)
        prefetch = FrameWindow.prefetch
        monkeypatch.setattr(FrameWindow, "prefetch", lambda window: steps.append(1) or prefetch(window))
        asked = threading.Event()
        answers: list[str] = []

        def ask() -> None:
            with live.stream(QUESTION) as stream:
                next(stream)
                asked.set()
                assert not live.wait_prefetched(0.1)
                answers.append(f"after {len(steps)} steps")

        asking = threading.Thread(target=ask)
        asking.start()
        while not live._scheduler._questions:
            time.sleep(0.001)
        gate.open.set()
        asking.join(ENOUGH_S)
        assert answers == ["after 0 steps"]
        assert live.wait_prefetched(ENOUGH_S)
        assert steps


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts the threads of the system")
def test_one_thread_does_all_idle_work(backend: str) -> None:
    def system_threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    with ei.load(threads=1, backend=backend) as model, model.live(WINDOW, 3) as live:
        fill(live)
        assert live.wait_prefetched(ENOUGH_S)
        (worker,) = threads()
        before = system_threads()
        for number in range(10):
            live.add(picture(number))
            assert live.wait_prefetched(ENOUGH_S)
        assert threads() == [worker]
        assert system_threads() <= before


def test_the_thread_ends_with_a_window_that_is_dropped_unclosed(model: ei.Model) -> None:
    live = model.live(WINDOW)
    fill(live)
    (worker,) = threads()
    del live
    gc.collect()
    worker.join(ENOUGH_S)
    assert not worker.is_alive()


def test_closing_aborts_idle_work(model: ei.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()
    prefetch = FrameWindow.prefetch

    def endless(window: FrameWindow) -> bool:
        while len(window) == WINDOW:
            begun.set()
            prefetch(window)
            window._session.decoder._scratch.drop()  # type: ignore[attr-defined]
        return False

    monkeypatch.setattr(FrameWindow, "prefetch", endless)
    live = model.live(WINDOW)
    fill(live)
    assert begun.wait(ENOUGH_S)
    started = time.perf_counter()
    live.close()
    assert time.perf_counter() - started < 1.0
    assert not threads()
    assert not live.wait_prefetched(0.0)
    with pytest.raises(UsageError, match="closed"):
        live.add(picture(1))


def test_an_engine_failure_during_idle_work_does_no_harm(model: ei.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = low.llama_decode

    def failing(context: Any, batch: Any) -> Any:
        return 3 if threading.current_thread().name == NAME else decode(context, batch)

    shares = []
    for broken in (True, False):
        with monkeypatch.context() as patch, model.live(WINDOW) as live:
            if broken:
                patch.setattr(low, "llama_decode", failing)
            for number in range(6):
                live.add(picture(number))
                assert live.wait_prefetched(0.2 if broken and number >= WINDOW - 1 else ENOUGH_S) == (
                    not broken or number < WINDOW - 1
                )
            shares.append(live.probability("Is there a red circle?"))
    assert shares[0] == pytest.approx(shares[1], abs=1e-3)


@pytest.mark.parametrize(
    "rest", ["", "stream = live.stream('Describe the image.'); next(stream)"], ids=["idle", "asked"]
)
def test_a_program_may_end_without_closing_the_window(rest: str) -> None:
    program = f"""
import numpy as np
import edge_interleave as ei
live = ei.load(threads=1).live(3)
for number in range(5):
    live.add(np.full((96, 96, 3), 40 * number, np.uint8))
{rest}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert "thread" not in done.stderr
    assert "idle work" not in done.stderr
