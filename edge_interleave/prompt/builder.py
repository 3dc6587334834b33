"""Turns messages into prompt segments: renders the chat template and tokenizes the text around the images.

Order within a message:

- `<image>` markers in the text are replaced by the message's images and videos, in order. There must be one marker for
  each.
- Without markers and with one text, images and videos come first, in order, as in training.
- Without markers and with several texts, the parts keep their order.

A video becomes its frames, one image after another. A trial rendering distinguishes two kinds of templates:

- *Structured* templates (llava-hf's) take lists of parts and put a message's images before its text. A message in that
  order is passed as parts, and renders as transformers' `apply_chat_template` does. Any other message is passed as one
  text with the markers in place. If the model has a marker for a video, the template places that (after the images),
  and the video's frames take its place.
- *Plain* templates (Qwen's) take text. A newline follows each marker, as in LLaVA-NeXT's evaluation. The frames of a
  video share one newline, after the last, if the model was trained so (LLaVA-OneVision).

Special tokens inside a message's text stay text (see `tokenizer`); transformers would treat them as control tokens.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from edge_interleave.bundle.manifest import MANIFEST_NAME, Bundle
from edge_interleave.errors import BundleError, UsageError
from edge_interleave.prompt.messages import Media, Message, Video
from edge_interleave.prompt.template import ChatTemplate
from edge_interleave.prompt.tokenizer import IMAGE, TextTokenizer

MARKER = "<image>"
"""Marks the place of an image or a video in a user's text, whatever the model's own marker is."""


@dataclass(frozen=True)
class TextSegment:
    """A run of text tokens."""

    ids: tuple[int, ...]


@dataclass(frozen=True)
class ImageSegment:
    """The place of one image."""

    index: int
    """Which of the prompt's images, frames of videos counted one by one, from 0."""


Segment = TextSegment | ImageSegment


class PromptBuilder:
    """Builds prompts with a bundle's chat template and tokenizer."""

    def __init__(self, bundle: Bundle, tokenizer: TextTokenizer) -> None:
        """Compile the template. Raises BundleError if that fails."""
        info = bundle.manifest.prompt
        self._image_token = info.image_token
        self._video_token = info.video_token
        self._bos_token = info.bos_token
        vision = bundle.manifest.vision
        self.frames_in_a_row = vision.video is not None
        """Whether the frames of a video follow each other without text, as the model was trained."""
        self.row_after_video = vision.row_after_video
        """Whether one `image_newline` follows the frames of a video."""
        self._tokenizer = tokenizer
        self._name = f"{bundle.folder / MANIFEST_NAME}: the chat template"
        self._template = ChatTemplate(
            info.chat_template, bos_token=info.bos_token, eos_token=info.eos_token, name=self._name
        )
        self.structured = self._takes_parts()
        """Whether the template takes lists of parts; otherwise it takes text."""

    def build(self, messages: Sequence[Message], counts: Sequence[int] | None = None) -> list[Segment]:
        """Return the segments of the whole conversation, up to where the model's answer begins.

        `counts`: the number of images for each image (1) and video (its frames) of the messages, in order; None: one
        each. Raises UsageError if markers and images disagree or the template refuses the messages, BundleError if the
        template fails.
        """
        arranged = _arranged(messages, counts)
        text = self._render(arranged)
        if not text:
            raise BundleError(f"{self._name} gives no text; convert the model again")
        if self._bos_token and not text.startswith(self._bos_token):
            text = self._bos_token + text
        return self._segments(text, _images(arranged), first=0)

    def follow_up(self, messages: Sequence[Message], counts: Sequence[int] | None = None) -> list[Segment] | None:
        """Return the part after the text of the last answer: its turn's end, the next turn, the next answer's opening.

        None if there is no answer, or if the template changes answers. Appending a follow-up keeps the tokens that the
        model generated, so only the new part of a conversation is prefilled. Errors as `build`.
        """
        answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
        if not answers:
            return None
        arranged = _arranged(messages, counts)
        before = _images(arranged[: answers[-1] + 1])
        stand_in = f"answer{secrets.token_hex(16)}"
        arranged[answers[-1]] = replace(arranged[answers[-1]], parts=(stand_in,))
        head, *tails = self._render(arranged).split(stand_in)
        if len(tails) != 1 or head.count(self._image_token) != before:
            return None
        return self._segments(tails[0], _images(arranged[answers[-1] + 1 :]), first=before)

    def _render(self, arranged: Sequence[_Arranged]) -> str:
        """The conversation's text, with a marker for each image and frame."""
        contents = [self._content(message) for message in arranged]
        text = self._template.render(
            [{"role": message.role, "content": content} for message, content in zip(arranged, contents, strict=True)]
        )
        if self._video_token is None:
            return text
        counts = [
            frames.count
            for message, content in zip(arranged, contents, strict=True)
            if isinstance(content, list) and {"type": "video"} in content
            for frames in message.parts
            if isinstance(frames, _Frames) and frames.video
        ]
        first, *others = text.split(self._video_token)
        if len(others) != len(counts):
            raise BundleError(f"{self._name} places {len(others)} of {len(counts)} videos; put them into user messages")
        markers = (self._image_token * count for count in counts)
        return first + "".join(marker + other for marker, other in zip(markers, others, strict=True))

    def _content(self, message: _Arranged) -> str | list[dict[str, str]]:
        """A message's content, as the template takes it."""
        parts = [self._tokenizer.shield(part) if isinstance(part, str) else part for part in message.parts]
        if not self.structured:
            marker, end = (self._image_token, "\n") if self.frames_in_a_row else (f"{self._image_token}\n", "")
            return _joined(parts, marker, end)
        texts = [part for part in parts if isinstance(part, str)]
        media = [part for part in parts if isinstance(part, _Frames)]
        images = [part for part in media if self._video_token is None or not part.video]
        videos = [part for part in media if part not in images]
        # The template's order: images, videos, texts.
        if parts != [*images, *videos, *texts]:
            return [_text(_joined(parts, self._image_token))]
        shown = [{"type": "image"}] * sum(part.count for part in images) + [{"type": "video"}] * len(videos)
        return [*shown, *map(_text, texts)]

    def _segments(self, text: str, images: int, first: int) -> list[Segment]:
        segments: list[Segment] = []
        run: list[int] = []
        index = first
        for token in self._tokenizer.encode(text):
            if token != IMAGE:
                run.append(token)
                continue
            if run:
                segments.append(TextSegment(tuple(run)))
                run = []
            segments.append(ImageSegment(index))
            index += 1
        if run:
            segments.append(TextSegment(tuple(run)))
        if index - first != images:
            raise BundleError(f"{self._name} places {index - first} of {images} images; put them into user messages")
        return segments

    def _takes_parts(self) -> bool:
        probe = "probe-of-the-template"
        parts = [{"type": "image"}, _text(probe)]
        try:
            shown = self._template.render([{"role": "user", "content": parts}])
        except (BundleError, UsageError):
            return False
        # A plain template renders the list's Python representation.
        return probe in shown and shown.count(self._image_token) == 1 and "'type'" not in shown


