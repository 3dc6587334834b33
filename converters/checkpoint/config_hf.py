"""Parses `config.json` into a ModelConfig: the Hugging Face layout here, the original layout in `config_original`.

Defaults are those of transformers' `LlavaConfig`, `LlavaNextConfig` and `LlavaOnevisionConfig`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge_interleave.bundle.manifest import CONTEXT_MAX, NO_TOKEN, TilingInfo, VideoInfo
from edge_interleave.converters.checkpoint.config import ModelConfig
from edge_interleave.converters.checkpoint.config_original import parse_original
from edge_interleave.converters.checkpoint.config_parts import (
    DECODERS,
    more_token_ids,
    parse_decoder,
    parse_vision,
    pooling_mode,
    refuse_changes,
    token_ids,
)
from edge_interleave.converters.checkpoint.json_files import fields_of
from edge_interleave.converters.checkpoint.tiling import most_tiles, read_grids
from edge_interleave.errors import CheckpointError, shown
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


@dataclass(frozen=True)
class _Family:
    """What transformers' config class of a model type adds to `LlavaConfig`, and its defaults."""

    image_token: int
    feature_layer: int
    select_strategy: str
    decoder: str
    vision: Mapping[str, Any]


_CLIP_336 = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 336,
}
_SIGLIP_384 = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 384,
}
_FAMILIES = {
    "llava": _Family(32000, -2, "default", "llama", {}),
    "llava_next": _Family(32000, -2, "default", "llama", _CLIP_336),
    "llava_next_video": _Family(32001, -2, "default", "llama", _CLIP_336),
    "llava_onevision": _Family(151646, -1, "full", "qwen2", _SIGLIP_384),
}
_VIDEO_TOKENS = {"llava_next_video": 32000, "llava_onevision": 151647}
"""transformers' default of `video_token_index`."""
_REFUSED = {
    "vipllava": "ViP-LLaVA joins the features of several layers",
    "video_llava": "Video-LLaVA has a separate tower for video",
}
"""Related model types, and the feature of each that is not supported."""
_NEXT_GRIDS = ((2, 1), (1, 2), (2, 2), (1, 3), (3, 1))
_ONEVISION_GRIDS = tuple((columns, rows) for rows in range(1, 7) for columns in range(1, 7))


def _parse_hf(fields: JsonFields, generation: Any) -> ModelConfig:
    kind = _model_type(fields)
    if kind in _REFUSED:
        raise CheckpointError(f"{fields.path}: {kind!r} (field 'model_type') is not supported: {_REFUSED[kind]}")
    family = _FAMILIES.get(kind)
    if family is None:
        field = "model_type" if kind else "architectures"
        raise CheckpointError(
            f"{fields.path}: architecture {shown(fields.raw.get(field))} (field '{field}') is not supported "
            "(LlavaForConditionalGeneration, LlavaNextForConditionalGeneration, "
            "LlavaNextVideoForConditionalGeneration, LlavaOnevisionForConditionalGeneration and the original "
            "LLaVA-NeXT's Qwen and Llama classes are)"
        )
    refuse_changes(fields)
    text = fields.object("text_config") if "text_config" in fields.raw else fields.nested({}, "text_config.")
    decoder = text.text("model_type", family.decoder)
    if decoder not in DECODERS:
        raise CheckpointError(
            f"{fields.path}: decoder {shown(decoder)} (field 'text_config.model_type') is not supported "
            f"({', '.join(DECODERS)} are)"
        )
    layer = fields.raw.get("vision_feature_layer", family.feature_layer)
    if type(layer) is not int:
        raise fields.error("vision_feature_layer", "a whole number (several feature layers are not supported)")
    strategy = fields.text("vision_feature_select_strategy", family.select_strategy)
    if strategy not in ("default", "full"):
        raise fields.error("vision_feature_select_strategy", "'default' or 'full'")
    image = token_ids("image_token_index", fields.raw)
    image = image or token_ids("image_token_id", {"image_token_id": family.image_token})
    image = token_ids("image_token_id", fields.raw) or image
    bos = token_ids("bos_token_id", generation, text.raw, fields.raw)
    config = ModelConfig(
        layout="hf",
        decoder=parse_decoder(text, decoder, tied=fields.boolean("tie_word_embeddings", False)),
        vision=parse_vision(
            _vision_defaults(fields.object("vision_config"), family.vision),
            feature_layer=layer,
            select_strategy=strategy,
            projector_act=fields.text("projector_hidden_act", "gelu"),
            projector_bias=fields.boolean("multimodal_projector_bias", True),
        ),
        image_token_id=image[0],
        video_token_id=_video_token(kind, fields),
        pooling_mode=pooling_mode(fields),
        bos_token_id=bos[0] if bos else None,
        eos_token_ids=token_ids("eos_token_id", generation, text.raw, fields.raw),
        more_eos_token_ids=more_token_ids("eos_token_id", generation, text.raw, fields.raw),
    )
    return config if kind == "llava" else _with_tiles(config, kind, fields)


