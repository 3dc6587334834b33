"""Reads images and videos of requests: data URIs, base64, or addresses if the server may fetch them.

Only base64 is decoded here. Paths in requests are never opened: `file://` and bare paths are refused.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

from edge_interleave.errors import shown
from edge_interleave.serve.errors import wrong
from edge_interleave.serve.settings import Limits

_DATA = re.compile(r"data:([A-Za-z0-9.+-]{1,64}/[A-Za-z0-9.+-]{1,64})?(;[^,]{0,200})?,", re.ASCII)
_SPACE = str.maketrans("", "", " \t\r\n")


@dataclass(frozen=True)
class Picture:
    """One image of a message."""

    data: bytes = field(repr=False)
    """An image file's content."""
    detail: str
    param: str
    """The field of the request that holds it."""


@dataclass(frozen=True)
class Clip:
    """One video of a message."""

    pieces: tuple[bytes, ...] = field(repr=False)
    """The content of a video file, or of one image file for each frame."""
    is_frames: bool
    frames: int | None
    fps: float | None
    detail: str
    param: str

    def most(self, frames: int) -> int:
        """Upper bound of the frames taken, as far as the request tells (1 for `fps`). `frames`: the default number."""
        if self.frames is None and self.fps is not None:
            return 1
        return min(self.frames or frames, len(self.pieces)) if self.is_frames else self.frames or frames


class Fetch(Protocol):
    """Downloads the content of an address."""

    def __call__(self, url: str, most_bytes: int, param: str, /) -> bytes:
        """At most `most_bytes` of content. Raises ApiError if it must not or cannot be downloaded."""
        ...


class MediaReader:
    """Reads the images and videos of requests."""

    def __init__(self, limits: Limits, fetch: Fetch | None) -> None:
        """`fetch`: downloads addresses; None: they are refused."""
        self._limits = limits
        self._fetch = fetch

    def picture(self, url: str, detail: str, param: str) -> Picture:
        """An image by its address or data URI. Raises ApiError."""
        return Picture(self._bytes(url, self._limits.body_bytes, param), detail, param)

    def clip(
        self, url: str, frames: int | None, fps: float | None, detail: str, param: str, *, plain: bool = False
    ) -> Clip:
        """A video by its address or data URI; `plain`: by bare base64. Raises ApiError.

        `data:video/jpeg;base64,A,B,C` (also `image/...`) is a video of those frames, as vLLM takes it.
        """
        if frames is not None and fps is not None:
            raise wrong(param, "give frames or fps, not both")
        most = self._limits.video_bytes
        if plain and not url.startswith("data:"):
            return Clip((_base64(url, most, param),), False, frames, fps, detail, param)
        head = _DATA.match(url)
        if (head and (head[1] or "").lower() in ("video/jpeg", "video/png", "video/webp")) or (
            head and (head[1] or "").startswith("image/")
        ):
            _need_base64(head, param)
            texts = url[head.end() :].split(",")
            if len(texts) > self._limits.media:
                raise wrong(param, f"{len(texts)} frames are more than {self._limits.media}", "too_many_images")
            return Clip(tuple(_base64(text, most, param) for text in texts), True, frames, fps, detail, param)
        return Clip((self._bytes(url, most, param),), False, frames, fps, detail, param)

    def _bytes(self, url: str, most: int, param: str) -> bytes:
        head = _DATA.match(url)
        if head:
            _need_base64(head, param)
            return _base64(url[head.end() :], most, param)
        try:
            scheme = urlsplit(url).scheme.lower()
        except ValueError:
            scheme = ""
        if scheme not in ("http", "https"):
            raise wrong(param, f"{shown(url, 40)} is neither a data URI nor an http(s) address; send the content")
        if self._fetch is None:
            raise wrong(
                param, "this server fetches no addresses; send a data URI, or start it with --allow-remote-images"
            )
        return self._fetch(url, most, param)


def _need_base64(head: re.Match[str], param: str) -> None:
    if not (head[2] or "").lower().endswith(";base64"):
        raise wrong(param, "a data URI must be base64: data:image/jpeg;base64,...")


def _base64(text: str, most: int, param: str) -> bytes:
    if len(text) // 4 * 3 > most + 3:
        raise wrong(param, f"more than {most} bytes; send a smaller one", "too_large")
    try:
        found = base64.b64decode(text.translate(_SPACE), validate=True)
    except (binascii.Error, ValueError):
        raise wrong(param, "the base64 text cannot be decoded", "invalid_base64") from None
    if not found:
        raise wrong(param, "the content is empty", "invalid_image")
    return found
