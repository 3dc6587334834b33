"""llama.cpp's scratch entries: a second sequence, whose entries attend to each other but not to the first sequence.

Cells that both sequences hold are counted once.
"""

from __future__ import annotations

from typing import Any

import llama_cpp.llama_cpp as low

from edge_interleave.backends.common.ranges import Ranges
from edge_interleave.backends.common.scratch import ScratchEntries

TIMELINE, SCRATCH = 0, 1
"""llama.cpp's numbers of the two sequences."""


class LlamaCppScratch(ScratchEntries):
    """The second sequence."""

    def __init__(self, memory: Any) -> None:
        """`memory`: llama.cpp's `llama_memory_t`."""
        super().__init__()
        self._memory = memory
        self._moved = 0

    def move(self, start: int) -> bool:
        """Move the entries to `start` and after. Returns whether llama.cpp has to re-rotate their keys."""
        first = self.position + self._moved
        if start == first:
            return False
        low.llama_memory_seq_add(self._memory, SCRATCH, first, first + self.done, start - first)
        self._moved += start - first
        return True

    def move_to_timeline(self, start: int) -> bool:
        """Put the entries into the timeline at `start`. Returns whether llama.cpp has to re-rotate their keys."""
        shifted = self.move(start)
        low.llama_memory_seq_cp(self._memory, SCRATCH, TIMELINE, start, start + self.done)
        self.drop()
        return shifted

    def _start(self, visible: Ranges) -> None:
        self._moved = 0
        for start, end in visible:
            low.llama_memory_seq_cp(self._memory, TIMELINE, SCRATCH, start, end)

    def _free(self) -> None:
        low.llama_memory_seq_rm(self._memory, SCRATCH, -1, -1)