def _with_tiles(config: ModelConfig, kind: str, fields: JsonFields) -> ModelConfig:
    """The config of a family that sees images in tiles, by transformers' image and video processors of the family."""
    fields.expect(
        "use_image_newline_parameter",
        fields.boolean("use_image_newline_parameter", True),
        "true (tiles without image_newline are not supported)",
    )
    fields.expect(
        "vision_feature_select_strategy",
        not config.vision.first_patch_dropped,
        "'full' for tiles of a SigLIP tower (without the first patch they do not join to a grid)",
    )
    side = config.vision.image_size
    if kind in ("llava_next", "llava_next_video"):
        tiling = TilingInfo(read_grids(fields, side, _NEXT_GRIDS))
        config = replace(config, image_newline=True, resize="squash", tiling=tiling)
        return config if kind == "llava_next" else _with_pooled_frames(config, fields)
    most = most_tiles(fields, "vision_aspect_ratio", "anyres_max_9")
    if most is None:
        raise fields.error("vision_aspect_ratio", "'anyres_max_' and a number")
    tiling = TilingInfo(read_grids(fields, side, _ONEVISION_GRIDS), most, several=False)
    # Several images are padded to squares, and the frames of a video squashed and pooled: bilinearly, by a stride of 2.
    return replace(
        config,
        image_newline=True,
        resize="pad",
        tiling=tiling,
        video=VideoInfo(stride=2, resize="squash"),
        pooling_mode="bilinear",
    )


def _model_type(fields: JsonFields) -> str:
    """transformers' model type. Some published configs of LLaVA-NeXT-Video name LLaVA-NeXT's, but their own class."""
    named = fields.raw.get("architectures")
    if isinstance(named, list) and "LlavaNextVideoForConditionalGeneration" in named:
        return "llava_next_video"
    return fields.text("model_type", "")


def _video_token(kind: str, fields: JsonFields) -> int | None:
    """The id of the video marker; None in a family without one."""
    if kind not in _VIDEO_TOKENS:
        return None
    for key in ("video_token_id", "video_token_index"):
        if fields.raw.get(key) is not None:
            return fields.integer(key, least=0)
    return _VIDEO_TOKENS[kind]


def _with_pooled_frames(config: ModelConfig, fields: JsonFields) -> ModelConfig:
    """The config with LLaVA-NeXT-Video's frames, which `LlavaNextVideoPooler` pools between tower and projector.

    Its decoders stretch their context for many frames (linear RoPE scaling); `max_position_embeddings` is the context
    before that.
    """
    mode = fields.choice("spatial_pool_mode", ("average", "max"), "average")
    stride = fields.integer("spatial_pool_stride", 2, most=config.vision.grid)
    # The video processor resizes the shortest edge and crops the centre, and no newline follows a video.
    video = VideoInfo(stride, "crop", NO_TOKEN, before_projector=True)
    decoder = config.decoder
    if decoder.rope_scaling is not None and decoder.rope_scaling.type == "linear":
        stretched = min(int(decoder.context_length * decoder.rope_scaling.factor), CONTEXT_MAX)
        config = replace(config, decoder=replace(decoder, context_length=stretched))
    return replace(config, video=video, pooling_mode=mode)


def _vision_defaults(fields: JsonFields, defaults: Mapping[str, Any]) -> JsonFields:
    """The vision config with the family's tower, or CLIP, if it names no type."""
    if "model_type" in fields.raw:
        return fields
    return fields.nested({"model_type": "clip", **defaults, **fields.raw}, fields.prefix)
