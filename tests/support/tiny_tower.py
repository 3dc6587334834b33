"""Small LLaVA checkpoints with random towers, made from a seed: the same on every machine, loadable by transformers."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edge_interleave.bundle.manifest import VisionInfo

DECODER_WIDTH = 48
VOCABULARY = 32


@dataclass(frozen=True)
class Tower:
    """The settings in which the compared towers differ."""

    type: str = "siglip"
    feature_layer: int = -1
    strategy: str = "full"
    act: str = "gelu_pytorch_tanh"
    width: int = 64
    heads: int = 2
    layers: int = 4
    size: int = 62
    """Not a multiple of the patch size: the last pixels of a row are cut off, as with 384 and 14."""
    projector_bias: bool = True

    @property
    def grid(self) -> int:
        return self.size // 14

    @property
    def info(self) -> VisionInfo:
        third = (0.5, 0.5, 0.5)
        dropped = self.type == "siglip" and self.strategy == "default"
        info = VisionInfo(self.type, self.size, 14, self.grid, "squash", "bicubic", third, third, 0)
        return replace(info, first_patch_dropped=dropped)


def clip(feature_layer: int, **changes: object) -> Tower:
    return Tower("clip", feature_layer, "default", "quick_gelu", **changes)  # type: ignore[arg-type]


TOWERS = {
    "siglip, last layer": Tower(),
    "siglip, last but one": Tower(feature_layer=-2),
    "siglip, layer 1": Tower(feature_layer=1),
    "siglip, without the first patch": Tower(feature_layer=-2, strategy="default"),
    "siglip, erf gelu, projector without bias": Tower(act="gelu", projector_bias=False),
    "siglip, the embedded model's size": Tower(width=192, heads=3, size=112),
    "clip, last layer": clip(-1),
    "clip, last but one": clip(-2),
    "clip, layer 3": clip(3),
    "clip, embeddings": clip(0),
}


def pixels(tower: Tower, count: int = 3) -> np.ndarray:
    """Images that differ in contrast, float32 (count, 3, size, size)."""
    noise = np.random.RandomState(7).uniform(-1, 1, (count, 3, tower.size, tower.size))
    return (noise * np.linspace(1, 0.2, count)[:, None, None, None]).astype(np.float32)


def write_checkpoint(folder: Path, tower: Tower, weights: dict[str, np.ndarray] | None = None) -> Path:
    """A checkpoint in the layout of llava-hf: config.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(tower)))
    write_safetensors(folder / "model.safetensors", random_weights(tower) if weights is None else weights)
    return folder


def config(tower: Tower) -> dict[str, object]:
    return {
        "model_type": "llava",
        "architectures": ["LlavaForConditionalGeneration"],
        "vision_feature_layer": tower.feature_layer,
        "vision_feature_select_strategy": tower.strategy,
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": tower.projector_bias,
        "image_token_index": VOCABULARY - 1,
        "image_seq_length": tower.grid**2,
        "vision_config": {
            "model_type": f"{tower.type}_vision_model",
            "hidden_size": tower.width,
            "intermediate_size": 3 * tower.width,
            "num_hidden_layers": tower.layers,
            "num_attention_heads": tower.heads,
            "image_size": tower.size,
            "patch_size": 14,
            "hidden_act": tower.act,
            "layer_norm_eps": 1e-5,
            "vision_use_head": False,
        },
        "text_config": {
            "model_type": "qwen2",
            "hidden_size": DECODER_WIDTH,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 64,
            "rms_norm_eps": 1e-6,
            "eos_token_id": 0,
            "tie_word_embeddings": False,
        },
    }


def random_weights(tower: Tower) -> dict[str, np.ndarray]:
    """Every tensor of the checkpoint, by its name in the file."""
    width, vision = tower.width, "vision_tower.vision_model."
    shapes: dict[str, tuple[int, ...]] = {
        f"{vision}embeddings.patch_embedding.weight": (width, 3, 14, 14),
        f"{vision}embeddings.position_embedding.weight": (tower.grid**2 + (tower.type == "clip"), width),
    }
    if tower.type == "clip":
        shapes[f"{vision}embeddings.class_embedding"] = (width,)
        shapes |= norm(f"{vision}pre_layrnorm", width)
    else:
        shapes[f"{vision}embeddings.patch_embedding.bias"] = (width,)
    for number in range(tower.layers):
        layer = f"{vision}encoder.layers.{number}."
        shapes |= norm(f"{layer}layer_norm1", width) | norm(f"{layer}layer_norm2", width)
        for name in ("q", "k", "v", "out"):
            shapes |= linear(f"{layer}self_attn.{name}_proj", width, width)
        shapes |= linear(f"{layer}mlp.fc1", 3 * width, width) | linear(f"{layer}mlp.fc2", width, 3 * width)
    shapes |= norm(f"{vision}post_layernorm", width)
    projector = linear("multi_modal_projector.linear_1", DECODER_WIDTH, width)
    projector |= linear("multi_modal_projector.linear_2", DECODER_WIDTH, DECODER_WIDTH)
    shapes |= {name: shape for name, shape in projector.items() if tower.projector_bias or name.endswith("weight")}
    shapes |= decoder()
    random = np.random.RandomState(1)
    return {name: values(random, name, shape) for name, shape in shapes.items()}


def values(random: np.random.RandomState, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Scaled so that every layer changes what passes through it by about its own size."""
    spread = np.prod(shape[1:]) ** -0.5 if len(shape) > 1 and "embedding.weight" not in name else 0.3
    middle = 1.0 if "norm" in name and name.endswith("weight") else 0.0
    return (middle + spread * random.standard_normal(shape)).astype(np.float32)


def linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def decoder() -> dict[str, tuple[int, ...]]:
    width, head, layer = DECODER_WIDTH, DECODER_WIDTH // 2, "language_model.model.layers.0."
    shapes: dict[str, tuple[int, ...]] = {
        "language_model.model.embed_tokens.weight": (VOCABULARY, width),
        "language_model.lm_head.weight": (VOCABULARY, width),
        "language_model.model.norm.weight": (width,),
        f"{layer}input_layernorm.weight": (width,),
        f"{layer}post_attention_layernorm.weight": (width,),
        f"{layer}self_attn.o_proj.weight": (width, width),
        f"{layer}mlp.gate_proj.weight": (32, width),
        f"{layer}mlp.up_proj.weight": (32, width),
        f"{layer}mlp.down_proj.weight": (width, 32),
    }
    for name, rows in (("q", width), ("k", head), ("v", head)):
        shapes |= linear(f"{layer}self_attn.{name}_proj", rows, width)
    return shapes


def write_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Length of the header, header, values."""
    header, offset = {}, 0
    for name, array in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(a.tobytes() for a in tensors.values()))


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Cosine of each visual token with its counterpart, float64 (images, tokens)."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def of_transformers(folder: Path, images: np.ndarray) -> np.ndarray:
    """The visual tokens that transformers gives for a checkpoint, float32 (n, tokens, hidden). Needs PyTorch."""
    import torch
    from transformers import LlavaForConditionalGeneration

    torch.set_num_threads(1)
    model, loading = LlavaForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
    )
    assert not loading["missing_keys"], loading
    with torch.inference_mode():
        features = model.eval().get_image_features(torch.from_numpy(images), output_hidden_states=True)
    return torch.stack(tuple(features.pooler_output)).numpy()
