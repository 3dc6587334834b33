"""The process in which OpenCV opens what can block for long: a camera, a network stream. Run by `capture_process`.

Reads one line of JSON from its standard input: {"camera": 0}, {"url": "rtsp://...", "options": "...",
"open_ms": 10000, "read_ms": 10000}, with "recorded": true where the address is that of a file, or {"file": "clip.mp4"}
to see what the process takes. Writes records to its standard output: HEAD (kind, seconds, height, width), and behind
that of a frame its RGB pixels. It ends with the stream, or as soon as its standard input is closed.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import sys
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ..errors import MediaError
from ..parent import end_with_parent
from ..vision.image import MAX_PIXELS
from ..vision.opencv import opencv
from .capture import Capture, hardware_settings, open_video, with_options
from .video_file import FrameClock, PacketDamaged, VideoFile

HEAD = struct.Struct("<cdII")
FRAME, DAMAGED, END, FAILED = b"F", b"D", b"E", b"X"
"""FAILED: it could not be opened, or gave no first frame. END: no more frames."""


def main() -> None:
    """Serve one source."""
    # What libraries print must not get between the records.
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    wanted = json.loads(sys.stdin.buffer.readline())
    end_with_parent()
    with contextlib.suppress(BrokenPipeError):
        (_serve_recording if wanted.get("recorded") else _serve)(wanted, out)
    # No clean-up: a camera or a stream that hangs is freed by the system.
    os._exit(0)


def _serve_recording(wanted: dict[str, Any], out: BinaryIO) -> None:
    """Frames of a video that a server has as a file, read as one on disk is."""
    options = dict(option.split(";", 1) for option in wanted["options"].split("|"))
    timeouts_s = (wanted["open_ms"] / 1000, wanted["read_ms"] / 1000)
    try:
        video = VideoFile.at_address(wanted["url"], "source", options, timeouts_s, MAX_PIXELS)
    except MediaError:
        _send(out, FAILED)
        return
    clock = FrameClock(video)
    sent = False
    while True:
        try:
            frame = video.read()
        except PacketDamaged:
            if sent:
                _send(out, DAMAGED)
            continue
        if frame is None:
            break
        _send(out, FRAME, clock.time_s(frame.pts), np.asarray(video.picture(frame)))
        sent = True
    _send(out, END if sent else FAILED)


def _serve(wanted: dict[str, Any], out: BinaryIO) -> None:
    capture = _opened(wanted, hardware=True)
    pixels = _first(capture)
    if pixels is None and capture is not None and capture.hardware:
        # A hardware decoder may take the stream and then not know its profile.
        capture.release()
        capture = _opened(wanted, hardware=False)
        pixels = _first(capture)
    if capture is None or pixels is None:
        _send(out, FAILED)
        return
    _send(out, FRAME, 0.0, pixels)
    index = 1
    while capture.grab():
        pixels = capture.pixels()
        _send(out, DAMAGED if pixels is None else FRAME, capture.time_s(index), pixels)
        index += 1
    _send(out, END)


def _opened(wanted: dict[str, Any], hardware: bool) -> Capture | None:
    if "file" in wanted:
        return open_video(wanted["file"])
    cv2 = opencv()
    if "camera" in wanted:
        system = {"linux": cv2.CAP_V4L2, "darwin": cv2.CAP_AVFOUNDATION}.get(sys.platform, cv2.CAP_ANY)
        raw = cv2.VideoCapture(wanted["camera"], system)
    else:
        limits = [
            *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, wanted["open_ms"]),
            *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, wanted["read_ms"]),
        ]
        raw = with_options(wanted["options"], wanted["url"], limits + (hardware_settings() if hardware else []))
    return Capture("source", raw) if raw.isOpened() else None


def _first(capture: Capture | None) -> npt.NDArray[np.uint8] | None:
    return capture.pixels() if capture is not None and capture.grab() else None


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
