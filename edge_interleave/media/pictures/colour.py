"""Colours as sRGB: applies the ICC profile that a picture brings.

A profile that is damaged, of a kind that does not describe pictures, or made for another colour space than the picture
has, is ignored, as browsers do: the picture is then taken as it is.
"""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

MAX_PROFILE_BYTES = 16 << 20
"""The largest printer profiles have a few megabytes."""
_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab ": "LAB"}
"""Colour spaces as ICC.1 names them, and the Pillow modes that hold them."""
_CLASSES = ("mntr", "scnr", "prtr", "spac")
"""Monitor, scanner, printer and colour space: the profile classes that describe a picture's colours."""
_UNSEEN = 2
"""A profile that changes no colour by more than this many of 255 steps is sRGB itself, and changes nothing."""


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The picture in sRGB, mode RGB; or the picture itself where the profile says nothing about it.

    `image`: mode RGB, L, CMYK or LAB, without transparency. `profile`: an ICC profile's bytes.
    """
    if not profile or len(profile) > MAX_PROFILE_BYTES:
        return image
    transform = _transform(bytes(profile), image.mode)
    return image if transform is None else transform.apply(image)


@lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        described = opened.profile
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        if described.device_class.strip() not in _CLASSES or _MODES.get(described.xcolor_space) != mode:
            return None
        transform = ImageCms.ImageCmsTransform(opened, srgb, mode, "RGB")
        return None if mode == "RGB" and _is_identity(transform) else transform
    # Whatever LittleCMS and Pillow's wrapper find wrong in a stranger's profile.
    except Exception:
        return None


def _is_identity(transform: ImageCms.ImageCmsTransform) -> bool:
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    colours = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(1, -1, 3)
    shown = np.asarray(transform.apply(Image.fromarray(colours)))
    return int(np.abs(shown.astype(int) - colours).max()) <= _UNSEEN
