"""Encodes the images and videos of messages: opens files, samples videos, and runs a bundle's `ImageEncoder`.

The tower opens at the first image, so a model that is only asked about text never loads it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edge_interleave.bundle.manifest import NEWLINE_NAME, VISION_NAME, Bundle
from edge_interleave.decoding.inputs import VisualInput
from edge_interleave.errors import BundleError, UsageError
from edge_interleave.prompt.messages import Image, Media
from edge_interleave.prompt.video_times import time_instruction
from edge_interleave.util.arrays import FloatArray
from edge_interleave.util.progress import QuestionProgress

if TYPE_CHECKING:
    from PIL.Image import Image as Pixels

    from edge_interleave.media.frame import Frame
    from edge_interleave.vision.image_encoder import ImageEncoder, PictureOptions
    from edge_interleave.vision.tower import VisionTower


@dataclass(frozen=True)
class EncodedMedia:
    """The visual tokens of a message's images and videos."""

    images: tuple[VisualInput, ...] = ()
    """One for each image and each sampled frame, in order."""
    counts: tuple[int, ...] = ()
    """How many of `images` belong to each image (1) and video."""
    seconds: float = 0.0
    """Time taken to open, sample and encode."""
    provider: str = ""
    """ONNX Runtime's execution provider of the tower; empty without media."""
    instructions: tuple[str, ...] = ()
    """The text after each image (empty) and video, if the model was trained with it (`prompt.video_times`); or ()."""

    def __add__(self, more: EncodedMedia) -> EncodedMedia:
        return EncodedMedia(
            self.images + more.images,
            self.counts + more.counts,
            self.seconds + more.seconds,
            more.provider or self.provider,
            self.instructions + more.instructions,
        )


@dataclass(frozen=True)
class PictureGroup:
    """An image, or the frames of a video."""

    pictures: Sequence[Pixels | None]
    """None: not opened yet; enough to count the tokens of pictures without tiles."""
    video: bool = False


