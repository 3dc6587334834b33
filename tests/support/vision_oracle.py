"""Computes pixels, tiles and pooling with transformers and PyTorch, as the oracle of comparisons."""

from __future__ import annotations

import numpy as np
from PIL import Image

MEAN_STD = {
    "squash": ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
    "crop": ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
    "pad": ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
}
TILED_SIDES = (1, 2, 37, 383, 384, 385, 500, 640, 768, 769, 1000, 1152, 1153, 1411, 2000, 3000, 5000)
CANDIDATES = [[1, 2], [2, 1], [2, 2], [3, 1], [1, 3]]


def tokens(n: int, grid: int, hidden: int) -> np.ndarray:
    """Visual tokens by formula, float32 (n, grid * grid, hidden)."""
    count = n * grid * grid * hidden
    return (
        (np.sin(np.arange(count) * 1.7) * 3 + np.cos(np.arange(count) * 0.013))
        .astype(np.float32)
        .reshape(n, grid * grid, hidden)
    )


def pixels(image: Image.Image, resize: str, size: int, resample: int = 3) -> np.ndarray:
    """The image processor's pixels before normalisation: uint8 (3, size, size)."""
    return levels(processor(resize, size, resample)(image, return_tensors="np")["pixel_values"][0], resize)


def levels(values: np.ndarray, resize: str) -> np.ndarray:
    """Undo mean and std: normalised float32 (3, h, w) to uint8."""
    mean, std = (np.array(triple, np.float64)[:, None, None] for triple in MEAN_STD[resize])
    return np.round((values * std + mean) * 255).astype(np.uint8)


def processor(resize: str, size: int, resample: int = 3):
    from transformers import CLIPImageProcessorPil, LlavaImageProcessorPil, SiglipImageProcessorPil

    square = {"height": size, "width": size}
    if resize == "squash":
        return SiglipImageProcessorPil(size=square, resample=resample)
    if resize == "pad":
        return LlavaImageProcessorPil(size={"shortest_edge": size}, crop_size=square, resample=resample, do_pad=True)
    return CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size=square, resample=resample)


def tiled(image: Image.Image, side: int) -> np.ndarray:
    """LLaVA-NeXT's overview and tiles, without normalisation: uint8 (parts, 3, side, side)."""
    from transformers import LlavaNextImageProcessorPil

    square = {"height": side, "width": side}
    make = LlavaNextImageProcessorPil(
        size=square,
        crop_size=square,
        do_center_crop=False,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        image_grid_pinpoints=[[rows * side, columns * side] for rows, columns in CANDIDATES],
    )
    return np.stack([levels(part, "squash") for part in make(image, return_tensors="np")["pixel_values"][0]])


def tile_grid(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(columns, rows) of select_best_resolution for (width, height)."""
    from transformers.image_processing_utils import select_best_resolution

    candidates = [(rows * side, columns * side) for rows, columns in CANDIDATES]
    height, width = select_best_resolution((size[1], size[0]), candidates)
    return width // side, height // side


def pooled(rows: np.ndarray, grid: int, stride: int, mode: str) -> np.ndarray:
    """LLaVA-NeXT's get_2dPool with PyTorch's functions: float32 (n, side * side, hidden)."""
    import torch
    from torch.nn import functional

    torch.set_num_threads(1)
    n, _, hidden = rows.shape
    cells = torch.from_numpy(rows).view(n, grid, grid, hidden).permute(0, 3, 1, 2).contiguous()
    if mode == "average":
        cells = functional.avg_pool2d(cells, stride)
    elif mode == "max":
        cells = functional.max_pool2d(cells, stride)
    else:
        side = -(-grid // stride)
        cells = functional.interpolate(cells, size=(side, side), mode="bilinear")
    return cells.permute(0, 2, 3, 1).reshape(n, -1, hidden).numpy()
