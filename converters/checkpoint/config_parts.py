"""Config objects of decoders and towers, checked, with transformers' defaults filled in.

transformers leaves values that equal its defaults out of `config.json`, so the defaults of its classes (`Qwen2Config`,
`LlamaConfig`, `SiglipVisionConfig`, `CLIPVisionConfig`) are part of the format and are repeated here. Knows nothing
about how the layouts put these objects together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_interleave.bundle.manifest import POOLING_MODES
from edge_interleave.converters.checkpoint.config import DecoderConfig, RopeScaling, VisionConfig
from edge_interleave.converters.checkpoint.json_reader import Reader
from edge_interleave.errors import CheckpointError, shown


def parse_decoder(reader: Reader, kind: str, tied: bool = False) -> DecoderConfig:
    """A Qwen2 or Llama config object; `tied` where the object around it says so already."""
    if "quantization_config" in reader.raw:
        raise CheckpointError(f"{reader.path}: the checkpoint is quantized already; use the one it was made from")
    qwen = kind == "qwen2"
    hidden = reader.integer("hidden_size", 4096, most=1 << 17)
    layers = reader.integer("num_hidden_layers", 32, most=1 << 10)
    heads = reader.integer("num_attention_heads", 32, most=1 << 10)
    kv_heads = reader.integer("num_key_value_heads", 32 if qwen else heads, most=1 << 10, null=heads)
    head_dim = reader.integer("head_dim", hidden // heads or 1, most=1 << 12, null=hidden // heads or 1)
    reader.expect("hidden_size", hidden % heads == 0, "a multiple of num_attention_heads")
    reader.expect("num_key_value_heads", heads % kv_heads == 0, "a divisor of num_attention_heads")
    reader.expect("head_dim", head_dim % 2 == 0, "even")
    if qwen:
        reader.expect("head_dim", head_dim * heads == hidden, "hidden_size / num_attention_heads")
    if reader.text("hidden_act", "silu") != "silu":
        raise reader.error("hidden_act", "'silu'")
    _refuse_sliding_window(reader, qwen, layers)
    context = reader.integer("max_position_embeddings", 32768 if qwen else 2048, most=1 << 24)
    theta, scaling = _rope(reader, context)
    return DecoderConfig(
        type=kind,
        hidden_size=hidden,
        intermediate_size=reader.integer("intermediate_size", 22016 if qwen else 11008, most=1 << 19),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=reader.integer("vocab_size", 151936 if qwen else 32000, most=1 << 22),
        context_length=context,
        rope_theta=theta,
        rms_norm_eps=reader.number("rms_norm_eps", 1e-6, 0.0, 1.0),
        tie_word_embeddings=reader.boolean("tie_word_embeddings", False) or tied,
        attention_bias=qwen or reader.boolean("attention_bias", False),
        mlp_bias=not qwen and reader.boolean("mlp_bias", False),
        rope_scaling=scaling,
    )


def parse_vision(
    reader: Reader, *, feature_layer: int, select_strategy: str, projector_act: str, projector_bias: bool
) -> VisionConfig:
    """A SigLIP or CLIP vision config object, alone or inside the config of the whole two-tower model."""
    kind = reader.text("model_type", "")
    if kind in ("siglip", "clip") and "vision_config" in reader.raw:
        reader = reader.object("vision_config")
    kinds = {"siglip_vision_model": "siglip", "siglip": "siglip", "clip_vision_model": "clip", "clip": "clip"}
    if kind not in kinds:
        raise CheckpointError(f"{reader.path}: vision tower {kind!r} is not supported (SigLIP and CLIP are)")
    siglip = kinds[kind] == "siglip"
    hidden = reader.integer("hidden_size", 768, most=1 << 15)
    heads = reader.integer("num_attention_heads", 12, most=1 << 10)
    layers = reader.integer("num_hidden_layers", 12, most=1 << 10)
    image = reader.integer("image_size", 224, most=4096)
    patch = reader.integer("patch_size", 16 if siglip else 32, most=4096)
    reader.expect("num_attention_heads", hidden % heads == 0, "a divisor of hidden_size")
    reader.expect("patch_size", patch <= image, "at most image_size")
    reader.expect("image_size", image // patch <= 256, "at most 256 patches")
    reader.expect("num_channels", reader.integer("num_channels", 3) == 3, "3")
    reader.expect("vision_feature_layer", -layers - 1 <= feature_layer <= layers, f"within the {layers} layers")
    return VisionConfig(
        type=kinds[kind],
        image_size=image,
        patch_size=patch,
        hidden_size=hidden,
        intermediate_size=reader.integer("intermediate_size", 3072, most=1 << 17),
        layers=layers,
        heads=heads,
        layer_norm_eps=reader.number("layer_norm_eps", 1e-6 if siglip else 1e-5, 0.0, 1.0),
        hidden_act=reader.text("hidden_act", "gelu_pytorch_tanh" if siglip else "quick_gelu"),
        feature_layer=feature_layer,
        select_strategy=select_strategy,
        projector_act=projector_act,
        projector_bias=projector_bias,
    )


def pooling_mode(reader: Reader) -> str:
    """The pooling mode that the config names, in either layout; `average` where it names none."""
    mode = reader.text("mm_spatial_pool_mode", "average", null="average")
    if mode not in POOLING_MODES:
        raise reader.error("mm_spatial_pool_mode", f"one of {', '.join(POOLING_MODES)}")
    return mode


def token_ids(key: str, *sources: Any) -> tuple[int, ...]:
    """The ids under `key`, a number or a list of numbers, of the first of the JSON objects that has them."""
    return next(filter(None, (_ids(key, source) for source in sources)), ())


def more_token_ids(key: str, *sources: Any) -> tuple[int, ...]:
    """The ids under `key` that the others of the JSON objects have and the first that has any lacks."""
    first = token_ids(key, *sources)
    more = dict.fromkeys(number for source in sources for number in _ids(key, source))
    return tuple(number for number in more if number not in first)


def _ids(key: str, source: Any) -> tuple[int, ...]:
    value = source.get(key) if isinstance(source, Mapping) else None
    ids: list[Any] = value if isinstance(value, list) else [value]
    return tuple(dict.fromkeys(ids)) if all(type(i) is int and 0 <= i < 1 << 22 for i in ids) else ()


def _refuse_sliding_window(reader: Reader, qwen: bool, layers: int) -> None:
    kinds = reader.raw.get("layer_types")
    used = isinstance(kinds, list) and any(kind != "full_attention" for kind in kinds)
    if qwen and kinds is None and reader.boolean("use_sliding_window", False):
        window = reader.integer("sliding_window", 4096, least=0, null=0)
        used = window > 0 and reader.integer("max_window_layers", 28, least=0) < layers
    if used:
        raise CheckpointError(f"{reader.path}: sliding-window attention is not supported; use a full-attention model")


def _rope(reader: Reader, context: int) -> tuple[float, RopeScaling | None]:
    """The rotary base and its stretching, read as transformers 5 reads them (`convert_rope_params_to_dict`).

    transformers 5 writes `rope_parameters`, earlier ones `rope_theta` and `rope_scaling`. Where a config has both
    objects, `rope_scaling` takes the other's place whole: a base that only `rope_parameters` has is lost.
    """
    key = next((key for key in ("rope_scaling", "rope_parameters") if reader.raw.get(key)), None)
    rope = Reader(reader.path, {}, reader.prefix) if key is None else reader.object(key)
    theta = (rope if "rope_theta" in rope.raw else reader).number("rope_theta", 10000.0, 1.0, 1e12)
    for name, value in rope.raw.items():
        rope.expect(name, not isinstance(value, dict), "a value (rotary embeddings that differ by layer are not known)")
    kind = rope.text("rope_type", rope.text("type", "default"))
    if kind == "default":
        return theta, None
    if kind not in ("dynamic", "linear", "llama3"):
        name = f"{rope.prefix}{'rope_type' if 'rope_type' in rope.raw else 'type'}"
        raise CheckpointError(
            f"{reader.path}: RoPE scaling {shown(kind)} (field '{name}') is not supported (default, linear, dynamic "
            "and llama3 are); use a checkpoint that was trained without it"
        )
    whole = rope if "partial_rotary_factor" in rope.raw else reader
    whole.expect("partial_rotary_factor", whole.raw.get("partial_rotary_factor", 1) in (None, 1), "1")
    factor = rope.number("factor", None, 1.0, 1e6)
    if kind == "dynamic":
        # It changes frequencies past the trained context only, where no backend goes.
        return theta, None
    if kind == "linear":
        return theta, RopeScaling("linear", factor)
    low = rope.number("low_freq_factor", None, 1e-6, 1e6)
    high = rope.number("high_freq_factor", None, 1e-6, 1e6)
    rope.expect("high_freq_factor", high > low, "greater than low_freq_factor")
    outside = "original_max_position_embeddings" in reader.raw
    original = (reader if outside else rope).integer("original_max_position_embeddings", context, most=1 << 24)
    return theta, RopeScaling("llama3", factor, low, high, original)
