"""Frames of a video that came in a request.

FFmpeg only opens regular files (`edge_interleave.media.video.file`), so the content is in a temporary file while its
frames are decoded.
"""

from __future__ import annotations

import tempfile

from edge_interleave.errors import MediaError
from edge_interleave.media.clip import sample_clip
from edge_interleave.media.frame import Frame
from edge_interleave.media.pictures.image import open_image
from edge_interleave.media.video.file import VideoFile
from edge_interleave.serve.content import Clip

_NAME = "the video"


def clip_frames(clip: Clip, frames: int, most: int) -> tuple[Frame, ...]:
    """Evenly spaced RGB frames of a clip: its own number of frames, or its `fps`, or `frames` if it sets neither.

    Raises MediaError if it has no frames, or if more than `most` are wanted.
    """
    if clip.is_frames:
        # The client has already sampled a clip of single frames. They have no times: each counts as a second.
        wanted = min(clip.frames or len(clip.pieces), len(clip.pieces))
        last = len(clip.pieces) - 1
        chosen = [at * last // max(1, wanted - 1) for at in range(wanted)]
        return tuple(Frame(open_image(clip.pieces[index]), float(index), index) for index in chosen)
    with tempfile.NamedTemporaryFile(prefix="edge-interleave-") as file:
        file.write(clip.pieces[0])
        file.flush()
        try:
            wanted = clip.frames or (_count(file.name, clip.fps) if clip.fps else frames)
            if wanted > most:
                raise MediaError(f"{_NAME}: {wanted} frames are more than {most}; ask for fewer, or a lower fps")
            return tuple(sample_clip(file.name, wanted))
        except MediaError as error:
            raise MediaError(str(error).replace(file.name, _NAME)) from error


def _count(path: str, fps: float) -> int:
    """Number of frames that a video has at `fps`. Raises MediaError if it has no timestamps."""
    with VideoFile(path) as video:
        table = video.timetable()
        if table is None or not table.times:
            raise MediaError(f"{_NAME}: it does not say when its frames are shown; give frames instead of fps")
        return int(video.seconds(table.times[-1] - table.times[0]) * fps) + 1
