"""The thread that takes steps of low-priority work."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from edge_interleave.live.idle_worker import IdleWorker, StepResult

ENOUGH_S = 20.0
NAME = "edge-interleave idle work"


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == NAME]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not threads()


def worker_of(steps: list[StepResult]) -> tuple[IdleWorker, list[StepResult]]:
    left = list(steps)
    return IdleWorker(lambda: left.pop(0) if left else StepResult.DONE), left


def test_steps_continue_while_there_is_more() -> None:
    worker, left = worker_of([StepResult.MORE, StepResult.MORE, StepResult.DONE, StepResult.MORE])
    assert worker.wait(0)
    worker.begin()
    assert worker.wait(ENOUGH_S)
    assert left == [StepResult.MORE]
    worker.close()


def test_a_step_for_later_pauses_until_begin() -> None:
    worker, left = worker_of([StepResult.MORE, StepResult.LATER, StepResult.MORE, StepResult.DONE])
    worker.begin()
    assert not worker.wait(0.1)
    assert left == [StepResult.MORE, StepResult.DONE]
    worker.begin()
    assert worker.wait(ENOUGH_S)
    assert not left
    worker.close()


def test_no_step_begins_after_stop() -> None:
    worker, left = worker_of([StepResult.MORE])
    worker.stop()
    worker.begin()
    assert left == [StepResult.MORE]
    assert not worker.wait(ENOUGH_S)
    worker.close()


def test_closing_waits_for_a_running_step() -> None:
    begun, may_end = threading.Event(), threading.Event()

    def step() -> StepResult:
        begun.set()
        may_end.wait(ENOUGH_S)
        return StepResult.MORE

    worker = IdleWorker(step)
    worker.begin()
    assert begun.wait(ENOUGH_S)
    threading.Timer(0.1, may_end.set).start()
    worker.close()
    assert may_end.is_set()
    assert not threads()


def test_an_exception_in_a_step_is_reported_and_pauses_until_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: shown.append(str(args.exc_value)))
    steps = iter([None, StepResult.DONE])

    def step() -> StepResult:
        found = next(steps)
        if found is None:
            raise RuntimeError("a mistake")
        return found

    worker = IdleWorker(step)
    worker.begin()
    assert not worker.wait(0.2)
    assert shown == ["a mistake"]
    worker.begin()
    assert worker.wait(ENOUGH_S)
    assert next(steps, None) is None
    worker.close()
