"""A picture to the pixels a vision tower wants, as transformers' image processors make them.

`squash` is SiglipImageProcessor, `crop` is CLIPImageProcessor: 8-bit resize by Pillow, then scale, mean and std. Knows
the tower's VisionInfo and nothing else about it.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from ..bundle import VisionInfo
from ..decoder import FloatArray
from .image import open_image

RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}
_LONG_MAX = 16
"""Times the image size that the long edge may become before only the part that the crop keeps is resized."""


def preprocess(image: Image.Image, info: VisionInfo) -> FloatArray:
    """Pixels of shape (3, image_size, image_size), float32, normalised by the tower's mean and std.

    Any mode and size. Equal to transformers' image processor to 1/255 before normalisation. Raises MediaError where
    the image cannot be decoded.
    """
    image = open_image(image)
    size, resample = info.image_size, RESAMPLING[info.resample]
    small = _crop(image, size, resample) if info.resize == "crop" else image.resize((size, size), resample)
    mean, std = np.asarray(info.mean, np.float32), np.asarray(info.std, np.float32)
    pixels: FloatArray = (np.asarray(small, np.float32) * np.float32(1 / 255) - mean) / std
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _crop(image: Image.Image, size: int, resample: Image.Resampling) -> Image.Image:
    """The shortest edge becomes `size`, then the middle is kept."""
    short, long = min(image.size), max(image.size)
    new_long = int(size * long / short)
    start = (new_long - size) // 2
    if new_long > _LONG_MAX * size:
        # A picture of 1 x 5000 would become one of 336 x 1,680,000. Resizing a box is the same sum over the same
        # source pixels; its edges are single precision, hence not the way for every picture.
        box = (start * long / new_long, 0.0, (start + size) * long / new_long, float(short))
        left, top, right, bottom = box
        wide = image.width > image.height
        return image.resize((size, size), resample, box=box if wide else (top, left, bottom, right))
    if image.width >= image.height:
        return image.resize((new_long, size), resample).crop((start, 0, start + size, size))
    return image.resize((size, new_long), resample).crop((0, start, size, start + size))
