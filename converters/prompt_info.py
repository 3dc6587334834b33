"""What a checkpoint says about prompts: chat template, image token, the tokens that begin and end. Renders nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from edge_interleave.bundle import PromptInfo
from edge_interleave.chat_template import QWEN_1_5_TEMPLATE, ChatTemplate
from edge_interleave.errors import BundleError, CheckpointError

from .config import ModelConfig
from .config_reader import read_json

_TEMPLATE_BYTES_MAX = 1 << 20


def read_prompt_info(folder: Path, config: ModelConfig, tokenizer: Tokenizer, image_token: str) -> PromptInfo:
    """The prompt's facts of the checkpoint in `folder`. Raises CheckpointError where they cannot be known."""
    said = _object(folder / "tokenizer_config.json")
    template = _chat_template(folder, said, tokenizer)
    try:
        ChatTemplate(template)
    except BundleError as error:
        raise CheckpointError(f"{folder}: {str(error).removesuffix('; convert again')}; download it again") from error
    eos = [_token(said.get("eos_token")), "<|im_end|>" if "<|im_end|>" in template else None]
    ids = [i for i in config.eos_token_ids if tokenizer.id_to_token(i) is not None]
    ids += [i for i in (tokenizer.token_to_id(text) for text in eos if text) if i is not None]
    if not ids:
        raise CheckpointError(
            f"{folder}: no token ends an answer (eos_token_id in generation_config.json or config.json, eos_token in "
            "tokenizer_config.json); download the whole checkpoint"
        )
    named = eos[0] if eos[0] and tokenizer.token_to_id(eos[0]) is not None else tokenizer.id_to_token(ids[0])
    return PromptInfo(
        chat_template=template,
        image_token=image_token,
        bos_token=_bos_token(said, config, tokenizer),
        eos_token=str(named),
        eos_token_ids=tuple(dict.fromkeys(ids)),
    )


def _bos_token(said: dict[str, Any], config: ModelConfig, tokenizer: Tokenizer) -> str | None:
    """The token that the tokenizer puts before every text; None where it puts none."""
    first = tokenizer.encode("", add_special_tokens=True).ids[:1]
    if first:
        return str(tokenizer.id_to_token(first[0]))
    named = _token(said.get("bos_token"))
    if config.decoder.type != "llama" or said.get("add_bos_token") is not True or named is None:
        return None
    return named if tokenizer.token_to_id(named) is not None else None


def _chat_template(folder: Path, said: dict[str, Any], tokenizer: Tokenizer) -> str:
    """The processor's template; of the tokenizer's, only one that knows images, as a text model's does not.

    Where there is none, Qwen models get the prompt that LLaVA-NeXT-Interleave was evaluated with.
    """
    path = folder / "chat_template.jinja"
    if path.is_file():
        if path.stat().st_size > _TEMPLATE_BYTES_MAX:
            raise CheckpointError(f"{path}: {path.stat().st_size} bytes is too large for a chat template")
        try:
            return path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path}: not readable as text ({error}); download it again") from error
    for name in ("chat_template.json", "processor_config.json"):
        template = _template(folder / name, _object(folder / name))
        if template is not None:
            return template
    own = _template(folder / "tokenizer_config.json", said)
    if own is not None and "image" in own:
        return own
    if tokenizer.token_to_id("<|im_start|>") is not None:
        return QWEN_1_5_TEMPLATE
    if own is not None:
        return own
    raise CheckpointError(f"{folder}: no chat template; put the model's as chat_template.jinja into the folder")


def _template(path: Path, raw: dict[str, Any]) -> str | None:
    value = raw.get("chat_template")
    if isinstance(value, list):
        named = {entry.get("name"): entry.get("template") for entry in value if isinstance(entry, dict)}
        value = named.get("default")
    if value is not None and (not isinstance(value, str) or len(value) > _TEMPLATE_BYTES_MAX):
        raise CheckpointError(f"{path}: field 'chat_template' must be a template; download it again")
    return value


def _token(value: Any) -> str | None:
    """A token's text, given as such or as an object with `content`."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) and text else None


def _object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    value = read_json(path)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: must be a JSON object; download it again")
    return value
