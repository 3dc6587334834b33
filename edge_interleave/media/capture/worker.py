"""The program of the capture process, which `capture.process` starts: reads a camera (OpenCV) or a stream (PyAV).

Input, one line of JSON on standard input:

    {"camera": 0}
    {"url": "rtsp://...", "options": {...}, "open_s": 10, "read_s": 10, "recorded": false}
    {"file": "clip.mp4"}

`recorded`: whether the address is that of a recording. `file`: only for measuring the process's memory.
Output, on standard output: records of a HEAD (kind, seconds, height, width), followed by the RGB pixels for a FRAME.
The process ends with the stream, or when its standard input is closed.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from edge_interleave.errors import MediaError
from edge_interleave.media.opencv import opencv
from edge_interleave.media.pictures.image import MAX_PIXELS
from edge_interleave.media.video.damage import DamageGate
from edge_interleave.media.video.file import FrameClock, PacketDamaged, VideoFile
from edge_interleave.media.video.opencv_capture import Capture, open_video
from edge_interleave.util.parent_process import end_with_parent

HEAD = struct.Struct("<cdII")
FRAME, DAMAGED, END, FAILED = b"F", b"D", b"E", b"X"
"""The kinds of records. FAILED: the source could not be opened, or has no first frame. END: no more frames."""
_Timed = tuple[float, npt.NDArray[np.uint8] | None]


def main() -> None:
    """Serve one request."""
    # Libraries may print to descriptor 1, which must not mix with the records.
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    request = json.loads(sys.stdin.buffer.readline())
    end_with_parent()
    with contextlib.suppress(BrokenPipeError):
        _serve(request, out)
    # Exits without clean-up, which a hanging camera or stream could block; the system frees the handles.
    os._exit(0)


def _serve(request: dict[str, Any], out: BinaryIO) -> None:
    kind = FAILED
    for time_s, pixels in _stream_frames(request) if "url" in request else _camera_frames(request):
        kind = END
        _send(out, DAMAGED if pixels is None else FRAME, time_s, pixels)
    _send(out, kind)


def _stream_frames(request: dict[str, Any]) -> Iterator[_Timed]:
    """Frames that FFmpeg decodes. Damaged frames of a live stream are dropped; a recording is read like a file."""
    timeouts_s = (request["open_s"], request["read_s"])
    gate = None if request["recorded"] else DamageGate()
    try:
        video = VideoFile.at_address(request["url"], "source", request["options"], timeouts_s, MAX_PIXELS, gate)
    except MediaError:
        return
    clock = FrameClock(video)
    time_s, sent = 0.0, False
    while True:
        try:
            frame = video.read()
        except PacketDamaged:
            # A recording without a single usable frame counts as one that cannot be opened.
            if sent or gate is not None:
                yield time_s, None
            continue
        if frame is None:
            return
        time_s, sent = clock.time_s(frame.pts), True
        yield time_s, np.asarray(video.picture(frame))


def _camera_frames(request: dict[str, Any]) -> Iterator[_Timed]:
    if "file" in request:
        capture = open_video(request["file"])
    else:
        cv2 = opencv()
        system = {"linux": cv2.CAP_V4L2, "darwin": cv2.CAP_AVFOUNDATION}.get(sys.platform, cv2.CAP_ANY)
        raw = cv2.VideoCapture(request["camera"], system)
        if not raw.isOpened():
            return
        capture = Capture("source", raw)
    index = 0
    while capture.grab():
        yield capture.time_s(index), capture.pixels()
        index += 1


def _send(out: BinaryIO, kind: bytes, time_s: float = 0.0, pixels: npt.NDArray[np.uint8] | None = None) -> None:
    height, width = (0, 0) if pixels is None else pixels.shape[:2]
    _write(out, memoryview(HEAD.pack(kind, time_s, height, width)))
    if pixels is not None:
        _write(out, np.ascontiguousarray(pixels).data.cast("B"))


def _write(out: BinaryIO, data: memoryview) -> None:
    while data:
        data = data[out.write(data) :]


if __name__ == "__main__":
    main()
