"""Imports OpenCV on first use, and silences it."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from edge_interleave.errors import BackendError, one_line
from edge_interleave.util.cpus import quota_limit


@cache
def opencv() -> Any:
    """Return the module `cv2`, with its logging off and its threads within the CPU quota.

    OPENCV_LOG_LEVEL and OPENCV_FFMPEG_LOGLEVEL are respected if the user has set them. Raises BackendError if OpenCV
    cannot be imported.
    """
    chosen = "OPENCV_LOG_LEVEL" in os.environ
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        import cv2
    except ImportError as error:
        raise BackendError(
            f"OpenCV cannot be imported ({one_line(error)}); install the system's libgl1, or "
            "'pip install opencv-python-headless' in place of opencv-python"
        ) from error
    if not chosen:
        # OpenCV 5 moved the function to a submodule. 0 is LOG_LEVEL_SILENT.
        set_level = cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel
        set_level(0)
    if (limit := quota_limit()) is not None:
        cv2.setNumThreads(limit)
    return cv2
