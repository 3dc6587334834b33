"""Messages of text, images and videos, and the short forms that callers may use for them.

    as_messages("Hello")
    as_messages("What changed?", images=["a.png", "b.png"])
    as_messages([Path("a.png"), "What changed?", Path("b.png")])
    as_messages([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}])

In content a string is text. Files are opened later, by the encoder.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeGuard, TypeVar, cast, get_args

from edge_interleave.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image as PillowImage

    from edge_interleave.media.pictures.image import ImageSource

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, eq=False)
class Image:
    """One image."""

    source: ImageSource = field(repr=False)
    """A file's path, the bytes of such a file, a Pillow image, or a uint8 array (h, w), (h, w, 3) or (h, w, 4)."""


@dataclass(frozen=True)
class Video:
    """A video, shown to the model as evenly spaced frames."""

    path: Path | str
    frames: int | None = None
    """How many frames; None: the call's `frames`."""

    def __post_init__(self) -> None:
        if self.frames is not None and self.frames < 1:
            raise UsageError(f"frames must be a whole number of at least 1, not {self.frames}")


Media = Image | Video
Part = str | Media


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    parts: tuple[Part, ...]


PartLike: TypeAlias = (
    "str | Image | Video | os.PathLike[str] | bytes | PillowImage | npt.NDArray[np.uint8] | Mapping[str, Any]"
)
"""Text, an image, a video, or a dict as in `parts_of`. A path is an image."""
Content: TypeAlias = "PartLike | Message | Sequence[PartLike | Message]"
"""Text; an image or a video; a list of these; or a list of messages."""
Images: TypeAlias = "Sequence[str | os.PathLike[str] | bytes | PillowImage | npt.NDArray[np.uint8] | Image]"
"""Images by path (a string is a path), file content, Pillow image or uint8 array."""
Videos: TypeAlias = "Sequence[str | os.PathLike[str] | Video]"
"""Videos by path."""

_PICTURES = (".apng", ".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
_VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm")
_PATH_CHARACTERS_MAX = 4096
_T = TypeVar("_T")


def as_messages(content: Content, images: Images = (), videos: Videos = ()) -> list[Message]:
    """Convert the content of a call to messages: a list of messages stays, anything else becomes one user message.

    A message is a `Message` or a dict `{"role": ..., "content": ...}`; its content is a text or a list of parts as in
    `parts_of`. `images`, then `videos`, come before the parts of the last message.
    Raises UsageError for any other content, for no content, and if the last message is not the user's.
    """
    media: list[Part] = [_image(image) for image in _listed("images", images)]
    media += [_video(video) for video in _listed("videos", videos)]
    messages = _messages(content, with_media=bool(media))
    last = messages[-1]
    if last.role == "assistant":
        raise UsageError("the last message is the assistant's; end with the user's")
    return [*messages[:-1], replace(last, parts=(*media, *last.parts))] if media else messages


def parts_of(content: Content) -> tuple[Part, ...]:
    """Convert the content of a message to parts: a text, an image, a video, or a list of them.

    A part may be a dict: `{"type": "text", "text": ...}`, `{"type": "image", "image": ...}` or
    `{"type": "video", "video": path, "frames": 8}`. Raises UsageError for anything else, for a list without text or
    media, and for a string in a list that names an existing picture or video: strings are text.
    """
    if isinstance(content, (list, tuple)):
        for item in content:
            if isinstance(item, str):
                _refuse_path(item)
    parts = tuple(_part(item) for item in (content if isinstance(content, (list, tuple)) else [content]))
    if not any(not isinstance(part, str) or part.strip() for part in parts):
        raise UsageError("the message is empty; give a question, an image or both")
    return parts


def media_of(messages: Iterable[Message]) -> list[Media]:
    """The images and videos of the messages, in order."""
    return [part for message in messages for part in message.parts if not isinstance(part, str)]


def _messages(content: Content, with_media: bool) -> list[Message]:
    if isinstance(content, Message):
        return [content]
    if isinstance(content, Sequence) and not isinstance(content, (str, bytes)) and content:
        whole = [isinstance(item, Message) or (isinstance(item, Mapping) and "role" in item) for item in content]
        if all(whole):
            return [_message(cast("Message | Mapping[str, Any]", item)) for item in content]
        if any(whole):
            raise UsageError("messages and parts of a message are mixed in one list; give one or the other")
    empty = with_media and isinstance(content, (str, list, tuple)) and not content
    return [Message("user", () if empty else parts_of(content))]


def _message(item: Message | Mapping[str, Any]) -> Message:
    if isinstance(item, Message):
        return item
    role, content = item["role"], item.get("content")
    if role not in ROLES:
        raise UsageError(f"a message's role must be one of {', '.join(ROLES)}, not {role!r}")
    if role == "assistant" and content in ("", []):
        return Message(role, ("",))
    return Message(role, parts_of(cast("Content", content)))


def _part(item: object) -> Part:
    if isinstance(item, (str, Image, Video)):
        return item
    if isinstance(item, Mapping):
        return _part_of_dict(item)
    if _is_image_source(item):
        return _image(item)
    raise UsageError(
        f"a message cannot hold a value of type {type(item).__name__}; give text, a pathlib.Path, a Pillow image, an "
        "array, Image(...) or Video(...)"
    )


def _part_of_dict(item: Mapping[str, Any]) -> Part:
    kind = item.get("type")
    if kind == "text" and isinstance(item.get("text"), str):
        return str(item["text"])
    if kind == "image" and item.get("image", item.get("path")) is not None:
        return _image(item.get("image", item.get("path")))
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


def _image(source: object) -> Image:
    if isinstance(source, Image):
        return source
    if isinstance(source, os.PathLike):
        return Image(Path(source))
    if isinstance(source, str) or _is_image_source(source):
        return Image(source)
    raise UsageError(
        f"an image cannot be of type {type(source).__name__}; give a path, the bytes of a file, a Pillow image or an "
        "array"
    )


def _video(source: object) -> Video:
    if isinstance(source, Video):
        return source
    if isinstance(source, (str, os.PathLike)):
        return Video(Path(source))
    raise UsageError(f"a video cannot be of type {type(source).__name__}; give a path or Video(path, frames=8)")


def _is_image_source(item: object) -> TypeGuard[ImageSource]:
    # Both NumPy arrays and Pillow images have this attribute.
    return isinstance(item, (os.PathLike, bytes)) or hasattr(item, "__array_interface__")


def _listed(name: str, given: Sequence[_T]) -> Sequence[_T]:
    """The list, unchanged. Raises UsageError for a lone path or array, which would pass as a list of items."""
    if isinstance(given, (list, tuple)):
        return given
    raise UsageError(f"{name} must be a list, not of type {type(given).__name__}: {name}=[...]")


def _refuse_path(text: str) -> None:
    """Raise UsageError for a text that names an existing picture or video."""
    ending = os.path.splitext(text)[1].lower()
    if ending not in (*_PICTURES, *_VIDEOS) or len(text) > _PATH_CHARACTERS_MAX or not os.path.isfile(text):
        return
    kind, keyword = ("Image", "images") if ending in _PICTURES else ("Video", "videos")
    raise UsageError(
        f"{text!r} is a file, but a string in a list is text; give ei.{kind}({text!r}), or {keyword}=[{text!r}] beside "
        "the question"
    )
