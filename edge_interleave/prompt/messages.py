"""What a user says: messages of text, images and videos, and the short forms they may be given in.

In short forms a string is always text. An image is a `pathlib.Path`, a Pillow image, a uint8 array (h, w, 3), the
bytes of an image file, or `Image(...)` around any of these or around a path as a string; a video is `Video(path)`.
Opens nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_interleave.errors import UsageError

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, eq=False)
class Image:
    """One image."""

    source: Any = field(repr=False)
    """A file's path, its bytes, a Pillow image or a uint8 array of shape (h, w), (h, w, 3) or (h, w, 4)."""


@dataclass(frozen=True)
class Video:
    """A video file, shown to the model as frames taken at even distances."""

    path: Path | str
    frames: int | None = None
    """How many; None: as the call says."""

    def __post_init__(self) -> None:
        if self.frames is not None and self.frames < 1:
            raise UsageError(f"frames must be a whole number from 1, not {self.frames}")


Media = Image | Video
Part = str | Media


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    """`system`, `user` or `assistant`."""
    parts: tuple[Part, ...]


Content = Any
"""A text; or a list of texts, images and videos; or one of those."""


def messages_of(content: Content) -> list[Message]:
    """The messages that a call's content means: a list of messages as it is, anything else as one user message.

    A message is a `Message` or a dict `{"role": ..., "content": ...}`, its content a text or a list of parts as in
    `parts_of`. Raises UsageError where it is none of these.
    """
    if isinstance(content, Message):
        return [content]
    if isinstance(content, Sequence) and not isinstance(content, (str, bytes)) and content:
        wholes = [isinstance(item, Message) or (isinstance(item, Mapping) and "role" in item) for item in content]
        if all(wholes):
            return [_message(item) for item in content]
        if any(wholes):
            raise UsageError("messages and parts of a message are mixed in one list; give one or the other")
    return [Message("user", parts_of(content))]


def parts_of(content: Content) -> tuple[Part, ...]:
    """The parts that a message's content means: a text, an image, a video, or a list of them.

    A part may also be a dict: `{"type": "text", "text": ...}`, `{"type": "image", "image": ...}` or
    `{"type": "video", "video": path, "frames": 8}`. Raises UsageError where it is none of these, or where there is
    nothing in it.
    """
    items = content if isinstance(content, (list, tuple)) else [content]
    parts = tuple(_part(item) for item in items)
    if not any(not isinstance(part, str) or part.strip() for part in parts):
        raise UsageError("the message is empty; give a question, an image or both")
    return parts


def media_of(messages: Iterable[Message]) -> list[Media]:
    """The images and videos of the messages, in order."""
    return [part for message in messages for part in message.parts if not isinstance(part, str)]


def _message(item: Message | Mapping[str, Any]) -> Message:
    if isinstance(item, Message):
        return item
    role, content = item["role"], item.get("content")
    if role not in ROLES:
        raise UsageError(f"a message's role must be one of {', '.join(ROLES)}, not {role!r}")
    if role == "assistant" and content in ("", []):
        return Message(role, ("",))
    return Message(role, parts_of(content))


def _part(item: Any) -> Part:
    if isinstance(item, (str, Image, Video)):
        return item
    if isinstance(item, Mapping):
        return _part_of_dict(item)
    if isinstance(item, (os.PathLike, bytes)) or hasattr(item, "__array_interface__"):  # Pillow images have it, too
        return Image(item)
    raise UsageError(
        f"a message cannot hold a {type(item).__name__}; give text, a pathlib.Path, a Pillow image, an array, "
        "Image(...) or Video(...)"
    )


def _part_of_dict(item: Mapping[str, Any]) -> Part:
    kind = item.get("type")
    if kind == "text" and isinstance(item.get("text"), str):
        return str(item["text"])
    if kind == "image" and item.get("image", item.get("path")) is not None:
        source = item.get("image", item.get("path"))
        return source if isinstance(source, Image) else Image(source)
    if kind == "video" and item.get("video", item.get("path")) is not None:
        source, frames = item.get("video", item.get("path")), item.get("frames")
        if isinstance(source, Video):
            return source
        if isinstance(source, (str, os.PathLike)) and (frames is None or type(frames) is int):
            return Video(Path(source), frames)
    raise UsageError(
        "a part must be {'type': 'text', 'text': ...}, {'type': 'image', 'image': ...} or "
        "{'type': 'video', 'video': path, 'frames': 8}"
    )
