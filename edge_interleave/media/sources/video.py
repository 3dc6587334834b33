"""The source for video files: plays at the video's own speed, or as fast as its frames are taken."""

from __future__ import annotations

import threading
from pathlib import Path

from edge_interleave.errors import MediaError
from edge_interleave.media.frame import Frame
from edge_interleave.media.pictures.folder import is_picture
from edge_interleave.media.pictures.image import MAX_PIXELS
from edge_interleave.media.sources.base import FrameDamaged
from edge_interleave.media.sources.playback import PlaybackClock
from edge_interleave.media.video.file import FrameClock, PacketDamaged, VideoFile
from edge_interleave.util.regular_file import display_name


class VideoSource:
    """All frames of a video, in order."""

    def __init__(self, path: Path, *, realtime: bool = False) -> None:
        self.name = display_name(path)
        self.live = realtime
        self.recorded = True
        self._path = path
        self._video: VideoFile | None = None
        self._clock: FrameClock | None = None
        self._closed = threading.Event()
        self._playback = PlaybackClock(self._closed) if realtime else None
        self._index = 0
        self._read_one = False

    def open(self) -> None:
        """Open the file. Raises MediaError if it is not a video."""
        if is_picture(self._path):
            raise MediaError(f"{self.name}: a picture, not a video; give a video, or a folder of pictures")
        video = VideoFile(self._path, MAX_PIXELS)
        self._video, self._clock = video, FrameClock(video)
        if self._closed.is_set():
            video.close()

    def read(self) -> Frame | None:
        """The next frame; None at the end. Raises FrameDamaged, MediaError if the video has no usable frame at all."""
        video, clock = self._video, self._clock
        if video is None or clock is None:
            return None
        index = self._index
        try:
            frame = video.read()
        except PacketDamaged as error:
            self._index += 1
            raise FrameDamaged(f"{self.name}: frame {index} cannot be decoded; the file is damaged there") from error
        if self._closed.is_set():
            return None
        if frame is None:
            if self._read_one:
                return None
            raise MediaError(f"{self.name}: holds no frame that can be decoded; the file is damaged or cut off")
        self._index += 1
        self._read_one = True
        found = Frame(video.picture(frame), clock.time_s(frame.pts), index)
        if self._playback is not None:
            self._playback.wait(found.time_s)
        return found

    def close(self) -> None:
        """Free the file."""
        self._closed.set()
        if self._video is not None:
            self._video.close()
