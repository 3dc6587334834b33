"""Reads a checkpoint's preprocessing from its image processor's config.

The config is `preprocessor_config.json`, or `image_processor` in `processor_config.json` (transformers 5). Without
either (original layout), the tower's default holds: SigLIP resizes to the square, CLIP crops. The original layout's
`config.json` can name another resize, which has priority.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_interleave.bundle.manifest import VisionInfo
from edge_interleave.converters.checkpoint.config import ModelConfig, VisionConfig
from edge_interleave.converters.checkpoint.json_files import fields_of, read_json
from edge_interleave.util.json_fields import JsonFields

_RESAMPLES = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers, as used in the configs."""
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class _Steps:
    resize: str
    mean: Triple
    std: Triple


_HALF: Triple = (0.5, 0.5, 0.5)
_DEFAULTS = {
    "siglip": _Steps("squash", _HALF, _HALF),
    "clip": _Steps("crop", (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}


def read_vision_info(folder: Path, config: ModelConfig, parameters: int) -> VisionInfo:
    """The manifest's facts about the tower and its preprocessing. Raises CheckpointError for unsupported steps."""
    vision = config.vision
    defaults = _DEFAULTS[vision.type]
    fields = _processor(folder)
    processor_resize, resample, mean, std = defaults.resize, "bicubic", defaults.mean, defaults.std
    if fields is not None:
        for key in ("do_resize", "do_rescale"):
            fields.expect(key, fields.boolean(key, True), "true")
        processor_resize = _resize(fields, vision, defaults.resize)
        if fields.boolean("do_pad", False):
            kind = str(fields.raw.get("image_processor_type"))
            # Processors of tiles pad the batch with empty tiles, not the image.
            pads_batch = config.tiling is not None and kind.startswith(("LlavaNext", "LlavaOnevision"))
            fields.expect(
                "do_pad", pads_batch or kind.startswith("LlavaImageProcessor"), "false, but for LlavaImageProcessor"
            )
            processor_resize = processor_resize if pads_batch else "pad"
        number = fields.integer("resample", 3, least=0, most=5)
        fields.expect("resample", number in _RESAMPLES, "0, 1, 2 or 3")
        resample = _RESAMPLES[number]
        factor = fields.number("rescale_factor", 1 / 255, 0.0, 1.0)
        fields.expect("rescale_factor", math.isclose(factor, 1 / 255, rel_tol=1e-4), "1/255")
        if fields.boolean("do_normalize", True):
            mean = _triple(fields, "image_mean", mean, -10.0)
            std = _triple(fields, "image_std", std, 1e-6)
        else:
            mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return VisionInfo(
        type=vision.type,
        image_size=vision.image_size,
        patch_size=vision.patch_size,
        grid=vision.grid,
        resize=config.resize or processor_resize,
        resample=resample,
        mean=mean,
        std=std,
        parameters=parameters,
        image_newline=config.image_newline,
        tiling=config.tiling,
        video=config.video,
        first_patch_dropped=vision.first_patch_dropped,
    )


def _processor(folder: Path) -> JsonFields | None:
    path = folder / "preprocessor_config.json"
    if path.is_file():
        return fields_of(path, read_json(path))
    path = folder / "processor_config.json"
    if path.is_file():
        whole = fields_of(path, read_json(path))
        if whole.raw.get("image_processor") is not None:
            return whole.object("image_processor")
    return None


def _resize(fields: JsonFields, vision: VisionConfig, default: str) -> str:
    """`crop` if the shortest edge is resized and the centre cropped, `squash` if both edges are resized."""
    want = vision.image_size
    said: Any = fields.raw.get("size")
    crops = fields.boolean("do_center_crop", default == "crop")
    if crops and fields.raw.get("crop_size") is not None:
        _expect_square(fields, "crop_size", want)
    if said is None:
        return "crop" if crops else "squash"
    if isinstance(said, dict) and said.get("height") is not None:
        _expect_square(fields, "size", want)
        return "squash"
    edge = said.get("shortest_edge") if isinstance(said, dict) else said
    fields.expect("size", edge == want and crops, f"{want} x {want}, or the shortest edge {want} with a centre crop")
    return "crop"


def _expect_square(fields: JsonFields, key: str, edge: int) -> None:
    said = fields.raw.get(key)
    square = (said.get("height"), said.get("width")) if isinstance(said, dict) else (said, said)
    fields.expect(key, square == (edge, edge), f"{edge} x {edge}, the vision tower's image size")


def _triple(fields: JsonFields, key: str, default: Triple, least: float) -> Triple:
    return default if fields.raw.get(key) is None else fields.triple(key, least=least, most=10.0)