@dataclass(frozen=True)
class _Frames:
    """An image, or the frames of a video."""

    count: int
    video: bool


@dataclass(frozen=True)
class _Arranged:
    """A message's parts in their final order."""

    role: str
    parts: tuple[str | _Frames, ...]


def _arranged(messages: Iterable[Message], counts: Sequence[int] | None) -> list[_Arranged]:
    given = iter(counts) if counts is not None else None
    arranged = []
    for message in messages:
        media = [part for part in message.parts if not isinstance(part, str)]
        shown = [_Frames(1 if given is None else next(given), isinstance(item, Video)) for item in media]
        arranged.append(_Arranged(message.role, _order(message, media, shown)))
    return arranged


def _order(message: Message, media: Sequence[Media], shown: Sequence[_Frames]) -> tuple[str | _Frames, ...]:
    texts = [part for part in message.parts if isinstance(part, str)]
    markers = 0 if message.role == "assistant" and not media else sum(text.count(MARKER) for text in texts)
    remaining = iter(shown)
    if not markers:
        images_first = all(isinstance(part, str) for part in message.parts[len(media) :])
        if len(texts) <= 1 or images_first:
            return (*shown, *texts)
        return _spaced([part if isinstance(part, str) else next(remaining) for part in message.parts])
    if markers != len(media):
        raise UsageError(
            f"<image> markers in the text: {markers}, images and videos given with it: {len(media)}; "
            "give one for each marker, or use no markers"
        )
    first, *others = "\n".join(texts).split(MARKER)
    parts: list[str | _Frames] = [first]
    for other in others:
        parts += [next(remaining), other]
    return _tidy(parts)


def _tidy(parts: Sequence[str | _Frames]) -> tuple[str | _Frames, ...]:
    """Drops empty texts. If all text comes last, also drops the white space between the images and the text."""
    solid = [part for part in parts if isinstance(part, _Frames) or part.strip()]
    if all(isinstance(part, _Frames) for part in solid[:-1]) and solid:
        last = solid[-1]
        return (*solid[:-1], last.lstrip() if isinstance(last, str) and len(solid) > 1 else last)
    return tuple(part for part in parts if part != "")


def _spaced(parts: Sequence[str | _Frames]) -> tuple[str | _Frames, ...]:
    """Adds white space between separate parts: a space before an image, a newline after it."""
    spaced: list[str | _Frames] = []
    for part in parts:
        before = spaced[-1] if spaced else None
        if isinstance(part, _Frames) and isinstance(before, str) and not before[-1:].isspace():
            spaced[-1] = f"{before} "
        elif isinstance(part, str) and isinstance(before, _Frames) and not part[:1].isspace():
            part = f"\n{part}"
        spaced.append(part)
    return tuple(spaced)


def _joined(parts: Sequence[str | _Frames], marker: str, end: str = "") -> str:
    """One text with a marker for each image and `end` after each image or video.

    A newline separates texts; a second newline after a marker is dropped.
    """
    text = ""
    for index, part in enumerate(parts):
        if isinstance(part, _Frames):
            text += marker * part.count + end
        elif index and isinstance(parts[index - 1], str):
            text += f"\n{part}"
        else:
            text += part.removeprefix("\n") if text.endswith("\n") else part
    return text


def _images(arranged: Iterable[_Arranged]) -> int:
    return sum(part.count for message in arranged for part in message.parts if isinstance(part, _Frames))


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}
