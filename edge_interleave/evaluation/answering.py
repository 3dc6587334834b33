"""One sample through a model: its media found and opened, its questions asked in turn, greedily.

Knows nothing about scores, or where answers are kept.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_interleave.decoding.generation import CANCELLED
from edge_interleave.errors import ContextFullError, MediaError, UsageError
from edge_interleave.evaluation import official_prompt
from edge_interleave.evaluation.fingerprints import Fingerprint, fingerprint, state_of
from edge_interleave.evaluation.samples import Sample
from edge_interleave.model import Model
from edge_interleave.prompt.builder import MARKER
from edge_interleave.prompt.messages import Image, Media, Video
from edge_interleave.util.regular_file import display_name
from edge_interleave.vision.pooling import image_tokens

BUNDLES_OWN = "the bundle's own"
_VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")


@dataclass(frozen=True)
class Settings:
    """What answers depend on, beside the samples and the model. The defaults are the official evaluation's."""

    max_tokens: int = 1024
    """Of each answer."""
    pool: int = 1
    """Pooling stride; 1 is as trained."""
    frames: int = 8
    """Taken of a video."""
    context: int | None = None
    """Entries of the KV cache; None: as many as a prompt and its answer need."""
    kv_precision: str = "f16"
    """Of the KV cache."""

    def __post_init__(self) -> None:
        for name in ("max_tokens", "pool", "frames"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be a whole number from 1, not {getattr(self, name)}")


@dataclass(frozen=True)
class Reply:
    """An answer to one question."""

    text: str
    """Without white space around it, as the official evaluation keeps it."""
    finish_reason: str
    """`stop`, or `length` where it was cut at `max_tokens` or where the context is full."""
    prompt_tokens: int
    visual_tokens: int
    answer_tokens: int
    seconds: float


@dataclass(frozen=True)
class Answered:
    """A sample's answers."""

    replies: tuple[Reply, ...]
    """One a question."""
    media: dict[str, Fingerprint]
    """What was shown, by the names that the sample has for it."""


class Answerer:
    """Asks samples of a model. Each sample begins with an empty timeline, so that none depends on those before it."""

    def __init__(self, model: Model, images: Path, settings: Settings) -> None:
        """`images`: the folder that samples' paths are relative to. Raises UsageError for a stride that leaves nothing.

        The model should be loaded with `settings.context`.
        """
        manifest = model.bundle.manifest
        self._image_tokens = image_tokens(manifest.vision, settings.pool, manifest.pooling_mode)
        self._trained_context = manifest.decoder.context_length
        self._folder = images
        self._settings = settings
        prompts = official_prompt.OfficialPrompts.for_bundle(model.bundle)
        self.prompt = official_prompt.NAME if prompts else BUNDLES_OWN
        """Which prompt is used: `qwen_1_5`, or the bundle's own where its tokenizer is not ChatML's."""
        self._chat = model.chat(prompts=prompts)

    def answer(self, sample: Sample, cancel: threading.Event | None = None) -> Answered | None:
        """An answer to each question, in order; each sees the questions and answers before it. None where cancelled.

        Raises MediaError, ContextFullError, UsageError where the sample cannot be answered, BackendError where the
        engine fails.
        """
        paths = self._paths(sample)
        states = {name: state_of(path) for name, path in paths}
        media: list[Media] = [Image(path) for _, path in paths[: len(sample.images)]]
        media += [Video(path) for _, path in paths[len(sample.images) :]]
        replies = []
        self._chat.reset()
        for turn in sample.turns:
            count = turn.question.count(MARKER)
            shown, media = media[:count], media[count:]
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
                raise MediaError(f"{display_name(name)}: was changed while it was asked about; run the same again")
        return Answered(tuple(replies), prints)

    def path(self, name: str) -> Path:
        """The file or folder that a sample's name for a picture or a clip means. Raises MediaError."""
        return self._video(name)

    def close(self) -> None:
        """Free the KV cache."""
        self._chat.close()

    def _paths(self, sample: Sample) -> list[tuple[str, Path]]:
        """Names and paths of the sample's images, then of its video. Raises ContextFullError, MediaError."""
        frames = len(sample.images) + (self._settings.frames if sample.video else 0)
        visual = frames * self._image_tokens
        # Before anything is opened: a sample may name any number of pictures.
        if visual > self._trained_context:
            raise ContextFullError(
                f"{frames} images are {visual} visual tokens, the model was trained on {self._trained_context} in all; "
                "take a larger pooling stride"
            )
        paths = [(name, self._inside(name, Path.is_file)) for name in sample.images]
        # One or the other: a sample with both has them in this order.
        return [*paths, (sample.video, self._video(sample.video))] if sample.video else paths

    def _video(self, name: str) -> Path:
        """A clip, or a folder of frames; the files of M4-Instruct leave the ending out."""
        for suffix in ("", *_VIDEO_SUFFIXES):
            if (self._folder / (name + suffix)).exists():
                return self._inside(name + suffix, Path.exists)
        return self._inside(name, Path.exists)

    def _inside(self, name: str, is_there: Callable[[Path], bool]) -> Path:
        """The path of a file below the folder. Raises MediaError where it is missing or leads out."""
        try:
            path = self._folder / name
            if not path.resolve().is_relative_to(self._folder.resolve()):
                raise MediaError(f"{display_name(name)}: leads out of the images' folder")
            if not is_there(path):
                raise MediaError(f"{display_name(path)}: no such file; check --images")
        except (OSError, ValueError, RuntimeError) as error:  # names that no file system takes; links in circles
            raise MediaError(f"{display_name(name)}: is no path ({type(error).__name__})") from error
        return path
