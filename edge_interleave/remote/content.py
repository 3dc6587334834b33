"""Converts messages for OpenAI's interface: pictures are scaled and sent as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

from PIL import Image as Pillow

from edge_interleave.errors import UsageError
from edge_interleave.media.clip import sample_clip
from edge_interleave.media.pictures.image import open_image
from edge_interleave.options import FRAMES, MediaOptions
from edge_interleave.prompt.builder import MARKER
from edge_interleave.prompt.messages import Image, Media, Message

LONGEST_SIDE = 1024
"""Pixels of a picture's longer side at pooling stride 1; with `tiles` twice as many."""
_QUALITY = 90


def request_messages(messages: Sequence[Message], options: MediaOptions) -> list[dict[str, Any]]:
    """The messages as OpenAI's objects, with their pictures. Raises MediaError, UsageError.

    A pooling stride divides the longer side: servers count visual tokens by pixels. `<image>` markers in a text take
    the message's pictures and videos in order, as for a local model; without markers all parts keep their order.
    """
    return [{"role": message.role, "content": _content(message, options)} for message in messages]


def picture_part(picture: Pillow.Image, pool: int, *, tiles: bool = False) -> dict[str, Any]:
    """A picture as a part of a message, scaled down to LONGEST_SIDE / `pool` pixels."""
    side = max(1, LONGEST_SIDE * (2 if tiles else 1) // pool)
    if max(picture.size) > side:
        picture = picture.copy()
        picture.thumbnail((side, side), Pillow.Resampling.BICUBIC)
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=_QUALITY)
    url = f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url, "detail": "low" if pool > 1 else "auto"}}


def text_part(text: str) -> dict[str, Any]:
    """A text as a part of a message."""
    return {"type": "text", "text": text}


def _content(message: Message, options: MediaOptions) -> str | list[dict[str, Any]]:
    media = [part for part in message.parts if not isinstance(part, str)]
    texts = [part for part in message.parts if isinstance(part, str)]
    if not media:
        return "\n".join(texts)
    markers = sum(text.count(MARKER) for text in texts)
    if markers not in (0, len(media)):
        raise UsageError(
            f"<image> markers in the text: {markers}, images and videos given with it: {len(media)}; "
            "give one for each marker, or use no markers"
        )
    parts: list[dict[str, Any]] = []
    if not markers:
        for part in message.parts:
            parts += [text_part(part)] if isinstance(part, str) else _pictures(part, options)
        return parts
    remaining = iter(media)
    first, *others = "\n".join(texts).split(MARKER)
    parts = [text_part(first)] if first.strip() else []
    for text in others:
        parts += _pictures(next(remaining), options)
        parts += [text_part(text)] if text.strip() else []
    return parts


def _pictures(media: Media, options: MediaOptions) -> list[dict[str, Any]]:
    pool, tiles = options.get("pool", 1), options.get("tiles", False)
    if pool < 1:
        raise UsageError(f"pool must be a whole number of at least 1, not {pool}")
    if isinstance(media, Image):
        return [picture_part(open_image(media.source), pool, tiles=tiles)]
    frames = sample_clip(media.path, media.frames or options.get("frames", FRAMES))
    return [picture_part(frame.image, pool, tiles=tiles) for frame in frames]
