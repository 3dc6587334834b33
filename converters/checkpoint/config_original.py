"""Parses `config.json` of the original LLaVA-NeXT layout: a decoder's config with `mm_*` fields and the tower's name.

Facts from the LLaVA-NeXT code: a SigLIP tower loses its last block, its features are the last hidden state of the rest,
and `mm_vision_select_layer` is ignored. A CLIP tower uses that field, and `mm_vision_select_feature` says whether the
CLS token is dropped (`patch`) or kept (`cls_patch`). The tower's weights are in the checkpoint.
LLaVA-OneVision, LLaVA-NeXT, LLaVA-Video and the resamplers of LLaVA-NeXT-Video use the same classes with other fields.
Fields that the runtime does not support are refused, the resamplers among them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from edge_interleave.bundle.manifest import NEWLINE_POSITIONS, ONE_TOKEN, TilingInfo, VideoInfo
from edge_interleave.converters.checkpoint.config import ModelConfig, VisionConfig
from edge_interleave.converters.checkpoint.config_parts import (
    more_token_ids,
    parse_decoder,
    parse_vision,
    pooling_mode,
    refuse_changes,
    token_ids,
)
from edge_interleave.converters.checkpoint.json_files import read_json
from edge_interleave.converters.checkpoint.tiling import most_tiles, read_grids
from edge_interleave.errors import CheckpointError, shown
from edge_interleave.util.json_fields import JsonFields

_SO400M = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "patch_size": 14,
}
_CLIP_LARGE = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
}
# The published configs of these towers, by the last part of their name, since authors also train from local copies.
TOWERS: dict[str, dict[str, Any]] = {
    "siglip-so400m-patch14-384": {**_SO400M, "image_size": 384},
    "siglip-so400m-patch14-224": {**_SO400M, "image_size": 224},
    "clip-vit-large-patch14-336": {**_CLIP_LARGE, "image_size": 336},
    "clip-vit-large-patch14": {**_CLIP_LARGE, "image_size": 224},
}
_PROJECTORS = {"mlp2x_gelu": "gelu"}
_RESIZES = {None: None, "square": None, "pad": "pad", "anyres": "squash"}
"""`image_aspect_ratio` to `VisionInfo.resize`, from `process_images` in LLaVA-NeXT's llava/mm_utils.py. None leaves it
to the image processor. For `anyres` it is the resize of the overview, and of images without tiles."""


def parse_original(fields: JsonFields, generation: Any = None) -> ModelConfig:
    """The config of a LLaVA-NeXT checkpoint. Raises CheckpointError."""
    projector = fields.text("mm_projector_type", "linear")
    if projector not in _PROJECTORS:
        raise fields.error("mm_projector_type", "'mlp2x_gelu'")
    refuse_changes(fields)
    vision = _tower(fields, _PROJECTORS[projector])
    if fields.integer("mm_hidden_size", vision.hidden_size) != vision.hidden_size:
        raise fields.error("mm_hidden_size", f"{vision.hidden_size}, the vision tower's hidden size")
    bos = token_ids("bos_token_id", generation, fields.raw)
    config = ModelConfig(
        layout="original",
        decoder=parse_decoder(fields, _decoder_type(fields)),
        vision=vision,
        image_token_id=None,
        pooling_mode=pooling_mode(fields),
        bos_token_id=bos[0] if bos else None,
        eos_token_ids=token_ids("eos_token_id", generation, fields.raw),
        more_eos_token_ids=more_token_ids("eos_token_id", generation, fields.raw),
        image_newline=_has_newline(fields),
        resize=_resize(fields),
        mistral=_class_name(fields) in ("LlavaMistralForCausalLM", "llava_mistral"),
    )
    return _with_tiles(config, fields)


def _with_tiles(config: ModelConfig, fields: JsonFields) -> ModelConfig:
    """The config with the tiles and the video of its family.

    LLaVA-OneVision and LLaVA-Video name `anyres_max_N`, LLaVA-NeXT has CLIP and `anyres`. LLaVA-NeXT-Interleave
    names `anyres` too, but its evaluation shows images whole; its tiles come on request.
    """
    side = config.vision.image_size
    most = most_tiles(fields, "image_aspect_ratio")
    if most is not None:
        fields.expect("mm_patch_merge_type", config.image_newline, "'spatial_unpad' for tiles of 'anyres_max'")
        grids = read_grids(fields, side, (), width_first=True)
        # llava_arch.py: get_2dPool halves a video's grid; lmms-eval pads several images to squares.
        place = fields.choice("mm_newline_position", NEWLINE_POSITIONS, ONE_TOKEN, null=ONE_TOKEN)
        video = VideoInfo(2, "squash", place, times=fields.boolean("add_time_instruction", False))
        return replace(config, resize="pad", tiling=TilingInfo(grids, most, several=False), video=video)
    place = fields.text("mm_newline_position", ONE_TOKEN, null=ONE_TOKEN)
    if config.image_newline and place != ONE_TOKEN:
        raise fields.error("mm_newline_position", f"'{ONE_TOKEN}' (other places need tiles of 'anyres_max')")
    fields.expect(
        "add_time_instruction",
        not fields.boolean("add_time_instruction", False),
        "false (the time instruction of a video needs tiles of 'anyres_max')",
    )
    if config.vision.type == "clip" and config.image_newline and fields.raw.get("image_aspect_ratio") == "anyres":
        return replace(config, tiling=TilingInfo(read_grids(fields, side, (), width_first=True)))
    return config


def _decoder_type(fields: JsonFields) -> str:
    name = _class_name(fields)
    if name in ("LlavaQwenForCausalLM", "LlavaQwen2ForCausalLM", "llava_qwen", "llava_qwen2"):
        return "qwen2"
    if name in ("LlavaLlamaForCausalLM", "llava_llama"):
        return "llama"
    if name in ("LlavaMistralForCausalLM", "llava_mistral"):
        return "mistral"
    field = "architectures" if fields.raw.get("architectures") else "model_type"
    raise CheckpointError(
        f"{fields.path}: architecture {shown(name)} (field '{field}') is not supported "
        "(LlavaQwenForCausalLM, LlavaLlamaForCausalLM, LlavaMistralForCausalLM and LlavaForConditionalGeneration are)"
    )


def _class_name(fields: JsonFields) -> str:
    named = fields.raw.get("architectures") or [fields.text("model_type", "")]
    return str(named[0]) if isinstance(named, list) and named else shown(named)


def _resize(fields: JsonFields) -> str | None:
    said = fields.raw.get("image_aspect_ratio")
    if most_tiles(fields, "image_aspect_ratio") is None and said not in (*_RESIZES,):
        raise fields.error("image_aspect_ratio", "'anyres', 'anyres_max_' and a number, 'pad' or 'square'")
    return _RESIZES.get(said)


def _has_newline(fields: JsonFields) -> bool:
    """Whether `prepare_inputs_labels_for_multimodal` puts `image_newline` after an image without tiles."""
    kind = fields.text("mm_patch_merge_type", "flat", null="flat")
    fields.expect("mm_patch_merge_type", kind in ("flat", "spatial_unpad"), "'flat' or 'spatial_unpad'")
    return kind == "spatial_unpad"


def _tower(fields: JsonFields, projector_act: str) -> VisionConfig:
    name = fields.text("mm_vision_tower", "")
    tower = fields.nested(_tower_config(fields, name), "vision tower ")
    select = fields.text("mm_vision_select_feature", "patch")
    if select not in ("patch", "cls_patch"):
        raise fields.error("mm_vision_select_feature", "'patch' or 'cls_patch'")
    siglip = tower.text("model_type", "").startswith("siglip")
    vision = parse_vision(
        tower,
        feature_layer=-1 if siglip else fields.integer("mm_vision_select_layer", -2, least=-1024, most=1024),
        select_strategy="full" if siglip or select == "cls_patch" else "default",
        projector_act=projector_act,
        projector_bias=True,
    )
    return replace(vision, layers=vision.layers - 1) if siglip else vision


def _tower_config(fields: JsonFields, name: str) -> Any:
    """The tower's config: from its folder inside the checkpoint, or of a tower known by name."""
    folder = fields.path.parent
    beside = folder / name / "config.json"
    # Judged by the name, not the link's target: the Hub's cache links every file out of its folder.
    inside = bool(name) and not Path(name).is_absolute() and ".." not in Path(name).parts
    if inside and beside.resolve() != fields.path.resolve() and beside.is_file():
        return read_json(beside)
    known = TOWERS.get(PurePosixPath(Path(name).as_posix()).name.lower())
    if known is None:
        raise CheckpointError(
            f"{fields.path}: vision tower {shown(name)} is not known ({', '.join(sorted(TOWERS))} are); "
            "put its folder with its config.json beside this file"
        )
    return known
