"""Decides from per-frame probabilities when to raise an alert: once per occurrence, with hysteresis."""

from __future__ import annotations

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

    def __post_init__(self) -> None:
        if not self.question.strip():
            raise UsageError("the question to watch for is empty; give one that is answered with yes or no")
        if not 0 <= self.above <= 1:
            raise UsageError(f"'above' must be a probability from 0 to 1, not {self.above:g}")
        if self.checks < 1:
            raise UsageError(f"an alert needs 1 check or more, not {self.checks}")
        if self.below is not None and not 0 <= self.below <= self.above:
            raise UsageError(f"'below' must be from 0 to 'above' ({self.above:g}), not {self.below:g}")

    @property
    def clear_threshold(self) -> float:
        """`below`, or its default."""
        return min(DEFAULT_BELOW, self.above) if self.below is None else self.below


class Hysteresis:
    """The state of a rule: whether its alert is raised, and how many of the latest checks in a row are positive."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self.raised = False
        self.streak = 0
        """Positive checks in a row, up to the latest."""

    def update(self, probability: float) -> bool:
        """Take the next probability; return True if it raises the alert. NaN neither raises nor ends an alert."""
        self.streak = self.streak + 1 if probability >= self._rule.above else 0
        if self.raised:
            self.raised = not probability < self._rule.clear_threshold
            return False
        self.raised = self.streak >= self._rule.checks
        return self.raised
