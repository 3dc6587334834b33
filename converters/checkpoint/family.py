"""Names the family of models that a checkpoint belongs to, by its structure."""

from __future__ import annotations

from edge_interleave.bundle.manifest import ONE_TOKEN
from edge_interleave.converters.checkpoint.config import ModelConfig

INTERLEAVE, NEXT, ONEVISION, LLAVA = "LLaVA-NeXT-Interleave", "LLaVA-NeXT", "LLaVA-OneVision", "LLaVA-1.5"
NEXT_VIDEO, VIDEO, MANTIS = "LLaVA-NeXT-Video", "LLaVA-Video", "Mantis"
SIGLIP_LLAVA = "LLaVA with SigLIP"
"""The build of LLaVA-1.5 with another tower, such as JoyCaption."""


def family_name(config: ModelConfig) -> str:
    """The family whose structure a checkpoint has. Fine-tuned models have their base model's."""
    video = config.video
    if video is not None:
        if video.before_projector:
            return NEXT_VIDEO
        return VIDEO if video.times or video.newline != ONE_TOKEN else ONEVISION
    if config.tiling is not None:
        return NEXT
    if config.vision.first_patch_dropped:
        return MANTIS
    if config.vision.type == "clip":
        return LLAVA
    return INTERLEAVE if config.decoder.type == "qwen2" else SIGLIP_LLAVA
