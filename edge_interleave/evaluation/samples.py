"""Reads samples of LLaVA-Interleave Bench and M4-Instruct files, one at a time.

A sample has `sample_id`, `conversations` (questions and answers in turn), `image` (paths) or `video` (a path), and
`metadata` with `dataset` and `question_type`; in some sets also a `choice_list`, which the question repeats. Files are
JSON arrays (`multi_image_in_domain.json`, `m4_instruct_annotations.json`, ...) or JSON lines.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_interleave.errors import InputError
from edge_interleave.evaluation.json_stream import JsonStream
from edge_interleave.prompt.builder import MARKER
from edge_interleave.util.regular_file import display_name
from edge_interleave.world.judging import JUDGES

OPEN_ENDED, MULTI_CHOICE = "open-ended", "multi-choice"
_VIDEO_MARKER = "<video>"
_NAME_CHARACTERS_MAX = 200


@dataclass(frozen=True)
class Turn:
    """A question and its reference answer."""

    question: str
    reference: str


@dataclass(frozen=True)
class Labels:
    """The metadata of a sample, valid or not."""

    index: int
    """Index in the file, from 0."""
    sample_id: str
    dataset: str
    """The sample's set; the file's name if it names none."""
    question_type: str
    """`open-ended`, `multi-choice`, or another value from the file."""
    category: str | None = None
    scenario: str | None = None
    chance: float | None = None
    """Expected share of right answers by guessing, 0 to 1."""
    held_out: str | None = None
    """What about the sample training never showed; "" for nothing; None if the file does not say."""
    judge: str | None = None
    """The rule of `world.judging` for answers that differ from the reference; None counts them as wrong."""


@dataclass(frozen=True)
class Sample:
    """A valid sample."""

    labels: Labels
    turns: tuple[Turn, ...]
    images: tuple[str, ...] = ()
    """Paths relative to the folder of images, in the order of the `<image>` markers."""
    video: str | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class InvalidSample:
    """A sample with a format error."""

    labels: Labels
    problem: str


def read_samples(items: JsonStream) -> Iterator[Sample | InvalidSample]:
    """The samples of a file, in order. Raises InputError if the file is damaged (see `JsonStream`) or empty."""
    for index, raw in enumerate(items):
        yield parse(raw, index, items.path.stem)
    if items.read == 0:
        raise InputError(f"{display_name(items.path)}: holds no samples; give a file of samples")


def parse(raw: Any, index: int, dataset: str) -> Sample | InvalidSample:
    """Parse the JSON value of a sample. `dataset`: the default for its set."""
    if not isinstance(raw, Mapping):
        labels = Labels(index, str(index), dataset, OPEN_ENDED)
        return InvalidSample(labels, "is not an object with 'conversations' and 'image'")
    labels = _labels(raw, index, dataset)
    try:
        return _sample(raw, labels)
    except _ProblemError as problem:
        return InvalidSample(labels, str(problem))


class _ProblemError(Exception):
    """A format error in a sample."""


def _sample(raw: Mapping[str, Any], labels: Labels) -> Sample:
    video = raw.get("video")
    if video is not None and (not isinstance(video, str) or not video):
        raise _ProblemError("'video' is not a path")
    images = _images(raw.get("image", raw.get("images")))
    turns = _turns(raw.get("conversations"), has_video=video is not None)
    markers = sum(turn.question.count(MARKER) for turn in turns)
    media = len(images) + (video is not None)
    if markers != media:
        raise _ProblemError(f"<image> markers in the questions: {markers}, images and videos: {media}")
    return Sample(labels, turns, images, video, _choices(raw))


def _images(value: Any) -> tuple[str, ...]:
    images = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(images, Sequence) or not all(isinstance(image, str) and image for image in images):
        raise _ProblemError("'image' is not a list of paths")
    return tuple(images)


def _turns(value: Any, *, has_video: bool) -> tuple[Turn, ...]:
    """Questions and answers by order, not by role, as in the official script: some files mix up the roles."""
    if not isinstance(value, list) or not value:
        raise _ProblemError("'conversations' is not a list of turns")
    texts: list[str] = []
    for number, turn in enumerate(value, 1):
        text = turn.get("value") if isinstance(turn, Mapping) else None
        if not isinstance(text, str):
            raise _ProblemError(f"turn {number} of 'conversations' has no text as its 'value'")
        texts.append(text)
    if len(texts) % 2:
        raise _ProblemError(f"'conversations' has {len(texts)} turns; the last question has no answer")
    questions = [text.replace(_VIDEO_MARKER, MARKER) if has_video else text for text in texts[::2]]
    if not all(question.strip() for question in questions):
        raise _ProblemError("a question is empty")
    return tuple(map(Turn, questions, texts[1::2]))


def _choices(raw: Mapping[str, Any]) -> tuple[str, ...]:
    choices = raw.get("choice_list")
    return tuple(map(str, choices)) if isinstance(choices, list) else ()


def _labels(raw: Mapping[str, Any], index: int, dataset: str) -> Labels:
    metadata = raw.get("metadata")
    about: Mapping[str, Any] = metadata if isinstance(metadata, Mapping) else {}
    sample_id = raw.get("sample_id", raw.get("id"))
    chance, held_out, judge = about.get("chance"), about.get("held_out"), about.get("judge")
    return Labels(
        index=index,
        sample_id=str(sample_id)[:_NAME_CHARACTERS_MAX] if isinstance(sample_id, (str, int)) else str(index),
        dataset=_name(about.get("dataset")) or _name(raw.get("dataset")) or dataset,
        question_type=_name(about.get("question_type")) or OPEN_ENDED,
        category=_name(about.get("category")),
        scenario=_name(about.get("scenario")),
        chance=_share(chance),
        held_out=held_out[:_NAME_CHARACTERS_MAX] if isinstance(held_out, str) else None,
        judge=judge if judge in JUDGES else None,
    )


def _name(value: Any) -> str | None:
    return value[:_NAME_CHARACTERS_MAX] if isinstance(value, str) and value.strip() else None


def _share(value: Any) -> float | None:
    # ijson may give decimals, json gives floats.
    try:
        share = None if isinstance(value, (bool, str, type(None))) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return share if share is not None and math.isfinite(share) and 0 <= share <= 1 else None
