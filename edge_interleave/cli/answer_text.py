"""Streams an answer to stdout: wrapped at words on a terminal, with a note if it was cut off."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

from edge_interleave.cli import output

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_interleave.answer import Answer
    from edge_interleave.prompt.familiarity import QuestionModel


class AnswerText:
    """Writes one answer to stdout. On a terminal, the last word is held back until it is complete."""

    def __init__(self, width: int | None = None, write: Callable[[str], None] = output.write) -> None:
        """`width`: columns to wrap at; None: the terminal's width, or no wrapping without a terminal."""
        if width is None and sys.stdout.isatty():
            width = shutil.get_terminal_size().columns
        self._width = width
        self._write = write
        self._column = 0
        self._gap = self._word = ""

    def push(self, piece: str) -> None:
        """Write a piece of the answer."""
        self._write(piece if self._width is None else "".join(map(self._take, output.printable(piece))))

    def end(self) -> None:
        """Write the rest and a newline."""
        self._write(self._place_word() + "\n")

    def _take(self, character: str) -> str:
        """Take one character; returns the text that can be written now."""
        from rich.cells import cell_len

        assert self._width is not None
        if character == "\n":
            done = self._place_word()
            self._column, self._gap = 0, ""
            return done + "\n"
        if character.isspace():
            done = self._place_word()
            self._gap += " "
            return done
        # Scripts with wide characters have no spaces; a line may end after any character.
        done = self._place_word() if cell_len(character) > 1 else ""
        self._word += character
        return done + (self._place_word() if cell_len(character) > 1 or cell_len(self._word) >= self._width else "")

    def _place_word(self) -> str:
        """Place the held-back word on this line or on the next; returns the text to write."""
        from rich.cells import cell_len

        word, self._word = self._word, ""
        if not word or self._width is None:
            return word
        gap, self._gap = self._gap, ""
        size = cell_len(word)
        # The rest of a word longer than a line has no gap before it; the terminal breaks it.
        if self._column and self._column + len(gap) + size > self._width and (gap or cell_len(word[0]) > 1):
            self._column = size
            return "\n" + word
        self._column = (self._column + len(gap) + size - 1) % self._width + 1
        return gap + word


def note_if_unfamiliar(question: str, questions: QuestionModel | None) -> bool:
    """If the model was not trained on questions like this one, say so on stderr, with questions it knows.

    Returns whether the note was written.
    """
    if questions is None or questions.familiar(question):
        return False
    known = "".join(f"\n  {example}" for example in questions.examples)
    output.note(f"(this model was not trained on questions like this, so its answer may be wrong; it knows:{known})")
    return True


def note_if_cut_off(answer: Answer, max_tokens: int) -> None:
    """If the answer was cut off, say so on stderr."""
    from edge_interleave.answer import LENGTH

    if answer.finish_reason != LENGTH:
        return
    full = answer.stats.answer_tokens < max_tokens
    why = (
        "the context is full; --context makes it larger"
        if full
        else f"after {max_tokens} tokens; --max-tokens allows more"
    )
    output.note(f"(cut off: {why})", style="dim")
