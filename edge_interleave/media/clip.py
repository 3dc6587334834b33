"""Samples a few frames, evenly spread, of a video file, an animation, a multi-page TIFF or a folder of pictures."""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge_interleave.errors import MediaError, UsageError
from edge_interleave.media.files import open_media_file
from edge_interleave.media.frame import Frame
from edge_interleave.media.pictures.animation import open_animation
from edge_interleave.media.pictures.folder import is_picture, picture_names
from edge_interleave.media.pictures.formats import FORMATS
from edge_interleave.media.pictures.image import MAX_FILE_BYTES, MAX_PIXELS, decoding, open_image, to_rgb
from edge_interleave.media.video.file import FrameClock, PacketDamaged, Timetable, VideoFile
from edge_interleave.util.regular_file import display_name

if TYPE_CHECKING:
    import av

MAX_CLIP_PIXELS = 4 * MAX_PIXELS
"""The limit for all frames of one clip together, about 2 GB as RGB."""


def sample_clip(path: Path | str, frames: int) -> list[Frame]:
    """Sample up to `frames` frames, evenly spaced from the first to the last, as LLaVA-NeXT samples videos.

    A shorter clip gives all its frames. A folder's pictures are sorted by name in natural order (f2 before f10);
    files that are left out are logged. Each page of a TIFF is a frame.
    Raises MediaError if no frame can be decoded or the frames are too large in total, UsageError if `frames` is less
    than 1, BackendError if PyAV cannot be imported.
    """
    if frames < 1:
        raise UsageError(f"a clip cannot be sampled to {frames} frames; ask for 1 or more")
    if os.path.isdir(path):
        return _sample_folder(Path(path), frames)
    return _sample_pictures(path, frames) if is_picture(path) else _sample_video(path, frames)


def _spread(count: int, frames: int) -> list[int]:
    """The indices of at most `frames` of `count` frames: LLaVA-NeXT's linspace, truncated to whole numbers."""
    return [int(index) for index in np.linspace(0, count - 1, min(count, frames), dtype=int)]


def _sample_folder(folder: Path, frames: int) -> list[Frame]:
    names = picture_names(folder)
    if not names:
        raise MediaError(f"{display_name(folder)}: no pictures in this folder; give one of {', '.join(FORMATS)}")
    sampled: list[Frame] = []
    budget = _Budget(folder)
    for index in _spread(len(names), frames):
        image = open_image(folder / names[index])
        budget.spend(image.size)
        sampled.append(Frame(image, float(index), index))
    return sampled


def _sample_pictures(path: Path | str, frames: int) -> list[Frame]:
    """Frames of an animation or pages of a TIFF; a still picture has one."""
    sampled: list[Frame] = []
    budget = _Budget(path)
    with decoding(display_name(path)), open_media_file(path, MAX_FILE_BYTES) as file:
        animation = open_animation(file)
        for still in animation.frames(_spread(len(animation), frames)):
            budget.spend(still.image.size)
            sampled.append(Frame(to_rgb(still.image), still.time_s, still.index))
    return sampled


def _sample_video(path: Path | str, frames: int) -> list[Frame]:
    with VideoFile(path, MAX_PIXELS) as video:
        table = video.timetable()
    sampled = None if table is None else _by_time(path, table, frames)
    return sampled or _by_counting(path, frames)


def _by_time(path: Path | str, table: Timetable, frames: int) -> list[Frame] | None:
    """Seek to each frame by its time. None if the timetable is wrong: a frame has another time."""
    sampled: list[Frame] = []
    budget = _Budget(path)
    with VideoFile(path, MAX_PIXELS) as video:
        # `at`: the index of the next frame to read. `sure_from`: that of the last key frame sought; `read` may return
        # earlier frames first.
        at, sure_from = 0, 0
        for index in _spread(len(table.times), frames):
            before = bisect_right(table.keys, table.times[index]) - 1
            key = bisect_left(table.times, table.keys[before]) if before >= 0 else 0
            if key > at:
                video.seek(table, table.keys[before])
                at, sure_from = key, key
            frame = None
            while at <= index:
                frame = _next(video)
                if frame is None or frame.pts is None:
                    return None
                if frame.pts < table.times[sure_from]:
                    continue
                if frame.pts != table.times[at]:
                    return None
                at += 1
            if frame is None:
                return None
            time_s = video.seconds(table.times[index] - table.times[0])
            sampled.append(_frame(video, frame, time_s, index, budget))
    return sampled


def _by_counting(path: Path | str, frames: int) -> list[Frame]:
    """Decode the whole clip twice: first to count its frames, then to keep some. Slow, but needs no time stamps."""
    with VideoFile(path, MAX_PIXELS) as video:
        count = 0
        while _next(video) is not None:
            count += 1
    if count == 0:
        raise MediaError(f"{display_name(path)}: holds no frame that can be decoded; the file is damaged or cut off")
    wanted = set(_spread(count, frames))
    sampled: list[Frame] = []
    budget = _Budget(path)
    with VideoFile(path, MAX_PIXELS) as video:
        clock = FrameClock(video)
        for index in range(count):
            frame = _next(video)
            if frame is None:
                break
            time_s = clock.time_s(frame.pts)
            if index in wanted:
                sampled.append(_frame(video, frame, time_s, index, budget))
    return sampled


def _next(video: VideoFile) -> av.VideoFrame | None:
    """The next frame that can be decoded; None at the end."""
    while True:
        try:
            return video.read()
        except PacketDamaged:
            continue


def _frame(video: VideoFile, frame: av.VideoFrame, time_s: float, index: int, budget: _Budget) -> Frame:
    budget.spend((frame.width, frame.height))
    return Frame(video.picture(frame), time_s, index)


class _Budget:
    """Counts the pixels of the sampled frames, so that a clip cannot exhaust memory."""

    def __init__(self, path: Path | str) -> None:
        self._path = path
        self._left = MAX_CLIP_PIXELS

    def spend(self, size: tuple[int, int]) -> None:
        """Count a frame of (width, height) pixels. Raises MediaError once the total exceeds MAX_CLIP_PIXELS."""
        self._left -= size[0] * size[1]
        if self._left < 0:
            raise MediaError(
                f"{display_name(self._path)}: frames of {size[0]} x {size[1]} exceed {MAX_CLIP_PIXELS // 10**6} "
                "megapixels in total; ask for fewer frames"
            )
