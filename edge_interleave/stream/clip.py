"""A few frames of a finished clip: a video file, an animated picture, or a folder of pictures.

Knows nothing about models or live sources. Files come from strangers, and FFmpeg, which OpenCV decodes with, can be
told by a playlist inside a "video" to open other files and addresses. So only regular files are opened, by their
absolute path, with the protocol `file` alone and with containers that hold their own frames (no playlists, no file
name patterns).
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import BackendError, MediaError, UsageError
from ..vision.image import MAX_PIXELS, describe, open_image, open_regular, opened, to_rgb

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif")
"""What counts as a picture in a folder."""
MAX_CLIP_PIXELS = 4 * MAX_PIXELS
"""All frames of one sample together, about 2 GB as RGB."""
MAX_FRAMES_CLAIMED = 10**8

_CONTAINERS = "mov,matroska,avi,flv,asf,ogg,mpeg,mpegts,mpegvideo,h264,hevc,ivf,mjpeg"
_CAPTURE_OPTIONS = f"protocol_whitelist;file|format_whitelist;{_CONTAINERS}"
# OpenCV reads FFmpeg's options from the environment, which belongs to the whole process.
_environment_lock = threading.Lock()


@dataclass(frozen=True)
class Frame:
    """One picture of a clip."""

    image: Image.Image
    """RGB, upright."""
    time_s: float
    """Seconds from the clip's start; in a folder, which has no clock, one picture counts as a second."""
    index: int
    """Which of the clip's frames, from 0."""


def sample_clip(path: Path | str, frames: int) -> list[Frame]:
    """Up to `frames` frames, spread evenly from the first to the last, as LLaVA-NeXT samples videos.

    A clip with fewer gives all it has. Pictures of a folder go by their names, sorted.
    Raises MediaError where no frame can be had, UsageError where `frames` is less than 1, BackendError where OpenCV
    cannot be imported.
    """
    if frames < 1:
        raise UsageError(f"{frames} frames of a clip make no sense; ask for 1 or more")
    if os.path.isdir(path):
        return _sample_folder(Path(path), frames)
    with open_regular(path) as file:
        head = file.read(16)
    return _sample_pictures(path, frames) if _is_picture(head) else _sample_video(path, frames)


def _spread(count: int, frames: int) -> list[int]:
    """Indices of `frames` of `count` frames: LLaVA-NeXT's linspace, truncated."""
    return [int(index) for index in np.linspace(0, count - 1, min(count, frames), dtype=int)]


def _sample_folder(folder: Path, frames: int) -> list[Frame]:
    try:
        names = sorted(
            entry.name
            for entry in os.scandir(folder)
            if entry.name.lower().endswith(PICTURES) and not entry.name.startswith(".") and entry.is_file()
        )
    except OSError as error:
        raise MediaError(f"{describe(folder)}: cannot be listed ({error.strerror}); check its permissions") from error
    if not names:
        raise MediaError(f"{describe(folder)}: no pictures in this folder; they end in {', '.join(PICTURES)}")
    sampled: list[Frame] = []
    budget = _Budget(folder)
    for index in _spread(len(names), frames):
        image = open_image(folder / names[index])
        budget.spend(image.size)
        sampled.append(Frame(image, float(index), index))
    return sampled


