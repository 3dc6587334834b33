"""Encodes images to visual tokens: tiles, preprocess, tower, pooling, merge, and a cache.

The cache holds pooled visual tokens rather than the tower's full grid, because a conversation or a live window keeps
its stride, and at stride 2 four times as many images fit. If it holds an image's full grid (from a question at stride
1), that grid is pooled instead of running the tower again.
"""

from __future__ import annotations

import math
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from PIL import Image

from edge_interleave.bundle.manifest import FRAME, GRID, ONE_TOKEN, TilingInfo, VisionInfo
from edge_interleave.util.arrays import FloatArray
from edge_interleave.util.engine_lock import EngineLock
from edge_interleave.util.progress import QuestionProgress
from edge_interleave.vision.cache import CacheKey, EmbeddingCache, cache_key
from edge_interleave.vision.merge import merge, merged_tokens, most_merged_tokens
from edge_interleave.vision.pooling import check_stride, frame_grid, pool, pooled_grid
from edge_interleave.vision.preprocess import preprocess
from edge_interleave.vision.tiles import ON_REQUEST, split_tiles, tile_grid

STOPPED = "the vision encoder is stopped; open another one"


@dataclass(frozen=True)
class PictureOptions:
    """How one picture is encoded."""

    tiles: bool = False
    """Split the picture into an overview and tiles, as `VisionInfo.tiling` says, otherwise by `tiles.ON_REQUEST`."""
    ends: bool = True
    """Whether `image_newline` follows a picture without tiles, if the model has one."""
    rows: bool = False
    """Whether `image_newline` follows each row of the grid of a picture without tiles, if the model has one."""
    frame: bool = False
    """The picture is a frame of a video: it is resized and pooled as `VisionInfo.video` says."""


_WHOLE = PictureOptions()


def frame_options(vision: VisionInfo, *, last: bool) -> PictureOptions:
    """How a frame is encoded, by the model's rule for video; a model without a rule sees an image.

    `last`: whether the row that ends a whole video follows the frame.
    """
    if vision.video is None:
        return _WHOLE
    place = vision.video.newline
    return PictureOptions(ends=place == FRAME or (place == ONE_TOKEN and last), rows=place == GRID, frame=True)


class Tower(Protocol):
    """The vision tower with its projector."""

    @property
    def provider(self) -> str:
        """The name of ONNX Runtime's execution provider."""
        ...

    def encode(self, pixels: FloatArray, cancel: threading.Event | None = None) -> FloatArray:
        """Pixels, float32 (n, 3, H, W), to visual tokens, float32 (n, `VisionInfo.tokens`, hidden).

        Raises UsageError, in the middle of an image, when `cancel` is set.
        """
        ...

    def encode_frames(self, pixels: FloatArray, cancel: threading.Event | None = None) -> FloatArray:
        """As `encode`, for frames that the tower pools before the projector: (n, pooled grid's tokens, hidden)."""
        ...

    def stop(self) -> None:
        """Make `encode`, running or later, raise UsageError at once. Any thread may call it."""
        ...


