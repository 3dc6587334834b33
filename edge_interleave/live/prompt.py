"""The text of a live conversation, from the model's own chat template: before, around and after the frames.

Frames are images, each announced by its number. A model that was trained on video sees them as in training: as the
frames of one video, in a row, without announcements.

A live conversation has no end, so the template cannot render it whole. It renders short conversations instead; their
tokens are cut at the images and at the answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_interleave.errors import BundleError, UsageError
from edge_interleave.prompt.builder import MARKER, ImageSegment, PromptBuilder, Segment
from edge_interleave.prompt.messages import Image, Message, Part, Video
from edge_interleave.prompt.tokenizer import TextTokenizer

_IMAGE = Image(np.zeros((1, 1, 3), np.uint8))
_FRAMES = 2
"""Frames of the conversations that are rendered."""


class LivePrompt:
    """Token ids of a live conversation: `sink`, then the frames, each between its announcement and `after_frame`, then
    a question."""

    def __init__(self, prompts: PromptBuilder, tokenizer: TextTokenizer, system: str | None = None) -> None:
        """`system`: a message before all frames. Raises BundleError if the template does not allow a live window."""
        self._prompts = prompts
        self._tokenizer = tokenizer
        self._opening = [] if system is None else [Message("system", (system,))]
        self.row_after_frames = prompts.row_after_video
        """Whether `image_newline` follows the last frame before a question."""
        self._media: tuple[Part, ...] = (Video(""),) if prompts.frames_in_a_row else (_IMAGE,) * _FRAMES
        self._counts = [_FRAMES] if prompts.frames_in_a_row else [1] * _FRAMES
        self.sink, self.after_frame, rest = self._around_frames("?")
        """`sink`: the system message and the opening of the user's turn. `after_frame`: the text after each frame."""
        if rest[: len(self.after_frame)] != self.after_frame:
            raise BundleError("the chat template treats a message's images differently; the model cannot run live")
        self.after_answer = self._between_turns()
        """The end of a kept answer's turn, and the opening of the user's next turn."""

    def announce(self, number: int) -> tuple[int, ...]:
        """Token ids of a frame's announcement, which states its number right before its visual tokens; may be empty."""
        if self._prompts.frames_in_a_row:
            return ()
        return tuple(self._tokenizer.encode_plain(f"Frame {number}:"))

    def question(self, text: str) -> tuple[int, ...]:
        """Token ids of a question, up to where the answer begins. Raises UsageError for `<image>` markers."""
        if MARKER in text:
            raise UsageError("a question about a live window cannot contain <image>; refer to a frame by its number")
        return self._around_frames(text)[2][len(self.after_frame) :]

    def _around_frames(self, text: str) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        message = Message("user", (*self._media, text))
        before, between, after = _texts(self._prompts.build([*self._opening, message], self._counts))
        return before, between, after

    def _between_turns(self) -> tuple[int, ...]:
        user = Message("user", (*self._media, "?"))
        answer = Message("assistant", ("!",))
        follow = self._prompts.follow_up([*self._opening, user, answer, user], self._counts * 2)
        if follow is None:
            raise BundleError("the chat template changes the model's answers; the model cannot run live")
        return _texts(follow)[0]


def _texts(segments: Sequence[Segment]) -> list[tuple[int, ...]]:
    """The token ids before, between and after the images."""
    texts: list[tuple[int, ...]] = [()]
    for segment in segments:
        if isinstance(segment, ImageSegment):
            texts.append(())
        else:
            texts[-1] = segment.ids
    return texts
