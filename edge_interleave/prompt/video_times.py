"""The text after a video that says how long it is and when its frames are shown, for models trained with it.

LLaVA-Video was trained with it (`add_time_instruction` in LLaVA-NeXT's llava/train/train.py); the wording and the place
are those of LLaVA-NeXT's playground/demo/video_demo.py: after the newline that follows the video, on a line of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edge_interleave.media.frame import Frame
from edge_interleave.prompt.builder import MARKER
from edge_interleave.prompt.messages import Message, Part

_NEWLINE = "\n"


def time_instruction(frames: Sequence[Frame]) -> str:
    """The text for the evenly sampled frames of a clip, from its first frame to its last.

    A clip without a clock (a folder, a TIFF) counts each picture as a second. Empty for a single frame, which does not
    tell how long the clip is.
    """
    if len(frames) < 2 or not frames[-1].index:
        return ""
    # The clip lasts as many mean steps as it has frames; the last sampled frame is its last one.
    last = frames[-1]
    seconds = last.time_s * (last.index + 1) / last.index
    times = ",".join(f"{frame.time_s:.2f}s" for frame in frames)
    return (
        f"The video lasts for {seconds:.2f} seconds, and {len(frames)} frames are uniformly sampled from it. "
        f"These frames are located at {times}.Please answer the following questions related to this video."
    )


def with_time_instructions(messages: Sequence[Message], instructions: Sequence[str]) -> list[Message]:
    """The messages with each video's instruction after it.

    `instructions`: one for each image and video of the messages, in order; empty for those without, or ().
    """
    if not any(instructions):
        return list(messages)
    given = iter(instructions)
    changed = []
    for message in messages:
        of_media = [next(given) for part in message.parts if not isinstance(part, str)]
        changed.append(replace(message, parts=_instructed(message.parts, of_media)) if any(of_media) else message)
    return changed


def _instructed(parts: Sequence[Part], instructions: Sequence[str]) -> tuple[Part, ...]:
    texts = [part for part in parts if isinstance(part, str)]
    media = [part for part in parts if not isinstance(part, str)]
    if any(MARKER in text for text in texts):
        first, *others = "\n".join(texts).split(MARKER)
        if len(others) != len(instructions):
            return tuple(parts)  # the prompt's builder refuses it
        pairs = zip(instructions, others, strict=True)
        return (*media, first + "".join(MARKER + _before(instruction, text) for instruction, text in pairs))
    left = iter(instructions)
    placed: list[Part] = []
    pending = ""
    # With one text, images and videos come first (`prompt.builder`).
    for part in [*media, *texts] if len(texts) <= 1 else parts:
        if isinstance(part, str):
            placed.append(_before(pending, part))
            pending = ""
            continue
        placed += [pending, part] if pending else [part]
        pending = next(left)
    return (*placed, pending) if pending else tuple(placed)


def _before(instruction: str, text: str) -> str:
    return f"{instruction}\n{text.removeprefix(_NEWLINE)}" if instruction else text
