"""OpenCV's VideoCapture, safely: videos from strangers, handles that any thread may free.

FFmpeg, which OpenCV decodes with, can be told by a playlist inside a "video" to open other files and addresses. So a
file is opened only where it is a regular one, by its absolute path, with the protocol `file` alone and with containers
that hold their own frames (no playlists, no file name patterns); and a stream with network protocols alone. Knows
nothing about sources.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_interleave.errors import MediaError, one_line
from edge_interleave.media.files import open_media_file
from edge_interleave.media.opencv import opencv
from edge_interleave.media.pictures.image import MAX_PIXELS
from edge_interleave.util.regular_file import display_name

CONTAINERS = "mov,matroska,avi,flv,asf,ogg,mpeg,mpegts,mpegvideo,h264,hevc,ivf,mjpeg"
FILE_OPTIONS = f"protocol_whitelist;file|format_whitelist;{CONTAINERS}"
HTTP_OPTIONS = {"protocol_whitelist": "http,https,tcp,tls", "format_whitelist": CONTAINERS}
RTSP_OPTIONS = {
    "protocol_whitelist": "rtsp,rtsps,rtp,srtp,udp,tcp,tls",
    "format_whitelist": "rtsp",
    "rtsp_flags": "prefer_tcp",
}
"""What FFmpeg may use for each kind of address."""
_OPTIONS_KEY = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
# OpenCV reads FFmpeg's options from the environment, which belongs to the whole process.
_environment_lock = threading.Lock()


class Capture:
    """An open capture. Any thread may release it: one that is at a frame is waited for, later ones get nothing."""

    def __init__(self, name: str, raw: Any) -> None:
        self.name = name
        self._cv2 = opencv()
        self._raw = raw
        self._lock = threading.Lock()
        self._released = False

    def grab(self) -> bool:
        """Go on by one frame. False: there is none, or it is released. Raises MediaError where OpenCV fails."""
        with self._lock:
            try:
                return not self._released and self._raw.grab()
            except self._cv2.error as error:
                raise self._failed(error) from error

    def pixels(self) -> npt.NDArray[np.uint8] | None:
        """The frame that was grabbed last, (height, width, 3) RGB; None where it cannot be had. Raises MediaError."""
        with self._lock:
            try:
                there, bgr = (False, None) if self._released else self._raw.retrieve()
                return self._cv2.cvtColor(bgr, self._cv2.COLOR_BGR2RGB) if there else None
            except self._cv2.error as error:
                raise self._failed(error) from error

    def time_s(self, index: int) -> float:
        """Seconds from the start to the frame that was grabbed last, the clip's frame `index`."""
        time_s = self._get(self._cv2.CAP_PROP_POS_MSEC) / 1000
        rate = self._get(self._cv2.CAP_PROP_FPS)
        # Containers without time stamps say 0 for every frame.
        if index and not (math.isfinite(time_s) and time_s > 0):
            time_s = index / rate if math.isfinite(rate) and rate > 0 else float(index)
        return max(time_s, 0.0) if index else 0.0

    def release(self) -> None:
        """Free the handle. A second call does nothing."""
        with self._lock:
            self._released = True
            self._raw.release()

    def check_size(self, max_pixels: int) -> None:
        """Raises MediaError, and releases, where frames are claimed to be larger."""
        width, height = (self._get(key) for key in (self._cv2.CAP_PROP_FRAME_WIDTH, self._cv2.CAP_PROP_FRAME_HEIGHT))
        if not width * height <= max_pixels:
            self.release()
            raise MediaError(f"{self.name}: frames of {width:.0f} x {height:.0f} are too large; scale the video down")

    def _get(self, key: int) -> float:
        with self._lock:
            return 0.0 if self._released else float(self._raw.get(key))

    def _failed(self, error: Exception) -> MediaError:
        said = one_line(error)
        return MediaError(f"{self.name}: cannot be decoded ({said}); the file is damaged")


def open_video(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> Capture:
    """A regular file's capture, upright.

    Raises MediaError where it is no video or its frames exceed `max_pixels`, BackendError without OpenCV.
    """
    open_media_file(path).close()
    cv2 = opencv()
    name = display_name(path)
    # An absolute path cannot be taken for a protocol (`concat:`), nor, with this backend named, for a device.
    place = os.path.abspath(path)
    try:
        raw = with_options(FILE_OPTIONS, place, [])
    except (UnicodeError, TypeError) as error:
        raise MediaError(f"{name}: OpenCV cannot take this file name; rename the file") from error
    if not raw.isOpened():
        raw.release()
        raise MediaError(f"{name}: not a video that can be read, or cut off; give MP4, MOV, MKV, WebM or AVI")
    raw.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    capture = Capture(name, raw)
    capture.check_size(max_pixels)
    return capture


def with_options(options: str, place: str, settings: Sequence[int]) -> Any:
    """A cv2.VideoCapture of FFmpeg's, restricted by `options`; the environment is as it was afterwards."""
    cv2 = opencv()
    with _environment_lock:
        before = os.environ.get(_OPTIONS_KEY)
        os.environ[_OPTIONS_KEY] = options
        try:
            return cv2.VideoCapture(place, cv2.CAP_FFMPEG, list(settings))
        finally:
            if before is None:
                del os.environ[_OPTIONS_KEY]
            else:
                os.environ[_OPTIONS_KEY] = before
