"""The inputs of a decoder: runs of text tokens, and the visual tokens of images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from edge_interleave.decoding.timeline import Key
from edge_interleave.prompt.builder import ImageSegment, Segment
from edge_interleave.util.arrays import FloatArray


@dataclass(frozen=True)
class TextInput:
    """A run of text tokens."""

    ids: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class VisualInput:
    """The visual tokens of one image."""

    rows: FloatArray = field(repr=False)
    """float32 (tokens, hidden)."""
    newline: FloatArray | None = field(default=None, repr=False)
    """The row that ends the image, float32 (hidden,), if the model was trained with one (`vision.merge`)."""
    key: bytes = field(init=False)
    """Digest of the values: equal images have equal keys."""

    def __post_init__(self) -> None:
        digest = hashlib.blake2b(np.ascontiguousarray(self.rows).data, digest_size=16)
        if self.newline is not None:
            digest.update(np.ascontiguousarray(self.newline).data)
        object.__setattr__(self, "key", digest.digest())

    @property
    def size(self) -> int:
        """KV entries that the image takes."""
        return len(self.rows) + (self.newline is not None)

    @property
    def embeddings(self) -> FloatArray:
        """The visual tokens with `newline`, float32 (size, hidden)."""
        return self.rows if self.newline is None else np.concatenate([self.rows, self.newline[np.newaxis]])


Input = TextInput | VisualInput


def as_inputs(segments: Sequence[Segment], images: Sequence[VisualInput]) -> list[Input]:
    """The segments of a prompt, each image replaced by its visual tokens. `images`: all images of the prompt."""
    return [
        images[segment.index] if isinstance(segment, ImageSegment) else TextInput(segment.ids) for segment in segments
    ]


@dataclass(frozen=True)
class PromptSpan:
    """One text token or one image of a prompt. A timeline keeps it whole or computes it whole."""

    key: Key
    size: int = 1
    """KV entries that it takes."""
    image: VisualInput | None = None


def spans_of(inputs: Sequence[Input]) -> list[PromptSpan]:
    """The spans of a prompt."""
    spans: list[PromptSpan] = []
    for part in inputs:
        if isinstance(part, TextInput):
            spans += map(PromptSpan, part.ids)
        else:
            spans.append(PromptSpan(part.key, part.size, part))
    return spans


def runs_of(spans: Sequence[PromptSpan]) -> Iterator[list[PromptSpan]]:
    """The spans in runs that a decoder can append at once: neighbouring text tokens together, each image alone."""
    run: list[PromptSpan] = []
    for span in spans:
        if run and (span.image is not None or run[-1].image is not None):
            yield run
            run = []
        run.append(span)
    if run:
        yield run


def inputs_of_spans(spans: Sequence[PromptSpan]) -> list[Input]:
    """Convert spans back to inputs; the inverse of `spans_of`, except that neighbouring text is joined."""
    return [
        run[0].image or TextInput(tuple(span.key for span in run if isinstance(span.key, int)))
        for run in runs_of(spans)
    ]
