"""Weight names of all generations to one canonical naming, and the tensors that a config calls for.

Canonical: `vision.embeddings.…`, `vision.layers.N.…`, `vision.pre_layernorm.…` (CLIP), `projector.linear_{1,2}.…`,
`decoder.embed_tokens.weight`, `decoder.layers.N.…`, `decoder.norm.weight`, `decoder.lm_head.weight` (not where tied),
`image_newline` (original layout, where the config asks for it);
after the prefix, names are spelt like in transformers.

| generation | written by | tower | projector | decoder | head |
| --- | --- | --- | --- | --- | --- |
| original | LLaVA-NeXT | `model.vision_tower.vision_tower.vision_model.` | `model.mm_projector.{0,2}.` | `model.` | `lm_head.` |
| hf-2024 | transformers 4.39 to 4.51, and what 4.52 to 4.57 save | `vision_tower.vision_model.` | `multi_modal_projector.` | `language_model.model.` | `language_model.lm_head.` |
| hf-4.52 | state dicts of transformers 4.52 and later | `model.vision_tower.(vision_model.)` | `model.multi_modal_projector.` | `model.language_model.` | `lm_head.` |
| hf-5 | what transformers 5 saves | `vision_tower.` | `multi_modal_projector.` | `language_model.model.` | `language_model.lm_head.` |
"""  # noqa: E501

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edge_interleave.converters.checkpoint.config import DecoderConfig, ModelConfig, VisionConfig
from edge_interleave.errors import CheckpointError, shown

EMBEDDING = "decoder.embed_tokens.weight"
HEAD = "decoder.lm_head.weight"
NEWLINE = "image_newline"


@dataclass(frozen=True)
class Generation:
    """The prefixes of tensor names in one generation of checkpoints."""

    name: str
    tower: str
    projector: Mapping[str, str]
    """Prefix in the file to canonical prefix."""
    decoder: str
    head: str
    newline: str


_LINEAR = {"linear_1.": "projector.linear_1.", "linear_2.": "projector.linear_2."}


def _prefixed(prefix: str) -> dict[str, str]:
    return {prefix + key: value for key, value in _LINEAR.items()}


GENERATIONS = (
    Generation(
        "original",
        "model.vision_tower.vision_tower.vision_model.",
        {"model.mm_projector.0.": "projector.linear_1.", "model.mm_projector.2.": "projector.linear_2."},
        "model.",
        "lm_head.",
        "model.image_newline",
    ),
    Generation(
        "hf-2024",
        "vision_tower.vision_model.",
        _prefixed("multi_modal_projector."),
        "language_model.model.",
        "language_model.lm_head.",
        "image_newline",
    ),
    Generation(
        "hf-4.52",
        "model.vision_tower.vision_model.",
        _prefixed("model.multi_modal_projector."),
        "model.language_model.",
        "lm_head.",
        "model.image_newline",
    ),
    Generation(
        "hf-4.52",
        "model.vision_tower.",
        _prefixed("model.multi_modal_projector."),
        "model.language_model.",
        "lm_head.",
        "model.image_newline",
    ),
    Generation(
        "hf-5",
        "vision_tower.",
        _prefixed("multi_modal_projector."),
        "language_model.model.",
        "language_model.lm_head.",
        "image_newline",
    ),
)

# Extra tensors that a checkpoint may have: SigLIP's pooling head, buffers, the norm of pooled features, and the row
# that ends an image under another way of merging images.
_UNUSED = re.compile(
    r"vision\.(head\..+|post_layernorm\.(weight|bias)|embeddings\.position_ids)"
    r"|decoder\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq"
    r"|image_newline"
)
_TOWER_LAYER = re.compile(r"vision\.layers\.(\d+)\..+")


def canonical_names(names: Iterable[str]) -> tuple[str, dict[str, str]]:
    """The generation of the names, and name to canonical name.

    The generation is the one that matches most names. Names that it does not match stay unchanged.
    Raises CheckpointError if two names have the same canonical name.
    """
    names = list(names)
    mapped = [{name: _canonical(name, generation) for name in names} for generation in GENERATIONS]
    best = max(range(len(mapped)), key=lambda i: sum(new is not None for new in mapped[i].values()))
    result: dict[str, str] = {}
    taken: dict[str, str] = {}
    for name, new in mapped[best].items():
        result[name] = name if new is None else new
        if result[name] in taken:
            raise CheckpointError(
                f"tensors {shown(taken[result[name]])} and {shown(name)} are the same one; are two checkpoints mixed?"
            )
        taken[result[name]] = name
    return GENERATIONS[best].name, result


