"""The keyword arguments of `ask`, `stream` and `choose`, shared by `Model`, `Chat` and `Live`."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, cast

from edge_interleave.decoding.generation import GenerationOptions
from edge_interleave.decoding.sampling import SamplingOptions
from edge_interleave.decoding.session import Session
from edge_interleave.prompt.messages import Images, Videos

FRAMES = 8
"""Frames sampled from a video that does not name a number."""


class AnswerOptions(TypedDict, total=False):
    """When an answer ends and how its tokens are drawn."""

    max_tokens: int
    """The most tokens of an answer (default: 256)."""
    stop: str | Sequence[str]
    """The answer ends before this text, or before the first of several."""
    sampling: SamplingOptions
    """How tokens are drawn (default: greedy)."""
    schema: Any
    """A JSON Schema that the answer follows: a dict, its JSON text, or a pydantic model's class. Needs llguidance
    (`edge-interleave[schema]`). None: any text."""
    cancel: threading.Event | None
    """Set it from another thread to end the answer."""


class MediaOptions(TypedDict, total=False):
    """Images and videos of a question, and how they become visual tokens."""

    images: Images
    """Images that come before the text: paths (a string is a path here), bytes, Pillow images, uint8 arrays."""
    videos: Videos
    """Videos that come after `images` and before the text: paths or `Video`."""
    frames: int
    """Frames sampled from each video that does not name a number (default: 8)."""
    pool: int
    """Pooling stride (default: 1). 2 halves width and height of the visual grid, so a quarter of the tokens remain."""
    tiles: bool
    """Encode a large image as an overview plus tiles (default: False)."""


class AskOptions(AnswerOptions, MediaOptions, total=False):
    """All keyword arguments of `ask` and `stream`."""


def generation_options(options: AnswerOptions, session: Session) -> GenerationOptions:
    """Combine the given options with the defaults.

    `session`: answers the question; a schema is compiled for its tokenizer.
    Raises UsageError for a value out of range, BackendError for a schema without llguidance.
    """
    stop, schema = options.get("stop", ()), options.get("schema")
    return GenerationOptions(
        options.get("max_tokens", GenerationOptions.max_tokens),
        (stop,) if isinstance(stop, str) else tuple(stop),
        options.get("sampling", SamplingOptions()),
        None if schema is None else session.grammar(schema),
    )


def check_names(options: Mapping[str, object], known: type) -> None:
    """Raise TypeError, as Python does, for a keyword argument that `known`, a class above, does not declare."""
    names = cast("frozenset[str]", known.__dict__["__optional_keys__"])
    for name in options:
        if name not in names:
            raise TypeError(f"unexpected keyword argument {name!r}; known are {', '.join(sorted(names))}")
