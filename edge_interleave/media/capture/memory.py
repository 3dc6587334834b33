"""What the process takes that reads a camera (OpenCV) or a stream (PyAV). Measured on the demo's clip, which lies in
the package: libraries differ from machine to machine. Knows nothing about budgets.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from edge_interleave.embedded import DEMO_CLIP, DEMO_CLIP_SIZE
from edge_interleave.media.capture.process import CaptureFailed, CaptureLost, CaptureProcess

_FRAMES = 4
"""So many are read before it is measured."""
_TIMEOUT_S = 60.0
_BYTES_A_PIXEL = 3 * 3 + 10 * 1.5
"""Three copies of a picture at 3 bytes, and ten that a decoder keeps at 1.5."""
_ELSEWHERE = 110_000_000
"""Where the system does not say: the most that was seen on Linux."""


def capture_bytes(width: int, height: int, *, camera: bool) -> int:
    """Bytes resident at the peak, with frames of so many pixels. Takes half a second, once.

    `camera`: of a camera, rather than of an address.
    """
    return _peak(camera) + int((width * height - math.prod(DEMO_CLIP_SIZE)) * _BYTES_A_PIXEL)


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
        # It writes one frame at a time and waits, so that it is still there after each.
        for _ in range(_FRAMES):
            process.read()
        return process.peak_memory_bytes or _ELSEWHERE
    except (CaptureFailed, CaptureLost):
        return _ELSEWHERE
    finally:
        process.close()
