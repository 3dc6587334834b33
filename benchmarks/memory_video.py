"""Writes a video of a moving disc, for measurements."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def write_video(path: Path, size: tuple[int, int], frames: int, codec: str = "MJPG") -> Path:
    """Write a disc that crosses a grey field, at 25 frames a second. `size`: width and height in pixels."""
    import cv2

    width, height = size
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 25.0, size)
    for index in range(frames):
        picture = np.full((height, width, 3), 40, np.uint8)
        cv2.circle(picture, (width * index // frames, height // 2), height // 5, (0, 0, 255), -1)
        writer.write(picture)
    writer.release()
    return path
