"""`decoder-mlx/config.json`, a stranger's: known fields only, as the manifest has them.

Knows nothing about weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_interleave.bundle.manifest import DecoderInfo
from edge_interleave.errors import BundleError, shown

CONFIG_BYTES_MAX = 4 << 20
MODES = {"affine": ((2, 3, 4, 5, 6, 8), (32, 64, 128)), "mxfp4": ((4,), (32,))}
"""Ways to quantize that MLX knows, with the bits and group sizes it takes."""
_NUMBERS = {"rms_norm_eps": (0, 1), "rope_theta": (1, 1e12)}
"""Fields that the manifest does not have, each above the first and at most the second."""
_FEED_FORWARD_MAX = 1 << 20
_SCALINGS = {"linear": (), "llama3": ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")}
"""Ways to stretch the rotary embedding, with what they need beside a factor."""
_REMEDY = "convert or pull the model again"


@dataclass(frozen=True)
class Quantization:
    """How a matrix is stored."""

    bits: int
    group_size: int
    mode: str


@dataclass(frozen=True)
class MlxConfig:
    """What an mlx-lm model is built from."""

    fields: dict[str, Any]
    """As mlx-lm's `config.json` has them."""
    tied: bool
    """The head is the embedding matrix."""
    quantization: Quantization | None
    """Of all matrices but the `exceptions`; None: not quantized."""
    exceptions: dict[str, Quantization | None]
    """By mlx-lm's name of the module."""

    def of(self, module: str) -> Quantization | None:
        """How this module's weights are stored."""
        return self.exceptions.get(module, self.quantization)


def read_config(path: Path, info: DecoderInfo) -> MlxConfig:
    """Read the file. Raises BundleError where it makes no sense, or is not of the decoder that `info` describes."""
    raw = _object(path)
    said = {
        "model_type": info.type,
        "hidden_size": info.hidden_size,
        "num_hidden_layers": info.layers,
        "num_attention_heads": info.heads,
        "num_key_value_heads": info.kv_heads,
        "vocab_size": info.vocab_size,
    }
    for name, value in said.items():
        found = raw.get(name)
        if type(found) is not type(value) or found != value:
            raise BundleError(f"{path}: {name} {shown(found)} where bundle.json says {value}; {_REMEDY}")
    if info.heads * info.head_dim != info.hidden_size:
        raise BundleError(f"{path}: {info.heads} heads of {info.head_dim} values do not make {info.hidden_size}")
    if info.heads % info.kv_heads or info.head_dim % 2:
        raise BundleError(
            f"{path}: no decoder has {info.heads} heads of {info.head_dim} values, and {info.kv_heads} of keys; "
            f"{_REMEDY}"
        )
    fields: dict[str, Any] = {**said, "max_position_embeddings": info.context_length, "head_dim": info.head_dim}
    width = fields["intermediate_size"] = _number(path, raw, "intermediate_size", 0, _FEED_FORWARD_MAX)
    if not isinstance(width, int):
        raise BundleError(f"{path}: intermediate_size is {width}; {_REMEDY}")
    for name, (least, most) in _NUMBERS.items():
        fields[name] = _number(path, raw, name, least, most)
    for name in ("tie_word_embeddings", "attention_bias", "mlp_bias"):
        fields[name] = raw.get(name, False) is True
    scaling = _scaling(path, raw.get("rope_scaling"))
    if scaling is not None:
        fields["rope_scaling"] = scaling
    usual, exceptions = _quantization(path, raw.get("quantization"))
    return MlxConfig(fields, fields["tie_word_embeddings"], usual, exceptions)


def _object(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > CONFIG_BYTES_MAX:
            raise ValueError("too large")
        raw = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: cannot be read ({str(error)[:100]}); {_REMEDY}") from error
    if not isinstance(raw, dict):
        raise BundleError(f"{path}: not a JSON object; {_REMEDY}")
    return raw


def _number(path: Path, raw: Mapping[str, Any], name: str, least: float, most: float) -> int | float:
    value = raw.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool) and least < value <= most:
        return value
    raise BundleError(f"{path}: {name} is {shown(value)}; {_REMEDY}")


def _scaling(path: Path, raw: Any) -> dict[str, Any] | None:
    if raw is None:
        return None
    kind = raw.get("rope_type", raw.get("type")) if isinstance(raw, dict) else None
    if not isinstance(kind, str) or kind not in _SCALINGS:
        raise BundleError(f"{path}: rope_scaling {shown(raw)} is not supported; {_REMEDY}")
    numbers = {name: _number(path, raw, name, 0, 1e9) for name in ("factor", *_SCALINGS[kind])}
    if kind == "llama3" and not numbers["low_freq_factor"] < numbers["high_freq_factor"]:
        raise BundleError(f"{path}: rope_scaling {shown(raw)} has its frequencies in no order; {_REMEDY}")
    return {"rope_type": kind, **numbers}


def _quantization(path: Path, raw: Any) -> tuple[Quantization | None, dict[str, Quantization | None]]:
    if raw is None:
        return None, {}
    if not isinstance(raw, dict):
        raise BundleError(f"{path}: quantization is {shown(raw)}; {_REMEDY}")
    exceptions = {
        name: _one_quantization(path, value) if isinstance(value, dict) else None
        for name, value in raw.items()
        if isinstance(value, dict) or value is False
    }
    return _one_quantization(path, raw), exceptions


def _one_quantization(path: Path, raw: Mapping[str, Any]) -> Quantization:
    mode, bits, group = raw.get("mode", "affine"), raw.get("bits"), raw.get("group_size")
    known = MODES.get(mode) if isinstance(mode, str) else None
    whole = type(bits) is int and type(group) is int
    if known is None or not whole or bits not in known[0] or group not in known[1]:
        raise BundleError(f"{path}: no quantization that MLX has ({shown(dict(raw))}); {_REMEDY}")
    return Quantization(int(bits), int(group), mode)
