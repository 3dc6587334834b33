"""Reads `decoder-mlx/config.json` as an untrusted file: known fields only, equal to the manifest's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_interleave.bundle.manifest import DecoderInfo
from edge_interleave.errors import BundleError, shown
from edge_interleave.util.json_fields import JsonFields, read_json

CONFIG_BYTES_MAX = 4 << 20
MODES = {"affine": ((2, 3, 4, 5, 6, 8), (32, 64, 128)), "mxfp4": ((4,), (32,))}
"""MLX's quantization modes, each with its bits and group sizes."""
_SMALLEST = 1e-20
_NUMBERS = {"rms_norm_eps": (_SMALLEST, 1), "rope_theta": (1, 1e12)}
"""Fields that the manifest lacks, with their least and greatest values."""
_FEED_FORWARD_MAX = 1 << 20
_SCALINGS = {"linear": (), "llama3": ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")}
"""Kinds of RoPE scaling, with the fields that each needs in addition to a factor."""
_REMEDY = "convert or pull the model again"


@dataclass(frozen=True)
class Quantization:
    """How a matrix is stored."""

    bits: int
    group_size: int
    mode: str


@dataclass(frozen=True)
class MlxConfig:
    """The config of an mlx-lm model."""

    fields: dict[str, Any]
    """The fields of mlx-lm's `config.json`."""
    tied: bool
    """Whether the head is the embedding matrix."""
    quantization: Quantization | None
    """Of all matrices except the `exceptions`; None: not quantized."""
    exceptions: dict[str, Quantization | None]
    """Module name to its quantization; None: not quantized."""

    def of(self, module: str) -> Quantization | None:
        """The quantization of a module's weights; None: not quantized."""
        return self.exceptions.get(module, self.quantization)


def read_config(path: Path, info: DecoderInfo) -> MlxConfig:
    """Read the file. Raises BundleError if it is damaged or not of the decoder that `info` describes."""
    raw = read_json(path, BundleError, most=CONFIG_BYTES_MAX, remedy=_REMEDY)
    config = JsonFields(path, raw, BundleError, remedy=_REMEDY)
    said = {
        "model_type": info.type,
        "hidden_size": info.hidden_size,
        "num_hidden_layers": info.layers,
        "num_attention_heads": info.heads,
        "num_key_value_heads": info.kv_heads,
        "vocab_size": info.vocab_size,
    }
    for name, value in said.items():
        found = config.raw.get(name)
        if type(found) is not type(value) or found != value:
            raise BundleError(f"{path}: {name} {shown(found)} where bundle.json says {value}; {_REMEDY}")
    # mlx-lm's Qwen2 has no field for the size of a head.
    if info.type == "qwen2" and info.heads * info.head_dim != info.hidden_size:
        raise BundleError(
            f"{path}: {info.heads} heads of {info.head_dim} values do not make {info.hidden_size}; {_REMEDY}"
        )
    if info.heads % info.kv_heads or info.head_dim % 2:
        raise BundleError(
            f"{path}: no decoder has {info.heads} heads of {info.head_dim} values and {info.kv_heads} of keys; "
            f"{_REMEDY}"
        )
    fields: dict[str, Any] = {**said, "max_position_embeddings": info.context_length, "head_dim": info.head_dim}
    fields["intermediate_size"] = config.integer("intermediate_size", most=_FEED_FORWARD_MAX)
    for name, (least, most) in _NUMBERS.items():
        fields[name] = config.number(name, None, least, most)
    for name in ("tie_word_embeddings", "attention_bias", "mlp_bias"):
        fields[name] = config.boolean(name, False)
    if config.raw.get("rope_scaling") is not None:
        fields["rope_scaling"] = _scaling(config.object("rope_scaling"))
    usual, exceptions = _quantization(config)
    return MlxConfig(fields, fields["tie_word_embeddings"], usual, exceptions)


def _scaling(fields: JsonFields) -> dict[str, Any]:
    kind = fields.text("rope_type", fields.text("type", ""))
    if kind not in _SCALINGS:
        raise BundleError(f"{fields.path}: rope_scaling {shown(fields.raw)} is not supported; {_REMEDY}")
    numbers = {name: fields.number(name, None, _SMALLEST, 1e9) for name in ("factor", *_SCALINGS[kind])}
    if kind == "llama3":
        ordered = numbers["low_freq_factor"] < numbers["high_freq_factor"]
        fields.expect("high_freq_factor", ordered, "greater than low_freq_factor")
    return {"rope_type": kind, **numbers}


def _quantization(fields: JsonFields) -> tuple[Quantization | None, dict[str, Quantization | None]]:
    if fields.raw.get("quantization") is None:
        return None, {}
    usual = fields.object("quantization")
    exceptions = {
        name: _one_quantization(usual.object(name)) if isinstance(value, dict) else None
        for name, value in usual.raw.items()
        if isinstance(value, dict) or value is False
    }
    return _one_quantization(usual), exceptions


def _one_quantization(fields: JsonFields) -> Quantization:
    mode = fields.choice("mode", MODES, "affine")
    bits, groups = MODES[mode]
    found = Quantization(fields.integer("bits"), fields.integer("group_size"), mode)
    fields.expect("bits", found.bits in bits, f"one of {', '.join(map(str, bits))} for {mode}")
    fields.expect("group_size", found.group_size in groups, f"one of {', '.join(map(str, groups))} for {mode}")
    return found
