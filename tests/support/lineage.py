"""Random checkpoints of the families beside LLaVA-NeXT-Interleave, and the questions that they are compared with.

Small dimensions; decoder in f16 and tower in fp32.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from random_checkpoint import Options, model_config, write_random_checkpoint

import edge_interleave as ei
from edge_interleave.bundle.manifest import Bundle
from edge_interleave.converters.convert import convert
from edge_interleave.decoding.generation import GenerationOptions
from edge_interleave.decoding.inputs import Input
from edge_interleave.decoding.session import Session
from edge_interleave.model import Model
from edge_interleave.prompt.messages import Message, as_messages
from support.paths import GOLDEN_FOLDER
from support.tiny import LLAVA_TEMPLATE

GOLDEN = GOLDEN_FOLDER / "lineage.npz"
STEPS = 16


# Renders as the template that llava-hf/LLaVA-NeXT-Video-7B-hf publishes.
NEXT_VIDEO_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'video') %}{{ '<video>\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


@dataclass(frozen=True)
class Kind:
    """A family with its decoder and tower."""

    family: str
    decoder: str
    vision: str
    tokenizer: str
    template: str = LLAVA_TEMPLATE
    pooling: str = "average"


KINDS = {
    "onevision": Kind("llava_onevision", "qwen2", "siglip", "qwen2"),
    "next-mistral": Kind("llava_next", "mistral", "clip", "llama3"),
    "next-llama": Kind("llava_next", "llama", "clip", "llama3"),
    "next-qwen": Kind("llava_next", "qwen2", "clip", "qwen2"),
    "joycaption": Kind("llava", "llama", "siglip", "llama3"),
    "next-vicuna": Kind("llava_next", "llama", "clip", "llama2"),
    "llava-1.5": Kind("llava", "llama", "clip", "llama3"),
    "next-video": Kind("llava_next_video", "llama", "clip", "llama3", NEXT_VIDEO_TEMPLATE),
    "next-video-max": Kind("llava_next_video", "mistral", "clip", "llama3", NEXT_VIDEO_TEMPLATE, "max"),
    "mantis": Kind("llava", "llama", "siglip", "llama3"),
    "onevision-qwen3": Kind("llava_onevision", "qwen3", "siglip", "qwen2"),
    "next-nemo": Kind("llava_next", "mistral", "clip", "llama3"),
}
TOWERS: dict[str, dict[str, Any]] = {
    "joycaption": {"feature_layer": -2},
    "mantis": {"feature_layer": -2, "select_strategy": "default"},
}
"""Fields of the tower that differ from the family's."""


@dataclass(frozen=True)
class Case:
    """A question about pictures of these sizes, and about a video of as many frames."""

    question: str
    images: tuple[tuple[int, int], ...] = ()
    frames: int = 0


CASES = {
    "small image": Case("What is in the picture?", ((20, 24),)),
    # Of a size at which no two logits nearly tie, which f16 weights would decide otherwise.
    "wide image": Case("What is in the picture?", ((130, 50),)),
    "large image": Case("What is in the picture?", ((165, 170),)),
    "three images": Case("What changed?", ((40, 30), (30, 100), (170, 60))),
    "video": Case("What moves?", frames=8),
    "square image": Case("What is in the picture?", ((50, 50),)),
    "image and video": Case("Is the picture in the video?", ((130, 50),), frames=3),
}
VIDEO_FAMILIES = ("llava_onevision", "llava_next_video")


def has_case(kind: str, case: str) -> bool:
    """Whether it is compared: only two classes of transformers know videos, and squares are for LLaVA-1.5's layouts."""
    if case == "square image":
        return kind == "llava-1.5"
    return not CASES[case].frames or KINDS[kind].family in VIDEO_FAMILIES


