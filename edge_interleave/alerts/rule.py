"""Decides from per-frame probabilities when to raise an alert: once per occurrence, with hysteresis."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edge_interleave.errors import UsageError

DEFAULT_BELOW = 0.5


@dataclass(frozen=True)
class Rule:
    """When an alert is raised, and when the next one may be. Raises UsageError for values out of range."""

    question: str
    """A question to be answered with yes or no."""
    above: float = 0.8
    """A check is positive if the probability of yes is at least this."""
    checks: int = 3
    """This many positive checks in a row raise the alert."""
    below: float | None = None
    """A check below this ends the alert; then the next can be raised. None: 0.5, or `above` if that is less."""
    cooldown_s: float = 0.0
    """The next alert is raised this many seconds after the previous one at the earliest, by the frames' times."""

    def __post_init__(self) -> None:
        if not self.question.strip():
            raise UsageError("the question to watch for is empty; give one that is answered with yes or no")
        if not 0 <= self.above <= 1:
            raise UsageError(f"'above' must be a probability from 0 to 1, not {self.above:g}")
        if self.checks < 1:
            raise UsageError(f"an alert needs 1 check or more, not {self.checks}")
        if self.below is not None and not 0 <= self.below <= self.above:
            raise UsageError(f"'below' must be from 0 to 'above' ({self.above:g}), not {self.below:g}")
        if not 0 <= self.cooldown_s < math.inf:
            raise UsageError(f"the cool-down must be 0 seconds or more, not {self.cooldown_s:g}")

    @property
    def clear_threshold(self) -> float:
        """`below`, or its default."""
        return min(DEFAULT_BELOW, self.above) if self.below is None else self.below


class Hysteresis:
    """The state of a rule: whether its alert is raised, and how many of the latest checks in a row are positive."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._raised_at: float | None = None
        self.raised = False
        self.streak = 0
        """Positive checks in a row, up to the latest."""

    @property
    def pending(self) -> bool:
        """Whether the latest check was positive and more of them would raise an alert."""
        return self.streak > 0 and not self.raised

    def update(self, probability: float, time_s: float = 0.0) -> bool:
        """Take the next probability; return True if it raises the alert. NaN neither raises nor ends an alert.

        `time_s`: the frame's time in seconds, for the cool-down. A time that goes back ends the cool-down.
        """
        self.streak = self.streak + 1 if probability >= self._rule.above else 0
        if self.raised:
            self.raised = not probability < self._rule.clear_threshold
            return False
        self.raised = self.streak >= self._rule.checks and not self._cools_down(time_s)
        if self.raised:
            self._raised_at = time_s
        return self.raised

    def _cools_down(self, time_s: float) -> bool:
        return self._raised_at is not None and 0 <= time_s - self._raised_at < self._rule.cooldown_s


@dataclass
class NearMiss:
    """How near a rule came to its alerts."""

    rule: Rule
    checks: int = 0
    alerts: int = 0
    highest: float = 0.0
    """The highest probability of all checks."""
    longest: int = 0
    """The most positive checks in a row."""

    def update(self, probability: float, streak: int, raised: bool) -> None:
        """Count a check. `streak`: positive checks in a row, up to this one. `raised`: whether it raised an alert."""
        self.checks += 1
        self.alerts += raised
        self.highest = max(self.highest, probability)
        self.longest = max(self.longest, streak)

    def figures(self) -> dict[str, float]:
        """The figures by name, for JSON."""
        return {"checks": self.checks, "alerts": self.alerts, "highest": self.highest, "longest": self.longest}

    def line(self) -> str:
        """A line for people: `4 checks, highest 0.99, at most 2 of 3 in a row: no alert`."""
        if not self.checks:
            return "no check: no frame came"
        counted = f"{self.checks} check{'s' if self.checks > 1 else ''}, highest {self.highest:.2f}"
        if self.alerts:
            return f"{counted}, {self.alerts} alert{'s' if self.alerts > 1 else ''}"
        if not self.longest:
            return f"{counted}, none at {self.rule.above:.2f} or above: no alert"
        return f"{counted}, at most {self.longest} of {self.rule.checks} in a row: no alert"
