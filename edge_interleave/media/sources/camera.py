"""The source for this machine's cameras, opened by OpenCV in a capture process."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from PIL import Image

from edge_interleave.errors import MediaError
from edge_interleave.media.capture.process import Captured, CaptureFailed, CaptureLost, CaptureProcess
from edge_interleave.media.frame import Frame
from edge_interleave.media.sources.base import FrameDamaged, SourceLost

OPEN_TIMEOUT_S = 10.0
STALL_S = 5.0
"""A camera without a frame for this long is lost."""


class CameraSource:
    """The frames of camera `number`; times count from the first `open`."""

    def __init__(self, number: int) -> None:
        self.name = f"camera:{number}"
        self.live = True
        self.warms_up = True
        self._number = number
        self._state = threading.Lock()
        self._closed = False
        self._process: CaptureProcess | None = None
        self._began: float | None = None
        self._index = 0

    def open(self) -> None:
        """Start the camera and wait for its first frame. Raises MediaError."""
        process = CaptureProcess(self.name, {"camera": self._number}, OPEN_TIMEOUT_S, STALL_S)
        with self._state:
            if self._closed:
                raise MediaError(f"{self.name}: closed")
            self._process = process
        try:
            process.start()
        except CaptureFailed as error:
            process.close()
            raise MediaError(f"{self.name}: no such camera, or another program uses it; {_hint()}") from error
        if self._began is None:
            self._began = time.monotonic()

    def read(self) -> Frame | None:
        """The next frame. Raises SourceLost, FrameDamaged."""
        if self._closed or self._process is None:
            return None
        captured: Captured | None = None
        cause: CaptureLost | None = None
        try:
            captured = self._process.read()
        except CaptureLost as error:
            cause = error
        if self._closed:
            return None
        if captured is None:
            self._process.close()
            raise SourceLost(f"{self.name}: the camera is gone or sends no more frames; plug it in again") from cause
        index, self._index = self._index, self._index + 1
        if captured.pixels is None:
            raise FrameDamaged(f"{self.name}: frame {index} cannot be decoded")
        return Frame(Image.fromarray(captured.pixels), time.monotonic() - (self._began or 0.0), index)

    def close(self) -> None:
        """Free the camera."""
        with self._state:
            self._closed = True
        if self._process is not None:
            self._process.close()


def _hint() -> str:
    """The end of an error message: what the user can check, or which cameras exist."""
    if sys.platform != "linux":
        return "check the number, and that this program may use the camera"
    found = sorted(int(path.name[5:]) for path in Path("/dev").glob("video*") if path.name[5:].isdigit())
    if not found:
        return "this machine shows no camera (/dev/video*)"
    return f"there are {', '.join(f'camera:{number}' for number in found)}"
