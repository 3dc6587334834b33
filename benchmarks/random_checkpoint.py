"""Writes checkpoints with random weights of any size, in all layouts and name generations, with NumPy only.

    python benchmarks/random_checkpoint.py FOLDER [--size tiny|0.5b|7b] [--generation hf-2024] [--dtype bf16] [--tied]

The weights are streamed, so a 7B checkpoint needs as much memory as a tiny one. Beside them lie a real tokenizer,
chat template and processor config, so that transformers, llama.cpp and our own converters take the folder for a model.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from random_tokenizer import SPECIALS, write_tokenizer

from edge_interleave.converters.checkpoint.config import DecoderConfig, ModelConfig, VisionConfig
from edge_interleave.converters.checkpoint.weight_names import EMBEDDING, HEAD, expected_shapes

GENERATIONS = ("original", "hf-2024", "hf-4.52", "hf-5")
DTYPES = {"bf16": ("BF16", 2), "f16": ("F16", 2), "f32": ("F32", 4)}
_BLOCK = 1 << 20  # values; larger tensors repeat a block of them

_CLASSES = {
    "llava": "LlavaForConditionalGeneration",
    "llava_next": "LlavaNextForConditionalGeneration",
    "llava_next_video": "LlavaNextVideoForConditionalGeneration",
    "llava_onevision": "LlavaOnevisionForConditionalGeneration",
}
_IMAGE_PROCESSORS = {
    "llava_next": "LlavaNextImageProcessor",
    "llava_next_video": "LlavaNextImageProcessor",
    "llava_onevision": "LlavaOnevisionImageProcessor",
}
_NEXT_GRIDS = ((2, 1), (1, 2), (2, 2), (1, 3), (3, 1))

_TINY_DECODER = DecoderConfig(
    type="qwen2",
    hidden_size=64,
    intermediate_size=96,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=16,
    vocab_size=640,
    context_length=512,
    rope_theta=1000000.0,
    rms_norm_eps=1e-6,
    tie_word_embeddings=True,
    attention_bias=True,
)
_SO400M = VisionConfig(
    type="siglip",
    image_size=384,
    patch_size=14,
    hidden_size=1152,
    intermediate_size=4304,
    layers=26,
    heads=16,
    layer_norm_eps=1e-6,
    hidden_act="gelu_pytorch_tanh",
    feature_layer=-1,
    select_strategy="full",
    projector_act="gelu",
)
_TINY_SIGLIP = replace(_SO400M, image_size=28, patch_size=7, hidden_size=32, intermediate_size=40, layers=3, heads=2)
_TINY_CLIP = replace(
    _TINY_SIGLIP,
    type="clip",
    layer_norm_eps=1e-5,
    hidden_act="quick_gelu",
    feature_layer=-2,
    select_strategy="default",
)
_QWEN_0_5B = replace(
    _TINY_DECODER,
    hidden_size=1024,
    intermediate_size=2816,
    layers=24,
    heads=16,
    kv_heads=16,
    head_dim=64,
    vocab_size=152000,
    context_length=32768,
)
_QWEN_7B = replace(
    _QWEN_0_5B, hidden_size=4096, intermediate_size=11008, layers=32, heads=32, kv_heads=32, head_dim=128,
    tie_word_embeddings=False,
)  # fmt: skip


def model_config(size: str = "tiny", decoder: str = "qwen2", vision: str = "siglip") -> ModelConfig:
    """The architecture of a size: `tiny`, `0.5b` or `7b`; the last two with the SigLIP tower of the released models.

    A `qwen3` decoder has heads of twice the size that divides its width.
    """
    text = {"tiny": _TINY_DECODER, "0.5b": _QWEN_0_5B, "7b": _QWEN_7B}[size]
    tower = _SO400M if size != "tiny" else _TINY_SIGLIP if vision == "siglip" else _TINY_CLIP
    if decoder == "qwen3":
        text = replace(text, type="qwen3", attention_bias=False, head_dim=2 * text.head_dim)
    if decoder == "llama":
        text = replace(text, type="llama", attention_bias=False, rope_theta=10000.0, rms_norm_eps=1e-5)
    return ModelConfig(
        layout="hf",
        decoder=text,
        vision=tower,
        image_token_id=None,
        pooling_mode="average",
        bos_token_id=None,
        eos_token_ids=(),
    )


@dataclass(frozen=True)
class Options:
    """How a checkpoint is written."""

    generation: str = "hf-2024"
    dtype: str = "bf16"
    shard_bytes: int = 5 << 30
    seed: int = 0
    vocabulary: str = "trained"
    """`trained` on a little text, or `full`: as many tokens as Qwen's."""
    tokenizer: str = "qwen2"
    """`qwen2` or `llama3` (byte-level BPE), or `llama2` (SentencePiece)."""
    scale: float = 1.0
    """Factor on the weights of matrices."""
    family: str = "llava"
    """transformers' model type: `llava`, `llava_next`, `llava_next_video` or `llava_onevision` (not in the original
    layout)."""
    decoder: str = ""
    """transformers' type of the decoder, if not `DecoderConfig.type`: `mistral`, whose weights are Llama's."""


