"""The process that opens what can block for long: a camera (OpenCV), a network stream (PyAV). Run by `capture_process`.

Reads one line of JSON from its standard input: {"camera": 0}, {"url": "rtsp://...", "options": {...},
"open_s": 10, "read_s": 10, "recorded": false} ("recorded": the address is that of a file), or {"file": "clip.mp4"} to
see what the process takes. Writes records to its standard output: HEAD (kind, seconds, height, width), and behind that
of a frame its RGB pixels. It ends with the stream, or as soon as its standard input is closed.
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
"""FAILED: it could not be opened, or gave no first frame. END: no more frames."""
_Timed = tuple[float, npt.NDArray[np.uint8] | None]


def main() -> None:
    """Serve one source."""
    # What libraries print must not get between the records.
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    wanted = json.loads(sys.stdin.buffer.readline())
    end_with_parent()
    with contextlib.suppress(BrokenPipeError):
        _serve(wanted, out)
    # No clean-up: a camera or a stream that hangs is freed by the system.
    os._exit(0)


def _serve(wanted: dict[str, Any], out: BinaryIO) -> None:
    kind = FAILED
    for time_s, pixels in _streamed(wanted) if "url" in wanted else _captured(wanted):
        kind = END
        _send(out, DAMAGED if pixels is None else FRAME, time_s, pixels)
    _send(out, kind)


def _streamed(wanted: dict[str, Any]) -> Iterator[_Timed]:
    """Frames that FFmpeg decodes: of a recording as it decodes a file, of a live stream those that are whole."""
    timeouts_s = (wanted["open_s"], wanted["read_s"])
    gate = None if wanted["recorded"] else DamageGate()
    try:
        video = VideoFile.at_address(wanted["url"], "source", wanted["options"], timeouts_s, MAX_PIXELS, gate)
    except MediaError:
        return
    clock = FrameClock(video)
    time_s, sent = 0.0, False
    while True:
        try:
            frame = video.read()
        except PacketDamaged:
            # A recording of nothing but damage counts as one that cannot be opened.
            if sent or gate is not None:
                yield time_s, None
            continue
        if frame is None:
            return
        time_s, sent = clock.time_s(frame.pts), True
        yield time_s, np.asarray(video.picture(frame))


def _captured(wanted: dict[str, Any]) -> Iterator[_Timed]:
    if "file" in wanted:
        capture = open_video(wanted["file"])
    else:
        cv2 = opencv()
        system = {"linux": cv2.CAP_V4L2, "darwin": cv2.CAP_AVFOUNDATION}.get(sys.platform, cv2.CAP_ANY)
        raw = cv2.VideoCapture(wanted["camera"], system)
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