class ImageEncoder:
    """Encodes images to visual tokens, equal images only once.

    Any thread may call it; `encode` serves one caller at a time. Several encoders may share a cache.
    """

    def __init__(
        self,
        tower: Tower,
        info: VisionInfo,
        pooling_mode: str,
        cache: EmbeddingCache | None = None,
        identity: str | None = None,
        newline: FloatArray | None = None,
    ) -> None:
        """Wrap an open tower.

        `pooling_mode`: one of POOLING_MODES. `cache`: None for one of its own. `identity`: the tower's name in a shared
        cache, such as the SHA-256 of `vision.onnx`; without it, encoders do not share entries. `newline`: the row
        `image_newline`, float32 (hidden,), if the model was trained with it (see `merge`).
        Raises UsageError for an unknown pooling mode.
        """
        pooled_grid(info.grid, 1, pooling_mode)
        self.info = info
        self.pooling_mode = pooling_mode
        self.cache = EmbeddingCache() if cache is None else cache
        self.encode_seconds = 0.0
        """Total time spent in `encode`."""
        self.images_encoded = 0
        """Total number of tower runs: one for each image, overview and tile that was not cached."""
        self._tower = tower
        self._engine = EngineLock(tower.stop)
        self._newline = newline
        self._identity = uuid.uuid4().hex if identity is None else identity

    @property
    def provider(self) -> str:
        """The name of ONNX Runtime's execution provider that runs the tower."""
        return self._tower.provider

    def encode(
        self,
        images: Sequence[Image.Image],
        *,
        stride: int = 1,
        options: PictureOptions | Sequence[PictureOptions] = _WHOLE,
        progress: QuestionProgress | None = None,
        cancel: threading.Event | None = None,
    ) -> list[FloatArray]:
        """Visual tokens of each image, float32 (tokens, hidden), read-only, in order.

        `stride`: pooling stride. `options`: how each image is encoded, or one for all. `progress`: called before each
        run of the tower. `cancel`: aborts the encoding, in the middle of an image, when it is set.
        Raises UsageError for a stride that the model cannot pool by, when cancelled, once stopped, and in a
        forked child; MediaError for an image that cannot be decoded.
        """
        check_stride(self.info, stride)
        pooled_grid(self.info.grid, stride, self.pooling_mode)
        with self._engine:
            started = time.perf_counter()
            try:
                each = [options] * len(images) if isinstance(options, PictureOptions) else options
                return self._encode(images, stride, each, progress, cancel)
            finally:
                self.encode_seconds += time.perf_counter() - started

    def encode_frame(self, image: Image.Image, stride: int = 1) -> FloatArray:
        """Visual tokens of a frame of a live window, as `encode`, by the model's rule for video.

        Without the row that follows the last frame (`VisionInfo.row_after_video`). Errors as `encode`.
        """
        return self.encode([image], stride=stride, options=frame_options(self.info, last=False))[0]

    def tokens_for_frame(self, stride: int) -> int:
        """The number of visual tokens that `encode_frame` returns."""
        return self.tokens_for(stride=stride, options=frame_options(self.info, last=False))

    def tokens_for(self, image: Image.Image | None = None, stride: int = 1, options: PictureOptions = _WHOLE) -> int:
        """The number of visual tokens that `encode` returns for an image; for None, an upper bound over all images."""
        check_stride(self.info, stride)
        grid, stride = self._grid(stride, options)
        side, newline = pooled_grid(grid, stride, self.pooling_mode), self._newline is not None
        dropped = int(self.info.first_patch_dropped)
        if not options.tiles:
            return side * side - dropped + newline * (options.ends + options.rows * side)
        if image is None:
            return max(side * side + newline, most_merged_tokens(side, self._tiling, newline=newline))
        tiles = tile_grid(image.size, self.info.image_size, self._tiling)
        parts = 1 if tiles is None else 1 + tiles[0] * tiles[1]
        tokens = merged_tokens(side, image.size, tiles, newline=newline, most_tiles=self._tiling.most_tiles)
        return tokens - dropped * parts

    def stop(self, reason: str = STOPPED) -> None:
        """Make `encode`, running or later, raise UsageError(reason), even in the middle of an image.

        Any thread may call it. Returns when no thread encodes any more. Does nothing in a forked child.
        """
        self._engine.close(reason, lambda: None)

    @property
    def newline(self) -> FloatArray | None:
        """The row `image_newline`, float32 (hidden,), if the model was trained with it."""
        return self._newline

    @property
    def _tiling(self) -> TilingInfo:
        return self.info.tiling or ON_REQUEST

    def _encode(
        self,
        images: Sequence[Image.Image],
        stride: int,
        options: Sequence[PictureOptions],
        progress: QuestionProgress | None,
        cancel: threading.Event | None,
    ) -> list[FloatArray]:
        done: dict[CacheKey, FloatArray] = {}
        keys: list[list[CacheKey]] = []
        for number, (image, option) in enumerate(zip(images, options, strict=True)):
            keys.append([])
            parts, info = self._parts(image, option)
            inside, pooling = self._pooled_inside(option), self._grid(stride, option)[1]
            for part in parts:
                pixels = preprocess(part, info)
                key = cache_key(pixels, self._identity, pooling, self.pooling_mode, frame=inside)
                keys[-1].append(key)
                if key in done:
                    continue
                held = self._held(key)
                if held is None and progress is not None:
                    progress("encode", number, len(images))
                done[key] = self._through_tower(key, pixels, cancel) if held is None else held
        merged = []
        for image, of_image, option in zip(images, keys, options, strict=True):
            grid = tile_grid(image.size, self.info.image_size, self._tiling) if len(of_image) > 1 else None
            parts_tokens = [done[key] for key in of_image]
            most, ends, rows = self._tiling.most_tiles, option.ends, option.rows
            merged.append(merge(parts_tokens, image.size, grid, self._newline, most_tiles=most, ends=ends, rows=rows))
        return merged

    def _pooled_inside(self, option: PictureOptions) -> bool:
        """Whether the tower pools a picture, before the projector."""
        return option.frame and self.info.video is not None and self.info.video.before_projector

    def _grid(self, stride: int, option: PictureOptions) -> tuple[int, int]:
        """The side of the grid that the tower gives for a picture, and the stride by which to pool it."""
        return frame_grid(self.info, stride, self.pooling_mode) if option.frame else (self.info.grid, stride)

    def _parts(self, image: Image.Image, option: PictureOptions) -> tuple[list[Image.Image], VisionInfo]:
        """The pictures of an image that go through the tower, and the settings to preprocess them."""
        if not option.tiles:
            video = self.info.video if option.frame else None
            return [image], self.info if video is None else replace(self.info, resize=video.resize)
        parts = split_tiles(image, self.info.image_size, self.info.resample, self._tiling)
        # Tiles and overviews already have the tower's size.
        return parts, self.info

    def _held(self, key: CacheKey) -> FloatArray | None:
        full = replace(key, stride=1, mode="")
        if key in self.cache or full not in self.cache:
            return self.cache.get(key)
        tokens = self.cache.get(full)
        return None if tokens is None else self.cache.put(key, self._pool(tokens[np.newaxis], key)[0])

    def _through_tower(self, key: CacheKey, pixels: FloatArray, cancel: threading.Event | None) -> FloatArray:
        # One image at a time: the tower gains nothing from a batch, and a batch would hold more pixels in memory.
        encode = self._tower.encode_frames if key.frame else self._tower.encode
        tokens = encode(pixels[np.newaxis], cancel)
        self.images_encoded += 1
        return self.cache.put(key, self._pool(tokens, key)[0])

    def _pool(self, tokens: FloatArray, key: CacheKey) -> FloatArray:
        return pool(tokens, math.isqrt(tokens.shape[1]), key.stride, self.pooling_mode)