def _is_picture(head: bytes) -> bool:
    """Whether a file that begins so is Pillow's: GIF, PNG, JPEG, BMP, TIFF, WebP, AVIF."""
    starts = (b"GIF8", b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*")
    return head.startswith(starts) or head[8:12] in (b"WEBP", b"avif", b"avis")


def _sample_pictures(path: Path | str, frames: int) -> list[Frame]:
    """Frames of an animation; a still picture is a clip of one."""
    sampled: list[Frame] = []
    budget = _Budget(path)
    with opened(Path(path)) as animation:
        # A JPEG of several pictures holds previews of itself, a TIFF pages: neither moves.
        count = getattr(animation, "n_frames", 1) if animation.format in ("GIF", "PNG", "WEBP", "AVIF") else 1
        wanted = set(_spread(count, frames))
        time_s = 0.0
        # One after the other, for each frame may build on those before it, and each has its own duration.
        for index in range(max(wanted) + 1):
            animation.seek(index)
            animation.load()
            if index in wanted:
                budget.spend(animation.size)
                sampled.append(Frame(to_rgb(animation), time_s, index))
            time_s += float(animation.info.get("duration", 0)) / 1000
    return sampled


def _sample_video(path: Path | str, frames: int) -> list[Frame]:
    cv2 = _opencv()
    try:
        with _capture(path) as capture:
            sampled = _by_seeking(path, capture, frames)
        return sampled or _by_counting(path, frames)
    except cv2.error as error:
        raise MediaError(
            f"{describe(path)}: cannot be decoded ({' '.join(str(error).split())[:200]}); the file is damaged"
        ) from error


def _by_seeking(path: Path | str, capture: Any, frames: int) -> list[Frame] | None:
    """Jump to each frame. None where the container's claims or its seeking turn out wrong: nothing is to be trusted."""
    cv2 = _opencv()
    claimed = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    if not 1 <= claimed <= MAX_FRAMES_CLAIMED:
        return None
    sampled: list[Frame] = []
    budget = _Budget(path)
    for index in _spread(int(claimed), frames):
        if int(capture.get(cv2.CAP_PROP_POS_FRAMES)) != index:
            capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        if not capture.grab() or int(capture.get(cv2.CAP_PROP_POS_FRAMES)) != index + 1:
            return None
        frame = _retrieve(capture, index, budget)
        if frame is None or (sampled and frame.time_s <= sampled[-1].time_s):
            return None
        sampled.append(frame)
    # The last frame was read; if there is one more, the claim was too low.
    return None if sampled[-1].index == int(claimed) - 1 and capture.grab() else sampled


def _by_counting(path: Path | str, frames: int) -> list[Frame]:
    """Decode the whole clip twice: to count its frames, and to keep some. Slow, and needs nothing but frames."""
    with _capture(path) as capture:
        count = 0
        while capture.grab():
            count += 1
    if count == 0:
        raise MediaError(f"{describe(path)}: holds no frame that can be decoded; the file is damaged or cut off")
    wanted = set(_spread(count, frames))
    sampled: list[Frame] = []
    budget = _Budget(path)
    with _capture(path) as capture:
        for index in range(count):
            if not capture.grab():
                break
            frame = _retrieve(capture, index, budget) if index in wanted else None
            if frame is not None:
                sampled.append(frame)
    if not sampled:
        raise MediaError(f"{describe(path)}: holds no frame that can be decoded; the file is damaged or cut off")
    return sampled


def _retrieve(capture: Any, index: int, budget: _Budget) -> Frame | None:
    """The frame that was grabbed last."""
    cv2 = _opencv()
    there, pixels = capture.retrieve()
    if not there:
        return None
    budget.spend((pixels.shape[1], pixels.shape[0]))
    image = Image.fromarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
    time_s = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
    rate = capture.get(cv2.CAP_PROP_FPS)
    # Containers without time stamps say 0 for every frame.
    if index and not (math.isfinite(time_s) and time_s > 0):
        time_s = index / rate if math.isfinite(rate) and rate > 0 else float(index)
    return Frame(image, max(time_s, 0.0) if index else 0.0, index)


class _Budget:
    """Counts the pixels of the frames kept, so that a clip cannot fill the memory."""

    def __init__(self, path: Path | str) -> None:
        self._path = path
        self._left = MAX_CLIP_PIXELS

    def spend(self, size: tuple[int, int]) -> None:
        """Raises MediaError where the frames are too many for their size."""
        self._left -= size[0] * size[1]
        if self._left < 0:
            raise MediaError(
                f"{describe(self._path)}: frames of {size[0]} x {size[1]} exceed {MAX_CLIP_PIXELS // 10**6} "
                "megapixels in all; ask for fewer frames"
            )


@contextmanager
def _capture(path: Path | str) -> Iterator[Any]:
    """An open cv2.VideoCapture of a regular file, upright, within the pixel cap."""
    cv2 = _opencv()
    name = describe(path)
    key = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
    with _environment_lock:
        before = os.environ.get(key)
        os.environ[key] = _CAPTURE_OPTIONS
        try:
            # An absolute path cannot be taken for a protocol (`concat:`), nor, with this backend named, for a device.
            capture = cv2.VideoCapture(os.path.abspath(path), cv2.CAP_FFMPEG)
        except (UnicodeError, TypeError) as error:
            raise MediaError(f"{name}: OpenCV cannot take this file name; rename the file") from error
        finally:
            if before is None:
                del os.environ[key]
            else:
                os.environ[key] = before
    try:
        if not capture.isOpened():
            raise MediaError(f"{name}: not a video that can be read, or cut off; give MP4, MOV, MKV, WebM or AVI")
        width, height = capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
        if not width * height <= MAX_PIXELS:
            raise MediaError(f"{name}: frames of {width:.0f} x {height:.0f} are too large; scale the video down")
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        yield capture
    finally:
        capture.release()


@cache
def _opencv() -> Any:
    """OpenCV, and silent: what is wrong with a file is said in one line of ours. A user's own settings stand."""
    chosen = "OPENCV_LOG_LEVEL" in os.environ
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        import cv2
    except ImportError as error:
        raise BackendError(
            f"OpenCV cannot be imported ({' '.join(str(error).split())}); install the system's libgl1, or "
            "'pip install opencv-python-headless' in place of opencv-python"
        ) from error
    if not chosen:
        # OpenCV 4 has it at the top, OpenCV 5 in a module of its own; 0 is LOG_LEVEL_SILENT.
        set_level = cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel
        set_level(0)
    return cv2
