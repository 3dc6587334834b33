"""What is computed beside the timeline, in a second sequence of llama.cpp's: a sequence is what sees itself only.

Cells that both sequences hold are counted once. Knows nothing about how entries are computed.
"""

from __future__ import annotations

from typing import Any

import llama_cpp.llama_cpp as low

from edge_interleave.backends.common.ranges import Ranges
from edge_interleave.backends.common.scratch import Aside

TIMELINE, ASIDE = 0, 1
"""llama.cpp's numbers of the two sequences."""


class LlamaCppAside(Aside):
    """The second sequence."""

    def __init__(self, memory: Any) -> None:
        """`memory`: llama.cpp's `llama_memory_t`."""
        super().__init__()
        self._memory = memory
        self._moved = 0

    def move(self, start: int) -> bool:
        """Have the computed entries lie at `start`; gives whether keys are to be re-rotated for that."""
        first = self.position + self._moved
        if start == first:
            return False
        low.llama_memory_seq_add(self._memory, ASIDE, first, first + self.done, start - first)
        self._moved += start - first
        return True

    def move_to_timeline(self, start: int) -> bool:
        """Put them into the timeline, at `start`; gives whether keys are to be re-rotated for that."""
        shifted = self.move(start)
        low.llama_memory_seq_cp(self._memory, ASIDE, TIMELINE, start, start + self.done)
        self.drop()
        return shifted

    def _begin(self, seen: Ranges) -> None:
        self._moved = 0
        for start, end in seen:
            low.llama_memory_seq_cp(self._memory, TIMELINE, ASIDE, start, end)

    def _forget(self) -> None:
        low.llama_memory_seq_rm(self._memory, ASIDE, -1, -1)
