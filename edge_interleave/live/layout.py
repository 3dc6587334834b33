"""Computes how many KV entries a live window takes, for opening a window and for planning one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_interleave.decoding.session import ANSWER_ROOM
from edge_interleave.live.prompt import LivePrompt

KEPT_ANSWERS = 3
"""Answers that stay in the window as text, if answers are kept."""
KEPT_ROOM = 256
"""KV entries for each of them, its question included. A longer answer is cut, a longer question is not kept."""
_LONG_NUMBER = 10**7


@dataclass(frozen=True)
class WindowLayout:
    """Lengths, in KV entries, of the text before and around the frames of a live window."""

    sink: int
    """The system message and the opening of the user's turn, before all frames."""
    around_frame: int
    """The announcement of a frame, with a number of eight digits, and the text after the frame."""
    after_frames: int = 0
    """1 if `image_newline` follows the last frame before a question."""

    @staticmethod
    def of(prompt: LivePrompt) -> WindowLayout:
        """The layout of windows with this prompt."""
        around_frame = len(prompt.announce(_LONG_NUMBER)) + len(prompt.after_frame)
        return WindowLayout(len(prompt.sink), around_frame, int(prompt.row_after_frames))

    @property
    def fixed_entries(self) -> int:
        """KV entries of a window without frames: the sink, and room for a question and its answer."""
        return self.sink + self.after_frames + ANSWER_ROOM

    def entries(self, frames: int, frame_tokens: Sequence[int], keep_answers: bool) -> int:
        """KV entries that a window of `frames` frames takes at most, with room for a question and its answer.

        `frame_tokens`: visual tokens of a frame, for each stride of a pattern that repeats.
        """
        kept = KEPT_ANSWERS * KEPT_ROOM if keep_answers else 0
        return self.fixed_entries + kept + frames * self.around_frame + visual_tokens(frames, frame_tokens)

    def prefetch_entries(self, frames: int, frame_tokens: Sequence[int]) -> int:
        """Further KV entries that let a sliding window prefetch a frame and still answer a question.

        Without them the window works too: a question then drops the prefetched entries.
        """
        return self.around_frame + max(frame_tokens) if frames > 1 else 0

    def context(
        self, frames: int, frame_tokens: Sequence[int], keep_answers: bool, *, sliding: bool, limit: int
    ) -> int:
        """KV entries to allocate for a window: `entries` plus, for a sliding one, `prefetch_entries`, up to `limit`."""
        prefetch = self.prefetch_entries(frames, frame_tokens) if sliding else 0
        return min(self.entries(frames, frame_tokens, keep_answers) + prefetch, limit)


def visual_tokens(frames: int, frame_tokens: Sequence[int]) -> int:
    """The most visual tokens of a full window, over all phases of the repeating pattern."""
    pattern = [frame_tokens[index % len(frame_tokens)] for index in range(frames + len(frame_tokens))]
    return max(sum(pattern[first : first + frames]) for first in range(len(frame_tokens)))
