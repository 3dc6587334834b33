"""Reads a checkpoint's tokenizer, special tokens and chat templates.

The tokenizer is `tokenizer.json`, or `vocab.json` and `merges.txt` in original checkpoints. Templates are rendered in
Jinja2's sandbox to find out which content they take.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from edge_interleave.converters.checkpoint.conversations import CONVERSATIONS, conversation_name
from edge_interleave.converters.checkpoint.json_files import read_json
from edge_interleave.converters.checkpoint.reader import Checkpoint
from edge_interleave.errors import BundleError, CheckpointError, UsageError, one_line, shown
from edge_interleave.prompt.template import ChatTemplate
from edge_interleave.prompt.tokenizer_check import check_tokenizer

IMAGE_TOKEN = "<image>"
_FLAGS = ("special", "normalized", "lstrip", "rstrip", "single_word")
_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Fields of `tokenizer_config.json` that name special tokens: transformers' SPECIAL_TOKENS_ATTRIBUTES."""
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
    """A tokenizer with its special tokens and chat templates."""

    tokenizer: Tokenizer
    """The image marker is one of its special tokens if the embedding matrix has a row for it."""
    image_token: str
    image_token_id: int | None
    """None if the marker is not a token; the runtime then finds it in the text."""
    bos_token: str | None
    eos_token: str
    eos_token_ids: tuple[int, ...]
    """Any of these ends an answer. From the configs, the tokenizer, and the chat templates."""
    turn_end_id: int | None
    """The token that the chat template puts after an answer; None if it puts none."""
    pad_token: str | None
    adds_bos: bool
    """Whether every text begins with `bos_token`."""
    text_template: str | None
    """Chat template for messages whose content is a string."""
    prompt_template: str | None
    """Chat template that handles images: the image processor's, or the tokenizer's if it does; otherwise the original
    code's conversation (see `conversations`), or None if none is known."""


def read_tokenizer(checkpoint: Checkpoint) -> TokenizerFiles:
    """Read the tokenizer, templates and special tokens of a checkpoint.

    If the tokenizer has no image marker (original layout) and the embedding matrix has a row for it, `<image>` is added
    as the next id, like in the conversion to the Hugging Face layout. Raises CheckpointError, also if the tokenizer has
    more tokens than the embedding matrix has rows.
    """
    folder = checkpoint.folder
    config = _tokenizer_config(folder)
    tokenizer = _load(folder, config)
    rows = checkpoint.config.decoder.vocab_size
    image, image_id = _image_token(checkpoint, tokenizer, rows)
    size = _size(tokenizer)
    if size > rows:
        raise CheckpointError(f"{folder}: the tokenizer has {size} tokens, the embedding matrix {rows} rows")
    eos = _token(config, "eos_token")
    ids = tuple(i for i in checkpoint.config.eos_token_ids if i < rows)
    added = tokenizer.get_added_tokens_decoder()
    more = tuple(i for i in checkpoint.config.more_eos_token_ids if i in added)
    if eos is None and ids:
        eos = tokenizer.id_to_token(ids[0])
    own = None if eos is None else tokenizer.token_to_id(eos)
    if eos is None or own is None:
        raise CheckpointError(f"{folder / 'tokenizer_config.json'}: no eos_token; download the whole checkpoint")
    bos = _token(config, "bos_token")
    bos_id = None if bos is None else tokenizer.token_to_id(bos)
    text = _text_template(folder, config, tokenizer)
    prompt = _prompt_template(checkpoint, text, tokenizer)
    special = {"bos_token": bos or "", "eos_token": eos}
    behind = [_turn_end(template, tokenizer, special) for template in (prompt, text) if template is not None]
    turn_ends = [end for end in behind if end is not None and end not in (image_id, bos_id)]
    return TokenizerFiles(
        tokenizer=tokenizer,
        image_token=image,
        image_token_id=image_id,
        bos_token=bos if bos_id is not None else None,
        eos_token=eos,
        eos_token_ids=tuple(dict.fromkeys((*ids, own, *turn_ends, *more))),
        turn_end_id=next(iter(turn_ends), None),
        pad_token=_token(config, "pad_token"),
        adds_bos=bos_id is not None and tokenizer.encode("a").ids[:1] == [bos_id],
        text_template=text,
        prompt_template=prompt,
    )


