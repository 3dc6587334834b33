"""The progress callback of long work."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, the bytes done and the bytes in all. Within a stage, the bytes done never decrease."""
