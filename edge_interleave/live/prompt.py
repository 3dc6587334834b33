"""What a live conversation is made of, taken from the model's own chat template: the sink, and what goes around frames.

A live window has no end, so it cannot be rendered as a whole. The template is asked for short conversations instead,
and their tokens are cut at the images and at the answer. Knows nothing about windows, decoders or pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_interleave.errors import BundleError, UsageError
from edge_interleave.prompt.builder import MARKER, ImageSegment, PromptBuilder, Segment
from edge_interleave.prompt.messages import Image, Message
from edge_interleave.prompt.tokenizer import TextTokenizer

_SOME_IMAGE = Image(np.zeros((1, 1, 3), np.uint8))


class LivePrompt:
    """Token ids of a live conversation: `sink`, then frames, each announced and followed by `after_frame`, then a
    question."""

    def __init__(self, prompts: PromptBuilder, tokenizer: TextTokenizer, system: str | None = None) -> None:
        """`system`: a message that goes before all frames. Raises BundleError for a template that cannot run live."""
        self._prompts = prompts
        self._tokenizer = tokenizer
        self._opening = [] if system is None else [Message("system", (system,))]
        self.sink, self.after_frame, rest = self._around_frames("?")
        """The system message and the opening of the user's turn; what follows each frame."""
        if rest[: len(self.after_frame)] != self.after_frame:
            raise BundleError("the chat template does not treat all images of a message alike; it cannot run live")
        self.after_answer = self._between_turns()
        """The end of an answer that is kept, and the opening of the user's next turn."""

    def announce(self, number: int) -> tuple[int, ...]:
        """Token ids of what says a frame's number, right before its visual tokens."""
        return tuple(self._tokenizer.encode_plain(f"Frame {number}:"))

    def question(self, text: str) -> tuple[int, ...]:
        """Token ids from the question to where the answer begins. Raises UsageError for `<image>` markers in it."""
        if MARKER in text:
            raise UsageError("a question about a live window cannot hold <image>; name a frame by its number")
        return self._around_frames(text)[2][len(self.after_frame) :]

    def _around_frames(self, text: str) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        message = Message("user", (_SOME_IMAGE, _SOME_IMAGE, text))
        before, between, after = _texts(self._prompts.build([*self._opening, message]))
        return before, between, after

    def _between_turns(self) -> tuple[int, ...]:
        user = Message("user", (_SOME_IMAGE, _SOME_IMAGE, "?"))
        follow = self._prompts.follow_up([*self._opening, user, Message("assistant", ("!",)), user])
        if follow is None:
            raise BundleError("the chat template does not show an answer as it was given; it cannot run live")
        return _texts(follow)[0]


def _texts(segments: Sequence[Segment]) -> list[tuple[int, ...]]:
    """The text before, between and after the images, empty where there is none."""
    texts: list[tuple[int, ...]] = [()]
    for segment in segments:
        if isinstance(segment, ImageSegment):
            texts.append(())
        else:
            texts[-1] = segment.ids
    return texts
