"""Finds the source for a name, a path or an object.

    camera:0                    a camera, by its number
    clip.mp4                    a video
    pictures/                   a folder: its pictures by name, then new ones as they arrive
    http://..., https://...     an MJPEG stream or a video
    rtsp://..., rtsps://...     a network camera
    frigate:CAMERA              a camera of Frigate, while it tracks an object
    an iterable                 uint8 arrays, Pillow images or `Frame`s

An object that implements the `Source` protocol is used as is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_interleave.errors import BackendError, UsageError
from edge_interleave.media.sources.base import Source
from edge_interleave.util.addresses import without_secrets
from edge_interleave.util.regular_file import display_name

if TYPE_CHECKING:
    from edge_interleave.media.sources.frigate_settings import FrigateSettings

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_CAMERA = re.compile(r"camera:([0-9]{1,3})")


def open_source(
    spec: str | Path | Iterable[Any] | Source, *, realtime: bool = False, frigate: FrigateSettings | None = None
) -> Source:
    """Create the source for `spec` (see the module's docstring), not opened yet.

    `realtime`: play a recorded video at its own speed, as a live source. `frigate`: how to reach Frigate; None: as the
    environment says. Raises UsageError for an unknown kind, InputError if certificates cannot be read.
    """
    if isinstance(spec, Source):
        return spec
    if not isinstance(spec, (str, Path)):
        from edge_interleave.media.sources.iterable import IterableSource

        return IterableSource(_pictures(spec))
    text = str(spec)
    scheme = _SCHEME.match(text) if isinstance(spec, str) else None
    if scheme is not None:
        if scheme[1].lower() not in ("http", "https", "rtsp", "rtsps"):
            raise UsageError(
                f"{display_name(without_secrets(text) if '@' in text else text)}: {scheme[1]} cannot be watched; "
                "give http(s)://, rtsp(s)://, a file or camera:0"
            )
        from edge_interleave.media.sources.network import NetworkSource

        return NetworkSource(text, realtime=realtime)
    if isinstance(spec, str) and text.startswith("camera:"):
        number = _CAMERA.fullmatch(text)
        if number is None:
            raise UsageError(f"{display_name(text)}: not a camera's name; give its number, as in camera:0")
        from edge_interleave.media.sources.camera import CameraSource

        return CameraSource(int(number[1]))
    if isinstance(spec, str) and text.startswith("frigate:"):
        return _frigate_source(text.removeprefix("frigate:"), frigate)
    if os.path.isdir(text):
        from edge_interleave.media.sources.folder import FolderSource

        return FolderSource(Path(text))
    from edge_interleave.media.sources.video import VideoSource

    return VideoSource(Path(text), realtime=realtime)


def is_address(spec: str) -> bool:
    """Whether `spec` is a camera or an address, rather than a path."""
    return spec.startswith(("camera:", "frigate:")) or _SCHEME.match(spec) is not None


def may_need_capture_process(spec: str | Path | Iterable[Any] | Source) -> bool:
    """Whether `spec` may need a capture process: True for a camera and for any address.

    An MJPEG stream needs none, but only opening the address would tell.
    """
    return isinstance(spec, str) and (spec.startswith("camera:") or _SCHEME.match(spec) is not None)


def _frigate_source(camera: str, settings: FrigateSettings | None) -> Source:
    try:
        from edge_interleave.media.sources.frigate import FrigateSource
        from edge_interleave.media.sources.frigate_settings import frigate_from_environment
    except ImportError as error:
        raise BackendError("frigate: needs MQTT; install it with: pip install 'edge-interleave[mqtt]'") from error
    return FrigateSource(camera, settings or frigate_from_environment())


def _pictures(spec: object) -> Iterable[Any]:
    # Iterating over a single picture would yield its rows, which look like grey pictures.
    if isinstance(spec, np.ndarray) and (spec.ndim not in (3, 4) or (spec.ndim == 3 and spec.shape[-1] in (3, 4))):
        raise UsageError(f"an array of shape {spec.shape} is not a sequence of pictures; give (n, h, w, 3), or a list")
    if isinstance(spec, (bytes, bytearray)) or not isinstance(spec, Iterable):
        raise UsageError(f"{type(spec).__name__}: not a source; give a name, a path, or an iterable of pictures")
    return spec
