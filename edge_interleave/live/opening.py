"""Opens a live window: computes its KV entries, opens a session of that size, and wires the components."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edge_interleave.decoding.session import Session
from edge_interleave.errors import ContextFullError, UsageError
from edge_interleave.live.layout import WindowLayout
from edge_interleave.live.live import Live
from edge_interleave.live.prompt import LivePrompt
from edge_interleave.live.window import SLIDING, FrameWindow, Mode
from edge_interleave.prompt.builder import PromptBuilder
from edge_interleave.prompt.familiarity import QuestionModel
from edge_interleave.prompt.tokenizer import TextTokenizer

if TYPE_CHECKING:
    from edge_interleave.vision.image_encoder import ImageEncoder


def open_live(
    prompts: PromptBuilder,
    tokenizer: TextTokenizer,
    encoder: ImageEncoder,
    open_session: Callable[[int], Session],
    window: int,
    strides: Sequence[int],
    *,
    limit: int,
    mode: Mode = SLIDING,
    keep_answers: bool = False,
    system: str | None = None,
    questions: QuestionModel | None = None,
) -> Live:
    """Open a live window of `window` frames.

    `open_session`: opens a session with a KV cache of the given number of entries, `limit` at most. The window owns the
    session and the encoder. `strides`: pooling strides of the frames, a pattern that repeats. `mode`, `keep_answers`:
    as `FrameWindow`. `system`: a message before all frames. `questions`: decides whether a question is familiar.
    Raises UsageError, and ContextFullError if the window does not fit into `limit`.
    """
    if not strides:
        raise UsageError("give a pooling stride, or several")
    prompt = LivePrompt(prompts, tokenizer, system)
    layout = WindowLayout.of(prompt)
    frame_tokens = [encoder.tokens_for_frame(stride) for stride in strides]
    needed = layout.entries(window, frame_tokens, keep_answers)
    if needed > limit:
        raise ContextFullError(
            f"a window of {window} frames needs {needed} entries with questions and answers, the context holds "
            f"{limit}; take fewer frames, a larger pooling stride, or a larger context"
        )
    context = layout.context(window, frame_tokens, keep_answers, sliding=mode == SLIDING, limit=limit)
    session = open_session(context)
    newline = encoder.newline if prompt.row_after_frames else None
    frames = FrameWindow(session, prompt, window, mode, keep_answers, newline)
    return Live(session, frames, prompt, encoder, strides, questions)