def write_random_checkpoint(folder: Path, config: ModelConfig, options: Options | None = None) -> Path:
    """Write a checkpoint of this architecture into the new folder `folder`; returns the folder."""
    options = options or Options()
    folder.mkdir(parents=True, exist_ok=True)
    original = options.generation == "original"
    size = config.decoder.vocab_size if options.vocabulary == "full" else 0
    video = options.family == "llava_next_video"
    ids = write_tokenizer(folder, options.tokenizer, size, slow_files=original, video=video)
    config = replace(
        config,
        layout="original" if original else "hf",
        image_token_id=ids.get("<image>"),
        video_token_id=ids.get("<video>"),
        bos_token_id=ids.get("<s>"),
        eos_token_ids=(ids[SPECIALS[2]],) if SPECIALS[2] in ids else (ids["</s>"],),
    )
    raw = _original_config(config, folder) if original else _hf_config(config, options)
    _write_json(
        folder / "config.json",
        {**raw, "torch_dtype": {"bf16": "bfloat16", "f16": "float16"}.get(options.dtype, "float32")},
    )
    _write_json(folder / "generation_config.json", {"eos_token_id": list(config.eos_token_ids)})
    _write_processors(folder, config.vision, options.family)
    _write_weights(folder, _shapes(config, newline=original or options.family != "llava"), options)
    return folder


def file_name(canonical: str, generation: str, vision: str = "siglip") -> str:
    """A canonical name as a generation spells it."""
    tower = {
        "original": "model.vision_tower.vision_tower.vision_model.",
        "hf-2024": "vision_tower.vision_model.",
        "hf-4.52": "model.vision_tower.vision_model.",
        "hf-5": "vision_tower.",
    }[generation]
    inner = {"original": "model.", "hf-4.52": "model."}.get(generation, "")
    if canonical == "image_newline":
        return inner + canonical
    part, rest = canonical.split(".", 1)
    if part == "vision":
        rest = rest.replace("pre_layernorm", "pre_layrnorm")
        return tower + ("encoder." if rest.startswith("layers.") else "") + rest
    if part == "projector":
        if generation == "original":
            return "model.mm_projector." + rest.replace("linear_1", "0").replace("linear_2", "2")
        return f"{inner}multi_modal_projector.{rest}"
    if rest.startswith("lm_head."):
        return rest if inner else f"language_model.{rest}"
    return {"original": "model.", "hf-4.52": "model.language_model."}.get(generation, "language_model.model.") + rest


def _shapes(config: ModelConfig, newline: bool) -> dict[str, tuple[int, ...]]:
    """The tensors of real checkpoints: those in use, and the tower's blocks and norm after the feature layer."""
    whole = replace(config, vision=replace(config.vision, feature_layer=-1))
    shapes = expected_shapes(whole)
    if config.decoder.tie_word_embeddings:
        del shapes[HEAD]
    width = config.vision.hidden_size
    shapes |= {"vision.post_layernorm.weight": (width,), "vision.post_layernorm.bias": (width,)}
    if newline:
        shapes["image_newline"] = (config.decoder.hidden_size,)
    return shapes


