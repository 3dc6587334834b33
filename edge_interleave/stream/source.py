"""What a source of frames is, and which one a given name means. Knows nothing about how frames are read.

    camera:0                    a camera, by its number
    clip.mp4                    a video
    pictures/                   a folder: its pictures by name, then new ones as they come
    http://..., https://...     MJPEG, or a video
    rtsp://..., rtsps://...     a network camera
    an iterable                 of uint8 arrays, Pillow images or `Frame`s

Anything with a name, `live`, `open`, `read` and `close` is a source, too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..addresses import without_secrets
from ..errors import MediaError, UsageError
from ..vision.image import describe
from .frame import Frame

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_CAMERA = re.compile(r"camera:([0-9]{1,3})")


class SourceLost(MediaError):
    """A source that was there has gone away. It holds no handle any more; `open` may bring it back."""


class FrameDamaged(MediaError):
    """One frame cannot be decoded. The next `read` goes on behind it."""

    def __init__(self, message: str, file: str | None = None) -> None:
        """`file`: its name, in a folder."""
        super().__init__(message)
        self.file = file


@runtime_checkable
class Source(Protocol):
    """Frames, one after the other. `open` and `read` are called by one thread at a time, `close` by any.

    Two more attributes may be there: `recorded` (a recording that plays live: still scenes are no fault), `warms_up`
    (a camera: its first frames may be black).
    """

    name: str
    """For messages: one line, without passwords."""
    live: bool
    """It cannot wait for who reads: the newest frame wins. Settled once it is open."""

    def open(self) -> None:
        """Begin, or begin again after `SourceLost`. Raises MediaError where it cannot be had."""

    def read(self) -> Frame | None:
        """The next frame; waits for it. None: there are no more.

        Raises SourceLost where it has gone away, FrameDamaged where this one frame is to be skipped, MediaError where
        there is no use in going on.
        """

    def close(self) -> None:
        """End for good. A `read` or `open` that waits ends within a second, and handles are free on return."""


def open_source(spec: str | Path | Iterable[Any] | Source, *, realtime: bool = False) -> Source:
    """The source that `spec` means (see above); its `open` is not called yet.

    `realtime`: a recorded video plays at its own pace, and is live then. Raises UsageError where nothing is meant.
    """
    if isinstance(spec, Source):
        return spec
    if not isinstance(spec, (str, Path)):
        from .arrays import ArraySource

        return ArraySource(_pictures(spec))
    text = str(spec)
    scheme = _SCHEME.match(text) if isinstance(spec, str) else None
    if scheme is not None:
        if scheme[1].lower() not in ("http", "https", "rtsp", "rtsps"):
            raise UsageError(
                f"{describe(without_secrets(text) if '@' in text else text)}: {scheme[1]} cannot be watched; "
                "give http(s)://, rtsp(s)://, a file or camera:0"
            )
        from .network import NetworkSource

        return NetworkSource(text, realtime=realtime)
    if isinstance(spec, str) and text.startswith("camera:"):
        number = _CAMERA.fullmatch(text)
        if number is None:
            raise UsageError(f"{describe(text)}: not a camera's name; give its number, as in camera:0")
        from .camera import CameraSource

        return CameraSource(int(number[1]))
    if os.path.isdir(text):
        from .folder import FolderSource

        return FolderSource(Path(text))
    from .video import VideoSource

    return VideoSource(Path(text), realtime=realtime)


def has_own_process(spec: str | Path | Iterable[Any] | Source) -> bool:
    """Whether OpenCV may read what `spec` names in a process of its own: a camera, or an address.

    An address is opened to know: MJPEG is read without one.
    """
    return isinstance(spec, str) and (spec.startswith("camera:") or _SCHEME.match(spec) is not None)


def _pictures(spec: object) -> Iterable[Any]:
    # Iterating over one picture would give its rows, which look like grey pictures.
    if isinstance(spec, np.ndarray) and (spec.ndim not in (3, 4) or (spec.ndim == 3 and spec.shape[-1] in (3, 4))):
        raise UsageError(f"an array of shape {spec.shape} is no sequence of pictures; give (n, h, w, 3), or a list")
    if isinstance(spec, (bytes, bytearray)) or not isinstance(spec, Iterable):
        raise UsageError(f"{type(spec).__name__}: not a source; give a name, a path, or an iterable of pictures")
    return spec
