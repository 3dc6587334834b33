"""A window of frames in a session's timeline: each frame computed once, the oldest forgotten in place.

    sink | Frame 7: image | Frame 8: image | question, answer | Frame 9: image | ... | question

The sink (the system message and the opening of the user's turn) stays for good, as attention sinks do in StreamingLLM
(Xiao et al., 2023). A question lies in the timeline while it is answered, and is then forgotten, or kept as text.
Every frame is announced by its number. For where an image stands in the window is nothing that its keys and values
could say: they are computed once, and the frames before it leave. A number stays true.
When a frame leaves, the one that is the oldest now is computed anew, as the window's first: until then its keys and
values say how it differs from a frame that nobody sees any more, which questions about changes took for the answer.
That needs nothing of the frame that comes, so it can be prepared while nothing else is to do.
Knows nothing about pixels, sources of frames, threads or time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edge_interleave.decoding.generation import Prefill
from edge_interleave.decoding.inputs import Input, TextInput, VisualInput
from edge_interleave.decoding.session import ANSWER_ROOM, CLOSED, Session
from edge_interleave.errors import ContextFullError, UsageError
from edge_interleave.live.prompt import LivePrompt
from edge_interleave.util.arrays import FloatArray

Mode = Literal["sliding", "exact"]
SLIDING: Mode = "sliding"
EXACT: Mode = "exact"
MODES = (SLIDING, EXACT)
KEPT_ANSWERS = 3
"""Answers that stay as text where answers are kept."""
KEPT_ROOM = 256
"""Entries for each of them, question included; a longer answer is cut, a longer question not kept."""
PREPARED_ROWS = 32
"""Rows that are computed in a step of a preparation: what a question waits for at most."""
_LONG_NUMBER = 10**7


@dataclass(frozen=True)
class Item:
    """What the window holds beside the sink: a frame with its number, or a question with its answer."""

    inputs: tuple[Input, ...]
    number: int | None
    """The frame's; None for a question with its answer."""

    @property
    def entries(self) -> int:
        """Entries of the timeline: an image is one, a token is one."""
        return sum(len(part.ids) if isinstance(part, TextInput) else 1 for part in self.inputs)


def entries_needed(prompt: LivePrompt, frames: int, sizes: Sequence[int], keep_answers: bool) -> int:
    """KV cache entries that a window takes at most, with room for a question and its answer.

    `sizes`: visual tokens of a frame, or of each frame of a pattern that repeats. The pattern counts where it costs
    most.
    """
    around = len(prompt.announce(_LONG_NUMBER)) + len(prompt.after_frame)
    pattern = [sizes[index % len(sizes)] for index in range(frames + len(sizes))]
    most = max(sum(pattern[first : first + frames]) for first in range(len(sizes)))
    kept = KEPT_ANSWERS * KEPT_ROOM if keep_answers else 0
    return len(prompt.sink) + most + frames * around + kept + ANSWER_ROOM


def entries_to_prepare(prompt: LivePrompt, frames: int, sizes: Sequence[int]) -> int:
    """KV cache entries more, with which a sliding window can prepare a frame and still answer.

    It does without where there are none: then questions push out what was prepared. `sizes`: as `entries_needed`.
    """
    if frames < 2:
        return 0
    return len(prompt.announce(_LONG_NUMBER)) + len(prompt.after_frame) + max(sizes)