def _write_weights(folder: Path, shapes: dict[str, tuple[int, ...]], options: Options) -> None:
    dtype, width = DTYPES[options.dtype]
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    room = options.shard_bytes
    for name, shape in shapes.items():
        size = math.prod(shape) * width
        if size > room and shards[-1]:
            shards.append({})
            room = options.shard_bytes
        shards[-1][name] = shape
        room -= size
    rng = np.random.default_rng(options.seed)
    block = rng.standard_normal(_BLOCK, np.float32)
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else "model.safetensors"
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for name, shape in shard.items():
            end = offset + math.prod(shape) * width
            spelt = file_name(name, options.generation)
            header[spelt] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
            weight_map[spelt] = file
            offset = end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with (folder / file).open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            for name, shape in shard.items():
                for part in _values(name, shape, block, rng, options.scale):
                    out.write(narrow(part, options.dtype))
    if len(shards) > 1:
        _write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def _values(
    name: str, shape: tuple[int, ...], block: npt.NDArray[np.float32], rng: np.random.Generator, scale: float
) -> Iterator[npt.NDArray[np.float32]]:
    """Random values of about the size of trained ones, in blocks."""
    kind = name.rsplit(".", 1)[-1]
    vector = len(shape) == 1
    if vector and kind == "weight":
        mean, spread = 1.0, 0.1
    elif name == EMBEDDING:
        mean, spread = 0.0, 0.5 * scale
    else:
        mean, spread = 0.0, 0.1 if vector else scale / math.sqrt(math.prod(shape[1:]))
    left = math.prod(shape)
    while left:
        take = min(left, _BLOCK)
        start = int(rng.integers(0, _BLOCK))
        part = block[start : start + take]
        if part.size < take:
            part = np.concatenate((part, block[: take - part.size]))
        yield part * np.float32(spread) + np.float32(mean)
        left -= take


