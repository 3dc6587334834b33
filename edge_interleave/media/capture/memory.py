"""Measures the memory of a capture process (OpenCV for a camera, PyAV for a stream), for memory plans.

It is measured, with the clip of the demo, because libraries differ from machine to machine.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from edge_interleave.embedded import DEMO_CLIP, DEMO_CLIP_SIZE
from edge_interleave.media.capture.process import CaptureFailed, CaptureLost, CaptureProcess

_FRAMES = 4
"""The number of frames that are read before measuring."""
_TIMEOUT_S = 60.0
_BYTES_PER_PIXEL = 3 * 3 + 10 * 1.5
"""Three RGB copies of a frame at 3 bytes, and ten decoded frames at 1.5 bytes that a decoder holds."""
_FALLBACK_BYTES = 110_000_000
"""The value for systems that do not report a process's memory: the largest measured on Linux."""


def capture_process_bytes(width: int, height: int, *, camera: bool) -> int:
    """The peak resident bytes of a capture process, for frames of width x height pixels.

    `camera`: True for a camera, False for an address. The first call for each takes half a second.
    """
    return _peak(camera) + int((width * height - math.prod(DEMO_CLIP_SIZE)) * _BYTES_PER_PIXEL)


@lru_cache(maxsize=2)
def _peak(camera: bool) -> int:
    clip: dict[str, Any] = {"file": str(DEMO_CLIP)}
    if not camera:
        options = {"protocol_whitelist": "file"}
        clip = {
            "url": str(DEMO_CLIP),
            "options": options,
            "open_s": _TIMEOUT_S,
            "read_s": _TIMEOUT_S,
            "recorded": False,
        }
    process = CaptureProcess("the demo's clip", clip, _TIMEOUT_S, _TIMEOUT_S)
    try:
        process.start()
        # The process waits after each frame until it is read, so it still runs afterwards.
        for _ in range(_FRAMES):
            process.read()
        return process.peak_memory_bytes or _FALLBACK_BYTES
    except (CaptureFailed, CaptureLost):
        return _FALLBACK_BYTES
    finally:
        process.close()