class MediaEncoder:
    """Encodes images and videos with a bundle's tower, which opens at the first image. Any thread may call it."""

    def __init__(self, bundle: Bundle, threads: int | None, progress: QuestionProgress | None = None) -> None:
        self._bundle = bundle
        self._threads = threads
        self._progress = progress
        self._opening = threading.RLock()
        self.cache_bytes: int | None = None
        """The cache's capacity in bytes; set it before the first image. None: `cache.CAPACITY_BYTES`."""
        self._closed: str | None = None
        self._shared_tower: VisionTower | None = None
        self._shared_encoder: ImageEncoder | None = None
        self._read_newline: FloatArray | None = None

    def encode(self, media: Sequence[Media], *, frames: int, stride: int, tiles: bool) -> EncodedMedia:
        """Encode images and videos to visual tokens, in order.

        `frames`: frames to sample from a video that does not name a number. `stride`: pooling stride. `tiles`: encode
        each large image as an overview and tiles. False: as the model was trained (`VisionInfo.tiling`), so a model
        that was trained with tiles splits each image, or only an image that is alone among `media`.
        If the model has an `image_newline`, one follows each image. In a video it stands where the model was trained
        with it (`VideoInfo.newline`), otherwise after the last frame, as in LLaVA-NeXT (llava_arch.py, `one_token`).
        Raises UsageError for `frames` or `stride` below 1 and once closed, MediaError for a file that cannot be
        decoded, BundleError if the tower does not fit the bundle.
        """
        if frames < 1:
            raise UsageError(f"frames must be a whole number of at least 1, not {frames}")
        if stride < 1:
            raise UsageError(f"pool must be a whole number of at least 1, not {stride}")
        if not media:
            return EncodedMedia()
        from edge_interleave.media.clip import sample_clip
        from edge_interleave.media.pictures.image import open_image

        started = time.perf_counter()
        groups, instructions = [], []
        for item in media:
            if isinstance(item, Image):
                groups.append(PictureGroup([open_image(item.source)]))
                instructions.append("")
            else:
                clip = sample_clip(item.path, item.frames or frames)
                groups.append(PictureGroup([frame.image for frame in clip], video=True))
                instructions.append(self.time_instruction(clip))
        encoded = self.encode_pictures(groups, stride=stride, tiles=tiles)
        return replace(encoded, seconds=time.perf_counter() - started, instructions=tuple(instructions))

    def time_instruction(self, clip: Sequence[Frame]) -> str:
        """The text after the frames of a clip, if the model was trained with it; otherwise empty."""
        video = self._bundle.manifest.vision.video
        return time_instruction(clip) if video is not None and video.times else ""

    def encode_pictures(
        self,
        groups: Sequence[PictureGroup],
        *,
        stride: int,
        tiles: bool,
        alone: bool | None = None,
        cancel: threading.Event | None = None,
    ) -> EncodedMedia:
        """As `encode`, for decoded pictures.

        `alone`: whether the question has one image; None: whether `groups` have one. `cancel`: aborts the encoding with
        UsageError, in the middle of an image, when it is set.
        """
        started = time.perf_counter()
        if alone is None:
            alone = sum(not group.video for group in groups) == 1
        pictures = [picture for group in groups for picture in group.pictures if picture is not None]
        options = [option for group in groups for option in self._options(group, tiles, alone)]
        encoder, newline = self._encoder(), self._newline()
        tokens = encoder.encode(pictures, stride=stride, options=options, progress=self._progress, cancel=cancel)
        inputs = tuple(
            VisualInput(image[:-1], newline) if _ends_with(image, newline, option) else VisualInput(image)
            for image, option in zip(tokens, options, strict=True)
        )
        counts = tuple(len(group.pictures) for group in groups)
        return EncodedMedia(inputs, counts, time.perf_counter() - started, encoder.provider)

    def splits(self, *, tiles: bool, alone: bool) -> bool:
        """Whether images are split into tiles. `tiles`: as in `encode`. `alone`: whether the question has one image."""
        tiling = self._bundle.manifest.vision.tiling
        return tiles or (tiling is not None and (tiling.several or alone))

    def tokens_for(self, group: PictureGroup, stride: int = 1, *, tiles: bool = False, alone: bool = True) -> int:
        """The number of visual tokens that `encode_pictures` returns for a group."""
        encoder = self._encoder()
        return sum(
            encoder.tokens_for(picture, stride, option)
            for picture, option in zip(group.pictures, self._options(group, tiles, alone), strict=True)
        )

    def _options(self, group: PictureGroup, tiles: bool, alone: bool) -> list[PictureOptions]:
        from edge_interleave.vision.image_encoder import PictureOptions, frame_options

        count, vision = len(group.pictures), self._bundle.manifest.vision
        if group.video and vision.video is not None:
            return [frame_options(vision, last=number == count) for number in range(1, count + 1)]
        # Models trained with tiles were trained on whole video frames. For others, `tiles` applies to frames, too.
        whole = group.video and vision.tiling is not None
        split = not whole and self.splits(tiles=tiles, alone=alone)
        return [PictureOptions(split, number == count) for number in range(1, count + 1)]

    def live_encoder(self) -> ImageEncoder:
        """A second encoder on the same tower, which can be stopped alone. It caches nothing: frames do not repeat."""
        from edge_interleave.vision.cache import EmbeddingCache
        from edge_interleave.vision.image_encoder import ImageEncoder

        manifest = self._bundle.manifest
        return ImageEncoder(
            self._tower().another(), manifest.vision, manifest.pooling_mode, EmbeddingCache(0), newline=self._newline()
        )

    def close(self, reason: str) -> None:
        """Make `encode`, running or later, raise UsageError(reason). Thread-safe. Live encoders stay open."""
        with self._opening:
            self._closed = reason
            encoder = self._shared_encoder
        if encoder is not None:
            encoder.stop(reason)

    def _encoder(self) -> ImageEncoder:
        from edge_interleave.vision.cache import CAPACITY_BYTES, EmbeddingCache
        from edge_interleave.vision.image_encoder import ImageEncoder

        with self._opening:
            if self._closed is not None:
                raise UsageError(self._closed)
            if self._shared_encoder is None:
                manifest, tower, newline = self._bundle.manifest, self._tower(), self._newline()
                self._shared_encoder = ImageEncoder(
                    tower,
                    manifest.vision,
                    manifest.pooling_mode,
                    EmbeddingCache(CAPACITY_BYTES if self.cache_bytes is None else self.cache_bytes),
                    identity=manifest.files[VISION_NAME].sha256,
                    newline=newline,
                )
            return self._shared_encoder

    def _newline(self) -> FloatArray | None:
        from edge_interleave.vision.merge import read_newline

        manifest = self._bundle.manifest
        if not manifest.vision.image_newline:
            return None
        with self._opening:
            if self._read_newline is None:
                self._read_newline = read_newline(self._bundle.file(NEWLINE_NAME), manifest.decoder.hidden_size)
            return self._read_newline

    def _tower(self) -> VisionTower:
        with self._opening:
            if self._shared_tower is None:
                self._shared_tower = self._open_tower()
            return self._shared_tower

    def _open_tower(self) -> VisionTower:
        from edge_interleave.util.providers import tower_provider
        from edge_interleave.vision.tower import VisionTower

        manifest = self._bundle.manifest
        provider = tower_provider(manifest.precisions.get(VISION_NAME))
        tower = VisionTower(self._bundle.file(VISION_NAME), manifest.vision, self._threads, provider)
        if tower.hidden_size != manifest.decoder.hidden_size:
            raise BundleError(
                f"{self._bundle.folder / VISION_NAME}: visual tokens of {tower.hidden_size} values, the decoder takes "
                f"{manifest.decoder.hidden_size}; convert again"
            )
        return tower


def _ends_with(image: FloatArray, newline: FloatArray | None, option: PictureOptions) -> bool:
    """Whether an image's visual tokens end with `newline`. Tiles of a very narrow image keep no row, and so do not."""
    return newline is not None and option.ends and bool((image[-1] == newline).all())