def takes_strings(template: str) -> bool:
    """Whether a chat template renders messages whose content is a string."""
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
            reason = one_line(error)
            raise CheckpointError(f"{path}: not a tokenizer ({reason}); download it again") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        _add_tokens(folder, tokenizer, config, exact=False)
        return tokenizer
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    if vocab.is_file() and merges.is_file():
        tokenizer = _from_slow_files(folder)
        _add_tokens(folder, tokenizer, config, exact=True)
        return tokenizer
    hint = "; save it with transformers' fast tokenizer" if (folder / "tokenizer.model").is_file() else ""
    raise CheckpointError(f"{folder}: has neither tokenizer.json nor vocab.json with merges.txt{hint}")


def _from_slow_files(folder: Path) -> Tokenizer:
    """Qwen2's tokenizer, built like transformers' Qwen2Tokenizer, without added tokens."""
    try:
        vocab, merges = models.BPE.read_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
        tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    except Exception as error:
        reason = one_line(error)
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
    return tokenizer


def _add_tokens(folder: Path, tokenizer: Tokenizer, config: Mapping[str, Any], *, exact: bool) -> None:
    """Add the tokens that `tokenizer_config.json`, or `added_tokens.json` in old checkpoints, lists.

    Their flags replace those in `tokenizer.json`, like in transformers; existing tokens keep their ids. A token that
    the config names, as `eos_token` for example, is special whatever its flags.
    `exact`: the ids must be the listed ones (without a `tokenizer.json`).
    """
    held = tokenizer.get_added_tokens_decoder()
    named = {name for key in _NAMED_TOKENS if (name := _token(config, key)) is not None}
    wanted = held | _listed_tokens(folder, config, named, fresh=exact)
    for number, token in sorted(wanted.items()):
        if token.content in named and not token.special:
            token = AddedToken(token.content, **{**{flag: getattr(token, flag) for flag in _FLAGS}, "special": True})
        # `repr` has all flags; `==` does not compare them.
        if repr(held.get(number)) == repr(token):
            continue
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
        if exact and tokenizer.token_to_id(token.content) != number:
            raise CheckpointError(
                f"{folder}: added token {shown(token.content)} cannot have id {number}; download it again"
            )


def _listed_tokens(folder: Path, config: Mapping[str, Any], named: set[str], *, fresh: bool) -> dict[int, AddedToken]:
    """Id to token. `fresh`: there is no `tokenizer.json`, whose flags would hold instead of `added_tokens.json`'s."""
    listed = config.get("added_tokens_decoder")
    pairs: list[tuple[Any, Any]] = []
    if isinstance(listed, dict):
        pairs = list(listed.items())
    elif fresh:
        for key in ("additional_special_tokens", "extra_special_tokens"):
            extra = config.get(key)
            named = named | {str(_content(token)) for token in (extra if isinstance(extra, list) else ())}
        plain = _optional(folder / "added_tokens.json")
        pairs = [(number, {"content": token, "special": token in named}) for token, number in plain.items()]
    added = {}
    for number, flags in pairs:
        content = flags.get("content") if isinstance(flags, dict) else None
        if not isinstance(content, str) or not content or not str(number).isdecimal():
            raise CheckpointError(
                f"{folder}: added token {shown(content)} has the id {shown(number)}; download it again"
            )
        said = {flag: flags.get(flag) is True for flag in _FLAGS}
        if "normalized" not in flags:
            said["normalized"] = not said["special"]  # the default of `tokenizers`
        added[int(number)] = AddedToken(content, **said)
    return added