def narrow(values: npt.NDArray[np.float32], dtype: str) -> bytes:
    """The values as little-endian bytes of a type; bf16 by truncation."""
    if dtype == "bf16":
        return (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    return values.astype("<f2" if dtype == "f16" else "<f4").tobytes()


def _hf_config(config: ModelConfig, options: Options) -> dict[str, Any]:
    vision = config.vision
    text = _decoder_json(config, new=options.generation == "hf-5")
    if options.decoder == "mistral":
        del text["attention_bias"], text["mlp_bias"]
        text |= {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": None}
    return {
        "architectures": [_CLASSES[options.family]],
        "model_type": options.family,
        **_tiles_json(options.family, vision.image_size),
        **_video_json(config, options.family),
        "image_token_index": config.image_token_id,
        "projector_hidden_act": vision.projector_act,
        "tie_word_embeddings": config.decoder.tie_word_embeddings,
        "vision_feature_layer": vision.feature_layer,
        "vision_feature_select_strategy": vision.select_strategy,
        "text_config": text,
        "vision_config": _vision_json(vision, vision.layers),
    }


def _tiles_json(family: str, side: int) -> dict[str, Any]:
    """The fields of a family that sees images in tiles."""
    if family == "llava":
        return {}
    if family in ("llava_next", "llava_next_video"):
        return {"image_grid_pinpoints": [[side * rows, side * columns] for columns, rows in _NEXT_GRIDS]}
    edges = [side * count for count in range(1, 7)]
    return {
        "image_grid_pinpoints": [[height, width] for height in edges for width in edges],
        "vision_aspect_ratio": "anyres_max_9",
        "use_image_newline_parameter": True,
        "video_token_index": 1 << 20,
    }


def _video_json(config: ModelConfig, family: str) -> dict[str, Any]:
    """The fields of LLaVA-NeXT-Video's frames."""
    if family != "llava_next_video":
        return {}
    return {
        "spatial_pool_mode": config.pooling_mode,
        "spatial_pool_stride": 2,
        "video_token_index": config.video_token_id,
    }


def _original_config(config: ModelConfig, folder: Path) -> dict[str, Any]:
    vision = config.vision
    siglip = vision.type == "siglip"
    tower = "google/siglip-so400m-patch14-384"
    if vision != _SO400M:
        tower = f"{vision.type}-tower"
        (folder / tower).mkdir(exist_ok=True)
        # The original code drops the last block of a SigLIP tower, so its config counts one more.
        _write_json(folder / tower / "config.json", _vision_json(vision, vision.layers + siglip))
    decoder = config.decoder.type
    return {
        **_decoder_json(config, new=False),
        "architectures": ["LlavaQwenForCausalLM" if decoder == "qwen2" else "LlavaLlamaForCausalLM"],
        "model_type": "llava_qwen" if decoder == "qwen2" else "llava_llama",
        "mm_hidden_size": vision.hidden_size,
        "mm_patch_merge_type": "flat",
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": tower,
        "image_aspect_ratio": "anyres",
    }


def _decoder_json(config: ModelConfig, new: bool) -> dict[str, Any]:
    decoder = config.decoder
    rope: dict[str, Any] = {"rope_theta": decoder.rope_theta}
    if decoder.rope_scaling is not None:
        scaling = asdict(decoder.rope_scaling)
        kind = scaling.pop("type")
        scaling["original_max_position_embeddings"] = scaling.pop("original_context")
        rope["rope_scaling"] = {"rope_type": kind, **(scaling if kind == "llama3" else {"factor": scaling["factor"]})}
    if new:
        rope = {"rope_parameters": {"rope_type": "default", **rope.pop("rope_scaling", {}), **rope}}
    more = {
        "qwen2": {},
        "qwen3": {"attention_bias": decoder.attention_bias, "head_dim": decoder.head_dim},
        "llama": {
            "attention_bias": decoder.attention_bias, "mlp_bias": decoder.mlp_bias, "head_dim": decoder.head_dim
        },
    }  # fmt: skip
    return {
        "architectures": [f"{decoder.type.capitalize()}ForCausalLM"],
        "model_type": decoder.type,
        "hidden_size": decoder.hidden_size,
        "intermediate_size": decoder.intermediate_size,
        "num_hidden_layers": decoder.layers,
        "num_attention_heads": decoder.heads,
        "num_key_value_heads": decoder.kv_heads,
        "vocab_size": decoder.vocab_size,
        "max_position_embeddings": decoder.context_length,
        "rms_norm_eps": decoder.rms_norm_eps,
        "tie_word_embeddings": decoder.tie_word_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_ids[0],
        **more[decoder.type],
        **rope,
    }


def _vision_json(vision: VisionConfig, layers: int) -> dict[str, Any]:
    """The fields that differ from transformers' defaults, as transformers before 5 writes them."""
    head = {"vision_use_head": False} if vision.type == "siglip" else {"projection_dim": 512}
    return {
        "model_type": f"{vision.type}_vision_model",
        "hidden_size": vision.hidden_size,
        "intermediate_size": vision.intermediate_size,
        "num_hidden_layers": layers,
        "num_attention_heads": vision.heads,
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        **head,
    }


def _write_processors(folder: Path, vision: VisionConfig, family: str) -> None:
    """The image processor's config and, for a family with videos, the video processor's."""
    config = _preprocessor(vision)
    if family != "llava":
        config["image_grid_pinpoints"] = _tiles_json(family, vision.image_size)["image_grid_pinpoints"]
        config |= {"image_processor_type": _IMAGE_PROCESSORS[family], "do_convert_rgb": True, "do_pad": True}
    _write_json(folder / "preprocessor_config.json", config)
    if family == "llava_onevision":
        kept = ("image_mean", "image_std", "size", "resample", "rescale_factor")
        video = {key: config[key] for key in kept} | {"video_processor_type": "LlavaOnevisionVideoProcessor"}
        _write_json(folder / "video_preprocessor_config.json", video)


def _preprocessor(vision: VisionConfig) -> dict[str, Any]:
    common = {"do_normalize": True, "do_rescale": True, "do_resize": True, "resample": 3, "rescale_factor": 1 / 255}
    side = vision.image_size
    if vision.type == "siglip":
        half = [0.5, 0.5, 0.5]
        size = {"height": side, "width": side}
        return {
            **common,
            "image_processor_type": "SiglipImageProcessor",
            "image_mean": half,
            "image_std": half,
            "size": size,
        }
    return {
        **common,
        "image_processor_type": "CLIPImageProcessor",
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "do_convert_rgb": True,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "size": {"shortest_edge": side},
    }


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", "utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write a checkpoint with random weights.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=("tiny", "0.5b", "7b"), default="tiny")
    parser.add_argument("--decoder", choices=("qwen2", "qwen3", "llama"), default="qwen2")
    parser.add_argument("--vision", choices=("siglip", "clip"), default="siglip")
    parser.add_argument("--generation", choices=GENERATIONS, default="hf-2024")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="bf16")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    config = model_config(chosen.size, chosen.decoder, chosen.vision)
    vocabulary = "trained" if chosen.size == "tiny" else "full"
    options = Options(chosen.generation, chosen.dtype, seed=chosen.seed, vocabulary=vocabulary)
    print(write_random_checkpoint(chosen.folder, config, options))


if __name__ == "__main__":
    main()
