"""Asks a model one sample: opens its images or video, and asks its questions in turn, with greedy decoding.

The model runs on this machine, or behind a URL. A server gets several samples at once, each as a chat of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_interleave.answer import CANCELLED
from edge_interleave.chat import Chat
from edge_interleave.errors import MediaError, UsageError
from edge_interleave.evaluation import official_prompt
from edge_interleave.evaluation.fingerprints import Fingerprint, fingerprint, state_of
from edge_interleave.evaluation.sample_size import LocalSize, RemoteSize
from edge_interleave.evaluation.samples import Sample
from edge_interleave.model import Model
from edge_interleave.prompt.builder import MARKER
from edge_interleave.prompt.messages import Image, Media, Video
from edge_interleave.remote.model import RemoteChat, RemoteModel
from edge_interleave.util.regular_file import display_name

BUNDLES_OWN = "the bundle's own"
SERVERS_OWN = "the server's own"
IN_FLIGHT = 8
"""Samples that a server answers at once. Servers batch them, so that eight take little longer than one."""
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

    def __init__(self, model: Model | RemoteModel, images: Path, settings: Settings) -> None:
        """`images`: the folder that samples' paths are relative to. The model should be loaded with `settings.context`.

        Raises UsageError for a pooling stride that leaves no visual tokens.
        """
        self._folder = images
        self._settings = settings
        self._model = model
        self._chat: Chat | None = None
        self.parallel = 1
        """How many threads may call `answer` at once."""
        self.prompt = SERVERS_OWN
        """The prompt: `qwen_1_5`, BUNDLES_OWN if the tokenizer lacks ChatML's tokens, or SERVERS_OWN."""
        if isinstance(model, RemoteModel):
            self.parallel = IN_FLIGHT
            self._size = RemoteSize()
        else:
            self._size = LocalSize(model, settings.pool, settings.frames)
            prompts = official_prompt.OfficialPrompts.for_bundle(model.bundle)
            self.prompt = official_prompt.NAME if prompts else BUNDLES_OWN
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
        pictures = len(sample.images) + (self._settings.frames if sample.video else 0)
        replies = []
        chat = self._fresh_chat()
        visual = 0
        for turn in sample.turns:
            count = turn.question.count(MARKER)
            shown, media = self._size.opened(media[:count]), media[count:]
            visual += self._size.tokens(shown)
            self._size.check_tokens(visual, pictures)
            started = time.perf_counter()
            answer = chat.ask(
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
        if self._chat is not None:
            self._chat.close()

    def _fresh_chat(self) -> Chat | RemoteChat:
        """An empty conversation: one that the samples share in turn, or a new one with a server."""
        if self._chat is None:
            return self._model.chat()
        self._chat.reset()
        return self._chat

    def _paths(self, sample: Sample) -> list[tuple[str, Path]]:
        """Names and paths of the sample's images, then of its video. Raises ContextFullError, MediaError."""
        # Checked before a file is opened: a sample may name any number of images.
        self._size.check_counts(len(sample.images), self._settings.frames if sample.video else 0)
        paths = [(name, self._inside(name, Path.is_file)) for name in sample.images]
        # In a sample with both, the images come first.
        return [*paths, (sample.video, self._media_path(sample.video))] if sample.video else paths

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
