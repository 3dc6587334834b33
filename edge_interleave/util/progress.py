"""The type of a callback that reports a question's progress before its answer starts."""

from __future__ import annotations

from typing import Literal, Protocol

Stage = Literal["encode", "prefill"]


class QuestionProgress(Protocol):
    """Called before each step of a question, in the thread that asks. The step waits for it, so it must be quick.

    An exception that it raises ends the question.
    """

    def __call__(self, stage: Stage, done: int, total: int, /) -> None:
        """`encode`: `done` of `total` images and frames are encoded.

        `prefill`: `done` of `total` new entries of the prompt are in the KV cache.
        """
        ...
