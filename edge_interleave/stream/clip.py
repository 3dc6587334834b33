"""A few frames of a finished clip: a video file, an animated picture, or a folder of pictures.

Knows nothing about models or live sources, nor how videos are opened safely (see `capture`).
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import MediaError, UsageError
from ..vision.animation import open_animation
from ..vision.formats import FORMATS
from ..vision.image import MAX_FILE_BYTES, MAX_PIXELS, decoding, describe, open_image, open_regular, to_rgb
from .capture import Capture, open_video
from .frame import Frame
from .pictures import is_picture, picture_names

MAX_CLIP_PIXELS = 4 * MAX_PIXELS
"""All frames of one sample together, about 2 GB as RGB."""
MAX_FRAMES_CLAIMED = 10**8


def sample_clip(path: Path | str, frames: int) -> list[Frame]:
    """Up to `frames` frames, spread evenly from the first to the last, as LLaVA-NeXT samples videos.

    A clip with fewer gives all it has. Pictures of a folder go by their names, in natural order (f2 before f10); a line
    is logged where files of the folder are left out. Pages of a TIFF are frames.
    Raises MediaError where no frame can be had, UsageError where `frames` is less than 1, BackendError where OpenCV
    cannot be imported.
    """
    if frames < 1:
        raise UsageError(f"{frames} frames of a clip make no sense; ask for 1 or more")
    if os.path.isdir(path):
        return _sample_folder(Path(path), frames)
    return _sample_pictures(path, frames) if is_picture(path) else _sample_video(path, frames)


def _spread(count: int, frames: int) -> list[int]:
    """Indices of `frames` of `count` frames: LLaVA-NeXT's linspace, truncated."""
    return [int(index) for index in np.linspace(0, count - 1, min(count, frames), dtype=int)]


def _sample_folder(folder: Path, frames: int) -> list[Frame]:
    names = picture_names(folder)
    if not names:
        raise MediaError(f"{describe(folder)}: no pictures in this folder; give one of {', '.join(FORMATS)}")
    sampled: list[Frame] = []
    budget = _Budget(folder)
    for index in _spread(len(names), frames):
        image = open_image(folder / names[index])
        budget.spend(image.size)
        sampled.append(Frame(image, float(index), index))
    return sampled


def _sample_pictures(path: Path | str, frames: int) -> list[Frame]:
    """Frames of an animation, or pages of a TIFF; a still picture is a clip of one."""
    sampled: list[Frame] = []
    budget = _Budget(path)
    with decoding(describe(path)), open_regular(path, MAX_FILE_BYTES) as file:
        animation = open_animation(file)
        for still in animation.frames(_spread(len(animation), frames)):
            budget.spend(still.image.size)
            sampled.append(Frame(to_rgb(still.image), still.time_s, still.index))
    return sampled


def _sample_video(path: Path | str, frames: int) -> list[Frame]:
    with open_video(path, max_pixels=MAX_PIXELS) as capture:
        sampled = _by_seeking(path, capture, frames)
    return sampled or _by_counting(path, frames)


def _by_seeking(path: Path | str, capture: Capture, frames: int) -> list[Frame] | None:
    """Jump to each frame. None where the container's claims or its seeking turn out wrong: nothing is to be trusted."""
    claimed = capture.claimed_frames
    if not 1 <= claimed <= MAX_FRAMES_CLAIMED:
        return None
    sampled: list[Frame] = []
    budget = _Budget(path)
    for index in _spread(int(claimed), frames):
        if capture.position != index:
            capture.seek(index)
        if not capture.grab() or capture.position != index + 1:
            return None
        frame = _retrieve(capture, index, budget)
        if frame is None or (sampled and frame.time_s <= sampled[-1].time_s):
            return None
        sampled.append(frame)
    # The last frame was read; if there is one more, the claim was too low.
    return None if sampled[-1].index == int(claimed) - 1 and capture.grab() else sampled


def _by_counting(path: Path | str, frames: int) -> list[Frame]:
    """Decode the whole clip twice: to count its frames, and to keep some. Slow, and needs nothing but frames."""
    with open_video(path, max_pixels=MAX_PIXELS) as capture:
        count = 0
        while capture.grab():
            count += 1
    if count == 0:
        raise MediaError(f"{describe(path)}: holds no frame that can be decoded; the file is damaged or cut off")
    wanted = set(_spread(count, frames))
    sampled: list[Frame] = []
    budget = _Budget(path)
    with open_video(path, max_pixels=MAX_PIXELS) as capture:
        for index in range(count):
            if not capture.grab():
                break
            frame = _retrieve(capture, index, budget) if index in wanted else None
            if frame is not None:
                sampled.append(frame)
    if not sampled:
        raise MediaError(f"{describe(path)}: holds no frame that can be decoded; the file is damaged or cut off")
    return sampled


def _retrieve(capture: Capture, index: int, budget: _Budget) -> Frame | None:
    """The frame that was grabbed last."""
    pixels = capture.pixels()
    if pixels is None:
        return None
    budget.spend((pixels.shape[1], pixels.shape[0]))
    return Frame(Image.fromarray(pixels), capture.time_s(index), index)


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
