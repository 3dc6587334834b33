"""`config.json` of either layout to a ModelConfig; the Hugging Face layout here, the original in `config_original.py`.

Knows nothing about tensors. The defaults are those of transformers' `LlavaConfig`.
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
from edge_interleave.converters.checkpoint.json_reader import Reader
from edge_interleave.errors import CheckpointError


def parse_config(path: Path, raw: Any, generation: Any = None) -> ModelConfig:
    """Parse the JSON values of `config.json` and, where there is one, `generation_config.json`.

    `path` is that of `config.json`: for messages, and for a tower's own config beside it (original layout).
    Raises CheckpointError for anything that cannot be converted.
    """
    reader = Reader(path, raw)
    if "quantization_config" in reader.raw or "compression_config" in reader.raw:
        raise CheckpointError(f"{path}: the checkpoint is quantized already; use the one it was made from")
    if "mm_vision_tower" in reader.raw or "mm_projector_type" in reader.raw:
        return parse_original(reader, generation)
    return _parse_hf(reader, generation)


def _parse_hf(reader: Reader, generation: Any) -> ModelConfig:
    kind = reader.text("model_type", "")
    if kind != "llava":
        named = reader.raw.get("architectures")
        raise CheckpointError(
            f"{reader.path}: architecture {kind or named!r} is not supported "
            "(LlavaForConditionalGeneration and the original LLaVA-NeXT's Qwen and Llama classes are)"
        )
    text = reader.object("text_config")
    decoder = text.text("model_type", "llama")
    if decoder not in ("qwen2", "llama"):
        raise CheckpointError(f"{reader.path}: decoder {decoder!r} is not supported (qwen2 and llama are)")
    layer = reader.raw.get("vision_feature_layer", -2)
    if type(layer) is not int:
        raise reader.error("vision_feature_layer", "a whole number (several feature layers are not supported)")
    strategy = reader.text("vision_feature_select_strategy", "default")
    if strategy not in ("default", "full"):
        raise reader.error("vision_feature_select_strategy", "'default' or 'full'")
    image = token_ids("image_token_index", reader.raw) or token_ids("image_token_id", {"image_token_id": 32000})
    image = token_ids("image_token_id", reader.raw) or image
    bos = token_ids("bos_token_id", generation, text.raw, reader.raw)
    return ModelConfig(
        layout="hf",
        decoder=parse_decoder(text, decoder, tied=reader.boolean("tie_word_embeddings", False)),
        vision=parse_vision(
            _vision_defaults(reader.object("vision_config")),
            feature_layer=layer,
            select_strategy=strategy,
            projector_act=reader.text("projector_hidden_act", "gelu"),
            projector_bias=reader.boolean("multimodal_projector_bias", True),
        ),
        image_token_id=image[0],
        pooling_mode=pooling_mode(reader),
        bos_token_id=bos[0] if bos else None,
        eos_token_ids=token_ids("eos_token_id", generation, text.raw, reader.raw),
        more_eos_token_ids=more_token_ids("eos_token_id", generation, text.raw, reader.raw),
    )


def _vision_defaults(reader: Reader) -> Reader:
    """LlavaConfig's own default tower, where the vision config does not name its type, is CLIP's."""
    return reader if "model_type" in reader.raw else Reader(reader.path, {**reader.raw, "model_type": "clip"})
