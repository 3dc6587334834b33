"""Runs the capture process: a camera (OpenCV) or network stream (PyAV), read by a child process.

Neither library can be interrupted while it waits for a camera or a server, and a parser of untrusted data may crash.
A child process can be killed at any time, and its handles go with it. It costs about 50 MB for Python, NumPy and the
library, which this process then does not load, and a copy of each frame.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from edge_interleave.errors import MediaError
from edge_interleave.media.capture.worker import DAMAGED, FAILED, FRAME, HEAD
from edge_interleave.util.process_memory import peak_memory_of

MAX_STREAM_PIXELS = 7680 * 4320
"""The largest frame: 8K video."""
_START_S = 20.0
"""How long a slow machine may take to start Python and import OpenCV or PyAV."""


class CaptureFailed(Exception):
    """The camera or stream could not be opened, or sent no first frame in time."""


class CaptureLost(Exception):
    """The process ended, or sent no data in time."""


@dataclass(frozen=True)
class Captured:
    """A frame from the capture process."""

    pixels: npt.NDArray[np.uint8] | None
    """RGB, (height, width, 3); None if the frame cannot be decoded."""
    time_s: float
    """Seconds, by the container's time stamps."""


class CaptureProcess:
    """The child process and its pipe. One thread calls `start` and `read`; any thread may call `close`."""

    def __init__(self, name: str, request: dict[str, Any], open_timeout_s: float, read_timeout_s: float) -> None:
        """`name`: for messages. `request`: what to open, see `capture.worker`. Timeouts in seconds, for each frame."""
        self._name = name
        self._request = request
        self._open_timeout_s = open_timeout_s
        self._read_timeout_s = read_timeout_s
        self._state = threading.Lock()
        self._using = threading.Lock()
        self._closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._first: Captured | None = None

    def start(self) -> None:
        """Start the process and wait for its first frame. Raises CaptureFailed, MediaError if frames are too large."""
        try:
            with self._state:
                if self._closed:
                    raise CaptureFailed
                # With its own session, ctrl-C reaches only this process, which then ends the child. -P: import no
                # modules from the working folder, which may be untrusted.
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "edge_interleave.media.capture.worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                    bufsize=0,
                )
            assert self._process.stdin is not None
            # Sent through the pipe, because addresses may hold passwords and every user can read a program's arguments.
            self._process.stdin.write(json.dumps(self._request).encode() + b"\n")
            self._first = self._record(_START_S + self._open_timeout_s)
        except (OSError, CaptureLost) as error:
            raise CaptureFailed from error
        if self._first is None:
            raise CaptureFailed

    def read(self) -> Captured | None:
        """The next frame; None at the end. Raises CaptureLost, MediaError if frames are too large."""
        first, self._first = self._first, None
        return first if first is not None else self._record(self._read_timeout_s)

    @property
    def peak_memory_bytes(self) -> int:
        """The process's peak resident memory so far; 0 if the system does not report it or the process has ended."""
        return 0 if self._process is None else peak_memory_of(self._process.pid)

    def close(self) -> None:
        """Kill the process. A second call does nothing."""
        with self._state:
            self._closed = True
            process = self._process
        if process is None:
            return
        process.kill()
        with self._using:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        # A process stuck in a driver cannot be killed; leave it to the system.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.5)

    def _record(self, timeout_s: float) -> Captured | None:
        with self._using:
            if self._closed or self._process is None or self._process.stdout is None:
                return None
            pipe = self._process.stdout
            with selectors.DefaultSelector() as selector:
                selector.register(pipe, selectors.EVENT_READ)
                if not selector.select(timeout_s):
                    raise CaptureLost("no data in time")
            kind, time_s, height, width = HEAD.unpack(_exactly(pipe, HEAD.size))
            if kind == DAMAGED:
                return Captured(None, time_s)
            if kind == FAILED:
                raise CaptureFailed
            if kind != FRAME:
                return None
            if not 0 < height * width <= MAX_STREAM_PIXELS:
                raise MediaError(f"{self._name}: frames of {width} x {height} are too large; lower the resolution")
            pixels = np.empty((height, width, 3), np.uint8)
            _fill(pipe, pixels.data.cast("B"))
            return Captured(pixels, time_s)


def _exactly(pipe: IO[bytes], size: int) -> bytes:
    data = bytearray(size)
    _fill(pipe, memoryview(data))
    return bytes(data)


def _fill(pipe: IO[bytes], view: memoryview) -> None:
    while view:
        read = os.readv(pipe.fileno(), [view])
        if read == 0:
            raise CaptureLost("it ended")
        view = view[read:]