def write_kind(folder: Path, name: str) -> Path:
    kind = KINDS[name]
    config = model_config("tiny", "llama" if kind.decoder == "mistral" else kind.decoder, kind.vision)
    # Untied: with a tied head, random weights only repeat the last token.
    decoder = replace(config.decoder, tie_word_embeddings=False, context_length=4096)
    if name == "next-nemo":
        decoder = replace(decoder, head_dim=2 * decoder.head_dim)  # Mistral Nemo's heads do not make up its width
    vision = replace(config.vision, **TOWERS.get(name, {}))
    options = Options(seed=4, tokenizer=kind.tokenizer, scale=1.5, family=kind.family, decoder=kind.decoder)
    config = replace(config, decoder=decoder, vision=vision, pooling_mode=kind.pooling)
    write_random_checkpoint(folder, config, options)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": kind.template}))
    return folder


def picture(number: int, size: tuple[int, int]) -> Image.Image:
    coarse = np.random.default_rng(number).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def pictures(case: Case) -> tuple[list[Image.Image], list[Image.Image]]:
    """The images, and the frames of the video."""
    images = [picture(number, size) for number, size in enumerate(case.images)]
    return images, [picture(10 + number, (64, 48)) for number in range(case.frames)]


def message(case: Case, folder: Path) -> list[Message]:
    images, frames = pictures(case)
    clip = folder / f"clip of {len(frames)}"
    clip.mkdir(exist_ok=True)
    for number, frame in enumerate(frames):
        frame.save(clip / f"{number}.png")
    return as_messages(case.question, images=images, videos=[ei.Video(clip, len(frames))] if frames else [])


ONEVISION = {
    "image_aspect_ratio": "anyres_max_9",
    "image_grid_pinpoints": "(1x1),...,(6x6)",
    "mm_patch_merge_type": "spatial_unpad",
    "mm_newline_position": "one_token",
    "mm_spatial_pool_mode": "bilinear",
}
"""Fields of lmms-lab/llava-onevision-qwen2-0.5b-ov."""
VIDEO = {
    "add_faster_video": False,
    "add_time_instruction": True,
    "faster_token_stride": 10,
    "force_sample": True,
    "mm_newline_position": "grid",
    "mm_resampler_type": None,
    "mm_spatial_pool_stride": None,
}
"""Fields of lmms-lab/LLaVA-Video-7B-Qwen2 that differ from LLaVA-OneVision's."""
_NEXT = {
    "mm_patch_merge_type": "spatial_unpad",
    "image_grid_pinpoints": [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]],
}
ORIGINALS: dict[str, dict[str, object]] = {
    "onevision": ONEVISION,
    "next-mistral": {**_NEXT, "architectures": ["LlavaMistralForCausalLM"], "sliding_window": None},
    "next-llama": _NEXT,
    "next-vicuna": _NEXT,
    "next-qwen": _NEXT,
    "llava-1.5": {"image_aspect_ratio": "pad"},
}
"""Kinds that LLaVA-NeXT's own layout has too, with the fields of its `config.json`."""


def write_original(folder: Path, name: str, **fields: object) -> Path:
    """A kind in the original layout: the same weights, under the names that LLaVA-NeXT's code gives them."""
    kind = KINDS[name]
    config = model_config("tiny", "qwen2" if kind.decoder == "qwen2" else "llama", kind.vision)
    decoder = replace(config.decoder, tie_word_embeddings=False, context_length=4096)
    options = Options("original", seed=4, scale=1.5, tokenizer=kind.tokenizer)
    write_random_checkpoint(folder, replace(config, decoder=decoder), options)
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, **ORIGINALS[name], **fields}))
    return folder


def bundle_of(checkpoint: Path) -> Bundle:
    """The checkpoint converted, into a folder beside it."""
    return convert(checkpoint, checkpoint.parent / "bundle", quantization="f16", vision_precision="fp32")


def answered(model: Model, prompt: Sequence[Input]) -> tuple[list[int], np.ndarray]:
    """The greedy answer of STEPS tokens, which no token ends, and the logits of its first."""
    session = Session(model._open_decoder(4096), model.tokenizer, [10**6])
    prefilled = session.prefill(prompt)
    assert prefilled is not None
    logits = np.array(prefilled.logits)
    stream = session.stream(prompt, GenerationOptions(STEPS))
    list(stream)
    session.close()
    return list(stream.answer.token_ids), logits


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
