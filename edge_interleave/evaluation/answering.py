"""Asks a model one sample: opens its images or video, and asks its questions in turn, with greedy decoding."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_interleave.answer import CANCELLED
from edge_interleave.errors import ContextFullError, MediaError, UsageError
from edge_interleave.evaluation import official_prompt
from edge_interleave.evaluation.fingerprints import Fingerprint, fingerprint, state_of
from edge_interleave.evaluation.samples import Sample
from edge_interleave.media.pictures.image import open_image
from edge_interleave.model import Model
from edge_interleave.prompt.builder import MARKER
from edge_interleave.prompt.messages import Image, Media, Video
from edge_interleave.util.regular_file import display_name
from edge_interleave.vision.media_encoder import PictureGroup
from edge_interleave.vision.pooling import image_tokens, tokens_of_frame

BUNDLES_OWN = "the bundle's own"
_VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")


@dataclass(frozen=True)
class Settings:
    """What answers depend on besides samples and model. The defaults are those of the official evaluation."""

    max_tokens: int = 1024
    """Most tokens of an answer."""
    pool: int = 1
    """Pooling stride; 1 is as trained."""
    frames: int = 8
    """Frames sampled from a video."""
    context: int | None = None
    """Capacity of the KV cache in tokens; None: what a prompt and its answer need."""
    kv_precision: str = "f16"
    """Precision of the KV cache."""

    def __post_init__(self) -> None:
        for name in ("max_tokens", "pool", "frames"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be a whole number of at least 1, not {getattr(self, name)}")


@dataclass(frozen=True)
class Reply:
    """An answer to one question."""

    text: str
    """Stripped of white space, as in the official evaluation."""
    finish_reason: str
    """`stop`, or `length` if the answer was cut at `max_tokens` or by a full context."""
    prompt_tokens: int
    visual_tokens: int
    answer_tokens: int
    seconds: float


@dataclass(frozen=True)
class SampleAnswers:
    """The answers to a sample's questions."""

    replies: tuple[Reply, ...]
    """One for each question."""
    media: dict[str, Fingerprint]
    """Fingerprints of the images and the video, by their paths in the sample."""


