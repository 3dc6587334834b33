"""Checks a `tokenizer.json` before the `tokenizers` library parses it: some malformed files abort the whole process.

Accepted are the components of Qwen's and Llama's tokenizers: byte-pair merges, and normalizers, pre-tokenizers and
decoders that do not lengthen a text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from edge_interleave.errors import shown

STEPS_MAX = 16
TEXT_MAX = 16
REGEX_MAX = 4096
TOKENS_MAX = 1 << 22

_NORMALIZERS = ("NFC", "NFD", "NFKC", "NFKD", "Prepend", "Replace")
_PRE_TOKENIZERS = ("ByteLevel", "Digits", "Metaspace", "Punctuation", "Split", "Whitespace", "WhitespaceSplit")
_DECODERS = ("ByteFallback", "ByteLevel", "Fuse", "Metaspace", "Replace", "Strip")
_POST_PROCESSORS = ("ByteLevel", "TemplateProcessing")


def check_tokenizer(content: bytes) -> None:
    """Raise ValueError, with a one-line reason, if `content` is not such a tokenizer."""
    try:
        raw = json.loads(content.decode("utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("model"), dict):
        raise ValueError("it has no model")
    _check_model(raw["model"])
    for key, inner, known in (
        ("normalizer", "normalizers", _NORMALIZERS),
        ("pre_tokenizer", "pretokenizers", _PRE_TOKENIZERS),
        ("decoder", "decoders", _DECODERS),
        ("post_processor", "processors", _POST_PROCESSORS),
    ):
        for step in _steps(key, raw.get(key), inner):
            if step.get("type") not in known:
                raise ValueError(f"its {key} is of the unknown type {shown(step.get('type'))}")
            _check_texts(key, step)


def _check_model(model: dict[str, Any]) -> None:
    if model.get("type", "BPE") != "BPE":
        raise ValueError(f"a model of type {shown(model['type'])} is not supported (BPE is)")
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, dict) or len(vocabulary) > TOKENS_MAX:
        raise ValueError("its model has no vocabulary")
    unknown = model.get("unk_token")
    if unknown is not None and (not isinstance(unknown, str) or unknown not in vocabulary):
        raise ValueError(f"its unknown token {shown(unknown)} is not in its vocabulary")
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(key):
            raise ValueError(f"its model has a {key}")


def _steps(key: str, raw: Any, inner: str) -> Iterator[dict[str, Any]]:
    """The steps of a component: the members of a sequence, or the component itself."""
    if raw is None:
        return
    if not isinstance(raw, dict):
        raise ValueError(f"its {key} must be an object")
    if raw.get("type") != "Sequence":
        yield raw
        return
    steps = raw.get(inner)
    if not isinstance(steps, list) or len(steps) > STEPS_MAX or not all(isinstance(step, dict) for step in steps):
        raise ValueError(f"its {key} must have a list of at most {STEPS_MAX} steps")
    yield from steps


def _check_texts(key: str, step: dict[str, Any]) -> None:
    if step["type"] == "Prepend" and len(str(step.get("prepend"))) > TEXT_MAX:
        raise ValueError(f"its {key} prepends a long text")
    pattern: Any = step.get("pattern")
    if step["type"] not in ("Replace", "Split"):
        return
    text = pattern.get("String", pattern.get("Regex")) if isinstance(pattern, dict) else None
    if not isinstance(text, str) or not 1 <= len(text) <= REGEX_MAX:
        raise ValueError(f"its {key} has no pattern, or too long a pattern")
    if "Regex" in pattern and _repeats_group(text):
        raise ValueError(f"its {key} repeats a group, which can take exponential time")
    if step["type"] == "Replace" and ("String" not in pattern or len(str(step.get("content"))) > len(text)):
        raise ValueError(f"its {key} replaces a pattern, or inserts a longer text")


def _repeats_group(regex: str) -> bool:
    """Whether a group is repeated without limit. If it contains a repetition, matching can take exponential time."""
    escaped = inside = False
    for character, following in pairwise(regex):
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif inside or character == "[":
            inside = character != "]"
        elif character == ")" and following in "*+{":
            return True
    return False
