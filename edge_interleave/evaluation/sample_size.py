"""Checks whether a sample's images fit the model, before they are encoded or sent."""

from __future__ import annotations

from collections.abc import Sequence

from edge_interleave.errors import ContextFullError
from edge_interleave.media.pictures.image import open_image
from edge_interleave.model import Model
from edge_interleave.prompt.messages import Image, Media, Video
from edge_interleave.vision.media_encoder import PictureGroup
from edge_interleave.vision.pooling import image_tokens, tokens_of_frame

_REMOTE_PICTURES_MAX = 256


class RemoteSize:
    """The limit for a server, whose context is unknown: each picture is held in memory as a JPEG."""

    def check_counts(self, images: int, frames: int) -> None:
        """Raise ContextFullError for too many images and frames of a video, before a file is opened."""
        if images + frames > _REMOTE_PICTURES_MAX:
            raise ContextFullError(
                f"{images + frames} images are more than {_REMOTE_PICTURES_MAX}, the most that a server is sent"
            )

    def opened(self, shown: Sequence[Media]) -> list[Media]:
        """A turn's media, with those images opened whose size counts. Raises MediaError."""
        return list(shown)

    def tokens(self, shown: Sequence[Media]) -> int:
        """Visual tokens of a turn's media; 0 if unknown."""
        return 0

    def check_tokens(self, visual: int, pictures: int) -> None:
        """Raise ContextFullError if so many visual tokens exceed the trained context."""


class LocalSize(RemoteSize):
    """The limit of a model on this machine."""

    def __init__(self, model: Model, pool: int, frames: int) -> None:
        """`frames`: of each video. Raises UsageError for a pooling stride that leaves no visual tokens."""
        manifest = model.bundle.manifest
        self._image_tokens = image_tokens(manifest.vision, pool, manifest.pooling_mode)
        self._frame_tokens = tokens_of_frame(manifest.vision, pool, manifest.pooling_mode)
        self._trained_context = manifest.decoder.context_length
        self._media_encoder = model.media_encoder
        self._pool, self._frames = pool, frames

    def check_counts(self, images: int, frames: int) -> None:
        """See `RemoteSize`. Tiles are not counted: they need an image's size."""
        self.check_tokens(images * self._image_tokens + frames * self._frame_tokens, images + frames)

    def opened(self, shown: Sequence[Media]) -> list[Media]:
        """See `RemoteSize`: images that will be split into tiles."""
        if not self._splits(shown):
            return list(shown)
        return [Image(open_image(item.source)) if isinstance(item, Image) else item for item in shown]

    def tokens(self, shown: Sequence[Media]) -> int:
        """See `RemoteSize`; for a video, the tokens of all its frames."""
        return sum(self._tokens(item, shown) for item in shown)

    def check_tokens(self, visual: int, pictures: int) -> None:
        """See `RemoteSize`."""
        if visual > self._trained_context:
            raise ContextFullError(
                f"{pictures} images are {visual} visual tokens, but the model's trained context is "
                f"{self._trained_context} tokens; use a larger pooling stride (--pool)"
            )

    def _tokens(self, item: Media, shown: Sequence[Media]) -> int:
        if isinstance(item, Video):
            return self._frames * self._frame_tokens
        if not self._splits(shown):
            return self._image_tokens
        group = PictureGroup([open_image(item.source)])
        return self._media_encoder.tokens_for(group, self._pool, alone=_is_alone(shown))

    def _splits(self, shown: Sequence[Media]) -> bool:
        """Whether the model sees the images of a turn in tiles."""
        return self._media_encoder.splits(tiles=False, alone=_is_alone(shown))


def _is_alone(shown: Sequence[Media]) -> bool:
    """Whether a turn shows one image only. Videos do not count."""
    return sum(isinstance(item, Image) for item in shown) == 1
