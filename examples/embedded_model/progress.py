"""How far a stage of training is: counted in steps, or in seconds where a machine is lent for a time."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass
class Length:
    """How long a stage is to be: so many steps, or so many seconds. One of the two is given."""

    steps: int | None = None
    seconds: float | None = None


@dataclass
class Progress:
    """What of a stage is done."""

    length: Length
    step: int = 0
    before: float = 0.0
    """Seconds of earlier runs."""
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Seconds that the stage has run in all."""
        return self.before + time.monotonic() - self.began

    @property
    def share(self) -> float:
        """What of the stage is done, 0 to 1."""
        if self.length.seconds is not None:
            return min(self.seconds / max(self.length.seconds, 1e-6), 1.0)
        return min(self.step / max(self.length.steps or 0, 1), 1.0)
