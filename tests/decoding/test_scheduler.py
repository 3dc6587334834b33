"""The order in which questions and frames get one decoder: nobody starves, nobody waits for itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from edge_interleave.decoding.scheduler import EngineScheduler
from edge_interleave.errors import UsageError

ENOUGH_S = 20.0


class Line:
    """Threads that wait for a turn, in the order in which they were told to, and the order in which they got it."""

    def __init__(self) -> None:
        self.scheduler = EngineScheduler()
        self.order: list[str] = []
        self.threads: list[threading.Thread] = []

    def question(self, name: str) -> None:
        def ask() -> None:
            with self.scheduler.question():
                self.order.append(name)

        self._waits(ask, lambda: len(self.scheduler._questions))

    def frame(self, name: str) -> None:
        def add() -> None:
            with self.scheduler.frame():
                self.order.append(name)

        self._waits(add, lambda: len(self.scheduler._frames))

    @contextmanager
    def question_under_way(self) -> Iterator[None]:
        """Somebody else's, until the block ends."""
        begun, may_end = threading.Event(), threading.Event()

        def ask() -> None:
            with self.scheduler.question():
                begun.set()
                may_end.wait(ENOUGH_S)

        yield from self._under_way(ask, begun, may_end)

    @contextmanager
    def frame_under_way(self) -> Iterator[None]:
        begun, may_end = threading.Event(), threading.Event()

        def add() -> None:
            with self.scheduler.frame():
                begun.set()
                may_end.wait(ENOUGH_S)

        yield from self._under_way(add, begun, may_end)

    def _under_way(self, work: Callable[[], None], begun: threading.Event, may_end: threading.Event) -> Iterator[None]:
        self.threads.append(threading.Thread(target=work))
        self.threads[-1].start()
        assert begun.wait(ENOUGH_S)
        yield
        may_end.set()
        for thread in self.threads:
            thread.join(ENOUGH_S)
            assert not thread.is_alive()

    def _waits(self, work: Callable[[], None], waiting: Callable[[], int]) -> None:
        before = waiting()
        self.threads.append(threading.Thread(target=work))
        self.threads[-1].start()
        while waiting() == before:
            assert self.threads[-1].is_alive()


@pytest.fixture
def line() -> Line:
    return Line()


class TestOrder:
    def test_a_question_goes_before_a_frame_that_waited_longer(self, line: Line) -> None:
        with line.frame_under_way():
            line.frame("frame")
            line.question("question")
        assert line.order == ["question", "frame"]

    def test_a_frame_goes_between_two_questions(self, line: Line) -> None:
        with line.question_under_way():
            line.question("second")
            line.question("third")
            line.frame("frame")
        assert line.order == ["frame", "second", "third"]

    def test_each_waits_for_one_of_the_other_kind_at_most(self, line: Line) -> None:
        with line.question_under_way():
            for number in range(3):
                line.question(f"question {number}")
                line.frame(f"frame {number}")
        assert line.order == ["frame 0", "question 0", "frame 1", "question 1", "frame 2", "question 2"]

    def test_questions_keep_their_order(self, line: Line) -> None:
        names = [f"question {number}" for number in range(6)]
        with line.question_under_way():
            for name in names:
                line.question(name)
        assert line.order == names


class TestOneThread:
    def test_that_has_an_answer_open_gets_an_error_and_does_not_wait_for_itself(self) -> None:
        scheduler = EngineScheduler()
        scheduler.begin_question()
        with pytest.raises(UsageError, match="answer open"):
            scheduler.begin_question()
        with pytest.raises(UsageError, match="answer open"), scheduler.frame():
            pass
        scheduler.end_question()
        assert scheduler.begin_question()

    def test_that_goes_on_with_another_threads_answer_has_it_open(self, line: Line) -> None:
        with line.question_under_way():
            line.scheduler.continue_question()
            with pytest.raises(UsageError, match="answer open"):
                line.scheduler.begin_question()

    def test_that_ended_with_an_answer_open_is_not_waited_for(self) -> None:
        scheduler = EngineScheduler()
        ended = threading.Thread(target=scheduler.begin_question)
        ended.start()
        ended.join()
        with pytest.raises(UsageError, match="left open"):
            scheduler.begin_question()
        scheduler.end_question()
        assert scheduler.begin_question()


class TestGivingUp:
    def test_a_question_that_is_cancelled_while_it_waits_gets_no_turn(self, line: Line) -> None:
        with line.question_under_way():
            assert not line.scheduler.begin_question(lambda: True)
            line.question("next")
        assert line.order == ["next"]

    def test_closing_ends_all_waiting(self, line: Line) -> None:
        errors: list[str] = []

        def failing(work: Callable[[], None]) -> Callable[[], None]:
            def run() -> None:
                try:
                    work()
                except UsageError as error:
                    errors.append(str(error))

            return run

        with line.question_under_way():
            line._waits(failing(lambda: line.scheduler.question().__enter__()), lambda: len(line.scheduler._questions))
            line._waits(failing(lambda: line.scheduler.frame().__enter__()), lambda: len(line.scheduler._frames))
            line.scheduler.close("it is closed")
        assert errors == ["it is closed"] * 2


class TestIdleSteps:
    """Steps of work that can wait."""

    @staticmethod
    def got_idle_step(scheduler: EngineScheduler) -> bool:
        with scheduler.idle_step() as mine:
            return mine

    def test_are_granted_while_nothing_else_runs(self) -> None:
        scheduler = EngineScheduler()
        assert self.got_idle_step(scheduler)
        assert self.got_idle_step(scheduler)

    def test_are_refused_beside_a_question_or_a_frame(self) -> None:
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

    def test_are_offered_when_the_last_question_or_frame_ends(self) -> None:
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

    def test_end_with_closing(self) -> None:
        scheduler = EngineScheduler()
        scheduler.close("the window is closed")
        with pytest.raises(UsageError, match="closed"):
            self.got_idle_step(scheduler)
