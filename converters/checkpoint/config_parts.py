"""Parses the config objects of decoders and towers, with transformers' defaults.

transformers omits values that equal its defaults from `config.json`. So the defaults of its classes (`Qwen2Config`,
`Qwen3Config`, `LlamaConfig`, `MistralConfig`, `SiglipVisionConfig`, `CLIPVisionConfig`) are part of the format and
repeated here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_interleave.bundle.manifest import POOLING_MODES
from edge_interleave.converters.checkpoint.config import DecoderConfig, RopeScaling, VisionConfig
from edge_interleave.errors import CheckpointError, shown
from edge_interleave.util.json_fields import JsonFields

_SHUFFLE = "null (pixel shuffle between tower and projector is not supported)"
_RESAMPLER = "null (a resampler between tower and projector is not supported)"
_CHANGES = {
    "mm_resampler_type": _RESAMPLER,
    "resampler_config": _RESAMPLER,
    "perceiver_config": _RESAMPLER,
    "qformer_config": _RESAMPLER,
    "pixel_shuffle_ratio": _SHUFFLE,
    "pixel_shuffle_factor": _SHUFFLE,
    "downsample_ratio": _SHUFFLE,
    "use_pixel_shuffle": _SHUFFLE,
    "mm_use_im_start_end": "false (tokens around each image are not supported)",
    "s2": "false (a tower run at several scales is not supported)",
    "add_faster_video": "false (LLaVA-Video's fast and slow frames are not supported)",
}
"""Fields that must be absent, null or false."""
_ROPE_REMEDIES = {
    "dynamic": "it only acts beyond max_position_embeddings, so remove the object from config.json to stay within them"
}
"""What to do about a kind of RoPE scaling, if not the usual."""


@dataclass(frozen=True)
class _Defaults:
    """What transformers' config class of a decoder says where a config is silent."""

    intermediate_size: int
    vocab_size: int
    context_length: int
    kv_heads: int | None
    """None: as many as heads."""
    head_dim: int | None = None
    """None: hidden_size / heads."""


DECODERS = {
    "qwen2": _Defaults(22016, 151936, 32768, 32),
    "qwen3": _Defaults(22016, 151936, 32768, 32, 128),
    "llama": _Defaults(11008, 32000, 2048, None),
    "mistral": _Defaults(14336, 32000, 131072, 8),
}
"""The decoders that are read, by transformers' model type."""


def parse_decoder(fields: JsonFields, kind: str, tied: bool = False) -> DecoderConfig:
    """A decoder's config object; `kind` is one of DECODERS. Mistral without a sliding window is Llama.

    `tied`: whether the outer object already ties the embeddings.
    """
    if "quantization_config" in fields.raw:
        raise CheckpointError(f"{fields.path}: the checkpoint is already quantized; use the one it was made from")
    defaults = DECODERS[kind]
    hidden = fields.integer("hidden_size", 4096, most=1 << 17)
    layers = fields.integer("num_hidden_layers", 32, most=1 << 10)
    heads = fields.integer("num_attention_heads", 32, most=1 << 10)
    kv_heads = fields.integer("num_key_value_heads", defaults.kv_heads or heads, most=1 << 10, null=heads)
    width = hidden // heads or 1
    head_dim = fields.integer("head_dim", defaults.head_dim or width, most=1 << 12, null=width)
    fields.expect("hidden_size", head_dim != width or hidden % heads == 0, "a multiple of num_attention_heads")
    fields.expect("num_key_value_heads", heads % kv_heads == 0, "a divisor of num_attention_heads")
    fields.expect("head_dim", head_dim % 2 == 0, "even")
    if kind == "qwen2":
        fields.expect("head_dim", head_dim * heads == hidden, "hidden_size / num_attention_heads")
    if fields.text("hidden_act", "silu") != "silu":
        raise fields.error("hidden_act", "'silu'")
    context = fields.integer("max_position_embeddings", defaults.context_length, most=1 << 24)
    _refuse_sliding_window(fields, kind, layers, context)
    bias = fields.boolean("attention_bias", False) if kind in ("llama", "qwen3") else kind == "qwen2"
    fields.expect(
        "attention_bias", not bias or kind != "qwen3", "false (biases of Qwen3's attention are not supported)"
    )
    theta, scaling = _rope(fields, context)
    return DecoderConfig(
        type="llama" if kind == "mistral" else kind,
        hidden_size=hidden,
        intermediate_size=fields.integer("intermediate_size", defaults.intermediate_size, most=1 << 19),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=fields.integer("vocab_size", defaults.vocab_size, most=1 << 22),
        context_length=context,
        rope_theta=theta,
        rms_norm_eps=fields.number("rms_norm_eps", 1e-6, 0.0, 1.0),
        tie_word_embeddings=fields.boolean("tie_word_embeddings", False) or tied,
        attention_bias=bias,
        mlp_bias=kind == "llama" and fields.boolean("mlp_bias", False),
        rope_scaling=scaling,
    )


