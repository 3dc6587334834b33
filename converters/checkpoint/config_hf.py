"""Parses `config.json` into a ModelConfig: the Hugging Face layout here, the original layout in `config_original`.

Defaults are those of transformers' `LlavaConfig`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_interleave.converters.checkpoint.config import ModelConfig
from edge_interleave.converters.checkpoint.config_original import parse_original
from edge_interleave.converters.checkpoint.config_parts import (
    more_token_ids,
    parse_decoder,
    parse_vision,
    pooling_mode,
    token_ids,
)
from edge_interleave.converters.checkpoint.json_files import fields_of
from edge_interleave.errors import CheckpointError
from edge_interleave.util.json_fields import JsonFields


def parse_config(path: Path, raw: Any, generation: Any = None) -> ModelConfig:
    """Parse the JSON values of `config.json` and `generation_config.json`, which may be missing.

    `path`: of `config.json`, for messages and for a tower's config beside it (original layout). Raises CheckpointError
    if the model cannot be converted.
    """
    fields = fields_of(path, raw)
    if "quantization_config" in fields.raw or "compression_config" in fields.raw:
        raise CheckpointError(f"{path}: the checkpoint is already quantized; use the one it was made from")
    if "mm_vision_tower" in fields.raw or "mm_projector_type" in fields.raw:
        return parse_original(fields, generation)
    return _parse_hf(fields, generation)


def _parse_hf(fields: JsonFields, generation: Any) -> ModelConfig:
    kind = fields.text("model_type", "")
    if kind != "llava":
        named = fields.raw.get("architectures")
        raise CheckpointError(
            f"{fields.path}: architecture {kind or named!r} is not supported "
            "(LlavaForConditionalGeneration and the original LLaVA-NeXT's Qwen and Llama classes are)"
        )
    text = fields.object("text_config")
    decoder = text.text("model_type", "llama")
    if decoder not in ("qwen2", "llama"):
        raise CheckpointError(f"{fields.path}: decoder {decoder!r} is not supported (qwen2 and llama are)")
    layer = fields.raw.get("vision_feature_layer", -2)
    if type(layer) is not int:
        raise fields.error("vision_feature_layer", "a whole number (several feature layers are not supported)")
    strategy = fields.text("vision_feature_select_strategy", "default")
    if strategy not in ("default", "full"):
        raise fields.error("vision_feature_select_strategy", "'default' or 'full'")
    image = token_ids("image_token_index", fields.raw) or token_ids("image_token_id", {"image_token_id": 32000})
    image = token_ids("image_token_id", fields.raw) or image
    bos = token_ids("bos_token_id", generation, text.raw, fields.raw)
    return ModelConfig(
        layout="hf",
        decoder=parse_decoder(text, decoder, tied=fields.boolean("tie_word_embeddings", False)),
        vision=parse_vision(
            _vision_defaults(fields.object("vision_config")),
            feature_layer=layer,
            select_strategy=strategy,
            projector_act=fields.text("projector_hidden_act", "gelu"),
            projector_bias=fields.boolean("multimodal_projector_bias", True),
        ),
        image_token_id=image[0],
        pooling_mode=pooling_mode(fields),
        bos_token_id=bos[0] if bos else None,
        eos_token_ids=token_ids("eos_token_id", generation, text.raw, fields.raw),
        more_eos_token_ids=more_token_ids("eos_token_id", generation, text.raw, fields.raw),
    )


def _vision_defaults(fields: JsonFields) -> JsonFields:
    """The vision config with LlavaConfig's default tower, CLIP, if it names no type."""
    return fields if "model_type" in fields.raw else fields.nested({**fields.raw, "model_type": "clip"}, fields.prefix)
