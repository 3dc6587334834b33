"""The progress of a training stage, in steps or in seconds."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass
class Length:
    """The length of a stage: a number of steps or a number of seconds; set one of them."""

    steps: int | None = None
    seconds: float | None = None


@dataclass
class Progress:
    """The progress of a stage."""

    length: Length
    step: int = 0
    before: float = 0.0
    """Seconds spent in earlier runs."""
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Seconds spent on the stage in all runs."""
        return self.before + time.monotonic() - self.began

    @property
    def share(self) -> float:
        """The share of the stage that is done, 0 to 1."""
        if self.length.seconds is not None:
            return min(self.seconds / max(self.length.seconds, 1e-6), 1.0)
        return min(self.step / max(self.length.steps or 0, 1), 1.0)
