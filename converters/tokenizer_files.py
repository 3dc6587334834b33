"""The tokenizer of a checkpoint: `tokenizer.json`, or `vocab.json` and `merges.txt` as original checkpoints have it.

Finds the special tokens and the chat templates as well. Knows nothing about weights; executes nothing but templates, in
Jinja2's sandbox, to see what kind they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from edge_interleave.chat_template import ChatTemplate
from edge_interleave.errors import BundleError, CheckpointError, UsageError, shown
from edge_interleave.tokenizer_check import check_tokenizer

from .checkpoint import Checkpoint
from .config_reader import read_json

IMAGE_TOKEN = "<image>"
TOKENIZER_BYTES_MAX = 256 << 20
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHATML_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer with what is known of its special tokens and templates."""

    tokenizer: Tokenizer
    """With the image marker among its special tokens."""
    image_token: str
    image_token_id: int
    bos_token: str | None
    eos_token: str
    eos_token_ids: tuple[int, ...]
    """Any of these ends an answer: those of the configs, and the tokenizer's."""
    pad_token: str | None
    adds_bos: bool
    """Whether every text begins with `bos_token`."""
    text_template: str | None
    """Chat template for messages whose content is a string."""
    processor_template: str | None
    """Chat template of the image processor, for messages whose content is a list of parts; None where there is none."""


def read_tokenizer(checkpoint: Checkpoint) -> TokenizerFiles:
    """Read the tokenizer, templates and special tokens of a checkpoint.

    Where the tokenizer has no image marker (original layout), `<image>` is added as the next id, as the conversion to
    the Hugging Face layout does. Raises CheckpointError, also where the tokenizer has more tokens than the embedding
    matrix has rows.
    """
    folder = checkpoint.folder
    config = _optional(folder / "tokenizer_config.json")
    tokenizer = _load(folder, config)
    image, image_id = _image_token(checkpoint, tokenizer)
    rows = checkpoint.config.decoder.vocab_size
    size = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0) + 1
    if size > rows:
        raise CheckpointError(f"{folder}: the tokenizer has {size} tokens, the embedding matrix {rows} rows")
    eos = _token(config, "eos_token")
    ids = tuple(i for i in checkpoint.config.eos_token_ids if i < rows)
    if eos is None and ids:
        eos = tokenizer.id_to_token(ids[0])
    own = None if eos is None else tokenizer.token_to_id(eos)
    if eos is None or own is None:
        raise CheckpointError(f"{folder / 'tokenizer_config.json'}: no eos_token; download the whole checkpoint")
    bos = _token(config, "bos_token")
    bos_id = None if bos is None else tokenizer.token_to_id(bos)
    text = _text_template(folder, config, tokenizer)
    return TokenizerFiles(
        tokenizer=tokenizer,
        image_token=image,
        image_token_id=image_id,
        bos_token=bos if bos_id is not None else None,
        eos_token=eos,
        eos_token_ids=tuple(dict.fromkeys((*ids, own))),
        pad_token=_token(config, "pad_token"),
        adds_bos=bos_id is not None and tokenizer.encode("a").ids[:1] == [bos_id],
        text_template=text,
        processor_template=_processor_template(folder),
    )


def takes_strings(template: str) -> bool:
    """Whether a chat template shows the content of a message that is a plain string."""
    messages = [{"role": "user", "content": "content of the message"}]
    try:
        shown_text = ChatTemplate(template).render(messages)
    except (BundleError, UsageError):
        return False
    return messages[0]["content"] in shown_text


