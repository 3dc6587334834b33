"""Turns: equal time for all sources that want it, and a pending alert is not starved."""

import threading
import time
from contextlib import ExitStack
from itertools import pairwise

import pytest
from support.alerts import wait_for

from edge_interleave.household.turns import Turns, TurnsClosedError


class Clock:
    """A clock that a turn moves on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def order(wanted: list[tuple[str, bool, float]], turns: Turns, clock: Clock) -> list[str]:
    """Let all want a turn while another runs; return in which order they got theirs.

    `wanted`: source, whether its alert is pending, and the seconds that its turn takes; a source may be there again,
    and then waits for its next turn only after it had its last.
    """
    got: list[str] = []
    by_source: dict[str, list[tuple[bool, float]]] = {}
    for source, urgent, seconds in wanted:
        by_source.setdefault(source, []).append((urgent, seconds))

    def run(source: str, each: list[tuple[bool, float]]) -> None:
        for urgent, seconds in each:
            with turns.turn(source, urgent=urgent):
                got.append(source)
                # All others that want another turn must be in the queue before this one ends.
                others = sum(len(each) > got.count(name) for name, each in by_source.items() if name != source)
                wait_for(lambda others=others: len(turns._waiting) >= others)  # type: ignore[misc]
                clock.now += seconds

    threads = [threading.Thread(target=run, args=item) for item in by_source.items()]
    with turns.turn("first"):
        for thread in threads:
            thread.start()
        wait_for(lambda: len(turns._waiting) == len(threads))
    for thread in threads:
        thread.join(20)
    return got


def test_sources_get_equal_time_however_long_their_turns_are() -> None:
    clock = Clock()
    got = order([("long", False, 4.0)] * 3 + [("short", False, 1.0)] * 12, Turns(clock), clock)
    # While both want turns, four short ones go to each long one.
    first = got[: max(place for place, name in enumerate(got) if name == "long")]
    assert abs(first.count("short") - 4 * first.count("long")) <= 4


def test_a_pending_alert_waits_for_one_other_turn_at_most() -> None:
    clock = Clock()
    wanted = [(name, False, 1.0) for name in ("a", "b", "c") for _ in range(6)] + [("alert", True, 1.0)] * 4
    got = order(wanted, Turns(clock), clock)
    places = [place for place, name in enumerate(got) if name == "alert"]
    assert places[0] <= 1
    assert all(later - earlier == 2 for earlier, later in pairwise(places))


def test_a_source_that_was_idle_gets_no_credit() -> None:
    clock = Clock()
    turns = Turns(clock)
    for _ in range(100):
        with turns.turn("busy"):
            clock.now += 1.0
    got = order([("busy", False, 1.0)] * 6 + [("new", False, 1.0)] * 6, turns, clock)
    assert got[:6].count("new") in (3, 4)


def test_idle_work_waits_for_all_turns_and_is_then_resumed() -> None:
    turns = Turns()
    resumed = threading.Event()
    with turns.turn("a"), turns.idle_turn(resumed.set) as granted:
        assert not granted
        assert not resumed.is_set()
    assert resumed.wait(5)
    with turns.idle_turn(resumed.set) as granted:
        assert granted


def test_after_the_end_nobody_waits() -> None:
    turns = Turns()
    refused: list[str] = []

    def want(name: str) -> None:
        try:
            with turns.turn(name):
                raise AssertionError("granted")
        except TurnsClosedError:
            refused.append(name)

    with ExitStack() as stack:
        stack.enter_context(turns.turn("a"))
        threads = [threading.Thread(target=want, args=(name,)) for name in "bcd"]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(turns._waiting) == 3)
        started = time.monotonic()
        turns.close()
        for thread in threads:
            thread.join(5)
        assert time.monotonic() - started < 1
    assert sorted(refused) == ["b", "c", "d"]
    with pytest.raises(TurnsClosedError), turns.turn("e"):
        pass
