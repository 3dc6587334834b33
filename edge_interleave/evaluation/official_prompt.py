"""The prompt of LLaVA-NeXT's own evaluation (`qwen_1_5`), token by token.

    <|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n
    <|im_start|>user\\n...<image>\\n...<|im_end|>\\n
    <|im_start|>assistant\\n

The original code tokenizes roles, newlines and the texts between images separately, so the newline after an image never
merges with the following text. As there, each later turn repeats the system message, and a video is its frames in a
row with one newline after the last. Unlike there, special tokens inside a text stay text.
"""

from __future__ import annotations

from collections.abc import Sequence

from edge_interleave.bundle.manifest import Bundle
from edge_interleave.errors import UsageError
from edge_interleave.prompt.builder import MARKER, ImageSegment, Segment, TextSegment
from edge_interleave.prompt.messages import Message
from edge_interleave.prompt.tokenizer import TextTokenizer

NAME = "qwen_1_5"
"""The original code's name for this conversation template."""
SYSTEM_MESSAGE = "You are a helpful assistant."
_START, _END = "<|im_start|>", "<|im_end|>"


class OfficialPrompts:
    """Turns user and assistant messages into segments, as the original evaluation does."""

    def __init__(self, tokenizer: TextTokenizer, start: int, end: int) -> None:
        """Use `for_bundle`. `start`, `end`: ids of the tokens that begin and end a turn."""
        newline = tokenizer.encode_plain("\n")
        system = tokenizer.encode_plain("system")
        said = tokenizer.encode_plain(SYSTEM_MESSAGE)
        self._tokenizer = tokenizer
        self._newline = newline
        self._end = [end]
        self._before = [start, *system, *newline, *said, end, *newline]
        self._before += [start, *tokenizer.encode_plain("user"), *newline]
        self._after = [end, *newline, start, *tokenizer.encode_plain("assistant"), *newline]

    @classmethod
    def for_bundle(cls, bundle: Bundle) -> OfficialPrompts | None:
        """For a bundle whose tokenizer has ChatML's two tokens; None for any other. Raises BundleError."""
        tokenizer = TextTokenizer.open(bundle)
        start, end = tokenizer.token_id(_START), tokenizer.token_id(_END)
        return None if start is None or end is None else cls(tokenizer, start, end)

    def build(self, messages: Sequence[Message], counts: Sequence[int] | None = None) -> list[Segment]:
        """The whole conversation, up to the start of the answer.

        `counts`: number of frames of each image and video in the messages, in order; None: one each.
        Raises UsageError if the numbers of `<image>` markers and images differ, or for a system message.
        """
        parts: list[int | ImageSegment] = []
        left = list(counts) if counts is not None else None
        index = 0
        for message in messages:
            if message.role == "system":
                raise UsageError("the official prompt has its own system message; give no system message")
            media = sum(not isinstance(part, str) for part in message.parts)
            numbers = [1] * media if left is None else [left.pop(0) for _ in range(media)]
            parts += self._message(message, numbers, index)
            index += sum(numbers)
        return _segments(parts)

    def follow_up(self, messages: Sequence[Message], counts: Sequence[int] | None = None) -> list[Segment] | None:
        """What follows the tokens of the last answer: its end and the next question. None without an answer."""
        answers = [number for number, message in enumerate(messages) if message.role == "assistant"]
        if not answers:
            return None
        before, after = messages[: answers[-1] + 1], messages[answers[-1] + 1 :]
        media = sum(not isinstance(part, str) for message in before for part in message.parts)
        seen = media if counts is None else sum(counts[:media])
        later = self.build(after, None if counts is None else counts[media:])
        moved = [ImageSegment(part.index + seen) if isinstance(part, ImageSegment) else part for part in later]
        return _segments([*self._end, *(item for part in moved for item in _items(part))])

    def _message(self, message: Message, numbers: Sequence[int], index: int) -> list[int | ImageSegment]:
        text = "\n".join(part for part in message.parts if isinstance(part, str))
        if message.role == "assistant":
            return [*self._tokenizer.encode_plain(text), *self._end]
        first, *others = text.split(MARKER)
        if len(others) != len(numbers):
            raise UsageError(f"<image> markers in the text: {len(others)}, images and videos: {len(numbers)}")
        parts: list[int | ImageSegment] = [*self._before, *self._tokenizer.encode_plain(first)]
        for number, other in zip(numbers, others, strict=True):
            parts += map(ImageSegment, range(index, index + number))
            parts += [*self._newline, *self._tokenizer.encode_plain(other)]
            index += number
        return [*parts, *self._after]


def _items(segment: Segment) -> Sequence[int | ImageSegment]:
    return segment.ids if isinstance(segment, TextSegment) else (segment,)


def _segments(parts: Sequence[int | ImageSegment]) -> list[Segment]:
    segments: list[Segment] = []
    run: list[int] = []
    for part in parts:
        if isinstance(part, int):
            run.append(part)
            continue
        if run:
            segments.append(TextSegment(tuple(run)))
            run = []
        segments.append(part)
    if run:
        segments.append(TextSegment(tuple(run)))
    return segments