def parse_vision(
    fields: JsonFields, *, feature_layer: int, select_strategy: str, projector_act: str, projector_bias: bool
) -> VisionConfig:
    """A SigLIP or CLIP vision config object, alone or inside the two-tower model's config."""
    kind = fields.text("model_type", "")
    if kind in ("siglip", "clip") and "vision_config" in fields.raw:
        fields = fields.object("vision_config")
    kinds = {"siglip_vision_model": "siglip", "siglip": "siglip", "clip_vision_model": "clip", "clip": "clip"}
    if kind not in kinds:
        raise CheckpointError(f"{fields.path}: vision tower {kind!r} is not supported (SigLIP and CLIP are)")
    siglip = kinds[kind] == "siglip"
    hidden = fields.integer("hidden_size", 768, most=1 << 15)
    heads = fields.integer("num_attention_heads", 12, most=1 << 10)
    layers = fields.integer("num_hidden_layers", 12, most=1 << 10)
    image = fields.integer("image_size", 224, most=4096)
    patch = fields.integer("patch_size", 16 if siglip else 32, most=4096)
    fields.expect("num_attention_heads", hidden % heads == 0, "a divisor of hidden_size")
    fields.expect("patch_size", patch <= image, "at most image_size")
    fields.expect("image_size", image // patch <= 256, "at most 256 patches")
    fields.expect("num_channels", fields.integer("num_channels", 3) == 3, "3")
    if not -layers - 1 <= feature_layer <= layers:
        raise CheckpointError(
            f"{fields.path}: feature layer {feature_layer} (field 'vision_feature_layer') is not within the {layers} "
            "layers of the vision tower; download the checkpoint again"
        )
    return VisionConfig(
        type=kinds[kind],
        image_size=image,
        patch_size=patch,
        hidden_size=hidden,
        intermediate_size=fields.integer("intermediate_size", 3072, most=1 << 17),
        layers=layers,
        heads=heads,
        layer_norm_eps=fields.number("layer_norm_eps", 1e-6 if siglip else 1e-5, 0.0, 1.0),
        hidden_act=fields.text("hidden_act", "gelu_pytorch_tanh" if siglip else "quick_gelu"),
        feature_layer=feature_layer,
        select_strategy=select_strategy,
        projector_act=projector_act,
        projector_bias=projector_bias,
    )


def refuse_changes(fields: JsonFields) -> None:
    """Refuse fields of either layout that change tower, visual tokens or prompt in a way that is not supported.

    Raises CheckpointError that names the field.
    """
    for key, what in _CHANGES.items():
        fields.expect(key, not fields.raw.get(key), what)
    fields.expect(
        "mm_pooling_position",
        fields.raw.get("mm_pooling_position") in (None, "after"),
        "'after' (pooling before the projector is not supported)",
    )


def pooling_mode(fields: JsonFields) -> str:
    """The config's pooling mode, in either layout; `average` by default."""
    mode = fields.text("mm_spatial_pool_mode", "average", null="average")
    if mode not in POOLING_MODES:
        raise fields.error("mm_spatial_pool_mode", f"one of {', '.join(POOLING_MODES)}")
    return mode


def token_ids(key: str, *sources: Any) -> tuple[int, ...]:
    """The ids under `key`, a number or a list of numbers, in the first JSON object that has them."""
    return next(filter(None, (_ids(key, source) for source in sources)), ())


def more_token_ids(key: str, *sources: Any) -> tuple[int, ...]:
    """The ids under `key` in all JSON objects, without those in the first object that has any."""
    first = token_ids(key, *sources)
    more = dict.fromkeys(number for source in sources for number in _ids(key, source))
    return tuple(number for number in more if number not in first)


def _ids(key: str, source: Any) -> tuple[int, ...]:
    value = source.get(key) if isinstance(source, Mapping) else None
    ids: list[Any] = value if isinstance(value, list) else [value]
    return tuple(dict.fromkeys(ids)) if all(type(i) is int and 0 <= i < 1 << 22 for i in ids) else ()


def _refuse_sliding_window(fields: JsonFields, kind: str, layers: int, context: int) -> None:
    """Refuse attention that is cut off within the trained context."""
    full = "(sliding-window attention is not supported)"
    kinds = fields.raw.get("layer_types")
    only_full = kinds is None or (isinstance(kinds, list) and all(name == "full_attention" for name in kinds))
    fields.expect("layer_types", only_full, f"'full_attention' for each layer {full}")
    if kind.startswith("qwen") and kinds is None and fields.boolean("use_sliding_window", False):
        window = fields.integer("sliding_window", 4096, least=0, null=0)
        cut = 0 < window < context and fields.integer("max_window_layers", 28, least=0) < layers
        fields.expect("use_sliding_window", not cut, f"false {full}")
    if kind == "mistral":
        window = fields.raw.get("sliding_window", 4096)
        wide = window is None or (type(window) is int and window >= context)
        fields.expect("sliding_window", wide, f"null {full}")


def _rope(fields: JsonFields, context: int) -> tuple[float, RopeScaling | None]:
    """The rotary base and RoPE scaling, read like transformers 5 (`convert_rope_params_to_dict`).

    transformers 5 writes `rope_parameters`, earlier versions `rope_theta` and `rope_scaling`. If a config has both
    objects, `rope_scaling` replaces the other completely: a base that only `rope_parameters` has is lost.
    """
    key = next((key for key in ("rope_scaling", "rope_parameters") if fields.raw.get(key)), None)
    rope = fields.nested({}, fields.prefix) if key is None else fields.object(key)
    theta = (rope if "rope_theta" in rope.raw else fields).number("rope_theta", 10000.0, 1.0, 1e12)
    rope.expect("mrope_section", not rope.raw.get("mrope_section"), "absent (M-RoPE is not supported)")
    for name, value in rope.raw.items():
        rope.expect(name, not isinstance(value, dict), "a value (a rotary embedding for each layer is not supported)")
    kind = rope.text("rope_type", rope.text("type", "default"))
    if kind == "default":
        return theta, None
    if kind not in ("linear", "llama3"):
        name = f"{rope.prefix}{'rope_type' if 'rope_type' in rope.raw else 'type'}"
        raise CheckpointError(
            f"{fields.path}: RoPE scaling {shown(kind)} (field '{name}') is not supported (default, linear and llama3 "
            f"are); {_ROPE_REMEDIES.get(kind, 'use a checkpoint that was trained without it')}"
        )
    whole = rope if "partial_rotary_factor" in rope.raw else fields
    whole.expect("partial_rotary_factor", whole.raw.get("partial_rotary_factor", 1) in (None, 1), "1")
    factor = rope.number("factor", None, 1.0, 1e6)
    if kind == "linear":
        return theta, RopeScaling("linear", factor)
    low = rope.number("low_freq_factor", None, 1e-6, 1e6)
    high = rope.number("high_freq_factor", None, 1e-6, 1e6)
    rope.expect("high_freq_factor", high > low, "greater than low_freq_factor")
    outside = "original_max_position_embeddings" in fields.raw
    original = (fields if outside else rope).integer("original_max_position_embeddings", context, most=1 << 24)
    return theta, RopeScaling("llama3", factor, low, high, original)