def _load(folder: Path, config: Mapping[str, Any]) -> Tokenizer:
    path = folder / "tokenizer.json"
    if path.is_file():
        if path.stat().st_size > TOKENIZER_BYTES_MAX:
            raise CheckpointError(f"{path}: {path.stat().st_size} bytes is too large for a tokenizer")
        try:
            content = path.read_bytes()
            check_tokenizer(content)
            tokenizer = Tokenizer.from_buffer(content)
        except Exception as error:  # `tokenizers` raises bare Exceptions
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"{path}: not a tokenizer ({reason}); download it again") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    if vocab.is_file() and merges.is_file():
        return _from_slow_files(folder, config)
    hint = "; save it with transformers' fast tokenizer" if (folder / "tokenizer.model").is_file() else ""
    raise CheckpointError(f"{folder}: neither tokenizer.json nor vocab.json with merges.txt is there{hint}")


def _from_slow_files(folder: Path, config: Mapping[str, Any]) -> Tokenizer:
    """Qwen2's tokenizer from its files, as transformers' Qwen2Tokenizer puts it together."""
    try:
        vocab, merges = models.BPE.read_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
        tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{folder / 'vocab.json'}: not a vocabulary ({reason}); download it again") from error
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    for number, token in sorted(_added_tokens(folder, config).items()):
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        if tokenizer.token_to_id(token) != number:
            raise CheckpointError(f"{folder}: added token {shown(token)} cannot have id {number}; download it again")
    return tokenizer


def _added_tokens(folder: Path, config: Mapping[str, Any]) -> dict[int, str]:
    listed = config.get("added_tokens_decoder")
    pairs: list[tuple[Any, Any]] = []
    if isinstance(listed, dict):
        pairs = [(key, value.get("content") if isinstance(value, dict) else None) for key, value in listed.items()]
    elif isinstance(plain := _optional(folder / "added_tokens.json"), dict):
        pairs = [(value, key) for key, value in plain.items()]
    added = {}
    for number, token in pairs:
        if not isinstance(token, str) or not str(number).isdecimal():
            raise CheckpointError(f"{folder}: added token {shown(token)} has the id {shown(number)}; download it again")
        added[int(number)] = token
    return added


def _image_token(checkpoint: Checkpoint, tokenizer: Tokenizer) -> tuple[str, int]:
    configured = checkpoint.config.image_token_id
    if configured is not None and (token := tokenizer.id_to_token(configured)) is not None:
        return token, configured
    if tokenizer.token_to_id(IMAGE_TOKEN) is None:
        tokenizer.add_special_tokens([AddedToken(IMAGE_TOKEN, special=True, normalized=False)])
    number = tokenizer.token_to_id(IMAGE_TOKEN)
    if number is None or number != (number if configured is None else configured):
        raise CheckpointError(
            f"{checkpoint.folder}: config.json has image token {configured}, the tokenizer has {number}; "
            "the two do not belong together"
        )
    return IMAGE_TOKEN, number


def _text_template(folder: Path, config: Mapping[str, Any], tokenizer: Tokenizer) -> str | None:
    for template in (_named_template(config.get("chat_template")), _processor_template(folder)):
        if template is not None and takes_strings(template):
            return template
    return CHATML_TEMPLATE if tokenizer.token_to_id("<|im_start|>") is not None else None


def _processor_template(folder: Path) -> str | None:
    jinja = folder / "chat_template.jinja"
    if jinja.is_file() and jinja.stat().st_size < 1 << 20:
        try:
            return jinja.read_text("utf-8")
        except ValueError as error:
            raise CheckpointError(f"{jinja}: not UTF-8 text; download it again") from error
    for name in ("chat_template.json", "processor_config.json"):
        template = _named_template(_optional(folder / name).get("chat_template"))
        if template is not None:
            return template
    return None


def _named_template(value: Any) -> str | None:
    """A template, or the one called `default` of a list of named ones."""
    if isinstance(value, list):
        named = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
        value = named.get("default")
    return value if isinstance(value, str) else None


def _token(config: Mapping[str, Any], key: str) -> str | None:
    """A special token, which is a string or an object with one."""
    value = config.get(key)
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _optional(path: Path) -> dict[str, Any]:
    value = read_json(path) if path.is_file() else {}
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: must be a JSON object; download it again")
    return value
