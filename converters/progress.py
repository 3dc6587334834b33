"""How long work says how far it is. Knows nothing about how that is shown."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with the stage's name, the bytes done so far and the bytes in all; done never decreases within a stage."""
