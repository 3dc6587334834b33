"""Wraps OpenCV's VideoCapture: safe for untrusted videos, and any thread may free its handle."""

from __future__ import annotations

import math
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_interleave.errors import MediaError, one_line
from edge_interleave.media.files import open_media_file
from edge_interleave.media.opencv import opencv
from edge_interleave.media.pictures.image import MAX_PIXELS
from edge_interleave.media.video.ffmpeg_options import FILE_OPTIONS
from edge_interleave.util.regular_file import display_name

_OPTIONS_KEY = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
# OpenCV reads FFmpeg's options from the environment, which the whole process shares.
_environment_lock = threading.Lock()


class Capture:
    """An open VideoCapture. Any thread may release it, which waits for a running call."""

    def __init__(self, name: str, raw: Any) -> None:
        self.name = name
        self._cv2 = opencv()
        self._raw = raw
        self._lock = threading.Lock()
        self._released = False

    def grab(self) -> bool:
        """Advance by one frame. False: no more frames, or released. Raises MediaError if OpenCV fails."""
        with self._lock:
            try:
                return not self._released and self._raw.grab()
            except self._cv2.error as error:
                raise self._failed(error) from error

    def pixels(self) -> npt.NDArray[np.uint8] | None:
        """The pixels of the grabbed frame, RGB, (height, width, 3); None if it cannot be decoded. Raises MediaError."""
        with self._lock:
            try:
                decoded, bgr = (False, None) if self._released else self._raw.retrieve()
                return self._cv2.cvtColor(bgr, self._cv2.COLOR_BGR2RGB) if decoded else None
            except self._cv2.error as error:
                raise self._failed(error) from error

    def time_s(self, index: int) -> float:
        """Seconds from the start to the grabbed frame, which is the clip's frame `index`."""
        time_s = self._get(self._cv2.CAP_PROP_POS_MSEC) / 1000
        rate = self._get(self._cv2.CAP_PROP_FPS)
        # Containers without time stamps report 0 for every frame.
        if index and not (math.isfinite(time_s) and time_s > 0):
            time_s = index / rate if math.isfinite(rate) and rate > 0 else float(index)
        return max(time_s, 0.0) if index else 0.0

    def release(self) -> None:
        """Free the handle. A second call does nothing."""
        with self._lock:
            self._released = True
            self._raw.release()

    def check_size(self, max_pixels: int) -> None:
        """Release the capture and raise MediaError if its frames are larger than `max_pixels`."""
        width, height = (self._get(key) for key in (self._cv2.CAP_PROP_FRAME_WIDTH, self._cv2.CAP_PROP_FRAME_HEIGHT))
        if not width * height <= max_pixels:
            self.release()
            raise MediaError(f"{self.name}: frames of {width:.0f} x {height:.0f} are too large; scale the video down")

    def _get(self, key: int) -> float:
        with self._lock:
            return 0.0 if self._released else float(self._raw.get(key))

    def _failed(self, error: Exception) -> MediaError:
        return MediaError(f"{self.name}: cannot be decoded ({one_line(error)}); the file is damaged")


def open_video(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> Capture:
    """Open a regular file. OpenCV rotates its frames upright.

    Raises MediaError if it is not a video or its frames exceed `max_pixels`, BackendError without OpenCV.
    """
    open_media_file(path).close()
    cv2 = opencv()
    name = display_name(path)
    # An absolute path cannot be mistaken for a protocol (`concat:`), nor, with CAP_FFMPEG, for a device.
    place = os.path.abspath(path)
    try:
        raw = _open_restricted(place)
    except (UnicodeError, TypeError) as error:
        raise MediaError(f"{name}: OpenCV cannot take this file name; rename the file") from error
    if not raw.isOpened():
        raw.release()
        raise MediaError(f"{name}: not a video that can be read, or cut off; give MP4, MOV, MKV, WebM or AVI")
    raw.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    capture = Capture(name, raw)
    capture.check_size(max_pixels)
    return capture


def _open_restricted(place: str) -> Any:
    """A cv2.VideoCapture that uses FFmpeg, restricted by FILE_OPTIONS; the environment is restored afterwards."""
    cv2 = opencv()
    with _environment_lock:
        before = os.environ.get(_OPTIONS_KEY)
        os.environ[_OPTIONS_KEY] = "|".join(f"{key};{value}" for key, value in FILE_OPTIONS.items())
        try:
            return cv2.VideoCapture(place, cv2.CAP_FFMPEG)
        finally:
            if before is None:
                del os.environ[_OPTIONS_KEY]
            else:
                os.environ[_OPTIONS_KEY] = before
