"""What a live window does while nothing else is to do: it goes last, can be broken off, and nothing depends on it."""

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
from edge_interleave.decoding.scheduler import EngineScheduler
from edge_interleave.errors import UsageError
from edge_interleave.live.idle_worker import IdleWorker, StepResult
from edge_interleave.live.live import Live
from edge_interleave.live.window import FrameWindow

ENOUGH_S = 20.0
NAME = "edge-interleave ahead"
WINDOW = 3
QUESTION = "How many shapes are there?"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ei.Model]:
    """The embedded model in f16: four bits would make much of sums that are taken in another order."""
    folder = tmp_path_factory.mktemp("embedded") / "bundle"
    convert(golden_prompts.CHECKPOINT, folder, quantization="f16")
    with ei.load(folder, threads=1) as model:
        yield model


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
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
    """Holds a full window's preparation up at each step until it is opened, and says that one has begun."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.open = threading.Event(), threading.Event()
        prepare = FrameWindow.prepare

        def held_up(window: FrameWindow) -> bool:
            if len(window) == WINDOW:
                self.begun.set()
                assert self.open.wait(ENOUGH_S)
            return prepare(window)

        monkeypatch.setattr(FrameWindow, "prepare", held_up)


def test_after_a_pause_a_frame_costs_itself_alone(model: ei.Model, computed: Callable[[], int]) -> None:
    with model.live(WINDOW) as live:
        fill(live)
        for number in range(4):
            assert live.wait_prepared(ENOUGH_S)
            before = live.stats().entries
            computed()
            live.add(picture(number))
            assert live.wait_prepared(ENOUGH_S)
            # The frame and, afterwards, what the next will find done: each as large as what left.
            assert live.stats().entries == before
            assert computed() == 2 * (before - live._window._start(0)) // WINDOW


def test_frames_without_a_pause_and_frames_with_one_make_the_same_window(model: ei.Model) -> None:
    shares = []
    for pause in (True, False):
        with model.live(WINDOW) as live:
            for number in range(8):
                live.add(picture(number))
                assert not pause or live.wait_prepared(ENOUGH_S)
            shares.append(live.probability("Is there a red circle?"))
    assert shares[0] == pytest.approx(shares[1], abs=1e-3)


def test_a_source_that_pauses_finds_it_done(model: ei.Model, computed: Callable[[], int]) -> None:
    with model.live(WINDOW) as live:
        found: list[bool] = []

        def pausing() -> Iterator[np.ndarray]:
            for number in range(6):
                if live.number >= WINDOW:
                    found.append(live.wait_prepared(ENOUGH_S))
                yield picture(number)

        live.watch(pausing())
        while not live.ended:
            live.wait_frame(live.number, 0.1)
        assert live.number == 6
        assert live.wait_prepared(ENOUGH_S)
        assert all(found)
        computed()
        live.add(picture(9))
        assert live.wait_prepared(ENOUGH_S)
        assert computed() == 2 * (live.stats().entries - live._window._start(0)) // WINDOW


def test_a_question_waits_for_one_step_and_it_goes_on_afterwards(
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
        assert not live.wait_prepared(0.1)
        gate.open.set()
        asking.join(ENOUGH_S)
        assert answers == [wanted]
        assert live.wait_prepared(ENOUGH_S)


def test_nothing_is_prepared_while_an_answer_is_open(model: ei.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    with model.live(WINDOW) as live:
        gate = Gate(monkeypatch)
        fill(live)
        assert gate.begun.wait(ENOUGH_S)
        held_up = FrameWindow.prepare
        monkeypatch.setattr(FrameWindow, "prepare", lambda window: steps.append(1) or held_up(window))
        asked = threading.Event()
        answers: list[str] = []

        def ask() -> None:
            with live.stream(QUESTION) as stream:
                next(stream)
                asked.set()
                assert not live.wait_prepared(0.1)
                answers.append(f"after {len(steps)} steps")

        asking = threading.Thread(target=ask)
        asking.start()
        while not live._scheduler._questions:
            time.sleep(0.001)
        gate.open.set()
        asking.join(ENOUGH_S)
        assert answers == ["after 0 steps"]
        assert live.wait_prepared(ENOUGH_S)
        assert steps


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts the threads of the system")
def test_one_thread_does_it_however_many_frames_there_are(backend: str) -> None:
    def system_threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    with ei.load(threads=1, backend=backend) as model, model.live(WINDOW, 3) as live:
        fill(live)
        assert live.wait_prepared(ENOUGH_S)
        (worker,) = threads()
        before = system_threads()
        for number in range(10):
            live.add(picture(number))
            assert live.wait_prepared(ENOUGH_S)
        assert threads() == [worker]
        assert system_threads() <= before


def test_a_window_that_nobody_closed_or_holds_takes_its_thread_with_it(model: ei.Model) -> None:
    live = model.live(WINDOW)
    fill(live)
    (worker,) = threads()
    del live
    gc.collect()
    worker.join(ENOUGH_S)
    assert not worker.is_alive()


def test_closing_breaks_it_off(model: ei.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()
    prepare = FrameWindow.prepare

    def endless(window: FrameWindow) -> bool:
        while len(window) == WINDOW:
            begun.set()
            prepare(window)
            window._session.decoder._aside.drop()  # type: ignore[attr-defined]
        return False

    monkeypatch.setattr(FrameWindow, "prepare", endless)
    live = model.live(WINDOW)
    fill(live)
    assert begun.wait(ENOUGH_S)
    started = time.perf_counter()
    live.close()
    assert time.perf_counter() - started < 1.0
    assert not threads()
    assert not live.wait_prepared(0.0)
    with pytest.raises(UsageError, match="closed"):
        live.add(picture(1))


def test_an_engine_that_fails_at_it_does_no_harm(model: ei.Model, monkeypatch: pytest.MonkeyPatch) -> None:
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
                assert live.wait_prepared(0.2 if broken and number >= WINDOW - 1 else ENOUGH_S) == (
                    not broken or number < WINDOW - 1
                )
            shares.append(live.probability("Is there a red circle?"))
    assert shares[0] == pytest.approx(shares[1], abs=1e-3)


@pytest.mark.parametrize(
    "rest", ["", "stream = live.stream('Describe the image.'); next(stream)"], ids=["idle", "asked"]
)
def test_a_program_may_end_without_closing(rest: str) -> None:
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
    assert "ahead" not in done.stderr


class TestScheduler:
    """The lowest of them."""

    @staticmethod
    def got_idle_step(scheduler: EngineScheduler) -> bool:
        with scheduler.idle_step() as mine:
            return mine

    def test_is_had_where_nobody_else_is(self) -> None:
        scheduler = EngineScheduler()
        assert self.got_idle_step(scheduler)
        assert self.got_idle_step(scheduler)

    def test_is_not_had_beside_a_question_or_a_frame(self) -> None:
        scheduler = EngineScheduler()
        scheduler.begin_question()
        assert not self.got_idle_step(scheduler)
        scheduler.end_question()
        with scheduler.frame_pending():
            assert not self.got_idle_step(scheduler)
        with scheduler.frame():
            assert not self.got_idle_step(scheduler)
        with scheduler.idle_step() as mine:
            assert mine
            assert not self.got_idle_step(scheduler)
        assert self.got_idle_step(scheduler)

    def test_is_offered_once_nothing_is_under_way(self) -> None:
        offers: list[None] = []
        scheduler = EngineScheduler(lambda: offers.append(None))
        with scheduler.frame_pending():
            with scheduler.frame():
                pass
            scheduler.begin_question()
            scheduler.end_question()
            assert not offers
        assert len(offers) == 1
        scheduler.begin_question()
        scheduler.end_question()
        assert len(offers) == 2

    def test_ends_with_closing(self) -> None:
        scheduler = EngineScheduler()
        scheduler.close("the window is closed")
        with pytest.raises(UsageError, match="closed"):
            self.got_idle_step(scheduler)


class TestIdleWorker:
    """A thread that works when there is something to do."""

    @staticmethod
    def through(steps: list[StepResult]) -> tuple[IdleWorker, list[StepResult]]:
        left = list(steps)
        return IdleWorker(lambda: left.pop(0) if left else StepResult.DONE), left

    def test_goes_on_while_there_is_more(self) -> None:
        ahead, left = self.through([StepResult.MORE, StepResult.MORE, StepResult.DONE, StepResult.MORE])
        assert ahead.wait(0)
        ahead.begin()
        assert ahead.wait(ENOUGH_S)
        assert left == [StepResult.MORE]
        ahead.close()

    def test_ends_where_it_is_not_the_time_and_begins_when_it_is_told(self) -> None:
        ahead, left = self.through([StepResult.MORE, StepResult.LATER, StepResult.MORE, StepResult.DONE])
        ahead.begin()
        assert not ahead.wait(0.1)
        assert left == [StepResult.MORE, StepResult.DONE]
        ahead.begin()
        assert ahead.wait(ENOUGH_S)
        assert not left
        ahead.close()

    def test_no_step_begins_once_it_is_stopped(self) -> None:
        ahead, left = self.through([StepResult.MORE])
        ahead.stop()
        ahead.begin()
        assert left == [StepResult.MORE]
        assert not ahead.wait(ENOUGH_S)
        ahead.close()

    def test_closing_waits_for_the_step(self) -> None:
        begun, may_end = threading.Event(), threading.Event()

        def step() -> StepResult:
            begun.set()
            may_end.wait(ENOUGH_S)
            return StepResult.MORE

        ahead = IdleWorker(step)
        ahead.begin()
        assert begun.wait(ENOUGH_S)
        threading.Timer(0.1, may_end.set).start()
        ahead.close()
        assert may_end.is_set()
        assert not threads()

    def test_a_step_that_raises_is_shown_and_ends_it_until_it_is_told_again(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shown: list[str] = []
        monkeypatch.setattr(threading, "excepthook", lambda args: shown.append(str(args.exc_value)))
        steps = iter([None, StepResult.DONE])

        def step() -> StepResult:
            found = next(steps)
            if found is None:
                raise RuntimeError("a mistake")
            return found

        ahead = IdleWorker(step)
        ahead.begin()
        assert not ahead.wait(0.2)
        assert shown == ["a mistake"]
        ahead.begin()
        assert ahead.wait(ENOUGH_S)
        assert next(steps, None) is None
        ahead.close()
