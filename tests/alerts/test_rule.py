"""When a rule raises an alert."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.alerts import QUESTION

from edge_interleave.alerts.rule import Hysteresis, Rule
from edge_interleave.errors import UsageError

RULE = Rule(QUESTION, above=0.8, checks=3, below=0.5)


def raised_at(rule: Rule, probabilities: list[float]) -> list[int]:
    state = Hysteresis(rule)
    return [check for check, probability in enumerate(probabilities) if state.update(probability)]


@pytest.mark.parametrize(
    ("probabilities", "alerts"),
    [
        ([0.9, 0.9], []),
        ([0.9, 0.9, 0.9], [2]),
        ([0.8, 0.8, 0.8], [2]),
        ([0.9, 0.9, 0.7, 0.9, 0.9], []),
        ([0.9] * 10, [2]),
        ([0.9] * 3 + [0.6] + [0.9] * 5, [2]),
        ([0.9] * 3 + [0.5] + [0.9] * 5, [2]),
        ([0.9] * 3 + [0.4] + [0.9] * 5, [2, 6]),
        ([0.9] * 3 + [0.4] + [0.9] * 2, [2]),
        ([float("nan")] * 5, []),
    ],
    ids=[
        "too few checks",
        "enough in a row",
        "at the threshold counts",
        "a dip restarts the count",
        "once, however long it lasts",
        "a dip to the threshold or above is no second alert",
        "below means less than the threshold",
        "a second alert after a check below",
        "the next alert needs all its checks again",
        "NaN never counts",
    ],
)
def test_an_alert_is_raised_once_after_enough_checks_in_a_row(probabilities: list[float], alerts: list[int]) -> None:
    assert raised_at(RULE, probabilities) == alerts


@given(
    st.lists(st.floats(0, 1), max_size=60),
    st.integers(1, 4),
    st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
)
def test_between_two_alerts_a_check_is_always_below(
    probabilities: list[float], checks: int, thresholds: list[float]
) -> None:
    below, above = thresholds
    alerts = raised_at(Rule(QUESTION, above, checks, below), probabilities)
    for alert in alerts:
        assert alert >= checks - 1
        assert min(probabilities[alert - checks + 1 : alert + 1]) >= above
    for earlier, later in pairwise(alerts):
        assert min(probabilities[earlier + 1 : later]) < below


def test_the_default_for_below_is_never_above_above() -> None:
    assert Rule(QUESTION).clear_threshold == 0.5
    assert Rule(QUESTION, above=0.3).clear_threshold == 0.3
    assert raised_at(Rule(QUESTION, above=0.0, checks=1), [0.0] * 5) == [0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"above": 1.2}, "from 0 to 1"),
        ({"above": float("nan")}, "from 0 to 1"),
        ({"checks": 0}, "1 check"),
        ({"above": 0.5, "below": 0.6}, "'below'"),
        ({"question": " "}, "empty"),
    ],
)
def test_an_impossible_rule_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Rule(**{"question": QUESTION, **arguments})
