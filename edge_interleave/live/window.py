"""A window of frames in a session's timeline. Each new frame is computed once; the oldest is evicted in place.

    sink | Frame 7: image | Frame 8: image | question, answer | Frame 9: image | ... | question
    sink | frame | frame | frame | row | question             (a model trained on video: LLaVA-OneVision)

The sink (the system message and the opening of the user's turn) always stays, as attention sinks do in StreamingLLM
(Xiao et al., 2023). A question stays in the timeline while it is answered; then it is removed, or kept as text.

Each frame is announced by its running number. A frame's index in the window changes as others leave, but its cached
keys and values do not; its number stays valid. A model that was trained on video sees frames as in training: in a row,
without announcements, and with the row `image_newline` where its videos have it, within frames or after the last one.

When a frame leaves, its successor is recomputed as the first frame of the window. Its cached state would otherwise
describe changes against an evicted frame, and the model would answer questions about changes from it. The recomputation
does not depend on the new frame, so it can be prefetched while the engine is idle.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edge_interleave.decoding.generation import Generation, GenerationOptions, Prefill
from edge_interleave.decoding.inputs import Input, TextInput, VisualInput
from edge_interleave.decoding.session import CLOSED, Session
from edge_interleave.errors import ContextFullError, UsageError
from edge_interleave.live.layout import KEPT_ANSWERS, KEPT_ROOM
from edge_interleave.live.prompt import LivePrompt
from edge_interleave.util.arrays import FloatArray

Mode = Literal["sliding", "exact"]
SLIDING: Mode = "sliding"
EXACT: Mode = "exact"
MODES = (SLIDING, EXACT)
PREFETCH_ROWS = 32
"""Rows computed in one prefetch step. A question waits for one step at most."""


class FrameWindow:
    """The latest frames in one timeline. Answers are generated through it (`generation.LogitsSource`).

    `sliding`: a new frame is computed once, after the frames in the window, and again when it becomes the oldest.
    Frames in between still carry traces of evicted frames: that is the approximation. Each frame costs the same.
    `exact`: each question recomputes the whole window, without such traces.

    Use it from one thread at a time.
    """

    def __init__(
        self,
        session: Session,
        prompt: LivePrompt,
        frames: int,
        mode: Mode = SLIDING,
        keep_answers: bool = False,
        newline: FloatArray | None = None,
    ) -> None:
        """`frames`: how many of the latest frames stay. `keep_answers`: keep the last few answers as text.

        `newline`: the row `image_newline`, float32 (hidden,), if it follows the last frame before a question.
        The window owns the session from now on. Raises UsageError.
        """
        if frames < 1:
            raise UsageError(f"a window of {frames} frames is not possible; give 1 or more")
        if mode not in MODES:
            raise UsageError(f"no mode {mode!r}; choose one of {', '.join(MODES)}")
        self.frames = frames
        self.mode = mode
        self.turn = 0
        """Counts the changes of the timeline: an answer ends when the next change begins."""
        self._session = session
        self._prompt = prompt
        self._keep_answers = keep_answers
        self._row = () if newline is None else (VisualInput(newline[np.newaxis]),)
        self._blocks: deque[_Block] = deque()
        self._count = 0
        session.reset()
        if prompt.sink:
            session.prefill([TextInput(prompt.sink)])

    def __len__(self) -> int:
        """Frames in the window now."""
        return len(self.numbers)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of the frames in the window, oldest first. The first frame of all has number 1."""
        return tuple(block.number for block in self._blocks if block.number is not None)

    def add(self, rows: FloatArray) -> int:
        """Add a frame's visual tokens, float32 (tokens, hidden); evict the oldest frame if the window is full.

        Returns the frame's number. Raises ContextFullError if the KV cache is too small; the window is then unchanged,
        except that the oldest frame has left.
        """
        self._remove_question()
        if len(self) >= self.frames:
            self._evict(self._oldest())
            if self.mode == SLIDING and len(self):
                self._recompute(self._oldest())
        number = self._count + 1
        around = (self._prompt.announce(number), self._prompt.after_frame)
        before, after = ((TextInput(ids),) if ids else () for ids in around)
        frame = _Block((*before, VisualInput(rows), *after), number)
        if self.mode == SLIDING:
            self._session.extend(frame.inputs)
        self._blocks.append(frame)
        self._count = number
        return number

    def prefetch(self) -> bool:
        """Prefetch what the next `add` would recompute: the frame that will then be the oldest.

        One step of at most PREFETCH_ROWS; returns whether there is more to do. The timeline does not change, and a
        running answer continues. Raises BackendError if the engine fails; `add` then recomputes all of it.
        """
        if self.mode != SLIDING or len(self) < max(self.frames, 2):
            return False
        oldest, successor, *_ = (index for index, block in enumerate(self._blocks) if block.number is not None)
        leaving = self._start(oldest), self._start(oldest + 1)
        return self._session.prefetch(self._start(successor), self._blocks[successor].inputs, leaving, PREFETCH_ROWS)

    def prefill(self, prompt: Sequence[Input], cancel: threading.Event | None = None) -> Prefill | None:
        """Prefill a question (`LivePrompt.question`) after the frames; None if it was cancelled.

        Raises ContextFullError, UsageError.
        """
        self._remove_question()
        self.turn += 1
        prompt = (*self._row_after_frames(), *prompt)
        try:
            if self.mode == EXACT:
                blocks = [segment for block in self._blocks for segment in block.inputs]
                return self._session.prefill([TextInput(self._prompt.sink), *blocks, *prompt], cancel)
            return self._session.extend(prompt, cancel)
        except ContextFullError as error:
            raise ContextFullError(f"{error}; the window holds {len(self)} frames") from error

    def stream(
        self, question: Sequence[int], options: GenerationOptions, cancel: threading.Event | None = None
    ) -> Generation:
        """Answer a question (`LivePrompt.question`) about the frames. Call `finish` when the answer is whole."""
        return self._session.stream([TextInput(tuple(question))], options, cancel, through=self)

    def append_token(self, token: int) -> FloatArray:
        """Append one token of an answer; returns its logits, float32 (vocab_size,). Raises ContextFullError."""
        return self._session.append_token(token)

    def finish(self, question: Sequence[int], answer: Sequence[int]) -> None:
        """Remove a finished question and its answer from the timeline, or keep them as text. Both are token ids."""
        self._remove_question()
        if not self._keep_answers:
            return
        row = self._row_after_frames()
        room = KEPT_ROOM - len(row) - len(question) - len(self._prompt.after_answer)
        if room < 1:
            return
        turn = _Block((*row, TextInput((*question, *answer[:room], *self._prompt.after_answer))), None)
        turns = [index for index, block in enumerate(self._blocks) if block.number is None]
        if len(turns) >= KEPT_ANSWERS:
            self._evict(turns[0])
            # Without new frames, the gaps between the frames and the question would grow turn by turn, to distances
            # that do not occur in text. (The gap before the frames, which a sliding window leaves, does no harm.)
            if self.mode == SLIDING and self._gaps_after_first() > KEPT_ROOM:
                self._session.close_gaps()
        if self.mode == SLIDING:
            self._session.extend(turn.inputs)
        self._blocks.append(turn)

    def close(self, reason: str = CLOSED) -> None:
        """Free the decoder. May be called from any thread; see `Session.close`."""
        self.turn += 1
        self._session.close(reason)

    def _remove_question(self) -> None:
        """Truncate the timeline to the blocks. An answer that is still being generated ends."""
        self.turn += 1
        if self.mode == SLIDING:
            self._session.truncate(self._start(len(self._blocks)))

    def _row_after_frames(self) -> tuple[VisualInput, ...]:
        """The row between the last frame and a question; empty if the model has none, or no frame is right before."""
        return self._row if self._blocks and self._blocks[-1].number is not None else ()

    def _evict(self, index: int) -> None:
        if self.mode == SLIDING:
            self._session.evict(self._start(index), self._start(index + 1))
        del self._blocks[index]

    def _recompute(self, index: int) -> None:
        """Recompute a frame as the first in the window; drops it if the engine fails."""
        first, block = self._start(index), self._blocks[index]
        del self._blocks[index]
        self._session.recompute(first, block.inputs)
        self._blocks.insert(index, block)

    def _gaps_after_first(self) -> int:
        """Positions without a KV entry between the beginning of the first block and the end."""
        spans = self._session.timeline.spans[self._start(0) :]
        return spans[-1].end - spans[0].start - sum(span.end - span.start for span in spans) if spans else 0

    def _oldest(self) -> int:
        """The index of the oldest frame's block."""
        return next(index for index, block in enumerate(self._blocks) if block.number is not None)

    def _start(self, index: int) -> int:
        """The index, among the timeline's spans, of a block's first span."""
        return len(self._prompt.sink) + sum(block.spans for block in list(self._blocks)[:index])


@dataclass(frozen=True)
class _Block:
    """A frame with the text around it, or a kept question with its answer."""

    inputs: tuple[Input, ...]
    number: int | None
    """The frame's number; None for a question with its answer."""

    @property
    def spans(self) -> int:
        """Spans that the block takes in the timeline: one for each token, one for an image."""
        return sum(len(segment.ids) if isinstance(segment, TextInput) else 1 for segment in self.inputs)
