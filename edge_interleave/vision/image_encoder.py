"""Encodes images to visual tokens: tiles, preprocess, tower, pooling, merge, and a cache.

The cache holds pooled visual tokens rather than the tower's full grid, because a conversation or a live window keeps
its stride, and at stride 2 four times as many images fit. If it holds an image's full grid (from a question at stride
1), that grid is pooled instead of running the tower again.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from PIL import Image

from edge_interleave.bundle.manifest import TilingInfo, VisionInfo
from edge_interleave.util.arrays import FloatArray
from edge_interleave.util.engine_lock import EngineLock
from edge_interleave.util.progress import QuestionProgress
from edge_interleave.vision.cache import CacheKey, EmbeddingCache, cache_key
from edge_interleave.vision.merge import merge, merged_tokens, most_merged_tokens
from edge_interleave.vision.pooling import frame_stride, pool, pooled_grid
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
    frame: bool = False
    """The picture is a frame of a video: it is resized and pooled as `VisionInfo.video` says, if the model has one."""


_WHOLE = PictureOptions()


class Tower(Protocol):
    """The vision tower with its projector."""

    @property
    def provider(self) -> str:
        """The name of ONNX Runtime's execution provider."""
        ...

    def encode(self, pixels: FloatArray) -> FloatArray:
        """Pixels, float32 (n, 3, H, W), to visual tokens, float32 (n, grid * grid, hidden)."""
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
    ) -> list[FloatArray]:
        """Visual tokens of each image, float32 (tokens, hidden), read-only, in order.

        `stride`: pooling stride. `options`: how each image is encoded, or one for all. `progress`: called before each
        run of the tower.
        Raises UsageError for a stride that leaves no token, once stopped, and in a forked child; MediaError for an
        image that cannot be decoded.
        """
        pooled_grid(self.info.grid, stride, self.pooling_mode)
        with self._engine:
            started = time.perf_counter()
            try:
                each = [options] * len(images) if isinstance(options, PictureOptions) else options
                return self._encode(images, stride, each, progress)
            finally:
                self.encode_seconds += time.perf_counter() - started

    def tokens_for(self, image: Image.Image | None = None, stride: int = 1, options: PictureOptions = _WHOLE) -> int:
        """The number of visual tokens that `encode` returns for an image; for None, an upper bound over all images."""
        if options.frame:
            stride = frame_stride(self.info, stride)
        side, newline = pooled_grid(self.info.grid, stride, self.pooling_mode), self._newline is not None
        if not options.tiles:
            return side * side + (newline and options.ends)
        if image is None:
            return max(side * side + newline, most_merged_tokens(side, self._tiling, newline=newline))
        grid = tile_grid(image.size, self.info.image_size, self._tiling)
        return merged_tokens(side, image.size, grid, newline=newline, most_tiles=self._tiling.most_tiles)

    def stop(self, reason: str = STOPPED) -> None:
        """Make `encode`, running or later, raise UsageError(reason), even in the middle of an image.

        Any thread may call it. Returns when no thread encodes any more. Does nothing in a forked child.
        """
        self._engine.close(reason, lambda: None)

    @property
    def _tiling(self) -> TilingInfo:
        return self.info.tiling or ON_REQUEST

    def _encode(
        self,
        images: Sequence[Image.Image],
        stride: int,
        options: Sequence[PictureOptions],
        progress: QuestionProgress | None,
    ) -> list[FloatArray]:
        done: dict[CacheKey, FloatArray] = {}
        keys: list[list[CacheKey]] = []
        for number, (image, option) in enumerate(zip(images, options, strict=True)):
            keys.append([])
            parts, info = self._parts(image, option)
            pooling = frame_stride(info, stride) if option.frame else stride
            for part in parts:
                pixels = preprocess(part, info)
                key = cache_key(pixels, self._identity, pooling, self.pooling_mode)
                keys[-1].append(key)
                if key in done:
                    continue
                held = self._held(key)
                if held is None and progress is not None:
                    progress("encode", number, len(images))
                done[key] = self._through_tower(key, pixels) if held is None else held
        merged = []
        for image, of_image, option in zip(images, keys, options, strict=True):
            grid = tile_grid(image.size, self.info.image_size, self._tiling) if len(of_image) > 1 else None
            parts_tokens = [done[key] for key in of_image]
            most = self._tiling.most_tiles
            merged.append(merge(parts_tokens, image.size, grid, self._newline, most_tiles=most, ends=option.ends))
        return merged

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

    def _through_tower(self, key: CacheKey, pixels: FloatArray) -> FloatArray:
        # One image at a time: the tower gains nothing from a batch, and a batch would hold more pixels in memory.
        tokens = self._tower.encode(pixels[np.newaxis])
        self.images_encoded += 1
        return self.cache.put(key, self._pool(tokens, key)[0])

    def _pool(self, tokens: FloatArray, key: CacheKey) -> FloatArray:
        return pool(tokens, self.info.grid, key.stride, self.pooling_mode)
