"""What tells a caller how far a question is, while an answer is waited for."""

from __future__ import annotations

from typing import Literal, Protocol

Stage = Literal["encode", "prefill"]


class QuestionProgress(Protocol):
    """Called before each step of a question, from the thread that asked it.

    It must be quick, for the step waits for it; an exception that it raises ends the question.
    """

    def __call__(self, stage: Stage, done: int, total: int, /) -> None:
        """`encode`: `done` of `total` images and frames have their visual tokens. `prefill`: `done` of the `total`
        entries of the prompt that are new are in the KV cache.
        """
        ...