def is_unused(name: str, config: ModelConfig) -> bool:
    """Whether a canonical name is that of an extra tensor, which the model does not use."""
    layer = _TOWER_LAYER.fullmatch(name)
    if layer is not None:
        # The original code removes SigLIP's last block; files may still have it.
        cut = 1 if config.layout == "original" and config.vision.type == "siglip" else 0
        return config.vision.layers_used <= int(layer[1]) < config.vision.layers + cut
    return _UNUSED.fullmatch(name) is not None


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Canonical name to shape of every tensor that the model uses, including a head that may be tied."""
    return {
        **_vision_shapes(config.vision),
        **_linear(
            "projector.linear_1", config.decoder.hidden_size, config.vision.hidden_size, config.vision.projector_bias
        ),
        **_linear(
            "projector.linear_2", config.decoder.hidden_size, config.decoder.hidden_size, config.vision.projector_bias
        ),
        **({NEWLINE: (config.decoder.hidden_size,)} if config.image_newline else {}),
        **_decoder_shapes(config.decoder),
    }


def _canonical(name: str, generation: Generation) -> str | None:
    """The canonical name; None if the generation has no such prefix."""
    if name == generation.newline:
        return NEWLINE
    for prefix, new in generation.projector.items():
        if name.startswith(prefix):
            return new + name.removeprefix(prefix)
    if name.startswith(generation.tower):
        rest = name.removeprefix(generation.tower)
        rest = rest.removeprefix("encoder.") if rest.startswith("encoder.layers.") else rest
        return "vision." + rest.replace("pre_layrnorm.", "pre_layernorm.", 1)
    if name.startswith(generation.head):
        return "decoder.lm_head." + name.removeprefix(generation.head)
    if name.startswith(generation.decoder):
        rest = name.removeprefix(generation.decoder)
        if rest.startswith(("layers.", "embed_tokens.", "norm.", "rotary_emb.")):
            return "decoder." + rest
    return None


def _vision_shapes(vision: VisionConfig) -> dict[str, tuple[int, ...]]:
    width = vision.hidden_size
    shapes: dict[str, tuple[int, ...]] = {
        "vision.embeddings.patch_embedding.weight": (width, 3, vision.patch_size, vision.patch_size),
        "vision.embeddings.position_embedding.weight": (vision.positions, width),
    }
    if vision.type == "siglip":
        shapes["vision.embeddings.patch_embedding.bias"] = (width,)
    else:
        shapes["vision.embeddings.class_embedding"] = (width,)
        shapes.update(_norm("vision.pre_layernorm", width))
    for number in range(vision.layers_used):
        layer = f"vision.layers.{number}"
        for norm in ("layer_norm1", "layer_norm2"):
            shapes.update(_norm(f"{layer}.{norm}", width))
        for part in ("q", "k", "v", "out"):
            shapes.update(_linear(f"{layer}.self_attn.{part}_proj", width, width, True))
        shapes.update(_linear(f"{layer}.mlp.fc1", vision.intermediate_size, width, True))
        shapes.update(_linear(f"{layer}.mlp.fc2", width, vision.intermediate_size, True))
    return shapes


def _decoder_shapes(decoder: DecoderConfig) -> dict[str, tuple[int, ...]]:
    width, inner = decoder.hidden_size, decoder.intermediate_size
    queries, keys = decoder.heads * decoder.head_dim, decoder.kv_heads * decoder.head_dim
    bias = decoder.attention_bias
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (decoder.vocab_size, width)}
    for number in range(decoder.layers):
        layer = f"decoder.layers.{number}"
        shapes[f"{layer}.input_layernorm.weight"] = (width,)
        shapes.update(_linear(f"{layer}.self_attn.q_proj", queries, width, bias))
        shapes.update(_linear(f"{layer}.self_attn.k_proj", keys, width, bias))
        shapes.update(_linear(f"{layer}.self_attn.v_proj", keys, width, bias))
        shapes.update(_linear(f"{layer}.self_attn.o_proj", width, queries, bias and decoder.type == "llama"))
        if decoder.qk_norm:
            shapes[f"{layer}.self_attn.q_norm.weight"] = (decoder.head_dim,)
            shapes[f"{layer}.self_attn.k_norm.weight"] = (decoder.head_dim,)
        shapes[f"{layer}.post_attention_layernorm.weight"] = (width,)
        shapes.update(_linear(f"{layer}.mlp.gate_proj", inner, width, decoder.mlp_bias))
        shapes.update(_linear(f"{layer}.mlp.up_proj", inner, width, decoder.mlp_bias))
        shapes.update(_linear(f"{layer}.mlp.down_proj", width, inner, decoder.mlp_bias))
    shapes["decoder.norm.weight"] = (width,)
    shapes[HEAD] = (decoder.vocab_size, width)
    return shapes


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _linear(name: str, outputs: int, inputs: int, bias: bool) -> dict[str, tuple[int, ...]]:
    weight: dict[str, tuple[int, ...]] = {f"{name}.weight": (outputs, inputs)}
    return {**weight, f"{name}.bias": (outputs,)} if bias else weight
