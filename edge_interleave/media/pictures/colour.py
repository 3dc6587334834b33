"""Converts a picture's colours to sRGB by its ICC profile.

As in browsers, a profile is ignored if it is damaged, of a class that does not describe pictures, or made for another
colour space than the picture's.
"""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

MAX_PROFILE_BYTES = 16 << 20
"""Larger profiles are ignored; the largest printer profiles have a few megabytes."""
_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab ": "LAB"}
"""Pillow's modes by the colour spaces' names in ICC.1."""
_CLASSES = ("mntr", "scnr", "prtr", "spac")
"""The profile classes that describe a picture's colours: monitor, scanner, printer, colour space."""
_UNSEEN = 2
"""A profile counts as sRGB, and is not applied, if it changes no colour value (0..255) by more than this."""


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The picture in sRGB, mode RGB; the picture itself if there is no profile that applies.

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
    # LittleCMS and Pillow's wrapper raise various types for a damaged profile.
    except Exception:
        return None


def _is_identity(transform: ImageCms.ImageCmsTransform) -> bool:
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    colours = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(1, -1, 3)
    shown = np.asarray(transform.apply(Image.fromarray(colours)))
    return int(np.abs(shown.astype(int) - colours).max()) <= _UNSEEN