class Answerer:
    """Answers samples with a model. Each sample starts with an empty timeline, so earlier samples have no influence."""

    def __init__(self, model: Model, images: Path, settings: Settings) -> None:
        """`images`: the folder that samples' paths are relative to. The model should be loaded with `settings.context`.

        Raises UsageError for a pooling stride that leaves no visual tokens.
        """
        manifest = model.bundle.manifest
        self._image_tokens = image_tokens(manifest.vision, settings.pool, manifest.pooling_mode)
        self._frame_tokens = tokens_of_frame(manifest.vision, settings.pool, manifest.pooling_mode)
        self._media_encoder = model.media_encoder
        self._trained_context = manifest.decoder.context_length
        self._folder = images
        self._settings = settings
        prompts = official_prompt.OfficialPrompts.for_bundle(model.bundle)
        self.prompt = official_prompt.NAME if prompts else BUNDLES_OWN
        """The prompt: `qwen_1_5`, or BUNDLES_OWN if the tokenizer lacks ChatML's tokens."""
        self._chat = model.chat(prompts=prompts)

    def answer(self, sample: Sample, cancel: threading.Event | None = None) -> SampleAnswers | None:
        """Answer the questions in order; each question sees the earlier questions and answers. None if cancelled.

        Raises MediaError, ContextFullError, UsageError if the sample cannot be answered, BackendError if the engine
        fails.
        """
        paths = self._paths(sample)
        states = {name: state_of(path) for name, path in paths}
        media: list[Media] = [Image(path) for _, path in paths[: len(sample.images)]]
        media += [Video(path) for _, path in paths[len(sample.images) :]]
        replies = []
        self._chat.reset()
        visual = 0
        for turn in sample.turns:
            count = turn.question.count(MARKER)
            shown, media = self._opened(media[:count]), media[count:]
            visual += sum(self._tokens(item, shown) for item in shown)
            self._check_room(visual, len(sample.images) + (self._settings.frames if sample.video else 0))
            started = time.perf_counter()
            answer = self._chat.ask(
                [{"role": "user", "content": [*shown, turn.question]}],
                max_tokens=self._settings.max_tokens,
                frames=self._settings.frames,
                pool=self._settings.pool,
                cancel=cancel,
            )
            if answer.finish_reason == CANCELLED:
                return None
            stats, seconds = answer.stats, time.perf_counter() - started
            counts = (stats.prompt_tokens, stats.visual_tokens, stats.answer_tokens)
            replies.append(Reply(answer.text.strip(), answer.finish_reason, *counts, seconds))
        prints = {name: fingerprint(path) for name, path in paths}
        for name, one in prints.items():
            if one.state != states[name]:
                raise MediaError(f"{display_name(name)}: changed during the run; run the same command again")
        return SampleAnswers(tuple(replies), prints)

    def path(self, name: str) -> Path:
        """The file or folder that a sample's image or video path means. Raises MediaError."""
        return self._media_path(name)

    def close(self) -> None:
        """Free the KV cache."""
        self._chat.close()

    def _paths(self, sample: Sample) -> list[tuple[str, Path]]:
        """Names and paths of the sample's images, then of its video. Raises ContextFullError, MediaError."""
        frames = self._settings.frames if sample.video else 0
        # Checked before a file is opened: a sample may name any number of images. Tiles need an image's size.
        least = len(sample.images) * self._image_tokens + frames * self._frame_tokens
        self._check_room(least, len(sample.images) + frames)
        paths = [(name, self._inside(name, Path.is_file)) for name in sample.images]
        # In a sample with both, the images come first.
        return [*paths, (sample.video, self._media_path(sample.video))] if sample.video else paths

    def _check_room(self, visual: int, pictures: int) -> None:
        """Raise ContextFullError if so many visual tokens exceed the trained context."""
        if visual > self._trained_context:
            raise ContextFullError(
                f"{pictures} images are {visual} visual tokens, but the model's trained context is "
                f"{self._trained_context} tokens; use a larger pooling stride (--pool)"
            )

    def _opened(self, shown: Sequence[Media]) -> list[Media]:
        """A turn's media, with those images opened that will be split into tiles. Raises MediaError."""
        if not self._splits(shown):
            return list(shown)
        return [Image(open_image(item.source)) if isinstance(item, Image) else item for item in shown]

    def _tokens(self, item: Media, shown: Sequence[Media]) -> int:
        """Visual tokens of an image or video of a turn that shows `shown`; for a video, those of all its frames."""
        if isinstance(item, Video):
            return self._settings.frames * self._frame_tokens
        if not self._splits(shown):
            return self._image_tokens
        group = PictureGroup([open_image(item.source)])
        return self._media_encoder.tokens_for(group, self._settings.pool, alone=_is_alone(shown))

    def _splits(self, shown: Sequence[Media]) -> bool:
        """Whether the model sees the images of a turn in tiles."""
        return self._media_encoder.splits(tiles=False, alone=_is_alone(shown))

    def _media_path(self, name: str) -> Path:
        """The path of an image, a video or a folder of frames. M4-Instruct's files leave out a video's extension."""
        for suffix in ("", *_VIDEO_SUFFIXES):
            if (self._folder / (name + suffix)).exists():
                return self._inside(name + suffix, Path.exists)
        return self._inside(name, Path.exists)

    def _inside(self, name: str, exists: Callable[[Path], bool]) -> Path:
        """The path below the folder. Raises MediaError if it is missing or leaves the folder."""
        try:
            path = self._folder / name
            if not path.resolve().is_relative_to(self._folder.resolve()):
                raise MediaError(f"{display_name(name)}: leaves the images' folder")
            if not exists(path):
                raise MediaError(f"{display_name(path)}: no such file; check --images")
        except (OSError, ValueError, RuntimeError) as error:  # a name that no file system accepts, or circular links
            raise MediaError(f"{display_name(name)}: is not a valid path ({type(error).__name__})") from error
        return path


def _is_alone(shown: Sequence[Media]) -> bool:
    """Whether a turn shows one image only. Videos do not count."""
    return sum(isinstance(item, Image) for item in shown) == 1
