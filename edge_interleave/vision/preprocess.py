"""Resizes and normalises an image to the vision tower's input, as transformers' image processors do.

Pillow resizes 8-bit pixels; then they are scaled to 0..1 and normalised by mean and std. The modes of resizing
(`VisionInfo.resize`): `squash` as in SiglipImageProcessor, `crop` as in CLIPImageProcessor, `pad` as in
LlavaImageProcessor with `do_pad` (`expand2square` in the original code).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from edge_interleave.bundle.manifest import VisionInfo
from edge_interleave.media.pictures.image import open_image
from edge_interleave.util.arrays import FloatArray

RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}
WHOLE_PIXELS = 16_000_000
"""The limit for intermediate images: a larger one is cropped or scaled down first."""


def preprocess(image: Image.Image, info: VisionInfo) -> FloatArray:
    """Convert an image to the tower's input: float32 (3, image_size, image_size), normalised by its mean and std.

    `image`: of any mode and size. Before normalisation, values differ from transformers' image processor by at most
    1/255. Raises MediaError if the image cannot be decoded.
    """
    image = open_image(image)
    size, resample = info.image_size, RESAMPLING[info.resample]
    if info.resize == "pad":
        image = _pad(image, resample, info.mean)
    small = _crop(image, size, resample) if info.resize == "crop" else image.resize((size, size), resample)
    mean, std = np.asarray(info.mean, np.float32), np.asarray(info.std, np.float32)
    pixels: FloatArray = (np.asarray(small, np.float32) * np.float32(1 / 255) - mean) / std
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _pad(image: Image.Image, resample: Image.Resampling, mean: Sequence[float]) -> Image.Image:
    """The image in the middle of a square of the mean colour."""
    long = max(image.size)
    if long * long > WHOLE_PIXELS and image.width != image.height:
        # Without this, a strip of 1 x 170,000,000 pixels would need a square of petabytes.
        scale = math.isqrt(WHOLE_PIXELS) / long
        image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), resample)
        long = max(image.size)
    square = Image.new("RGB", (long, long), tuple(int(value * 255) for value in mean))
    square.paste(image, ((long - image.width) // 2, (long - image.height) // 2))
    return square


def _crop(image: Image.Image, size: int, resample: Image.Resampling) -> Image.Image:
    """Resize the shorter edge to `size`, then keep the middle."""
    short, long = min(image.size), max(image.size)
    new_long = int(size * long / short)
    start = (new_long - size) // 2
    wide = image.width >= image.height
    if size * new_long > WHOLE_PIXELS:
        return _middle(image, size, resample, start * long / new_long, (start + size) * long / new_long)
    if wide:
        return image.resize((new_long, size), resample).crop((start, 0, start + size, size))
    return image.resize((size, new_long), resample).crop((0, start, size, start + size))


def _middle(image: Image.Image, size: int, resample: Image.Resampling, start: float, end: float) -> Image.Image:
    """Resize only the long edge's part from `start` to `end`, with the same result as resizing all of it.

    Without this, an image of 1 x 5000 pixels would first become one of 336 x 1,680,000.
    """
    short, long = min(image.size), max(image.size)
    # The margin of source pixels that matter: Pillow's widest kernel reaches 3 pixels of the smaller image.
    reach = math.ceil(3 * max(1.0, short / size)) + 2
    first, last = max(0, math.floor(start) - reach), min(long, math.ceil(end) + reach)
    if image.width > image.height:
        part, box = image.crop((first, 0, last, short)), (start - first, 0.0, end - first, float(short))
    else:
        part, box = image.crop((0, first, short, last)), (0.0, start - first, float(short), end - first)
    # In two steps, horizontal first, as Pillow resizes a whole image, with rounding to 8 bits after each step.
    rows = part.resize((size, part.height), resample, box=(box[0], 0.0, box[2], float(part.height)))
    return rows.resize((size, size), resample, box=(0.0, box[1], float(size), box[3]))
