"""Converts a tokenizer to the arrays of a GGUF file.

llama.cpp has its own tokenizers. It takes tokens, types and merges from the file, but splits text before merging by
built-in rules, chosen by name (`tokenizer.ggml.pre`). Any other split is refused, since the model would get other
tokens than in training. llama.cpp does not apply Unicode NFC, as Qwen's tokenizer does: decomposed text, which is
rare, gives other tokens unless the caller composes it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gguf import TokenType
from tokenizers import Tokenizer

from edge_interleave.converters.checkpoint.tokenizer import QWEN2_PATTERN
from edge_interleave.errors import CheckpointError

LLAMA3_PATTERN = QWEN2_PATTERN.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
# (pattern, whether whole words are looked up before merging) to llama.cpp's name.
_SPLITS = {
    (QWEN2_PATTERN, False): "qwen2",
    (LLAMA3_PATTERN, True): "llama-bpe",
    (LLAMA3_PATTERN, False): "smaug-bpe",
    ("byte-level", False): "gpt-2",
}
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class Vocabulary:
    """The content of `tokenizer.ggml.*`."""

    model: str
    """`gpt2` for byte-level BPE, `llama` for SentencePiece's."""
    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    """Empty for `llama`."""
    scores: list[float]
    """Empty for `gpt2`."""
    unknown_id: int | None
    adds_space: bool
    """Whether a space is added before the text (`llama`)."""
    lost_flags: tuple[str, ...] = ()
    """What the tokenizer does at added tokens and llama.cpp does not, in words."""


def make_vocabulary(tokenizer: Tokenizer, rows: int) -> Vocabulary:
    """The arrays for an embedding matrix of `rows` rows; rows beyond the tokenizer's size become unused tokens.

    Raises CheckpointError if llama.cpp has no such tokenizer.
    """
    raw = json.loads(tokenizer.to_str())
    model = raw["model"]
    if model.get("type", "BPE") != "BPE":
        raise CheckpointError(f"tokenizer of type {model.get('type')!r} is not supported (BPE is)")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    tokens, types = _tokens(tokenizer, raw, rows)
    unknown = model.get("unk_token")
    if model.get("byte_fallback"):
        types = [TokenType.BYTE if _BYTE.fullmatch(t) else kind for t, kind in zip(tokens, types, strict=True)]
        if unknown in tokens:
            types[tokens.index(unknown)] = TokenType.UNKNOWN
        return Vocabulary(
            model="llama",
            pre="default",
            tokens=tokens,
            types=[int(kind) for kind in types],
            merges=[],
            scores=_scores(tokens, merges),
            unknown_id=tokens.index(unknown) if unknown in tokens else None,
            adds_space=_adds_space(raw),
            lost_flags=_lost_flags(raw),
        )
    return Vocabulary(
        model="gpt2",
        pre=_split_name(raw),
        tokens=tokens,
        types=[int(kind) for kind in types],
        merges=merges,
        scores=[],
        unknown_id=None,
        adds_space=False,
        lost_flags=_lost_flags(raw),
    )


def _tokens(tokenizer: Tokenizer, raw: dict[str, Any], rows: int) -> tuple[list[str], list[TokenType]]:
    tokens = [f"[PAD{number}]" for number in range(rows)]
    types = [TokenType.UNUSED] * rows
    for token, number in tokenizer.get_vocab(with_added_tokens=True).items():
        tokens[number], types[number] = token, TokenType.NORMAL
    for added in raw.get("added_tokens", []):
        types[added["id"]] = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
    return tokens, types


def _lost_flags(raw: dict[str, Any]) -> tuple[str, ...]:
    """The flags that llama.cpp ignores: it finds added tokens anywhere, and keeps white space around them."""
    flags = {
        "lstrip": "takes the white space before it",
        "rstrip": "takes the white space after it",
        "single_word": "is found between words only",
    }
    return tuple(
        f"{added['content']} {what}"
        for added in raw.get("added_tokens", [])
        for flag, what in flags.items()
        if added.get(flag)
    )


def _scores(tokens: list[str], merges: list[str]) -> list[float]:
    """Scores for SentencePiece, which joins the pair with the highest score first, from the order of merges."""
    rank: dict[str, int] = {}
    for number, merge in enumerate(merges):
        rank.setdefault(merge.replace(" ", "", 1), number)
    return [-float(rank.get(token, len(merges))) for token in tokens]


def _split_name(raw: dict[str, Any]) -> str:
    steps = list(_steps(raw.get("pre_tokenizer")))
    patterns = [step["pattern"].get("Regex") for step in steps if step["type"] == "Split"]
    levels = [step for step in steps if step["type"] == "ByteLevel"]
    whole = bool(raw["model"].get("ignore_merges"))
    if len(levels) == 1 and len(steps) == len(patterns) + 1 and not levels[0].get("add_prefix_space"):
        own = levels[0].get("use_regex", True)
        pattern = "byte-level" if own and not patterns else str(patterns[0]) if len(patterns) == 1 and not own else ""
        if (pattern, whole) in _SPLITS:
            return _SPLITS[pattern, whole]
    raise CheckpointError("llama.cpp has no tokenizer that splits text like this one; convert for MLX (--backend mlx)")


def _steps(raw: Any) -> Iterator[dict[str, Any]]:
    if not raw:
        return
    if raw["type"] == "Sequence":
        for step in raw["pretokenizers"]:
            yield from _steps(step)
    else:
        yield raw


def _adds_space(raw: dict[str, Any]) -> bool:
    normalizer, before = raw.get("normalizer") or {}, raw.get("pre_tokenizer") or {}
    prepends = any(step["type"] == "Prepend" for step in normalizer.get("normalizers", [normalizer]) if step)
    return prepends or before.get("prepend_scheme") in ("always", "first")