class FrameWindow:
    """The latest frames in one timeline. It answers as a session does (`generation.LogitsSource`).

    `sliding`: a frame is computed when it comes, beside the frames that are there, and once more when it is the oldest.
    What those between saw of a frame that has since left stays in their keys and values: that is the approximation,
    and its cost is constant.
    `exact`: a question computes the whole window as if nothing had been before it.
    """

    def __init__(
        self, session: Session, prompt: LivePrompt, frames: int, mode: Mode = SLIDING, keep_answers: bool = False
    ) -> None:
        """`frames`: how many of the latest frames stay. The session is the window's alone from now on."""
        if frames < 1:
            raise UsageError(f"a window of {frames} frames makes no sense; give 1 or more")
        if mode not in MODES:
            raise UsageError(f"no mode {mode!r}; choose one of {', '.join(MODES)}")
        self.frames = frames
        self.mode = mode
        self.turn = 0
        self._session = session
        self._prompt = prompt
        self._keep_answers = keep_answers
        self._items: deque[Item] = deque()
        self._count = 0
        session.reset()
        if prompt.sink:
            session.prefill([TextInput(prompt.sink)])

    def __len__(self) -> int:
        """Frames in the window now."""
        return len(self.numbers)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of the frames in the window, oldest first. The first frame of all was 1."""
        return tuple(item.number for item in self._items if item.number is not None)

    def add(self, rows: FloatArray) -> int:
        """Take the visual tokens of a new frame, float32 (tokens, hidden); gives its number.

        The oldest frame leaves where the window is full.
        Raises ContextFullError, with the window unchanged but for the frame that left, where the KV cache is too small.
        """
        self._forget_question()
        if len(self) >= self.frames:
            self._evict(self._oldest())
            if self.mode == SLIDING and len(self):
                self._begin_with(self._oldest())
        number = self._count + 1
        around = (self._prompt.announce(number), self._prompt.after_frame)
        before, after = ((TextInput(ids),) if ids else () for ids in around)
        frame = Item((*before, VisualInput(rows), *after), number)
        if self.mode == SLIDING:
            self._session.extend(frame.inputs)
        self._items.append(frame)
        self._count = number
        return number

    def prepare(self) -> bool:
        """Work ahead on what `add` computes beside the new frame: the frame that will be the oldest, anew.

        One step of PREPARED_ROWS at most; True where a further one would go on. Nothing that can be seen changes, and
        an answer that is being drawn goes on. Raises BackendError where the engine fails: `add` does it all then.
        """
        if self.mode != SLIDING or len(self) < max(self.frames, 2):
            return False
        oldest, successor, *_ = (index for index, item in enumerate(self._items) if item.number is not None)
        leaving = self._start(oldest), self._start(oldest + 1)
        return self._session.prepare(self._start(successor), self._items[successor].inputs, leaving, PREPARED_ROWS)

    def prefill(self, prompt: Sequence[Input], cancel: threading.Event | None = None) -> Prefill | None:
        """Put a question (`LivePrompt.question`) behind the frames. Raises ContextFullError, UsageError."""
        self._forget_question()
        self.turn += 1
        try:
            if self.mode == EXACT:
                items = [part for item in self._items for part in item.inputs]
                return self._session.prefill([TextInput(self._prompt.sink), *items, *prompt], cancel)
            return self._session.extend(prompt, cancel)
        except ContextFullError as error:
            raise ContextFullError(f"{error}; the window holds {len(self)} frames") from error

    def append_token(self, token: int) -> FloatArray:
        """Put one token of an answer at the end."""
        return self._session.append_token(token)

    def finish(self, question: Sequence[int], answer: Sequence[int]) -> None:
        """The answer is through: forget question and answer, or keep them as text."""
        self._forget_question()
        if not self._keep_answers:
            return
        room = KEPT_ROOM - len(question) - len(self._prompt.after_answer)
        if room < 1:
            return
        turn = Item((TextInput((*question, *answer[:room], *self._prompt.after_answer)),), None)
        turns = [i for i, item in enumerate(self._items) if item.number is None]
        if len(turns) >= KEPT_ANSWERS:
            self._evict(turns[0])
            # Without new frames the gaps would grow between the frames and the question, turn after turn, to distances
            # that no text has. (The gap before the frames, which a sliding window leaves, does no harm.)
            if self.mode == SLIDING and self._gaps_behind_the_first() > KEPT_ROOM:
                self._session.close_gaps()
        if self.mode == SLIDING:
            self._session.extend(turn.inputs)
        self._items.append(turn)

    def close(self, reason: str = CLOSED) -> None:
        """Free the decoder. From any thread; see `Session.close`."""
        self.turn += 1
        self._session.close(reason)

    def _forget_question(self) -> None:
        """Back to the frames. An answer that is still being drawn ends."""
        self.turn += 1
        if self.mode == SLIDING:
            self._session.truncate(self._start(len(self._items)))

    def _evict(self, index: int) -> None:
        if self.mode == SLIDING:
            self._session.evict(self._start(index), self._start(index + 1))
        del self._items[index]

    def _begin_with(self, index: int) -> None:
        """Compute a frame as one that no other is before. It is gone where the engine fails."""
        first, item = self._start(index), self._items[index]
        del self._items[index]
        self._session.recompute(first, item.inputs)
        self._items.insert(index, item)

    def _gaps_behind_the_first(self) -> int:
        """Positions without an entry between the beginning of the first item and the end."""
        entries = self._session.timeline.entries[self._start(0) :]
        return entries[-1].end - entries[0].start - sum(entry.end - entry.start for entry in entries) if entries else 0

    def _oldest(self) -> int:
        """The index of the oldest frame."""
        return next(i for i, item in enumerate(self._items) if item.number is not None)

    def _start(self, index: int) -> int:
        """Which entry of the timeline an item begins at."""
        return len(self._prompt.sink) + sum(item.entries for item in list(self._items)[:index])
