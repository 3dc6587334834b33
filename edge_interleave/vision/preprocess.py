"""A picture to the pixels a vision tower wants, as transformers' image processors make them.

`squash` is SiglipImageProcessor, `crop` is CLIPImageProcessor, `pad` is LlavaImageProcessor with `do_pad` (and
`expand2square` of the original code): 8-bit resize by Pillow, then scale, mean and std. Knows the tower's VisionInfo
and nothing else about it.
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
"""A picture is resized whole before its middle is kept, or made a square, if it then has at most so many pixels."""


def preprocess(image: Image.Image, info: VisionInfo) -> FloatArray:
    """Pixels of shape (3, image_size, image_size), float32, normalised by the tower's mean and std.

    Any mode and size. Equal to transformers' image processor to 1/255 before normalisation. Raises MediaError where
    the image cannot be decoded.
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
    """The picture in the middle of a square of the mean colour."""
    long = max(image.size)
    if long * long > WHOLE_PIXELS and image.width != image.height:
        # A strip of 1 x 170,000,000 would need a square of petabytes.
        scale = math.isqrt(WHOLE_PIXELS) / long
        image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), resample)
        long = max(image.size)
    square = Image.new("RGB", (long, long), tuple(int(value * 255) for value in mean))
    square.paste(image, ((long - image.width) // 2, (long - image.height) // 2))
    return square


def _crop(image: Image.Image, size: int, resample: Image.Resampling) -> Image.Image:
    """The shortest edge becomes `size`, then the middle is kept."""
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
    """The long edge's part from `start` to `end`, the same as if the whole had been resized.

    A picture of 1 x 5000 would otherwise become one of 336 x 1,680,000.
    """
    short, long = min(image.size), max(image.size)
    # The source pixels that count: Pillow's widest kernel reaches 3 pixels, of the smaller of the two pictures.
    reach = math.ceil(3 * max(1.0, short / size)) + 2
    first, last = max(0, math.floor(start) - reach), min(long, math.ceil(end) + reach)
    if image.width > image.height:
        part, box = image.crop((first, 0, last, short)), (start - first, 0.0, end - first, float(short))
    else:
        part, box = image.crop((0, first, short, last)), (0.0, start - first, float(short), end - first)
    # In two steps, since Pillow rounds to 8 bits after each: rows first, as it does for the whole.
    rows = part.resize((size, part.height), resample, box=(box[0], 0.0, box[2], float(part.height)))
    return rows.resize((size, size), resample, box=(0.0, box[1], float(size), box[3]))