def _size(tokenizer: Tokenizer) -> int:
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def _image_token(checkpoint: Checkpoint, tokenizer: Tokenizer, rows: int) -> tuple[str, int | None]:
    configured = checkpoint.config.image_token_id
    if configured is not None and (token := tokenizer.id_to_token(configured)) is not None:
        if configured not in tokenizer.get_added_tokens_decoder():
            raise CheckpointError(
                f"{checkpoint.folder}: config.json has image token {configured}, which is the text {shown(token)} in "
                "the tokenizer; the two do not belong together"
            )
        return token, configured
    if tokenizer.token_to_id(IMAGE_TOKEN) is None:
        if configured is None and _size(tokenizer) == rows:
            return IMAGE_TOKEN, None
        tokenizer.add_special_tokens([AddedToken(IMAGE_TOKEN, special=True, normalized=False)])
    number = tokenizer.token_to_id(IMAGE_TOKEN)
    if number is None or number != (number if configured is None else configured):
        raise CheckpointError(
            f"{checkpoint.folder}: config.json has image token {configured}, but the tokenizer has {number}; "
            "the two do not belong together"
        )
    return IMAGE_TOKEN, number


def _text_template(folder: Path, config: Mapping[str, Any], tokenizer: Tokenizer) -> str | None:
    for template in (_named_template(config.get("chat_template")), _processor_template(folder)):
        if template is not None and takes_strings(template):
            return template
    return CHATML_TEMPLATE if tokenizer.token_to_id("<|im_start|>") is not None else None


def _prompt_template(checkpoint: Checkpoint, text: str | None, tokenizer: Tokenizer) -> str | None:
    """The processor's template, or the tokenizer's if it handles images; a text model's does not."""
    processor = _processor_template(checkpoint.folder)
    if processor is not None:
        return processor
    if text is None or "image" not in text:
        name = conversation_name(checkpoint.config, tokenizer, has_template=text is not None)
        if name is not None:
            return CONVERSATIONS[name]
    return text


def _turn_end(template: str, tokenizer: Tokenizer, special: Mapping[str, str]) -> int | None:
    """The added token that a template puts after an answer, ignoring white space: the model's end of turn.

    Some templates put it only if another turn follows.
    """
    try:
        compiled = ChatTemplate(template, bos_token=special["bos_token"], eos_token=special["eos_token"])
    except BundleError:
        return None  # reported when the template is rendered
    contents = {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items()}
    answer = "answer-of-the-assistant"
    for as_parts in (True, False):
        turns = [("user", "question"), ("assistant", answer), ("user", "question")]
        messages = [
            {"role": role, "content": [{"type": "text", "text": text}] if as_parts else text} for role, text in turns
        ]
        for count in (2, 3):
            try:
                rendered = compiled.render(messages[:count], add_generation_prompt=False)
            except (BundleError, UsageError):
                continue
            _, found, tail = rendered.partition(answer)
            # A template for strings renders a list as Python prints it.
            if not found or "'type'" in rendered:
                continue
            behind = [content for content in contents if content and tail.lstrip().startswith(content)]
            if behind:
                return contents[max(behind, key=len)]
    return None


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
    """A template, or the one called `default` in a list of named templates."""
    if isinstance(value, list):
        named = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
        value = named.get("default")
    return value if isinstance(value, str) else None


def _tokenizer_config(folder: Path) -> dict[str, Any]:
    """`tokenizer_config.json`. An old one, without `added_tokens_decoder`, is completed from a second file."""
    config = _optional(folder / "tokenizer_config.json")
    if "added_tokens_decoder" in config:
        return config
    return config | _optional(folder / "special_tokens_map.json")


def _token(config: Mapping[str, Any], key: str) -> str | None:
    """A special token, which is a string or an object with one."""
    return _content(config.get(key))


def _content(token: Any) -> str | None:
    value = token.get("content") if isinstance(token, dict) else token
    return value if isinstance(value, str) else None


def _optional(path: Path) -> dict[str, Any]:
    value = read_json(path) if path.is_file() else {}
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: must be a JSON object; download it again")
    return value
