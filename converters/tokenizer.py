"""A checkpoint's tokenizer as one `tokenizer.json`, with a token for images in it. Knows nothing about prompts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from edge_interleave.bundle import TOKENIZER_NAME
from edge_interleave.errors import CheckpointError

from .config_reader import JSON_BYTES_MAX, read_json

IMAGE_TOKEN = "<image>"
# How Qwen2's tokenizer cuts text into words before it merges bytes, and the tokens that follow its merges.
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def load_tokenizer(folder: Path, vocab_size: int, image_token_id: int | None = None) -> tuple[Tokenizer, str]:
    """The checkpoint's tokenizer and the text of its image token.

    From `tokenizer.json`, or from Qwen2's `vocab.json` and `merges.txt`. `vocab_size` is the embedding's rows and
    `image_token_id` what the config says. Where there is no image token it is added, if the embedding has a spare row
    (the runtime adds it in memory otherwise: no row of it is ever read). Raises CheckpointError.
    """
    if (folder / TOKENIZER_NAME).is_file():
        tokenizer = _from_json(folder / TOKENIZER_NAME)
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        tokenizer = _qwen2(folder)
    else:
        raise CheckpointError(
            f"{folder}: no {TOKENIZER_NAME}, nor vocab.json and merges.txt; download the whole checkpoint"
        )
    tokenizer.no_truncation()
    tokenizer.no_padding()
    named = None if image_token_id is None else tokenizer.id_to_token(image_token_id)
    image_token = named or IMAGE_TOKEN
    size = tokenizer.get_vocab_size()
    if size > vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer has {size} tokens, the embedding {vocab_size} rows; "
            "the files are not of one checkpoint"
        )
    if tokenizer.token_to_id(image_token) is not None or size < vocab_size:
        # Adding one that is there already changes nothing but that it is never cut into pieces.
        tokenizer.add_special_tokens([AddedToken(image_token, special=True, normalized=False)])
    return tokenizer, image_token


def _from_json(path: Path) -> Tokenizer:
    if path.stat().st_size > JSON_BYTES_MAX:
        raise CheckpointError(f"{path}: {path.stat().st_size} bytes is too large for a tokenizer; download it again")
    with _readable(path):
        return Tokenizer.from_file(str(path))


def _qwen2(folder: Path) -> Tokenizer:
    """The byte-level BPE that transformers makes of Qwen2's two files."""
    vocab = read_json(folder / "vocab.json")
    if not isinstance(vocab, dict) or not all(type(i) is int and 0 <= i < 1 << 22 for i in vocab.values()):
        raise CheckpointError(f"{folder / 'vocab.json'}: must map tokens to ids; download it again")
    with _readable(folder / "merges.txt"):
        merges = []
        for line in (folder / "merges.txt").read_text("utf-8").splitlines():
            if line and not line.startswith("#version"):
                left, right = line.split(" ")
                merges.append((left, right))
        tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    for content, said, special in _added(folder, len(vocab)):
        token = AddedToken(content, special=special, normalized=False)
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([token])
        if tokenizer.token_to_id(content) != said:
            raise CheckpointError(
                f"{folder}: added token {content!r} comes to id {tokenizer.token_to_id(content)} where the "
                f"checkpoint says {said}; save its tokenizer as {TOKENIZER_NAME}"
            )
    return tokenizer


def _added(folder: Path, first: int) -> list[tuple[str, int, bool]]:
    """Added tokens with their ids and whether they are special, by id."""
    path = folder / "tokenizer_config.json"
    decoder: Any = read_json(path).get("added_tokens_decoder") if path.is_file() else None
    try:
        if decoder:
            found = [(entry["content"], int(key), bool(entry.get("special", True))) for key, entry in decoder.items()]
        elif (folder / "added_tokens.json").is_file():
            path = folder / "added_tokens.json"
            found = [(content, int(key), True) for content, key in read_json(path).items()]
        else:
            found = [(content, first + i, True) for i, content in enumerate(QWEN2_SPECIALS)]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise CheckpointError(f"{path}: added tokens are not as they should be; download it again") from None
    if not all(isinstance(content, str) and content for content, _, _ in found):
        raise CheckpointError(f"{path}: an added token must have a text; download it again")
    return sorted(found, key=lambda token: token[1])


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Make one error of whatever the tokenizers library, which is Rust, says about a bad file."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path}: not a readable tokenizer ({reason}); download it again") from error
